"""Lower lines of ReLUs, and multipliers of split constraints, chosen to make a lower bound large.

The slope of the lower line of a ReLU of open sign may be any number in [0, 1] (alpha-CROWN, Xu et al. 2021, arXiv:2011.13824); a
constraint z >= 0 or z <= 0 that branching added may enter the bound with any multiplier >= 0 (beta-CROWN, Wang et al. 2021,
arXiv:2103.06624). Every choice gives a sound bound, which is differentiable almost everywhere:
Adam climbs, and the best of all steps is kept for each row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hauberk._shapes import Batch, PerExample, wide
from hauberk.bounds.backward import Functions
from hauberk.bounds.crown import Ranges, bound_of, shifted
from hauberk.bounds.relaxations import Lines, has_kink, relu_lines
from hauberk.layered.graph import Graph
from hauberk.layered.ops import Elementwise

__all__ = ["Optimised", "kinks", "optimised"]


@dataclass(frozen=True, eq=False)
class Optimised:
    """The best lower bound (D,) found, and for each ReLU the slopes and multipliers, (D, *shape), that gave it.

    `least`, (D, *input shape), are the inputs where the last linear bounds are least: candidates for counterexamples.
    """

    lower: PerExample
    least: Batch
    slopes: Mapping[int, Tensor]
    multipliers: Mapping[int, Tensor]


def kinks(graph: Graph, before: int | None = None) -> list[int]:
    """The positions of the nodes that branching makes linear, up to the position given."""
    last = len(graph.nodes) if before is None else before
    return [p for p, node in graph if p < last and isinstance(node.op, Elementwise) and has_kink(node.op)]


class _Adam:
    """Adam (Kingma, Ba 2015, arXiv:1412.6980), upward; that of torch takes a second or more to import what it needs."""

    def __init__(self, parameters: list[Tensor], rate: float, decay: float) -> None:
        self.parameters, self.rate, self.decay, self.steps = parameters, rate, decay, 0
        self.mean = [torch.zeros_like(parameter) for parameter in parameters]
        self.square = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Climb; parameters without a gradient stay."""
        self.steps += 1
        rate = self.rate * self.decay ** (self.steps - 1) / (1 - 0.9**self.steps)
        for parameter, mean, square, gradient in zip(self.parameters, self.mean, self.square, gradients, strict=True):
            if gradient is not None:
                mean.lerp_(gradient, 0.1)
                square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                size = (square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
                parameter.addcdiv_(mean, size, value=rate)


def optimised(
    graph: Graph,
    ranges: Ranges,
    functions: Functions,
    *,
    start: int | None = None,
    offset: PerExample | None = None,
    slopes: Mapping[int, Tensor] | None = None,
    signs: Mapping[int, Tensor] | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
    steps: int = 20,
    rate: float = 0.1,
    decay: float = 0.98,
    enough: float = 0.0,
    seen: dict[int, Tensor] | None = None,
) -> Optimised:
    """The largest lower bound found of one function for each row of `ranges`. Cost: `steps` + 1 passes backward, differentiated but one.

    Args:
        functions: of the node `start` (the output if not given), row d's over the inputs of ranges' row d.
        offset: (D,) added to the bound.
        slopes: where to begin, in [0, 1]; the adaptive ones if not given.
        signs: (D, *shape) 1 where the constraint z >= 0 was added, -1 where z <= 0, 0 elsewhere.
        multipliers: where to begin; 0 if not given.
        steps: of Adam; fewer once every bound is past `enough`.
        rate, decay: of Adam.
        seen: filled by the first pass, see `backward`.
    """
    position = len(graph.nodes) - 1 if start is None else start
    places = [place for place in kinks(graph, position) if place in ranges.before]
    held = {
        place: (ranges.lines[place].lower_slope if slopes is None else slopes[place]).detach().clone().requires_grad_()
        for place in places
    }
    pulled = {} if signs is None else {place: signs[place] for place in places if bool(signs[place].any())}
    betas = {
        place: (torch.zeros_like(sign) if multipliers is None else multipliers[place]).detach().clone().requires_grad_()
        for place, sign in pulled.items()
    }
    parameters = [*held.values(), *betas.values()]
    climb = _Adam(parameters, rate, decay)
    best: Tensor | None = None
    functions_of_input: Functions | None = None
    kept = [value.detach().clone() for value in parameters]
    for step in range(steps + 1):
        last = step == steps or not parameters
        with torch.set_grad_enabled(not last):
            lines: dict[int, Lines] = dict(ranges.lines)
            for place, slope in held.items():
                lines[place] = relu_lines(*ranges.before[place], slope)
            pulls = {place: -sign * betas[place] for place, sign in pulled.items()}
            value, functions_of_input = bound_of(
                graph, position, functions, None, ranges.inputs, lines, pulls=pulls, seen=seen if step == 0 else None
            )
            value = value if offset is None else shifted(value, offset)
        found = value.detach()
        if best is None:
            best = found
        else:
            better = found > best
            best = torch.where(better, found, best)
            for old, new in zip(kept, parameters, strict=True):
                old.copy_(torch.where(wide(better, old), new.detach(), old))
        if last or not value.requires_grad or bool((best > enough).all()):
            break
        climb.step(torch.autograd.grad(value.sum(), parameters, allow_unused=True))
        with torch.no_grad():
            for slope in held.values():
                slope.clamp_(0, 1)
            for beta in betas.values():
                beta.clamp_min_(0)
    assert best is not None
    assert functions_of_input is not None
    finished = dict(zip([*held], kept[: len(held)], strict=True))
    least = ranges.inputs.minimiser(functions_of_input).detach()
    return Optimised(best, least, finished, dict(zip(betas, kept[len(held) :], strict=True)))
