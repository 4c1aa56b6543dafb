"""What `hauberk train` is given, made ready: device, architecture, examples and initial weights."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hauberk._settings import split_spelling
from hauberk.errors import DataError, ModelError, SettingError
from hauberk.train import Examples
from hauberk.train._draws import order
from hauberk.train.spelling import kinds_of
from hauberk.victims.reading import load_state

__all__ = ["absolute", "device", "looks", "need_threat", "parted", "start_from"]

_ACTIONS = ("warn", "rollback", "stop")


def need_threat(objective: str, extras: Iterable[str]) -> None:
    """Without --threat, everything that works under one must say its own.

    Raises:
        SettingError: an objective, a regulariser or a wrapper that does not.
    """
    added = {**kinds_of("wrapper"), **kinds_of("regulariser")}
    for option, text, known in (
        ("--objective", objective, kinds_of("objective")),
        *(("--with", text, added) for text in extras),
    ):
        name, settings = split_spelling(text, "trades:beta=6" if option == "--objective" else "grad_align:weight=0.2")
        has = getattr(known.get(name), "__dataclass_fields__", {})
        if "threat" in has and not any(setting.partition("=")[0].strip() == "threat" for setting in settings):
            raise SettingError(f"{option} {name} needs --threat; write for example --threat linf:0.3")


def looks(
    validate: str | None,
    hold_out: int | None,
    threat: str | None,
    *,
    every: int | None,
    on_collapse: str | None,
    last: bool,
) -> bool:
    """Whether the net is looked at with held-out examples.

    Raises:
        SettingError: it is not and an option says how, or it cannot be as the options say.
    """
    if validate is not None and hold_out is not None:
        raise SettingError("--validate names held-out data and --hold-out draws some; give one of them")
    if validate is None and hold_out is None:
        given = {"--every": every is not None, "--on-collapse": on_collapse is not None, "--last": last}
        for option in (option for option, there in given.items() if there):
            raise SettingError(f"{option} needs held-out examples; add --hold-out N or --validate DATA")
        return False
    if threat is None:
        raise SettingError("--validate and --hold-out measure under a threat; give it with --threat, such as linf:0.3")
    if every is not None and every < 1:
        raise SettingError(f"--every is a number of epochs >= 1, got {every}")
    if on_collapse is not None and on_collapse not in _ACTIONS:
        raise SettingError(f"--on-collapse is one of {', '.join(_ACTIONS)}, got {on_collapse!r}")
    return True


def device(name: str | None) -> torch.device:
    """Where to train.

    Raises:
        SettingError: there is no such device, or nothing can be trained there.
    """
    if name is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SettingError(f"cannot train on --device {name}; give cpu, cuda, cuda:1 or mps")
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
