"""The nets of the training tables that the zoo does not have: `--arch benchmarks/training/nets.py:small_resnet`. Inputs in [0, 1]."""

from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = [
    "linear",
    "mnist_cnn_double",
    "mnist_cnn_half",
    "mnist_cnn_maxout",
    "mnist_cnn_norms",
    "mnist_cnn_quarter",
    "small_resnet",
]

from hauberk.train import Maxout


def _mnist(width: float, *, norms: bool = False) -> nn.Sequential:
    first, second, dense = (max(1, round(width * base)) for base in (16, 32, 100))

    def norm(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if norms else []

    return nn.Sequential(
        nn.Conv2d(1, first, 4, stride=2, padding=1),
        *norm(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 4, stride=2, padding=1),
        *norm(second),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * 7 * 7, dense),
        nn.ReLU(),
        nn.Linear(dense, 10),
    )


def mnist_cnn_quarter() -> nn.Sequential:
    """The zoo's MNIST net with a quarter of its channels and units."""
    return _mnist(0.25)


def mnist_cnn_half() -> nn.Sequential:
    """With half of them."""
    return _mnist(0.5)


def mnist_cnn_double() -> nn.Sequential:
    """With twice as many."""
    return _mnist(2)


def mnist_cnn_norms() -> nn.Sequential:
    """With batch norms after the convolutions, for AdvProp."""
    return _mnist(1, norms=True)


def mnist_cnn_maxout() -> nn.Sequential:
    """The zoo's MNIST net with a maxout layer of two pieces in the place of the dense ReLU layer."""
    layers = list(_mnist(1))
    return nn.Sequential(*layers[:5], Maxout(32 * 7 * 7, 100, pieces=2), layers[-1])


def linear() -> nn.Sequential:
    """Softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


class _Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        straight = stride == 1 and into == out
        self.past: nn.Module = (
            nn.Identity()
            if straight
            else nn.Sequential(nn.Conv2d(into, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.first(x) + self.past(x))


def small_resnet() -> nn.Sequential:
    """(B, 3, 32, 32) to (B, 10): a ResNet of 8 layers and 16, 32 and 64 channels, its first convolution of stride 2; 78,000 weights."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        _Block(16, 16, 1),
        _Block(16, 32, 2),
        _Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
