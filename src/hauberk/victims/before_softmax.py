"""The scores before a model's last softmax, wherever in its forward that stands: the same decisions, and gradients that do not vanish.

    model answers  p = softmax(z)        this victim answers  z

In float32 a softmax rounds to 0 and 1 once z leads by 17, and to exactly 0 from 104 on; neither its value nor its derivative says
then where to go, while z still does (Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks",
arXiv:1608.04644, on defensive distillation). The softmax is found while the model runs: the last call of torch's softmax over
classes whose result is the answer.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.threat import Access
from hauberk.victims.check import probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.victim import cost_of_pullback

__all__ = ["BeforeSoftmax", "leaf_of"]

_LOOKED = 8  # examples by which the softmax is told from others in the model


class _Watch(TorchFunctionMode):
    """Remembers what went into the last softmax over classes, and what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Tensor | None = None
        self.made: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax" and isinstance(result, Tensor) and result.ndim == 2:
            given = args[0] if args else (kwargs or {}).get("input")
            dim = (kwargs or {}).get("dim", args[1] if len(args) > 1 else None)
            if isinstance(given, Tensor) and dim in (1, -1):
                self.given, self.made = given, result
        return result


@final
class BeforeSoftmax:
    """A victim that answers the scores before the softmax at the end of another; that one's own answers where it has none.

    Attributes:
        inner: the victim whose decisions these are.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name, self.bounds, self.device, self.dtype = inner.name, inner.bounds, inner.device, inner.dtype
        self.channels = getattr(inner, "channels", None)
        self.forwards_per_query = inner.forwards_per_query
        self.cost_of_pullback = cost_of_pullback(inner)
        self._found: bool | None = None

    @property
    def access(self) -> Access:
        return self.inner.access

    @property
    def classes(self) -> int | None:
        return self.inner.classes

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.inner.notes, *(("Scores are those before the last softmax.",) if self._found else ()))

    @property
    def description(self) -> dict[str, Any]:
        return {**self.inner.description, "before_softmax": self._found}

    def __repr__(self) -> str:
        return f"BeforeSoftmax({self.inner!r})"

    def fingerprint(self) -> str:
        return digest("before softmax", self.inner.fingerprint())

    def left(self, rows: Rows) -> PerExample:
        return self.inner.left(rows)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def found(self, x: Batch) -> bool:
        """Is there a softmax at the end? `x`: some examples; one uncounted forward, the first time."""
        if self._found is None:
            x = x[:_LOOKED]
            self.inner.logits(x[:1], torch.arange(1, device=x.device))  # what it finds out at first is not watched
            with _Watch() as watch:
                answer = self.inner.logits(x, torch.arange(len(x), device=x.device))
            made = watch.made
            self._found = made is not None and made.shape == answer.shape and _is_answer(made.detach(), answer)
        return bool(self._found)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes, the model's own. One forward per row."""
        return self.inner.labels(x, rows)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) the scores before the softmax. One forward per row."""
        if not self.found(x):
            return self.inner.logits(x, rows)
        with _Watch() as watch:
            self.inner.logits(x, rows)
        assert watch.given is not None
        return watch.given.detach().to(self.dtype)

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The scores before the softmax, and the function from a cotangent to the gradient. One forward per row, one backward per
        row and call."""
        if not self.found(x):
            return self.inner.pullback(x, rows)
        with _Watch() as watch:
            self.inner.pullback(x, rows)
        given = watch.given
        assert given is not None
        leaf = leaf_of(given, x)

        def vjp(cotangent: Logits) -> Batch:
            if leaf is None:
                return torch.zeros_like(x)
            found: Any = torch.autograd.grad(given, leaf, cotangent.to(given), retain_graph=True, allow_unused=True)
            return torch.zeros_like(x) if found[0] is None else found[0].contiguous()

        return given.detach().to(self.dtype), vjp


def _is_answer(made: Tensor, answer: Tensor) -> bool:
    """The answer is this softmax, or its logarithm as far as that can be told after rounding."""
    made = made.to(answer)
    if torch.allclose(made, answer, atol=1e-6):
        return True
    seen = made > 1e-6
    return bool(torch.allclose(made.log()[seen], answer[seen], atol=1e-3) and (answer[~seen] < -10).all())


def leaf_of(value: Tensor, x: Batch) -> Tensor | None:
    """The input that a tensor was computed from: the parameters are frozen, so it is the one leaf of the graph."""
    seen: set[Any] = set()
    open_ = [value.grad_fn]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and leaf.shape == x.shape:
            return leaf
        open_.extend(inner for inner, _ in node.next_functions)
    return None
