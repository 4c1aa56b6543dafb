"""Settings of frozen dataclasses read from text, `key=value`: attacks, objectives, inner maximisers, optimisers and rates alike."""

import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from hauberk.errors import SettingError, UnknownNameError

__all__ = ["defaults_of", "read_settings", "split_spelling"]


def defaults_of(kind: type[Any]) -> dict[str, Any]:
    """Each setting of a class and its default; None where there is none."""
    found: dict[str, Any] = {}
    for field in fields(kind):
        if not field.init:
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        found[field.name] = None if default is MISSING else default
    return found


def split_spelling(text: str, example: str) -> tuple[str, list[str]]:
    """`name:key=value,key=value` as the name and its settings; a value may hold commas.

    Raises:
        SettingError: there is no name, or nothing after the colon.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not name or (colon and not rest):
        raise SettingError(f"expected name or name:key=value,..., got {text!r}; write for example {example}")
    settings: list[str] = []
    for part in rest.split(",") if rest else ():
        if "=" in part or not settings:
            settings.append(part.strip())
        else:
            settings[-1] += f",{part.strip()}"
    return name, settings


def read_settings(kind: type[Any], name: str, settings: Iterable[str], *, where: str = "") -> dict[str, Any]:
    """The values of settings that are each given as `key=value`.

    Args:
        kind: the frozen dataclass that has the settings.
        name: what people call it.
        settings: the texts.
        where: the option that takes them, to begin messages with.

    Raises:
        UnknownNameError: it has no such setting.
        SettingError: a value that does not fit, or a setting that is given twice.
    """
    hints, known = typing.get_type_hints(kind), defaults_of(kind)
    taker = where or name
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise SettingError(f"{taker} takes key=value, got {text!r}; write for example {_example(taker, known)}")
        if key not in known:
            raise UnknownNameError.of(f"setting of {name}", key, known)
        if key in values:
            raise SettingError(f"{taker} gives {key} twice, {values[key]!r} and {value!r}; leave one out")
        values[key] = _read(name, key, value, hints[key])
    return values


def _example(taker: str, known: dict[str, Any]) -> str:
    if taker.startswith("--"):
        return f"{taker} steps=100"
    key = next((key for key, value in known.items() if isinstance(value, int | float)), None)
    return f"{taker}:{key}={known[key]}" if key else taker


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none", str: "text"}


def _read(name: str, key: str, text: str, hint: Any) -> Any:
    """The value of one setting, of the first of its types that takes the text."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for choice in choices:
        if choice is type(None) and text.lower() == "none":
            return None
        if choice is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if typing.get_origin(choice) is typing.Literal and text in typing.get_args(choice):
            return text
        if choice is str:
            return text
        try:
            if choice is int:
                return int(text)
            if choice is float:
                return _number(text)
            if typing.get_origin(choice) is tuple:
                return _several(text, typing.get_args(choice))
        except (ValueError, ZeroDivisionError):
            continue
    readable = [choice for choice in choices if choice in _WORDS or typing.get_origin(choice) is not None]
    if not readable:
        raise SettingError(f"{key} of {name} cannot be given as text, got {text!r}; set it in Python")
    raise SettingError(f"{name} takes {' or '.join(map(_word, readable))} as {key}, got {text!r}")


def _number(text: str) -> float:
    top, slash, bottom = text.partition("/")
    return float(top) / float(bottom) if slash else float(top)


def _several(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part for part in text.split(",") if part.strip()]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(parts)
    if len(parts) != len(kinds):
        raise ValueError(text)
    return tuple(kind(part) if kind is not float else _number(part) for kind, part in zip(kinds, parts, strict=True))


def _word(choice: Any) -> str:
    if typing.get_origin(choice) is typing.Literal:
        return " or ".join(map(str, typing.get_args(choice)))
    if typing.get_origin(choice) is tuple:
        kinds = typing.get_args(choice)
        return "numbers" if kinds[-1] is Ellipsis else f"{len(kinds)} numbers with commas between them"
    return _WORDS.get(choice, str(choice))
