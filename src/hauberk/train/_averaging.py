"""What averages of weights share: blending a state into another, putting it into a net for a while, batch norm estimated anew."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch

__all__ = ["blend", "estimate_norms", "has_norms", "swapped"]

_Norm = nn.modules.batchnorm._BatchNorm


def blend(state: dict[str, Tensor], net: nn.Module, share: float) -> None:
    """state <- (1 - share) * state + share * weights, in place; an empty state becomes the weights. Counters are copied."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name not in state:
                state[name] = value.detach().clone()
            elif value.is_floating_point():
                state[name].lerp_(value.detach(), share)
            else:
                state[name].copy_(value)


@contextmanager
def swapped(net: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the net has the weights and buffers of `state`; afterwards its own again, bit for bit. An empty state changes nothing."""
    if not state:
        yield
        return
    own = {name: value.detach().clone() for name, value in net.state_dict().items()}
    net.load_state_dict(dict(state))
    try:
        yield
    finally:
        net.load_state_dict(own)


def has_norms(net: nn.Module) -> bool:
    """The net keeps statistics of what it has seen."""
    return any(isinstance(module, _Norm) and module.track_running_stats for module in net.modules())


def estimate_norms(net: nn.Module, batches: Iterable[Batch]) -> None:
    """Set the statistics of batch norm to plain means over these batches; nothing else of the net changes, dropout is off."""
    norms = [module for module in net.modules() if isinstance(module, _Norm) and module.track_running_stats]
    modes = {module: module.training for module in net.modules()}
    momenta = {module: module.momentum for module in norms}
    net.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # torch's way to say: the plain mean of all batches
        module.train()
    try:
        with torch.no_grad():
            for x in batches:
                net(x)
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
