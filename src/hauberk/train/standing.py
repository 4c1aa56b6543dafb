"""Where every defense of `hauberk.train` stands: what the package exports and has a `status` is found there.

`hauberk list defenses` and the page about defenses show this table.
"""

import functools
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any

from hauberk.train._status import KINDS, Status
from hauberk.train.spelling import kinds_of

__all__ = ["Standing", "standings"]

_PARTS = {"objective": "objective", "wrapper": "wrapper", "regulariser": "regulariser", "constraint": "constraint"}


@dataclass(frozen=True)
class Standing:
    """One row of the table.

    Args:
        name: as it is spelled on the command line where it can be, else the name of its class.
        part: `objective`, `wrapper` (goes around an objective), `regulariser`, `constraint`, or `part` (a layer, data, a model).
        what: one sentence.
        status: what is known of it.
        source: the first arXiv id that its docstring gives as source, or nothing.
    """

    name: str
    part: str
    what: str
    status: Status
    source: str


@functools.cache
def standings() -> tuple[Standing, ...]:
    """All of them, the most trustworthy kind first, then by name."""
    from hauberk import train

    spelled = {kind: (name, part) for part in _PARTS for name, kind in kinds_of(part).items()}
    found: list[type[Any]] = [
        kind
        for name in train.__all__
        if inspect.isclass(kind := getattr(train, name)) and isinstance(vars(kind).get("status"), Status)
    ]
    modules = [kind.__module__ for kind in found]
    rows: list[Standing] = []
    for kind in found:
        name, part = spelled.get(kind, (kind.__name__, "part"))
        module, own = sys.modules[kind.__module__].__doc__ or "", kind.__doc__ or ""
        stem = kind.__module__.rpartition(".")[2]
        named_for_it = modules.count(kind.__module__) == 1 and (part == "part" or name == stem)
        what = _first(module if named_for_it else own)
        source = _source(module) if named_for_it else _id(own) or _source(module)
        rows.append(Standing(name, part, what, kind.status, source))
    places = list(KINDS)
    return tuple(sorted(rows, key=lambda row: (places.index(row.status.kind), row.name.lower())))


def _first(text: str) -> str:
    """The first sentence, on one line."""
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    return re.split(r"(?<=[^.A-Z]\.) (?=[A-Z])", paragraph)[0]


def _source(text: str) -> str:
    """The arXiv id that a module's docstring gives first as its source."""
    return _id(text.partition("Source:")[2].partition("**Status")[0])


def _id(text: str) -> str:
    named = re.search(r"arXiv:\d{4}\.\d{4,5}", text)
    return named[0] if named else ""
