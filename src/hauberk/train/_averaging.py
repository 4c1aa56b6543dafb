"""What averages of weights share: blending a state into another, putting it into a net for a while, batch norm and spectral norms
estimated anew."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from hauberk._shapes import Batch
from hauberk.errors import SettingError

__all__ = ["blend", "estimate_norms", "follow_spectral_norms", "has_norms", "swapped", "two_at_least"]

_Norm = nn.modules.batchnorm._BatchNorm
_Spectral = parametrizations._SpectralNorm


def blend(state: dict[str, Tensor], net: nn.Module, share: float) -> None:
    """state <- (1 - share) * state + share * weights, in place; an empty state becomes the weights.

    Counters are copied, and so are the vectors of spectral norms: a mean of unit vectors is none, and no singular vector of the mean.
    """
    vectors = {
        f"{name}.{vector}" if name else vector
        for name, module in net.named_modules()
        if isinstance(module, _Spectral)
        for vector, _ in module.named_buffers(recurse=False)
    }
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name not in state:
                state[name] = value.detach().clone()
            elif value.is_floating_point() and name not in vectors:
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


def follow_spectral_norms(net: nn.Module, steps: int = 20) -> None:
    """Bring torch's spectral norms up to the net's present weights, by power iteration from the vectors they hold."""
    for layer in net.modules():
        chains: Any = layer.parametrizations if parametrize.is_parametrized(layer) else {}
        for chain in chains.values():
            if not chain.is_tensor or not any(isinstance(part, _Spectral) for part in chain):
                continue
            with torch.no_grad():
                value = chain.original
                for part in chain:
                    if isinstance(part, _Spectral) and value.ndim > 1:
                        part._power_method(part._reshape_weight_to_matrix(value), steps)
                    value = part(value)


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


@contextmanager
def two_at_least(count: int) -> Iterator[None]:
    """Turn torch's refusal of batch norm on one value into a sentence; `count` is the size of the batch."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SettingError(
            f"batch norm needs more than one value of each channel, got a batch of {count} that leaves it one; choose another "
            "batch_size (or a smaller accumulate), so that no batch, the last included, comes down to a single example"
        ) from error
