"""The gradient of one batch, in pieces and in several processes; what it costs and what was measured on the way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Rows
from hauberk.errors import SettingError
from hauberk.train._draws import private_draws
from hauberk.train._examples import Examples
from hauberk.train._objective import Moment, Objective
from hauberk.train._passes import Passes
from hauberk.train._precision import PRECISIONS, lowered
from hauberk.train.parallel import World
from hauberk.train.recipe import Recipe

__all__ = ["Sums", "added", "gradient_of"]


@dataclass(frozen=True)
class Sums:
    """What was measured on some examples, added up over them.

    Args:
        seen: how many they are.
        loss: the loss.
        correct: how many were classified rightly.
        forwards, backwards: rows that went through the net, and back.
        measures: what the objective measured besides.
    """

    seen: int = 0
    loss: float = 0.0
    correct: int = 0
    forwards: int = 0
    backwards: int = 0
    measures: dict[str, float] = field(default_factory=dict)


def added(parts: Sequence[Sums]) -> Sums:
    """All of them together."""
    measures: dict[str, float] = {}
    for part in parts:
        for name, value in part.measures.items():
            measures[name] = measures.get(name, 0.0) + value
    return Sums(
        sum(part.seen for part in parts),
        sum(part.loss for part in parts),
        sum(part.correct for part in parts),
        sum(part.forwards for part in parts),
        sum(part.backwards for part in parts),
        measures,
    )


def gradient_of(
    net: nn.Module,
    examples: Examples,
    rows: Rows,
    objective: Objective,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    moments: Sequence[Moment],
    world: World,
    scale: float,
) -> Sums:
    """Leave in the weights the gradient of the mean loss of the examples `rows`, times `scale`; give back what this process measured.

    Args:
        net: in training mode.
        examples: all of them.
        rows: of the batch.
        objective: what is minimised.
        recipe: how.
        optimiser: of the net's weights.
        moments: where the training stands, for each piece of the batch with its own memory.
        world: each process takes its part of the rows.
        scale: what the loss is multiplied by.

    Raises:
        SettingError: a loss that is not finite.
    """
    mine = world.part(rows)
    pieces = mine.tensor_split(min(recipe.accumulate, len(mine))) if len(mine) else ()
    found: list[Sums] = []
    held: list[Tensor | None] | None = None
    parameters = list(net.parameters())
    if not pieces:
        optimiser.zero_grad(set_to_none=True)
    for place, piece in enumerate(pieces):
        share = len(piece) / len(rows)
        found.append(
            _piece(
                net, examples, piece, objective, recipe, optimiser, moments[place], (world.rank, place), share * scale
            )
        )
        if len(pieces) > 1:
            held = _sum(held, [value.grad for value in parameters])
    if held is not None:
        for value, gradient in zip(parameters, held, strict=True):
            value.grad = gradient
    if world.size > 1:
        _share(net, parameters, world, len(mine) / len(rows))
    return added(found)


def _piece(
    net: nn.Module,
    examples: Examples,
    piece: Rows,
    objective: Objective,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    at: Moment,
    who: tuple[int, int],
    weight: float,
) -> Sums:
    reference = next(net.parameters())
    device = reference.device
    x, y = examples.x[piece].to(device, reference.dtype), examples.y[piece].to(device)
    ids = examples.ids[piece].to(device)
    for place, change in enumerate(recipe.augment):
        x = change(x, streams=Streams(recipe.seed, ids, f"augment/{at.epoch}/{place}"))
    purpose = f"train/{at.epoch}/{at.visit}" if at.visit else f"train/{at.epoch}"
    address = (at.step, *who) if any(who) else (at.step,)
    with (
        private_draws(recipe.seed, "step", *address, device=device),
        Passes(net) as passes,
        lowered(net, PRECISIONS[recipe.precision]),
    ):
        losses = objective(net, x, y, streams=Streams(recipe.seed, ids, purpose), at=at)
        optimiser.zero_grad(set_to_none=True)
        (losses.total * weight).backward()
    loss = losses.total.item()
    if not math.isfinite(loss):
        rate = optimiser.param_groups[0]["lr"]
        raise SettingError(
            f"expected a finite loss, got {loss} at step {at.step + 1}; lower the learning rate ({rate:g} there)"
        )
    count = len(piece)
    return Sums(
        count,
        loss * count,
        int((losses.logits.argmax(dim=1) == y).sum()),
        passes.forwards,
        passes.backwards,
        _times(losses.measures, count),
    )


def _times(measures: Mapping[str, float], count: int) -> dict[str, float]:
    return {name: value * count for name, value in measures.items()}


def _sum(held: list[Tensor | None] | None, new: list[Tensor | None]) -> list[Tensor | None]:
    if held is None:
        return [None if part is None else part.clone() for part in new]
    return [b if a is None else a if b is None else a + b for a, b in zip(held, new, strict=True)]


def _share(net: nn.Module, parameters: list[nn.Parameter], world: World, share: float) -> None:
    """Add up the gradients of all processes, and average the statistics that layers keep by the examples of each, in one exchange."""
    buffers = [value for value in net.buffers() if value.is_floating_point()]
    wide = torch.float64 if any(value.dtype == torch.float64 for value in parameters) else torch.float32
    device = parameters[0].device
    there = torch.tensor([value.grad is not None for value in parameters], dtype=wide, device=device)
    parts = [torch.zeros_like(value) if value.grad is None else value.grad for value in parameters]
    parts += [value * share for value in buffers]
    flat = world.total(torch.cat([there, *(part.detach().to(wide).flatten() for part in parts)]))
    there, flat = flat[: len(parameters)], flat[len(parameters) :]
    for place, (target, part) in enumerate(
        zip([*parameters, *buffers], flat.split([part.numel() for part in parts]), strict=True)
    ):
        value = part.reshape(target.shape).to(target.dtype)
        if place >= len(parameters):
            target.copy_(value)
        else:
            target.grad = value.clone() if there[place] > 0 else None
