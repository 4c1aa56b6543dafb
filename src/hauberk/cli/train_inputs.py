"""What `hauberk train` is given, made ready: device, architecture, examples and initial weights."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hauberk.errors import DataError, ModelError, SettingError
from hauberk.train import Examples
from hauberk.train._draws import order
from hauberk.victims.reading import load_state

__all__ = ["absolute", "device", "parted", "start_from"]


def device(name: str | None) -> torch.device:
    """Where to train.

    Raises:
        SettingError: there is no such device.
    """
    try:
        place = torch.device(name or "cpu")
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        text = str(error).strip().splitlines() or [""]
        raise SettingError(f"cannot train on --device {name}: {text[0]}; give cpu, cuda or mps") from error
    return place


def absolute(arch: str) -> str:
    """The same factory, found from any working directory."""
    place, colon, name = arch.rpartition(":")
    return f"{Path(place).expanduser().resolve()}{colon}{name}" if place.endswith(".py") else arch


def parted(examples: Examples, count: int, seed: int) -> tuple[Examples, Examples]:
    """What is learnt from and what is held out, drawn by the seed."""
    if not 1 <= count < len(examples):
        raise DataError(f"--hold-out takes from 1 to {len(examples) - 1} of the {len(examples)} examples, got {count}")
    drawn = order(len(examples), seed=seed, epoch=-1)
    return examples.take(drawn[count:].sort().values), examples.take(drawn[:count].sort().values)


def start_from(net: torch.nn.Module, path: Path) -> None:
    """Give the net the weights of a file.

    Raises:
        ModelError: they cannot be read, or are of another net.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights from {path}; give a .safetensors file with --weights") from error
    load_state(net, state, str(path))
