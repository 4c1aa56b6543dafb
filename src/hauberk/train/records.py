"""What is recorded of a training, epoch by epoch: a JSON-lines file, and whoever else listens."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hauberk.errors import RunError
from hauberk.evidence.disk import speaking
from hauberk.train.loggers import Sink

__all__ = ["Epoch", "Log"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured on the inputs it learnt from, while the weights changed: no measure of the final net.

    Args:
        epoch: 1, 2, ... .
        step: optimiser steps made by its end.
        loss: mean loss.
        accuracy: fraction classified rightly (in adversarial training, after the perturbation).
        rate: learning rate of its last step.
        seconds: wall time since the training began, interruptions left out.
        forwards, backwards: passes through the net for each example of this epoch, the inner maximiser's included.
        measures: what the objective measured besides, each a mean over the epoch.
        held_out: what the monitor measured after the epoch on examples that are not learnt from, see `Monitor`.
        findings: what the detectors found after the epoch, each a sentence.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    rate: float
    seconds: float
    forwards: float = 0.0
    backwards: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float]:
        """All numbers under one name each, as loggers take them: those of `measures` and `held_out` after a slash."""
        found: dict[str, float] = {}
        for name, value in asdict(self).items():
            if isinstance(value, Mapping):
                found |= {f"{name}/{key}": item for key, item in value.items()}
            elif isinstance(value, int | float) and name != "step":
                found[name] = value
        return found


class Log:
    """The records of finished epochs, kept in a JSON-lines file where there is one.

    Args:
        path: the file; None: kept in memory only.
        step: what was recorded after this step will be trained, and recorded, again.
        sinks: who else is told.

    Raises:
        RunError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, step: int, sinks: Sequence[Sink] = ()) -> None:
        self.path, self.epochs, self._sinks = path, list[Epoch](), sinks
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if step and path.exists():
                self.epochs = [_epoch(line) for line in _lines(path) if line["step"] <= step]
            path.write_text("".join(map(_line, self.epochs)), encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot keep the training's records in {path}: {error}; give another folder") from error

    def add(self, epoch: Epoch) -> None:
        """Record an epoch.

        Raises:
            RunError: the file cannot be written.
        """
        self.epochs.append(epoch)
        if self.path is not None:
            with speaking(f"keep the training's records in {self.path}"), self.path.open("a", encoding="utf-8") as file:
                file.write(_line(epoch))
        for sink in self._sinks:
            sink(epoch.numbers(), epoch.step)

    def close(self, error: BaseException | None = None) -> None:
        """Let the listeners go; `error` is what ended the training, if not its last step."""
        for sink in self._sinks:
            fail = getattr(sink, "fail", None)
            if error is None or fail is None:
                sink.close()
            else:
                fail(error)


def _lines(path: Path) -> list[dict[str, Any]]:
    """What the lines say; the last may be torn, of a training killed as it wrote it, and is then left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines[:-1]]
    with contextlib.suppress(ValueError):
        found += [json.loads(line) for line in lines[-1:]]
    return found


def _epoch(line: dict[str, object]) -> Epoch:
    made = dict(line)
    made["findings"] = tuple(made.get("findings", ()))  # type: ignore[arg-type]
    return Epoch(**made)  # type: ignore[arg-type]


def _line(epoch: Epoch) -> str:
    return json.dumps(asdict(epoch)) + "\n"
