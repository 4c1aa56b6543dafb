"""Objectives and the other parts of a training by name, as the command line has them: `trades:beta=6`, `pgd:steps=7`, `sgd:momentum=0.9`.

Nothing is registered: what `hauberk.train` exports is found there, and is called by the name of its file (of its class, in small letters,
where a file holds several of a kind or is named for the kind). What each is, its type tells: an objective answers `Losses`, a regulariser a
number, an inner maximiser takes what it makes large.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

from hauberk._settings import defaults_of, read_settings, split_spelling
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import ThreatModel
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Losses, Objective
from hauberk.train.augment import Augmentation
from hauberk.train.averages import Average
from hauberk.train.constraints import Constraint
from hauberk.train.inner import Inner
from hauberk.train.rates import Optimiser, Rate
from hauberk.train.regularised import Regularised, Regulariser

__all__ = [
    "augmentation_named",
    "average_named",
    "constraint_named",
    "inner_named",
    "kinds_of",
    "objective_named",
    "objectives",
    "optimiser_named",
    "rate_named",
    "regulariser_named",
    "sharpened",
]

T = TypeVar("T")

_EXAMPLES = {
    "objective": "trades:beta=6",
    "wrapper": "awp:gamma=0.005",
    "regulariser": "grad_align:weight=0.2",
    "inner maximiser": "pgd:steps=7",
    "optimiser": "sgd:momentum=0.9",
    "rate": "cyclic:peak=0.005",
    "augmentation": "random_crop:padding=4",
    "average": "ema:decay=0.999",
    "constraint": "clip_weights:limit=0.1",
}


def _answer(kind: type[Any]) -> Any:
    call = kind.__dict__.get("__call__") or getattr(kind, "__call__", None)  # noqa: B004  # the function, to be looked at
    try:
        return typing.get_type_hints(call).get("return")
    except (TypeError, NameError):
        return None


def _parameters(kind: type[Any], method: str = "__call__") -> list[str]:
    found = getattr(kind, method, None)
    return [] if not callable(found) else [name for name in inspect.signature(found).parameters if name != "self"]


def _is_wrapper(kind: type[Any]) -> bool:
    return any(field.name == "objective" and field.init for field in fields(kind))


def _is_objective(kind: type[Any]) -> bool:
    unsaid = getattr(kind, "loss", None) is Adversarial.loss and kind.__call__ is Adversarial.__call__
    return _answer(kind) is Losses and not (issubclass(kind, Adversarial) and unsaid)


_TESTS: dict[str, Callable[[type[Any]], bool]] = {
    "objective": lambda kind: _is_objective(kind) and not _is_wrapper(kind),
    "wrapper": lambda kind: _is_objective(kind) and _is_wrapper(kind) and kind is not Regularised,
    "regulariser": lambda kind: _answer(kind) is Tensor and _parameters(kind)[:3] == ["net", "x", "y"],
    "inner maximiser": lambda kind: _parameters(kind)[:1] == ["climb"],
    "optimiser": lambda kind: _parameters(kind, "make") == ["parameters"],
    "rate": lambda kind: _parameters(kind) == ["step", "steps"],
    "augmentation": lambda kind: _parameters(kind) == ["x", "streams"],
    "average": lambda kind: _parameters(kind, "share") == ["count", "progress"],
    "constraint": lambda kind: _parameters(kind) == ["net"],
}


@functools.cache
def kinds_of(what: str) -> Mapping[str, type[Any]]:
    """The classes that `hauberk.train` exports of a kind (`objective`, `wrapper`, `regulariser`, `inner maximiser`, ...), by name."""
    from hauberk import train

    exported = [value for name in train.__all__ if inspect.isclass(value := getattr(train, name))]
    found = [
        kind
        for kind in exported
        if is_dataclass(kind) and not getattr(kind, "_is_protocol", False) and _TESTS[what](kind)
    ]
    files = [kind.__module__.rpartition(".")[2] for kind in found]
    named: dict[str, type[Any]] = {}
    for kind, file in zip(found, files, strict=True):
        shared = files.count(file) > 1 or file in ("inner", "rates", "augment", "averages", "constraints")
        named[_small(kind.__name__) if shared else file] = kind
    return dict(sorted(named.items()))


def objectives() -> Mapping[str, type[Any]]:
    """Every objective by name, those that wrap another included."""
    return dict(sorted({**kinds_of("objective"), **kinds_of("wrapper")}.items()))


def _small(name: str) -> str:
    """`InnerPGD` is pgd, `OneCycle` one_cycle, `SGD` sgd."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removeprefix("Inner")).lower()


