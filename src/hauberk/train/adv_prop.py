"""AdvProp: adversarial examples as further training data that pass through batch norms of their own.

    min_w E [ l(f_main(x), y) + l(f_aux(z), y) ],    z = argmax_{z in region(x)} l(f_aux(z), y)

f_main and f_aux share every weight but those and the statistics of batch norm. Clean and perturbed examples differ in their
statistics; kept apart, the perturbed ones help the clean accuracy where they otherwise cost some. The net in use is f_main.

Source: Xie, Tan, Gong, Wang, Yuille, Le 2019, "Adversarial examples improve image recognition", arXiv:1911.09665, eq. 3 and
algorithm 1. The authors' settings on ImageNet: PGD from a random start, radius 4/255, steps of 1/255, as many as 4 + 1; smaller
nets do better with smaller radii.

**Differs from the paper:** the inner maximiser runs in evaluation mode unless told otherwise, as programs for PyTorch have it;
the two kinds of examples go forwards one after the other, which is the same since only batch norm looks at a batch.

**Status:** none; it is for clean accuracy and common corruptions, and the net that is exported claims nothing against attacks.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import ModelError
from hauberk.train._adversarial import Adversarial
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status

__all__ = ["AdvProp", "DualBatchNorm", "extra_parameters", "through_auxiliary", "with_dual_norms", "without_dual_norms"]

_Norm = nn.modules.batchnorm._BatchNorm


class DualBatchNorm(nn.Module):
    """Two batch norms in the place of one, equal at first; the auxiliary one works inside `through_auxiliary` alone.

    Args:
        norm: any of torch's batch norms; it becomes the main one, and a copy of it the auxiliary one.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.main, self.auxiliary = norm, copy.deepcopy(norm)
        self.divert = False

    def forward(self, x: Tensor) -> Tensor:
        return self.auxiliary(x) if self.divert else self.main(x)

    def extra_repr(self) -> str:
        return "by the auxiliary path" if self.divert else ""


def with_dual_norms(net: nn.Module) -> nn.Module:
    """A copy of the net with a `DualBatchNorm` for each batch norm; one that has them already is given back as it is.

    Raises:
        ModelError: the net has no batch norm.
    """
    if _duals(net):
        return net
    if not any(isinstance(module, _Norm) for module in net.modules()):
        raise ModelError(
            f"adv_prop keeps statistics of batch norm apart, got {type(net).__name__} without any batch norm; "
            "add some, or use pgd_at"
        )
    twins: dict[nn.Module, nn.Module] = {}
    return _swapped(
        copy.deepcopy(net),
        lambda module: twins.setdefault(module, DualBatchNorm(module)) if isinstance(module, _Norm) else module,
    )


def without_dual_norms(net: nn.Module) -> nn.Module:
    """A copy of the net with the main batch norms in their places: the architecture before `with_dual_norms`."""
    if not _duals(net):
        return net
    return _swapped(copy.deepcopy(net), lambda module: module.main if isinstance(module, DualBatchNorm) else module)


def extra_parameters(net: nn.Module) -> int:
    """How many parameters the auxiliary path has of its own: trained, and dropped at export."""
    return sum(value.numel() for dual in _duals(net) for value in dual.auxiliary.parameters())


@contextmanager
def through_auxiliary(net: nn.Module) -> Iterator[None]:
    """Inside, the net answers through the auxiliary batch norms.

    Raises:
        ModelError: the net has none.
    """
    duals = _duals(net)
    if not duals:
        raise ModelError("adv_prop needs a net with dual batch norms, got one without; train AdvProp().prepare(net)")
    before = [dual.divert for dual in duals]
    for dual in duals:
        dual.divert = True
    try:
        yield
    finally:
        for dual, was in zip(duals, before, strict=True):
            dual.divert = was


def _swapped(net: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The net with `change` made of each of its modules, in place; what stands at several places changes at all of them."""
    changed = change(net)
    if changed is not net:
        return changed
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None:
                parent._modules[name] = change(child)
    return net


def _duals(net: nn.Module) -> list[DualBatchNorm]:
    return [module for module in net.modules() if isinstance(module, DualBatchNorm)]


@dataclass(frozen=True, kw_only=True)
class AdvProp(Adversarial):
    """Cost: the inner maximiser's, two forwards and two backwards. The accuracy that is reported is that of clean examples.

    Raises:
        ModelError: when called or asked to prepare: a net without batch norm.
    """

    status: ClassVar[Status] = Status("none")

    def prepare(self, net: nn.Module) -> nn.Module:
        """A copy of the net with dual batch norms."""
        return with_dual_norms(net)

    def finish(self, net: nn.Module) -> nn.Module:
        """A copy of the net without its auxiliary path."""
        return without_dual_norms(net)

    def perturb(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Batch:
        with through_auxiliary(net):
            return super().perturb(net, x, y, streams=streams, at=at)

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        clean = net(x)
        with through_auxiliary(net):
            moved = net(z)
        auxiliary = F.cross_entropy(moved, y)
        right = (moved.argmax(dim=1) == y).to(x.dtype).mean().item()
        measures = {"auxiliary loss": auxiliary.item(), "auxiliary accuracy": right}
        return Losses(F.cross_entropy(clean, y) + auxiliary, clean, measures)
