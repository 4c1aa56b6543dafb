"""The attacks by name, and their settings read from text."""

import inspect
from typing import Any

from hauberk import attacks
from hauberk._settings import defaults_of, read_settings
from hauberk.attacks import Attack
from hauberk.errors import UnknownNameError

__all__ = ["attack_named", "attacks_by_name", "defaults_of"]


def attacks_by_name() -> dict[str, type[Any]]:
    """Each attack's class under the name it has in Python, in ledgers and here: that of its file."""
    classes = [value for name in attacks.__all__ if inspect.isclass(value := getattr(attacks, name))]
    # An Attack has settings (fields) and says what it needs; the protocol and the result of an attack have not both.
    found = [kind for kind in classes if hasattr(kind, "__dataclass_fields__") and hasattr(kind, "norms")]
    return {kind.__module__.rpartition(".")[2]: kind for kind in found}


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
    return kind(**read_settings(kind, name, settings, where="--set"))
