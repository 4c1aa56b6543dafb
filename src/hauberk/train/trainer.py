"""The trainer: epochs over examples in memory, seeded, resumable at any step with the weights of an unbroken training.

Step k of epoch e sees the next `batch_size` examples of a permutation drawn from (seed, e). The objective draws from streams
of (seed, e, example id), torch's own draws (dropout) are seeded by (seed, k), and the learning rate depends on k alone. So a
checkpoint holds weights, the optimiser's state, a position and what objective, averages and monitor remember, and no generator: on
one machine, with one number of threads, a training that was killed and resumed ends in bit-equal weights.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hauberk.errors import SettingError
from hauberk.evidence.fingerprint import state_fingerprint
from hauberk.train import _checkpoint
from hauberk.train._averaging import blend, estimate_norms, follow_spectral_norms, has_norms, swapped, two_at_least
from hauberk.train._batch import Sums, added, gradient_of
from hauberk.train._checkpoint import Position, Sections, copied, optimiser_state, restore_optimiser, write_weights
from hauberk.train._examples import Examples, check_net, collect
from hauberk.train._objective import Moment, Objective, finish, prepare, visits
from hauberk.train._progress import bar, say_nothing
from hauberk.train.detectors import collapse, robust_overfitting
from hauberk.train.loggers import Logger
from hauberk.train.monitor import Monitor
from hauberk.train.parallel import World, alone
from hauberk.train.recipe import Recipe
from hauberk.train.records import Epoch, Log

__all__ = ["Fitted", "fit"]

_ROLLBACKS = 3
_LEAST_SCALE = 2.0**-10


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Args:
        net: the net that was given (or that its objective made of it), trained, in evaluation mode: its averaged weights where the
            recipe has an average, those of the best look where a monitor keeps them.
        epochs: one record for each epoch, those before a resumption included where `out` kept them.
        seconds: wall time, interruptions left out.
        resumed_at: the step this call began at; 0 for an unbroken training.
        best: the epoch whose weights these are, by a monitor; 0: the last.
        stopped: why the training ended early; empty where it did not.
    """

    net: nn.Module
    epochs: tuple[Epoch, ...]
    seconds: float
    resumed_at: int
    best: int = 0
    stopped: str = ""

    @property
    def findings(self) -> tuple[str, ...]:
        """What the detectors found, each a sentence with its epoch."""
        return tuple(f"epoch {epoch.epoch}: {found}" for epoch in self.epochs for found in epoch.findings)


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
    monitor: Monitor | None = None,
    loggers: Sequence[Logger] = (),
    world: World | None = None,
    tell: Callable[[str], None] | None = None,
) -> Fitted:
    """Train `net` in place, or, where the objective prepares a net of its own from it, that one.

    Args:
        net: any module that answers (B, classes) logits; give it initial weights with `hauberk.train.initialise`.
        data: a pair of tensors (x, y), a `hauberk.data.Source`, or `Examples`; held in memory.
        objective: what to minimise.
        recipe: see `Recipe`.
        device: where to train; the net is moved there. Default: where the net is.
        out: a folder for `metrics.jsonl` (one line per epoch), checkpoints and, with a monitor, `best.safetensors`; if it holds a
            checkpoint of the same training (settings, data, initial weights), the training goes on from there.
        checkpoint_every: write a checkpoint after this many steps, beside the one at the end of each epoch.
        progress: show a progress bar on the terminal.
        monitor: what to look at after each epoch, and what to do about it.
        loggers: who else is told the numbers of each epoch.
        world: the processes that train together, see `hauberk.train.join`.
        tell: called with each finding of the detectors as it comes; they also stand in the records.

    Returns:
        The trained net and what each epoch measured.

    Raises:
        DataError: data that cannot be trained on, labels beyond the net's classes included.
        ModelError: a net without trainable parameters, or one that does not answer (B, classes).
        SettingError: a setting out of range, a batch of one example for batch norm, or a loss that is no longer finite.
        RunError: `out` cannot be written, or holds a damaged checkpoint or one of another training.
        MissingExtraError: a logger whose package is not installed.
    """
    if checkpoint_every is not None and (checkpoint_every < 1 or out is None):
        raise SettingError(
            f"checkpoint_every is a number of steps >= 1 and needs out=, got {checkpoint_every} and out={out}"
        )
    examples, world = collect(data), world or alone()
    folder = None if out is None else Path(out)
    settings: dict[str, str] = {"objective": repr(objective), "recipe": repr(recipe)}
    if folder is not None:
        settings |= {"data": examples.fingerprint(), "initial weights": state_fingerprint(net.state_dict())}
        if monitor is not None:
            settings |= {"monitor": repr(monitor), "held-out data": monitor.examples().fingerprint()}
        if world.size > 1:
            settings["processes"] = str(world.size)
    net = prepare(objective, net)
    if device is not None:
        net.to(device)
    check_net(net, examples, *(() if monitor is None else (monitor.examples(),)))
    net.train()
    training = _Training(net, examples, objective, recipe, monitor, world, folder, settings, tell)
    training.resume()
    resumed_at = training.at.step
    first = world.rank == 0
    sinks = [logger.open(settings, resumed_at) for logger in loggers] if first else []
    log = Log(folder / "metrics.jsonl" if folder is not None and first else None, resumed_at, sinks)
    try:
        with bar(progress and first, training.steps, resumed_at) as advance:
            training.run(log, checkpoint_every, advance)
    except BaseException as error:
        log.close(error)
        raise
    log.close()
    training.hand_out()
    at = training.at
    best = at.best if monitor is not None and monitor.keep_best else 0
    return Fitted(finish(objective, net).eval(), tuple(log.epochs), at.seconds, resumed_at, best, at.stopped)


