"""The settings of a model over a wire, and what each may be."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from hauberk.errors import SettingError

__all__ = ["Wire", "checked"]


class Wire(TypedDict, total=False):
    """The settings of a model over a wire, as `hauberk.wrap` takes them.

    body: the JSON to send, for services that do not speak the Open Inference Protocol; see `hauberk.victims.json_template`.
    answer: with a body, the path to the scores or labels in the answer; the whole answer if not given.
    headers: sent with each request; `$NAME` in a value is read from the environment, and secrets are taken from nowhere else.
    batch: rows a request.
    concurrency: requests at a time.
    retries, backoff: tries after the first, and seconds before the first of them, doubled each time.
    timeout: seconds for a whole answer.
    rate: requests a second.
    budget: the most rows that may ever be bought of this address, by all runs that share the cache. Hard.
    price: of a row, in whatever currency.
    cache: the file where answers are kept; None keeps them until the process ends, False asks each time anew.
    rounding: round scores to so many digits.
    top_k: let only the best k scores through.
    class_names: what the service calls class 0, 1, ..., where it answers names.
    """

    body: Any
    answer: str
    headers: Mapping[str, str]
    batch: int
    concurrency: int
    retries: int
    backoff: float
    timeout: float
    rate: float | None
    budget: int | None
    price: float
    cache: str | Path | bool | None
    rounding: int | None
    top_k: int | None
    class_names: Any


_DEFAULTS: dict[str, Any] = {
    "body": None,
    "answer": "",
    "headers": {},
    "batch": 32,
    "concurrency": 1,
    "retries": 4,
    "backoff": 0.5,
    "timeout": 30.0,
    "rate": None,
    "budget": None,
    "price": 0.0,
    "cache": None,
    "rounding": None,
    "top_k": None,
    "class_names": None,
}
_WHOLE = {
    "batch": 1,
    "concurrency": 1,
    "retries": 0,
    "budget": 0,
    "rounding": 0,
    "top_k": 1,
}  # and the least of each
_ABOVE = ("timeout", "rate")  # numbers > 0


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with defaults for those that are not given.

    Raises:
        SettingError: one that is unknown or out of range.
    """
    given = _DEFAULTS | dict(settings)
    unknown = set(given) - set(_DEFAULTS)
    if unknown:
        raise SettingError(f"a model over HTTP has no setting {min(unknown)!r}; it takes {', '.join(_DEFAULTS)}")
    for key, least in _WHOLE.items():
        value = given[key]
        if value is None and _DEFAULTS[key] is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SettingError(f"{key} is a whole number of at least {least}, got {value!r}")
    for key in (*_ABOVE, "backoff", "price"):
        value, above = given[key], key in _ABOVE
        if value is None and _DEFAULTS[key] is None:
            continue
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not 0 <= number < math.inf or (above and number == 0):
            raise SettingError(f"{key} is a number {'>' if above else '>='} 0, got {value!r}")
    if not isinstance(given["headers"], Mapping):
        raise SettingError("headers is a mapping of names to texts, such as {'Authorization': 'Bearer $TOKEN'}")
    if given["cache"] is True or not isinstance(given["cache"], str | Path | bool | None):
        raise SettingError("cache is the path of a file, None or False, got " + repr(given["cache"]))
    if not isinstance(given["answer"], str) or (given["answer"] and given["body"] is None):
        raise SettingError(
            "answer is a path in what a service answers to body; give both, or name an output with output="
        )
    names = given["class_names"]
    if isinstance(names, str) or (names is not None and len(set(names)) != len(list(names))):
        raise SettingError(f"class_names are as many different texts as there are classes, got {names!r}")
    return given
