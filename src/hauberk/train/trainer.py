"""The trainer: epochs over examples in memory, seeded, resumable at any step with the weights of an unbroken training.

Step k of epoch e sees the next `batch_size` examples of a permutation drawn from (seed, e). The objective draws from streams
of (seed, e, example id), torch's own draws (dropout) are seeded by (seed, k), and the learning rate depends on k alone. So a
checkpoint holds weights, the optimiser's state and a position, and no generator: on one machine, with one number of threads, a
training that was killed and resumed ends in bit-equal weights.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hauberk._rng import Streams
from hauberk.errors import RunError, SettingError
from hauberk.evidence.fingerprint import state_fingerprint
from hauberk.train import _checkpoint
from hauberk.train._checkpoint import Position
from hauberk.train._draws import order, private_draws
from hauberk.train._examples import Examples, collect
from hauberk.train._objective import Objective
from hauberk.train.rates import Adam, Cyclic, Optimiser, Rate

__all__ = ["Epoch", "Fitted", "Recipe", "fit"]


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and in which order; with an objective and data, all that decides the weights.

    Args:
        epochs: passes over the data, >= 1.
        batch_size: examples per step, >= 1; the last batch of an epoch may be smaller.
        seed: of the order of the examples and of every draw.
        optimiser: see `hauberk.train.rates`.
        rate: the learning rate of each step.

    Raises:
        SettingError: epochs or batch size below 1.
    """

    epochs: int
    batch_size: int = 128
    seed: int = 0
    optimiser: Optimiser = field(default_factory=Adam)
    rate: Rate = field(default_factory=lambda: Cyclic(5e-3))

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise SettingError(f"training needs {name} >= 1, got {value}")


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
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Args:
        net: the net that was given, trained, in evaluation mode.
        epochs: one record for each epoch, those before a resumption included where `out` kept them.
        seconds: wall time, interruptions left out.
        resumed_at: the step this call began at; 0 for an unbroken training.
    """

    net: nn.Module
    epochs: tuple[Epoch, ...]
    seconds: float
    resumed_at: int


def fit(
    net: nn.Module,
    data: object,
    objective: Objective,
    recipe: Recipe,
    *,
    device: torch.device | str | None = None,
    out: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
) -> Fitted:
    """Train `net` in place.

    Args:
        net: any module that answers (B, classes) logits; give it initial weights with `hauberk.train.initialise`.
        data: a pair of tensors (x, y), a `hauberk.data.Source`, or `Examples`; held in memory.
        objective: what to minimise.
        recipe: see `Recipe`.
        device: where to train; the net is moved there. Default: where the net is.
        out: a folder for `metrics.jsonl` (one line per epoch) and checkpoints; if it holds a checkpoint of the same training
            (settings, data, initial weights), the training goes on from there.
        checkpoint_every: write a checkpoint after this many steps, beside the one at the end of each epoch.
        progress: show a progress bar on the terminal.

    Returns:
        The trained net and what each epoch measured.

    Raises:
        DataError: data that cannot be trained on.
        SettingError: a setting out of range, or a loss that is no longer finite.
        RunError: `out` cannot be written, or holds a damaged checkpoint or one of another training.
    """
    if checkpoint_every is not None and (checkpoint_every < 1 or out is None):
        raise SettingError(
            f"checkpoint_every is a number of steps >= 1 and needs out=, got {checkpoint_every} and out={out}"
        )
    examples = collect(data)
    folder = None if out is None else Path(out)
    settings: dict[str, Any] = {}
    if folder is not None:
        settings = {
            "objective": repr(objective),
            "recipe": repr(recipe),
            "data": examples.fingerprint(),
            "initial weights": state_fingerprint(net.state_dict()),
        }
    if device is not None:
        net.to(device)
    net.train()
    optimiser = recipe.optimiser.make(net.parameters())
    at = Position() if folder is None else _checkpoint.load(folder, settings, net, optimiser)
    log = _Log(None if folder is None else folder / "metrics.jsonl", at.step)

    def save(position: Position) -> None:
        if folder is not None:
            _checkpoint.save(folder, settings, position, net, optimiser)

    begun, resumed_at = time.perf_counter() - at.seconds, at.step
    with _bar(progress, recipe, examples, at.step) as advance:
        at = _run(net, examples, objective, recipe, optimiser, at, begun, log, save, checkpoint_every, advance)
    net.eval()
    return Fitted(net, tuple(log.epochs), at.seconds, resumed_at)


def _run(
    net: nn.Module,
    examples: Examples,
    objective: Objective,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    at: Position,
    begun: float,
    log: "_Log",
    save: Callable[[Position], None],
    checkpoint_every: int | None,
    advance: Callable[[str], None],
) -> Position:
    """All steps from `at` on."""
    reference = next(net.parameters())
    device, dtype = reference.device, reference.dtype
    per_epoch = math.ceil(len(examples) / recipe.batch_size)
    steps = recipe.epochs * per_epoch
    while at.step < steps:
        epoch, first = divmod(at.step, per_epoch)
        batches = order(len(examples), seed=recipe.seed, epoch=epoch).split(recipe.batch_size)
        rate = 0.0
        for rows in batches[first:]:
            rate = recipe.rate(at.step, steps)
            x, y = examples.x[rows].to(device, dtype), examples.y[rows].to(device)
            streams = Streams(recipe.seed, examples.ids[rows], f"train/{epoch}")
            for group in optimiser.param_groups:
                group["lr"] = rate
            with private_draws(recipe.seed, "step", at.step, device=device):
                losses = objective(net, x, y, streams=streams)
                optimiser.zero_grad(set_to_none=True)
                losses.total.backward()
            loss = losses.total.item()
            if not math.isfinite(loss):
                raise SettingError(
                    f"expected a finite loss, got {loss} at step {at.step + 1}; lower the learning rate ({rate:g} there)"
                )
            optimiser.step()
            at = Position(
                step=at.step + 1,
                seen=at.seen + len(rows),
                loss=at.loss + loss * len(rows),
                correct=at.correct + int((losses.logits.argmax(dim=1) == y).sum()),
                seconds=time.perf_counter() - begun,
            )
            advance(
                f"epoch {epoch + 1}/{recipe.epochs}  loss {at.loss / at.seen:.3f}  accuracy {at.correct / at.seen:.3f}"
            )
            if checkpoint_every is not None and at.step % checkpoint_every == 0 and at.step % per_epoch:
                save(at)
        log.add(Epoch(epoch + 1, at.step, at.loss / at.seen, at.correct / at.seen, rate, round(at.seconds, 3)))
        at = replace(at, seen=0, loss=0.0, correct=0)
        save(at)
    return at


class _Log:
    """The records of finished epochs, kept in a JSON-lines file where there is one."""

    def __init__(self, path: Path | None, step: int) -> None:
        self.path, self.epochs = path, list[Epoch]()
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if step and path.exists():
                lines = [
                    json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")
                ]
                self.epochs = [Epoch(**line) for line in lines if line["step"] <= step]
            # what was logged after the checkpoint will be trained, and logged, again
            path.write_text("".join(map(self._line, self.epochs)), encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot keep the training's records in {path}: {error}; give another folder") from error

    @staticmethod
    def _line(epoch: Epoch) -> str:
        return json.dumps(asdict(epoch)) + "\n"

    def add(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(epoch))


def _show_nothing(text: str) -> None:
    pass


def _bar(
    progress: bool, recipe: Recipe, examples: Examples, done: int
) -> AbstractContextManager[Callable[[str], None]]:
    """A function to call after each step with what to show."""
    if not progress:
        return nullcontext(_show_nothing)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Iterator[Callable[[str], None]]:
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task("", total=recipe.epochs * math.ceil(len(examples) / recipe.batch_size), completed=done)
            yield lambda text: bar.update(task, advance=1, description=text)

    return shown()
