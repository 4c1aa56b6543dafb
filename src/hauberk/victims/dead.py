"""Which parts of a model let no gradient through: each is asked for one vector-Jacobian product, by itself.

A part is dead where its output does not depend on its input differentiably (a detach, numpy, whole numbers), or the product is
exactly zero or not finite for half of the examples or more. Of nested parts the innermost is named; a model whose own
`forward` cuts the gradient, although its parts do not, is named by the empty string.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, flat
from hauberk.victims.chance import private_chance
from hauberk.victims.straight import StraightThrough
from hauberk.victims.torch import TorchVictim

__all__ = ["Part", "dead_modules", "dead_parts", "replaced", "torch_victim_in"]


@dataclass(frozen=True, eq=False)
class Part:
    """A dead part of a model.

    Attributes:
        name: in the module given to `wrap`.
        reason: `cut`, `zero` or `not finite`.
        given, answered: its input and output on the examples asked.
    """

    name: str
    reason: str
    given: Tensor
    answered: Tensor


def dead_modules(victim: Any, x: Batch) -> tuple[str, ...]:
    """The names of the innermost modules through which no gradient flows at `x`; "" names the model itself.

    Empty where all is well, and for victims without PyTorch modules. Cost, uncounted: each module runs twice for every module
    around it.

    Args:
        victim: a `TorchVictim`, or one around it (`eot`, `bpda`, a meter).
        x: (B, *shape) some examples; a few suffice.
    """
    inner = torch_victim_in(victim)
    return () if inner is None else tuple(part.name for part in dead_parts(inner, x))


def torch_victim_in(victim: Any) -> TorchVictim | None:
    """The `TorchVictim` inside a meter or a wrapper; None where there is none, or several."""
    while not isinstance(victim, TorchVictim):
        found = getattr(victim, "inner", None) or getattr(victim, "victim", None)
        if found is None:
            return None
        victim = found
    return victim


def dead_parts(
    victim: TorchVictim,
    x: Batch,
    mode: Callable[[nn.Module], StraightThrough | None] | None = None,
    around: Callable[[nn.Module, StraightThrough | None], Any] | None = None,
) -> list[Part]:
    """The innermost dead parts of a victim.

    Args:
        mode: makes the straight-through mode under which to look; none where None.
        around: makes a context in which substitutes are installed.
    """
    found: dict[str, Part | None] = {}
    rows = torch.arange(len(x), device=x.device)
    with victim.opened(x) as net, private_chance("dead parts", device=victim.device), ExitStack() as stack:
        straight = None if mode is None else mode(net)
        stack.enter_context(nullcontext() if around is None else around(net, straight))
        watch = _Watch(found)
        names = {id(part): name for name, part in net.named_modules()}
        for part in list(net.modules()):
            if not isinstance(part, torch.jit.ScriptModule) or part is net:
                stack.enter_context(replaced(part, watch.of(names[id(part)], part)))
        stack.enter_context(straight or nullcontext())
        victim.logits(x, rows)
    dead = {name: part for name, part in found.items() if part is not None}
    return [part for name, part in dead.items() if not any(_inside(other, name) for other in dead)]


def _inside(other: str, name: str) -> bool:
    return other != name and (name == "" or other.startswith(f"{name}."))


@contextmanager
def replaced(part: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`forward` in the place of a module's own, for a while."""
    own = vars(part).get("forward")
    object.__setattr__(part, "forward", forward)
    try:
        yield
    finally:
        if own is None:
            object.__delattr__(part, "forward")
        else:
            object.__setattr__(part, "forward", own)


class _Watch:
    """Forwards that test their module once before they run it; the modules inside are tested when it runs, not in its test."""

    def __init__(self, found: dict[str, Part | None]) -> None:
        self.found, self.busy = found, False

    def of(self, name: str, part: nn.Module) -> Callable[..., Any]:
        original = part.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self.busy:
                self.busy = True
                try:
                    tested = _test(name, original, args, kwargs)
                    # one good call is enough: the same module may see constants elsewhere
                    self.found[name] = tested if self.found.get(name, tested) is not None else None
                finally:
                    self.busy = False
            return original(*args, **kwargs)

        return forward


def _test(name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Part | None:
    place = next((i for i, value in enumerate(args) if isinstance(value, Tensor) and value.is_floating_point()), None)
    if place is None or not len(args[place]):
        return None
    given = args[place].detach()
    with torch.enable_grad(), torch.random.fork_rng(devices=[given.device] if given.device.type == "cuda" else []):
        leaf = given.clone().requires_grad_()
        shown = leaf.clone()  # a module that works in place may not touch a leaf
        try:
            result = function(*args[:place], shown, *args[place + 1 :], **kwargs)
        except (RuntimeError, TypeError):  # what calling numpy on a part of a graph raises
            with torch.no_grad():
                result = function(*args, **kwargs)
            return Part(name, "cut", given, result.detach()) if isinstance(result, Tensor) else None
        if not isinstance(result, Tensor) or result.ndim == 0 or len(result) != len(given):
            return None
        if not result.requires_grad:
            return Part(name, "cut", given, result.detach())
        # any fixed direction that has no symmetry will do: a softmax has no derivative along ones
        cotangent = (
            (torch.arange(result.numel(), device=result.device) % 7 - 2.5).to(result.dtype).reshape(result.shape)
        )
        try:
            gradients: Any = torch.autograd.grad(result, leaf, cotangent, allow_unused=True)
        except RuntimeError:  # a step without a derivative
            return Part(name, "cut", given, result.detach())
    if gradients[0] is None:
        return Part(name, "cut", given, result.detach())
    gradient = flat(gradients[0])
    if float((~gradient.isfinite()).any(dim=1).double().mean()) >= 0.5:
        return Part(name, "not finite", given, result.detach())
    if float((gradient == 0).all(dim=1).double().mean()) >= 0.5:
        return Part(name, "zero", given, result.detach())
    return None
