"""Every error hauberk raises on purpose: one sentence that says what was expected, what came, and the cure.

HauberkError
├── InputError (ValueError)            an argument, a file or the data is not what it must be
│   ├── ThreatError                    a threat that cannot be parsed or means nothing
│   ├── DataError                      examples or labels that cannot be used
│   └── SettingError                   a setting out of range, or two that exclude each other
├── ModelError (ValueError)            the model cannot be loaded, or does not answer as a classifier
├── AccessError (TypeError)            the method needs more access than the victim gives
├── BudgetError (RuntimeError)         a method asked for more than the meter still allows: a bug in the method
├── UnknownNameError (LookupError)     no such attack, suite, model or data set; the message lists the near ones
├── MissingExtraError (ImportError)    an optional dependency is absent; the message names the extra
├── RunError (RuntimeError)            a run folder that is corrupt, foreign, in use, or of another evaluation
└── ContradictionError (AssertionError) something is proven and broken at once: a bug in hauberk
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "AccessError",
    "BudgetError",
    "ContradictionError",
    "DataError",
    "HauberkError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "RunError",
    "SettingError",
    "ThreatError",
    "UnknownNameError",
    "require",
]


class HauberkError(Exception):
    """The root of all errors raised on purpose."""


class InputError(HauberkError, ValueError):
    """An argument, a file or the data is not what it must be."""


class ThreatError(InputError):
    """A threat that cannot be parsed or means nothing."""


class DataError(InputError):
    """Examples or labels that cannot be used."""


class SettingError(InputError):
    """A setting out of range, or two settings that exclude each other."""


class ModelError(HauberkError, ValueError):
    """The model cannot be loaded, or does not answer as a classifier."""


class AccessError(HauberkError, TypeError):
    """The method needs more access than the victim gives."""


class BudgetError(HauberkError, RuntimeError):
    """More was asked than a meter, or what may be bought of a model over HTTP, still allows."""


class UnknownNameError(HauberkError, LookupError):
    """No such name; the message lists the near ones."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        """An error for `name`, which is none of the `known` names of this `kind`."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}."
        return cls(f"unknown {kind} {name!r}; {hint}")


class MissingExtraError(HauberkError, ImportError):
    """An optional dependency is absent."""


class RunError(HauberkError, RuntimeError):
    """A run folder that is corrupt, foreign, in use, or of another evaluation."""


class ContradictionError(HauberkError, AssertionError):
    """Something is proven and broken at once: one of the two is wrong."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional `module`, or say which extra brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is installed, and something it needs is not
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed; install it with: pip install 'hauberk[{extra}]' "
            f"(from a checkout: pip install '.[{extra}]')"
        ) from None  # the sentence says it all
