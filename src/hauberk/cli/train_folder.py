"""The folder of `hauberk train`: what may be in it before, what is written beside the weights, and what is said of it."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hauberk.cli.guard import say
from hauberk.cli.trained import MANIFEST, SCHEMA
from hauberk.errors import RunError, SettingError
from hauberk.evidence import file_fingerprint, pretty, provenance, state_fingerprint
from hauberk.evidence.disk import replace_file, speaking
from hauberk.train import Fitted, World
from hauberk.train._checkpoint import write_weights

__all__ = ["WEIGHTS", "Resumption", "kept", "report", "usable", "write"]

CHECKPOINT, WEIGHTS = "checkpoint.json", "weights.safetensors"


def usable(out: Path) -> Path:
    """The folder to write to, with the home folder spelled out.

    Raises:
        SettingError: it is a file.
        RunError: a training lies in it whose checkpoint is gone, so that this one would be written over it.
    """
    out = out.expanduser()
    if out.exists() and not out.is_dir():
        raise SettingError(f"--out names a folder, got the file {out}; give another name")
    if not (out / CHECKPOINT).exists() and any((out / name).exists() for name in (MANIFEST, WEIGHTS)):
        raise RunError(f"the folder {out} already holds a training; give another --out or remove it")
    return out


def kept(out: Path) -> int:
    """The step that the checkpoint in the folder holds; 0 where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads((out / CHECKPOINT).read_text(encoding="utf-8"))["position"]["step"])
    return 0


class Resumption:
    """A logger that says on stderr from where the training goes on: `fit` opens loggers once it has accepted the checkpoint."""

    def open(self, settings: Mapping[str, str], step: int) -> "Resumption":
        """Say it."""
        if step:
            say(f"resuming after step {step}")
        return self

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        """The numbers of an epoch are for others."""

    def close(self) -> None:
        """Nothing is open."""


def write(out: Path, fitted: Fitted, facts: Mapping[str, Any], world: World, command: str) -> None:
    """Write the weights, then the manifest.

    Raises:
        RunError: they cannot be written.
    """
    state = fitted.net.state_dict()
    write_weights(out / WEIGHTS, state)
    document = {
        "schema": SCHEMA,
        **facts,
        "weights": {
            "file": WEIGHTS,
            "sha256": file_fingerprint(out / WEIGHTS),
            "fingerprint": state_fingerprint(state),
            "parameters": sum(value.numel() for value in fitted.net.parameters()),
        },
        "best_epoch": fitted.best or None,
        "stopped": fitted.stopped or None,
        "findings": list(fitted.findings),
        "last_epoch": asdict(fitted.epochs[-1]) if fitted.epochs else None,
        "seconds": round(fitted.seconds, 3),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "command": command,
        "environment": provenance(),
    }
    with speaking(f"write {out / MANIFEST}"):
        replace_file(out / MANIFEST, pretty(document))


def report(fitted: Fitted, out: Path, threat: str | None) -> None:
    """Print what came out."""
    for epoch in fitted.epochs[-1:]:
        seen = "".join(f", {name} {epoch.held_out[name]:.3f}" for name in ("clean", "fgsm", "pgd") if epoch.held_out)
        print(
            f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, accuracy while learning {epoch.accuracy:.4f}{seen and f'; held out{seen[1:]}'}"
        )
    if fitted.stopped:
        print(f"stopped early: {fitted.stopped}")
    if fitted.best:
        print(f"the weights are those of epoch {fitted.best}, the best on the held-out examples")
    print(f"wrote {out / WEIGHTS} and {out / MANIFEST} after {fitted.seconds:.0f} s of training")
    print(f"how robust is it? hauberk evaluate {shlex.quote(str(out))} --data TEST --threat {threat or 'linf:0.1'}")
