"""The attacks by name, and their settings read from text."""

import inspect
import types
import typing
from dataclasses import MISSING, fields
from typing import Any

from hauberk import attacks
from hauberk.attacks import Attack
from hauberk.errors import SettingError, UnknownNameError

__all__ = ["attack_named", "attacks_by_name", "defaults_of"]


def attacks_by_name() -> dict[str, type[Any]]:
    """Each attack's class under the name it has in Python, in ledgers and here: that of its file."""
    classes = [value for name in attacks.__all__ if inspect.isclass(value := getattr(attacks, name))]
    # An Attack has settings (fields) and says what it needs; the protocol and the result of an attack have not both.
    found = [kind for kind in classes if hasattr(kind, "__dataclass_fields__") and hasattr(kind, "norms")]
    return {kind.__module__.rpartition(".")[2]: kind for kind in found}


def defaults_of(kind: type[Any]) -> dict[str, Any]:
    """Each setting of an attack class and its default."""
    return {field.name: None if field.default is MISSING else field.default for field in fields(kind)}


def attack_named(name: str, settings: list[str]) -> Attack:
    """The attack with its settings, each as `key=value`.

    Raises:
        UnknownNameError: no such attack, or it has no such setting.
        SettingError: a value that does not fit.
    """
    known = attacks_by_name()
    if name not in known:
        raise UnknownNameError.of("attack", name, known)
    kind = known[name]
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise SettingError(f"--set takes key=value, got {text!r}; write for example --set steps=100")
        if key not in defaults_of(kind):
            raise UnknownNameError.of(f"setting of {name}", key, defaults_of(kind))
        if key in values:
            raise SettingError(f"--set gives {key} twice, {values[key]!r} and {value!r}; leave one out")
        values[key] = _read(name, key, value, hints[key])
    return kind(**values)


def _read(attack: str, key: str, text: str, hint: Any) -> Any:
    """The value of one setting, of the first of its types that takes the text."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if choice is type(None) and text.lower() == "none":
            return None
        if choice is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if choice in (int, float):
            try:
                return choice(text)
            except ValueError:
                continue
        if choice is str:
            return text
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    wanted = " or ".join(words.get(choice, str(choice)) for choice in choices)
    raise SettingError(f"{attack} takes {wanted} as {key}, got {text!r}")
