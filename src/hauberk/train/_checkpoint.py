"""Checkpoints of a training: tensors as safetensors, everything else as JSON, replaced atomically; nothing is pickled.

    checkpoint.json              settings, position, running sums, and the name and SHA-256 of the tensors' file
    checkpoint-STEP.safetensors  `net/NAME` and `optimiser/INDEX/NAME`

The JSON file names the tensors' file and is replaced last, so a training killed at any instant leaves the old pair or the new.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hauberk.errors import RunError
from hauberk.evidence.fingerprint import file_fingerprint

__all__ = ["Position", "load", "save"]

_SCHEMA = "hauberk.checkpoint/1"


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Args:
        step: optimiser steps made.
        seen: examples seen in the current epoch.
        loss: sum of the loss over them.
        correct: how many of them were classified rightly.
        seconds: wall time so far, over all interruptions.
    """

    step: int = 0
    seen: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


def save(
    folder: Path, settings: dict[str, Any], at: Position, net: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write a checkpoint, then remove the one before."""
    tensors = {f"net/{name}": value.detach().cpu().clone() for name, value in net.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{index}/{name}"] = value.detach().cpu().clone().contiguous()
            else:
                plain.setdefault(str(index), {})[name] = value
    name = f"checkpoint-{at.step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.tmp"
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
        _settle(temporary, folder / name)
        document = {
            "schema": _SCHEMA,
            "settings": settings,
            "position": asdict(at),
            "optimiser": plain,
            "tensors": {"file": name, "sha256": file_fingerprint(folder / name)},
        }
        temporary = folder / ".checkpoint.json.tmp"
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
        _settle(temporary, folder / "checkpoint.json")
        for old in folder.glob("*checkpoint-*.safetensors*"):
            if old.name != name:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write a checkpoint in {folder}: {error.strerror or error}; give a writable folder"
        ) from error


def _settle(temporary: Path, final: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def load(folder: Path, settings: dict[str, Any], net: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
    """Put `net` and `optimiser` back where the checkpoint in `folder` left them; where there is none, change nothing.

    Raises:
        RunError: the checkpoint is damaged, or of a training with other settings.
    """
    path = folder / "checkpoint.json"
    if not path.exists():
        return Position()
    cure = "remove the folder to train from the start, or give another"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != _SCHEMA:
            raise RunError(f"expected a checkpoint of schema {_SCHEMA} at {path}, got {document['schema']}; {cure}")
        found, position, plain = document["settings"], Position(**document["position"]), document["optimiser"]
        file, digest = folder / Path(document["tensors"]["file"]).name, document["tensors"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    states: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain.items()}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, index, name = key.split("/", 2)
            states.setdefault(int(index), {})[name] = value
    net.load_state_dict({key.removeprefix("net/"): value for key, value in tensors.items() if key.startswith("net/")})
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    return position
