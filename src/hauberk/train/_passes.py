"""What a training costs: rows that went forwards and backwards through a net, counted by hooks."""

from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

__all__ = ["Passes"]


class Passes:
    """Inside `with Passes(net) as passes`, `passes.forwards` and `passes.backwards` count rows.

    A backward counts when a gradient reaches the scores of a forward, so a loss of two forwards counts each of them.
    """

    def __init__(self, net: nn.Module) -> None:
        self.forwards = self.backwards = 0
        self._net = net
        self._hook: Any = None

    def __enter__(self) -> Self:
        self._hook = self._net.register_forward_hook(self._forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _forward(self, net: nn.Module, given: Any, scores: Any) -> None:
        if not isinstance(scores, Tensor):
            return
        rows = len(scores)
        self.forwards += rows
        if scores.requires_grad:
            scores.register_hook(lambda gradient: self._backward(rows))

    def _backward(self, rows: int) -> None:
        self.backwards += rows
