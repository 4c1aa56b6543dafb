"""Spanning: reinforce any attack that draws random directions by drawing them from the span of unlabelled data.

Wherever the attack draws normal numbers or signs of the shape of the input, a normal vector of the span, of the same mean square, takes
their place: probes of estimated gradients, noise along the boundary, steps of a random walk. Blocks, windows and choices are left as
they are, so that `square` or `sparse_rs` gain nothing. Nets vary little across directions in which data never vary; what is asked along
the others teaches more.

Source: Wang, Zhang, Yi, Boning, Hsieh 2020, "Spanning Attack: Reinforce Black-box Attacks with Unlabeled Data", arXiv:2005.04871.
**Differs from the paper:** the span is that of the principal directions of the data, the `top` or `bottom` of them, orthonormal (paper: a
basis of the data by Gram-Schmidt or its top and bottom parts); signs become normal numbers, since signs leave every span.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, flat
from hauberk.attacks._attack import Attack, can_continue, name_of, seeks_smallest
from hauberk.attacks._friendly import AttackResult, run_attack
from hauberk.blocks.subspaces import Span
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Norm, Region
from hauberk.victims.answers import as_tensor

__all__ = ["Spanning", "spanning"]


@dataclass(frozen=True)
class Spanning:
    """An attack whose random directions lie in a span. Cost: that of the attack.

    Args:
        attack: with its settings; one that draws directions of the shape of the input.
        span: of changes, such as `Span.principal(unlabelled, 500)`.
    """

    attack: Any
    span: Span

    access: Access = field(init=False, repr=False, compare=False)
    norms: frozenset[Norm] = field(init=False, repr=False, compare=False)
    smallest: bool = field(init=False, repr=False, compare=False)
    continues: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.attack, Spanning) or not hasattr(self.attack, "access") or not callable(self.attack):
            raise SettingError(
                f"spanning reinforces an attack, such as hauberk.attacks.NES(), got {type(self.attack).__name__}"
            )
        for name in ("access", "norms"):
            object.__setattr__(self, name, getattr(self.attack, name))
        object.__setattr__(self, "smallest", seeks_smallest(self.attack))
        object.__setattr__(self, "continues", can_continue(self.attack))

    def __call__(
        self, victim: Any, x: Batch, goal: Goal, region: Region, *, streams: Streams, starts: Batch | None = None
    ) -> Batch:
        more = {} if starts is None else {"starts": starts}
        self.span.shape(tuple(x.shape[1:]))  # refuses inputs of another shape
        inside = _SpanStreams(streams.seed, streams.ids, streams.purpose, self.span.basis)
        return self.attack(victim, x, goal, region, streams=inside, **more)


class _SpanStreams(Streams):
    """Streams whose directions lie in the span of an orthonormal basis (k, *shape)."""

    def __init__(self, seed: int, ids: Tensor, purpose: str, basis: Tensor) -> None:
        super().__init__(seed, ids, purpose)
        self._basis = basis

    def child(self, purpose: str | int) -> "_SpanStreams":
        return _SpanStreams(self.seed, self.ids, f"{self.purpose}/{purpose}", self._basis)

    def take(self, rows: Tensor) -> "_SpanStreams":
        return _SpanStreams(self.seed, self.ids[rows.to(self.ids.device)], self.purpose, self._basis)

    def normal(self, rows: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        return (
            self._lifted(rows, shape, dtype) if self._is_direction(shape) else super().normal(rows, shape, dtype=dtype)
        )

    def signs(self, rows: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        return (
            self._lifted(rows, shape, dtype) if self._is_direction(shape) else super().signs(rows, shape, dtype=dtype)
        )

    def _is_direction(self, shape: Sequence[int]) -> bool:
        own = tuple(self._basis.shape[1:])
        return tuple(shape[-len(own) :]) == own

    def _lifted(self, rows: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count, values = len(self._basis), self._basis[0].numel()
        before = tuple(shape[: len(shape) - self._basis.ndim + 1])
        numbers = super().normal(rows, (*before, count), dtype=dtype)
        drawn = numbers @ flat(self._basis).to(numbers) * math.sqrt(values / count)
        return drawn.reshape(len(drawn), *shape)


def spanning(
    model: Any,
    x: Any,
    y: Any,
    threat: Any = None,
    *,
    attack: Attack,
    unlabelled: Any,
    size: int = 500,
    part: str = "top",
    **options: Any,
) -> AttackResult:
    """Attack the examples with directions from the span of unlabelled data.

    Args:
        attack: with its settings, such as `hauberk.attacks.NES()` or `hauberk.attacks.HopSkipJump()`.
        unlabelled: (n, *shape) array or tensor of inputs like those that are attacked, not the same; their principal directions span the
            space.
        size: how many of these directions; fewer where the data have fewer.
        part: `top` or `bottom`: those in which the data vary most or least.
        options: as `hauberk.attacks.run_attack` takes them.

    Raises:
        SettingError, DataError, AccessError, ThreatError, ModelError: an argument is not what it must be.

    Cost: that of the attack, and one singular value decomposition of the data.
    """
    data = as_tensor(unlabelled)
    if not isinstance(data, Tensor) or not data.is_floating_point() or not bool(data.isfinite().all()):
        raise SettingError(
            f"spanning takes unlabelled inputs as finite floating-point numbers (n, *shape), got {type(unlabelled).__name__}; "
            f"convert them as those for {name_of(attack)}"
        )
    wrapped: Any = Spanning(attack, Span.principal(data, size, part))
    return run_attack(wrapped, model, x, y, threat, **options)