def _named(
    what: str, text: str, given: Mapping[str, Any] | None = None, known: Mapping[str, type[Any]] | None = None
) -> Any:
    """The value that `text` spells; `given` fills settings that the text leaves out, where the class has them."""
    known = known or kinds_of(what)
    name, settings = split_spelling(text, _EXAMPLES[what])
    if name not in known:
        raise UnknownNameError.of(what, name, known)
    kind = known[name]
    values = read_settings(kind, name, settings)
    has = defaults_of(kind)
    values = {key: value for key, value in (given or {}).items() if key in has and value is not None} | values
    missing = [
        field.name
        for field in fields(kind)
        if field.init and field.default is MISSING and field.default_factory is MISSING and field.name not in values
    ]
    if missing:
        raise SettingError(f"{name} needs {' and '.join(missing)}; write for example {name}:{missing[0]}=...")
    return kind(**values)


def objective_named(
    text: str,
    *,
    threat: ThreatModel | str | None = None,
    inner: Inner | str | None = None,
    bounds: tuple[float, float] | None = None,
    extras: Iterable[str] = (),
) -> Objective:
    """The objective that `text` spells, such as `trades:beta=6`.

    Args:
        text: NAME or NAME:KEY=VALUE,...
        threat: of an adversarial one, unless the text has it.
        inner: its inner maximiser, or how that is spelled.
        bounds: the range of the input.
        extras: regularisers and wrappers to add, each spelled alike, such as `grad_align:weight=0.2` or `awp:gamma=0.005`.

    Raises:
        UnknownNameError: no such objective, or it has no such setting.
        SettingError: a value that does not fit, or an inner maximiser where none is used.

    >>> objective_named("trades:beta=3", threat="linf:0.1", inner="pgd:steps=2")  # doctest: +ELLIPSIS
    Trades(threat=ThreatModel('linf:0.1'), inner=InnerPGD(steps=2, ...), bounds=(0.0, 1.0), mode='eval', beta=3.0)
    """
    name = text.partition(":")[0].strip()
    if name in kinds_of("wrapper"):
        raise SettingError(f"{name} goes around another objective; write for example --objective trades --with {text}")
    made = inner_named(inner) if isinstance(inner, str) else inner
    known = kinds_of("objective")
    if made is not None and name in known and "inner" not in defaults_of(known[name]):
        raise SettingError(f"the objective {name} has its own way to find points, so leave out the inner maximiser")
    given = {"threat": threat, "inner": made, "bounds": bounds}
    objective = _named("objective", text, given)
    return sharpened(objective, extras, threat=threat, bounds=bounds)


def sharpened(
    objective: Objective,
    extras: Iterable[str],
    *,
    threat: ThreatModel | str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Objective:
    """The objective inside the wrappers that `extras` spell, in their order, and with the regularisers added to all."""
    added: list[Regulariser] = []
    wrappers, regularisers = kinds_of("wrapper"), kinds_of("regulariser")
    for text in extras:
        name = split_spelling(text, _EXAMPLES["regulariser"])[0]
        if name in wrappers:
            objective = _named("wrapper", text, {"objective": objective, "threat": threat, "bounds": bounds})
        elif name in regularisers:
            added.append(_named("regulariser", text, {"threat": threat, "bounds": bounds}))
        else:
            raise UnknownNameError.of("regulariser or wrapper", name, {**wrappers, **regularisers})
    return Regularised(objective=objective, regularisers=tuple(added)) if added else objective


def inner_named(text: str) -> Inner:
    """The inner maximiser that `text` spells, such as `pgd:steps=40,step_size=0.01,start=gaussian`."""
    return _named("inner maximiser", text)


def regulariser_named(text: str, *, threat: ThreatModel | str | None = None) -> Regulariser:
    """The regulariser that `text` spells, such as `grad_align:weight=0.2`."""
    return _named("regulariser", text, {"threat": threat})


def optimiser_named(text: str) -> Optimiser:
    """The optimiser that `text` spells, such as `sgd:momentum=0.9,weight_decay=5e-4`."""
    return _named("optimiser", text)


def rate_named(text: str) -> Rate:
    """The learning rate that `text` spells, such as `cyclic:peak=0.005`; a number alone is `cyclic` with this peak."""
    try:
        float(text)
    except ValueError:
        return _named("rate", text)
    return _named("rate", f"cyclic:peak={text}")


def augmentation_named(text: str) -> Augmentation:
    """The augmentation that `text` spells, such as `random_crop:padding=4`."""
    return _named("augmentation", text)


def average_named(text: str) -> Average:
    """The average of weights that `text` spells, such as `ema:decay=0.999`."""
    return _named("average", text)


def constraint_named(text: str) -> Constraint:
    """The constraint that `text` spells, such as `clip_weights:limit=0.1`."""
    return _named("constraint", text)
