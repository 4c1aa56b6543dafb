"""The manifest of a run folder: what is evaluated (these settings define the rows) and where it came from (that explains them)."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hauberk.errors import RunError
from hauberk.evidence.fingerprint import setting_fingerprint
from hauberk.evidence.plain import canonical, plain, pretty

__all__ = ["RUN_SCHEMA", "Manifest"]

RUN_SCHEMA = "hauberk.run/1"
"""The layout of a run folder; a folder of another layout is refused."""

_PAIRS = (("model", "model_name", "model_fingerprint"), ("data", "data_name", "data_fingerprint"))
_SHOWN = 12  # of the 64 hex digits of a fingerprint, in sentences for people


@dataclass(frozen=True)
class Manifest:
    """What is evaluated.

    Args:
        model_name, model_fingerprint: the victim.
        data_name, data_fingerprint: the source of examples.
        threat: canonical spelling of the threat.
        suite: name of the suite.
        attacks: for each attack of the suite `{"name", "settings"}`, with every setting, in order.
        seed: of every draw.
        n: how many examples.
        batch_size: examples a chunk; the rounding of float32 depends on it.
        dtype: of the victim's inputs, such as "float32".
        options: whatever else decides the rows.
        provenance: versions, platform, git; does not define the evaluation.
        schema: layout of the run folder.
    """

    model_name: str
    model_fingerprint: str
    data_name: str
    data_fingerprint: str
    threat: str
    suite: str
    attacks: Sequence[Mapping[str, Any]]
    seed: int
    n: int
    batch_size: int
    dtype: str
    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    schema: str = RUN_SCHEMA

    def __post_init__(self) -> None:
        # plain from the start, so that a manifest read back equals the one written
        for name in (item.name for item in dataclasses.fields(self)):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def defining(self) -> dict[str, Any]:
        """Everything but the provenance, as plain JSON values."""
        kept = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del kept["provenance"]
        return kept

    def fingerprint(self) -> str:
        """Hex SHA-256 of the settings that define the evaluation."""
        return setting_fingerprint(self.defining())

    def differences(self, other: "Manifest") -> list[str]:
        """Sentences for each defining setting in which `other` departs from this: "threat was linf:0.3, is linf:0.2"."""
        return list(self._differences(other))

    def drift(self, other: "Manifest") -> list[str]:
        """The same for the provenance: what has changed around an evaluation that is itself unchanged."""
        return list(_compare("", self.provenance, other.provenance))

    def _differences(self, other: "Manifest") -> Iterator[str]:
        for what, name, print_ in _PAIRS:
            old, new = (getattr(self, name), getattr(self, print_)), (getattr(other, name), getattr(other, print_))
            if old != new:
                yield f"{what} was {old[0]} ({old[1][:_SHOWN]}), is {new[0]} ({new[1][:_SHOWN]})"
        for name in ("threat", "suite", "seed", "n", "batch_size", "dtype", "schema"):
            yield from _compare(name, getattr(self, name), getattr(other, name))
        old_names, new_names = _names(self.attacks), _names(other.attacks)
        if old_names != new_names:
            yield f"attacks were {', '.join(old_names) or 'none'}, are {', '.join(new_names) or 'none'}"
        else:
            for old, new in zip(self.attacks, other.attacks, strict=True):
                yield from _compare(f"{old['name']}", old, new)
        yield from _compare("", self.options, other.options)

    def to_json(self) -> bytes:
        """The text of manifest.json."""
        return pretty({"schema": self.schema} | self.defining() | {"provenance": self.provenance})

    @classmethod
    def from_json(cls, text: bytes | str, where: str = "manifest.json") -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            RunError: not JSON, of an unknown schema, or a field missing, unknown or of the wrong kind.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise RunError(f"expected JSON in {where}, got: {error}; {_CURE}") from error
        if not isinstance(values, dict) or "schema" not in values:
            raise RunError(f"expected a manifest of hauberk in {where}, got other JSON; {_CURE}")
        if values["schema"] != RUN_SCHEMA:
            raise RunError(
                f"expected schema {RUN_SCHEMA} in {where}, got {values['schema']}; it was written by another version of "
                "hauberk: use that one, or choose another --out"
            )
        for item in dataclasses.fields(cls):
            if item.name not in values:
                raise RunError(f"expected {item.name!r} in {where}, got a manifest without it; {_CURE}")
            value, kind = values[item.name], _KINDS[item.name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise RunError(
                    f"expected {item.name!r} in {where} to be of kind {kind.__name__}, got {value!r}; {_CURE}"
                )
        if unknown := sorted(values.keys() - _KINDS.keys()):
            raise RunError(
                f"expected only the fields of {RUN_SCHEMA} in {where}, got {', '.join(unknown)} besides; {_CURE}"
            )
        if not all(isinstance(attack, dict) and isinstance(attack.get("name"), str) for attack in values["attacks"]):
            raise RunError(f"expected every attack in {where} to have a name, got {values['attacks']!r}; {_CURE}")
        return cls(**values)


_CURE = "the folder is damaged or not a run: choose another --out, or delete it"
_KINDS: dict[str, type] = {
    item.name: {"attacks": list, "options": dict, "provenance": dict}.get(
        item.name, int if item.name in ("seed", "n", "batch_size") else str
    )
    for item in dataclasses.fields(Manifest)
}


def _names(attacks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(attack["name"]) for attack in attacks]


def _compare(name: str, old: Any, new: Any) -> Iterator[str]:
    """One sentence for each leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = name if key == "settings" else f"{name} {key}".strip()
            if key not in new:
                yield f"{inner} was {_show(old[key])}, is absent"
            elif key not in old:
                yield f"{inner} was absent, is {_show(new[key])}"
            else:
                yield from _compare(inner, old[key], new[key])
    elif old != new or type(old) is not type(new):
        yield f"{name} was {_show(old)}, is {_show(new)}"


def _show(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)