class _Training:
    """A training under way: what changes from step to step, and how."""

    def __init__(
        self,
        net: nn.Module,
        examples: Examples,
        objective: Objective,
        recipe: Recipe,
        monitor: Monitor | None,
        world: World,
        folder: Path | None,
        settings: Mapping[str, str],
        tell: Callable[[str], None] | None,
    ) -> None:
        self.net, self.examples, self.objective, self.recipe = net, examples, objective, recipe
        self.monitor, self.world, self.folder, self.settings = monitor, world, folder, settings
        self.tell = tell if tell is not None and world.rank == 0 else say_nothing
        self.optimiser = recipe.optimiser.make(net.parameters())
        self.memories: list[dict[str, Tensor]] = [{} for _ in range(recipe.accumulate)]
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.back: Sections = {}
        self.at = Position()
        self.sums = Sums()
        self.begun = time.perf_counter()
        self.visits = visits(objective)
        self.per_epoch = examples.steps(recipe.batch_size) * self.visits
        self.steps = recipe.epochs * self.per_epoch

    def run(self, log: Log, checkpoint_every: int | None, advance: Callable[[str], None]) -> None:
        """All steps that are left."""
        recipe = self.recipe
        while self.at.step < self.steps and not self.at.stopped:
            epoch, first = divmod(self.at.step, self.per_epoch)
            batches = self.examples.batches(recipe.batch_size, seed=recipe.seed, epoch=epoch)
            rate = 0.0
            for place in range(first, self.per_epoch):
                rate = self._step(batches[place // self.visits], epoch, place % self.visits)
                sums = self.sums
                if sums.seen:
                    advance(
                        f"epoch {epoch + 1}/{recipe.epochs}  loss {sums.loss / sums.seen:.3f}  accuracy {sums.correct / sums.seen:.3f}"
                    )
                step = self.at.step
                if checkpoint_every is not None and step % checkpoint_every == 0 and step % self.per_epoch:
                    self._save()
            self._end(epoch, rate, log)

    def _step(self, rows: Tensor, epoch: int, visit: int) -> float:
        """One step of the optimiser; gives its learning rate."""
        recipe, at = self.recipe, self.at
        rate = recipe.rate(at.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        moments = [Moment(at.step, self.steps, epoch, recipe.epochs, visit, memory) for memory in self.memories]
        scaled = recipe.precision == "float16"
        scale = at.scale.value if scaled else 1.0
        with two_at_least(len(rows)):
            sums = gradient_of(
                self.net, self.examples, rows, self.objective, recipe, self.optimiser, moments, self.world, scale
            )
        averaged, factor = at.averaged, at.scale
        finite = not scaled or self._unscale(scale)
        if scaled:
            factor = factor.after(finite=finite)
            if factor.value < _LEAST_SCALE:
                raise SettingError(
                    f"expected finite gradients in float16, got none at step {at.step + 1}; use precision bfloat16"
                )
        if finite:
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
            self.optimiser.step()
            for constraint in recipe.constraints:
                constraint(self.net)
            if recipe.average is not None and recipe.average.each == "step":
                averaged += self._blend(at.step + 1)
        else:
            skipped = {"skipped_steps": float(sums.seen)}
            sums = replace(sums, measures=sums.measures | skipped)
        self.sums = added([self.sums, sums])
        self.at = replace(
            at, step=at.step + 1, averaged=averaged, scale=factor, seconds=time.perf_counter() - self.begun
        )
        return rate

    def _unscale(self, scale: float) -> bool:
        """Take the scale of the loss out of the gradients; False where one of them is not finite."""
        found = [value.grad for value in self.net.parameters() if value.grad is not None]
        for gradient in found:
            gradient.div_(scale)
        return all(bool(gradient.isfinite().all()) for gradient in found)

    def _blend(self, step: int) -> int:
        """Take the weights into the average; 1 if they are in it now."""
        assert self.recipe.average is not None
        share = self.recipe.average.share(self.at.averaged, step / self.steps)
        if share:
            blend(self.average, self.net, share)
        return int(share > 0)

    def _end(self, epoch: int, rate: float, log: Log) -> None:
        """What is done after an epoch: the average, the look, the record, the checkpoint."""
        if self.recipe.average is not None and self.recipe.average.each == "epoch":
            self.at = replace(self.at, averaged=self.at.averaged + self._blend(self.at.step))
        whole, self.sums = self._whole(), Sums()
        at, passed = self.at, whole.seen / self.visits
        record = Epoch(
            epoch + 1,
            at.step,
            whole.loss / whole.seen,
            whole.correct / whole.seen,
            rate,
            round(at.seconds, 3),
            round(whole.forwards / passed, 3),
            round(whole.backwards / passed, 3),
            {name: value / whole.seen for name, value in whole.measures.items()},
        )
        collapsed = ""
        if self.monitor is not None and ((epoch + 1) % self.monitor.every == 0 or epoch + 1 == self.recipe.epochs):
            record, collapsed = self._look(self.monitor, record, log)
        log.add(record)
        if collapsed and self.monitor is not None:
            self._act(self.monitor.on_collapse, collapsed)
        self._save()

    def _look(self, monitor: Monitor, record: Epoch, log: Log) -> tuple[Epoch, str]:
        """The record with what the monitor sees; and what it says of a collapse."""
        last = next((epoch for epoch in reversed(log.epochs) if epoch.held_out), None)
        with self._final_weights():
            held = monitor.look(self.net, seed=self.recipe.seed, world=self.world)
            collapsed = collapse(held, gap=monitor.gap, alignment=monitor.alignment, before=self.at.best_pgd) or ""
            if not collapsed and held["robust"] >= self.at.best_robust:
                self.best = copied(self.net.state_dict())
                self.at = replace(self.at, best=record.epoch, best_robust=held["robust"])
        if self.at.best == record.epoch:
            if monitor.on_collapse == "rollback":
                self._remember()
            if self.folder is not None and self.world.rank == 0:
                write_weights(self.folder / "best.safetensors", self.best)
        looks = (*self.at.looks, (record.epoch, record.loss, held["robust_loss"]))
        highest = max(self.at.best_pgd, held["pgd"])
        self.at = replace(self.at, looks=looks, best_pgd=highest, seconds=time.perf_counter() - self.begun)
        findings = tuple(found for found in (collapsed, robust_overfitting(looks, patience=monitor.patience)) if found)
        for found in findings:
            kind = found.partition(":")[0].partition(" since")[0]
            if last is None or not any(old.startswith(kind) for old in last.findings):
                self.tell(f"epoch {record.epoch}: {found}")
        return replace(record, held_out=held, findings=findings), collapsed

    def _act(self, action: str, collapsed: str) -> None:
        """Do what was asked for after a collapse."""
        at = self.at
        if action == "rollback" and self.back and at.rollbacks < _ROLLBACKS:
            self.tell(f"going back to the weights of epoch {at.best}")
            self._restore(self.back, at.plain["back"])
            self.at = replace(self.at, rollbacks=at.rollbacks + 1)
        elif action != "warn":
            self.at = replace(at, stopped=collapsed)

    def _remember(self) -> None:
        """Keep weights, optimiser, memory and average of this moment to go back to."""
        tensors, plain = optimiser_state(self.optimiser)
        self.back = {name: copied(part) for name, part in (self._sections() | {"optimiser": tensors}).items()}
        kept = {"optimiser": plain, "averaged": self.at.averaged}
        self.at = replace(self.at, plain=self.at.plain | {"back": kept})

    def _restore(self, sections: Sections, plain: Mapping[str, Any]) -> None:
        device = next(self.net.parameters()).device
        self.net.load_state_dict(sections["net"])
        restore_optimiser(self.optimiser, sections.get("optimiser", {}), plain["optimiser"])
        for place, memory in enumerate(self.memories):
            memory.clear()
            memory |= {
                name: value.to(device, copy=True) for name, value in sections.get(self._memory(place), {}).items()
            }
        self.average = {name: value.to(device, copy=True) for name, value in sections.get("average", {}).items()}
        self.at = replace(self.at, averaged=plain["averaged"])

    def _memory(self, place: int) -> str:
        """The section of what the objective keeps for a piece of the batches of this process."""
        return f"memory.{self.world.rank}.{place}" if place or self.world.rank else "memory"

    def _sections(self) -> Sections:
        found: Sections = {"net": self.net.state_dict(), "average": self.average}
        return found | {self._memory(place): memory for place, memory in enumerate(self.memories)}

    def _whole(self) -> Sums:
        """What all processes measured in this epoch."""
        return added([Sums(**part) for part in self.world.gather(asdict(self.sums))])

    def _save(self) -> None:
        if self.folder is None:
            return
        tensors, plain = optimiser_state(self.optimiser)
        back = {f"back.{name}": part for name, part in self.back.items()}
        sections = self._sections() | back
        for other in self.world.gather(
            {name: copied(part) for name, part in sections.items() if "memory" in name} if self.world.size > 1 else {}
        ):
            sections |= other
        kept = {"optimiser": plain, "averaged": self.at.averaged}
        at = replace(self.at, plain=self.at.plain | {"now": kept}, **asdict(self._whole()))
        if self.world.rank == 0:
            _checkpoint.save(self.folder, self.settings, at, sections | {"optimiser": tensors, "best": self.best})

    def resume(self) -> None:
        """Go back to where the checkpoint in the folder left the training; where there is none, change nothing."""
        found = None if self.folder is None else _checkpoint.load(self.folder, self.settings)
        if found is not None:
            at, sections = found
            self.at = at
            self._restore(sections, at.plain["now"])
            self.best = sections.get("best", {})
            self.back = {
                name.removeprefix("back."): part for name, part in sections.items() if name.startswith("back.")
            }
            if self.world.rank == 0:  # the sums of all are in its hands
                self.sums = Sums(at.seen, at.loss, at.correct, at.forwards, at.backwards, at.measures)
            self.at = replace(at, **asdict(Sums()))
        self.begun = time.perf_counter() - self.at.seconds

    @contextmanager
    def _final_weights(self) -> Iterator[None]:
        """Inside, the net has the weights that would be handed out now."""
        with swapped(self.net, self.average):
            if self.average and self.recipe.average is not None:
                for constraint in self.recipe.constraints:
                    constraint(self.net)  # a mean of sparse or rounded weights is neither
                follow_spectral_norms(self.net)
                if self.recipe.average.each == "epoch":
                    self._estimate_norms()
            yield

    def _estimate_norms(self) -> None:
        if has_norms(self.net):
            reference, recipe = next(self.net.parameters()), self.recipe
            pieces = self.examples.pieces(recipe.batch_size, seed=recipe.seed)
            with two_at_least(len(pieces[-1])):
                estimate_norms(self.net, (self.examples.x[rows].to(reference) for rows in pieces))

    def hand_out(self) -> None:
        """Give the net the weights that come out of the training, in evaluation mode."""
        state = self.best if self.monitor is not None and self.monitor.keep_best else {}
        if self.monitor is not None and self.monitor.keep_best and not state and self.at.looks:
            self.tell("every look found catastrophic overfitting, so the last weights are handed out, not the best")
        if not state and self.average:
            with self._final_weights():
                state = copied(self.net.state_dict())
        if state:
            self.net.load_state_dict(state)
        self.net.eval()
