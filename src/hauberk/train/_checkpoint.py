"""Checkpoints of a training: tensors as safetensors, everything else as JSON, replaced atomically; nothing is pickled.

    checkpoint.json              settings, position, running sums, and the name and SHA-256 of the tensors' file
    checkpoint-STEP.safetensors  `SECTION/NAME`: sections `net`, `optimiser`, `memory` (of the objective), and others the trainer keeps

The JSON file names the tensors' file and is replaced last, so a training killed at any instant leaves the old pair or the new.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as in_bytes
from torch import Tensor

from hauberk.errors import RunError
from hauberk.evidence.disk import replace_file, speaking
from hauberk.evidence.fingerprint import file_fingerprint
from hauberk.train._precision import LossScale

__all__ = ["Position", "Sections", "copied", "load", "optimiser_state", "restore_optimiser", "save", "write_weights"]

_SCHEMA = "hauberk.checkpoint/3"
_TENSORS = re.compile(
    r"(\.|\.tmp-)?checkpoint-\d{8,}\.safetensors(\.tmp)?"
)  # ours, unfinished ones of earlier versions included

Sections: TypeAlias = dict[str, dict[str, Tensor]]
"""Tensors by section and name."""


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Args:
        step: optimiser steps made.
        seen: examples seen in the current epoch.
        loss: sum of the loss over them.
        correct: how many of them were classified rightly.
        forwards, backwards: rows that went through the net, and back.
        measures: sums of what the objective measured besides.
        seconds: wall time so far, over all interruptions.
        averaged: how many weights are in the average.
        scale: what the loss is multiplied by, in float16.
        looks: what the monitor saw so far.
        best: the epoch whose weights are kept, 0: none.
        best_robust: their robust accuracy.
        best_pgd: the highest accuracy under PGD that was seen.
        rollbacks: how often the training went back to them.
        stopped: why it ended early, if so.
        plain: what the optimiser keeps besides tensors, now (`now`) and of the weights to go back to (`back`).
    """

    step: int = 0
    seen: int = 0
    loss: float = 0.0
    correct: int = 0
    forwards: int = 0
    backwards: int = 0
    measures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    averaged: int = 0
    scale: LossScale = field(default_factory=LossScale)
    looks: tuple[tuple[int, float, float], ...] = ()
    best: int = 0
    best_robust: float = -1.0
    best_pgd: float = 0.0
    rollbacks: int = 0
    stopped: str = ""
    plain: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Position":
        """Of a checkpoint."""
        scale, looks = LossScale(**found["scale"]), tuple(tuple(look) for look in found["looks"])
        return cls(**{**found, "scale": scale, "looks": looks})


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the memory of the CPU, each of its own."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of the tensors that an optimiser keeps, as INDEX/NAME, and its other values by index."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    return copied(tensors), plain


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put an optimiser back where `optimiser_state` found it."""
    states: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain.items()}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        states.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def save(folder: Path, settings: Mapping[str, Any], at: Position, sections: Sections) -> None:
    """Write a checkpoint, then remove the one before.

    Raises:
        RunError: it cannot be written.
    """
    tensors = {f"{section}/{name}": value for section, part in sections.items() for name, value in copied(part).items()}
    name = f"checkpoint-{at.step:08d}.safetensors"
    with speaking(f"write a checkpoint in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        content = in_bytes(tensors)
        replace_file(folder / name, content)
        document = {
            "schema": _SCHEMA,
            "settings": dict(settings),
            "position": asdict(at),
            "tensors": {"file": name, "sha256": hashlib.sha256(content).hexdigest()},
        }
        replace_file(folder / "checkpoint.json", json.dumps(document, indent=1).encode())
        for old in folder.iterdir():
            if old.name != name and _TENSORS.fullmatch(old.name):
                old.unlink(missing_ok=True)


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a file of weights at once.

    Raises:
        RunError: it cannot be written.
    """
    with speaking(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, in_bytes(copied(tensors)))


def load(folder: Path, settings: Mapping[str, Any]) -> tuple[Position, Sections] | None:
    """The checkpoint in `folder`; None where there is none.

    Raises:
        RunError: it is damaged, or of a training with other settings.
    """
    path = folder / "checkpoint.json"
    if not path.exists():
        return None
    cure = "remove the folder to train from the start, or give another"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise RunError(f"expected a checkpoint of schema {_SCHEMA} at {path}, got {document['schema']}; {cure}")
        found, position = document["settings"], Position.from_json(document["position"])
        if not isinstance(found, dict) or not all(map(_kept, (position.plain["now"], *position.plain.values()))):
            raise TypeError("no settings, or nothing of what the optimiser keeps")
        file, digest = folder / Path(document["tensors"]["file"]).name, document["tensors"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"expected a checkpoint at {path}, got a file that cannot be read as one; {cure}") from error
    differences = [
        f"{key} was {found.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted({*found, *settings})
        if found.get(key) != settings.get(key)
    ]
    if differences:
        raise RunError(f"the checkpoint in {folder} is of another training: {'; '.join(differences)}; {cure}")
    if not file.exists() or file_fingerprint(file) != digest:
        raise RunError(f"the checkpoint's tensors {file} are missing or altered; {cure}")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"the checkpoint's tensors {file} cannot be read; {cure}") from error
    sections: Sections = {}
    for key, value in tensors.items():
        section, _, name = key.partition("/")
        sections.setdefault(section, {})[name] = value
    if "net" not in sections or ("back.net" in sections and "back" not in position.plain):
        raise RunError(f"expected the weights of a training in {file}, got {sorted(sections)} alone; {cure}")
    return position, sections


def _kept(plain: Any) -> bool:
    """This is what a checkpoint keeps of an optimiser and an average besides tensors."""
    return isinstance(plain["optimiser"], dict) and isinstance(plain["averaged"], int)
