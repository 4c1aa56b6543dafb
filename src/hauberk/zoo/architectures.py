"""The nets of the zoo, small enough to train on one core in minutes. Inputs live in [0, 1]; nothing is normalised."""

from torch import nn

__all__ = ["digits_mlp", "mnist_cnn"]


def mnist_cnn() -> nn.Sequential:
    """(B, 1, 28, 28) to (B, 10): two convolutions of stride 2 and two dense layers, 166,406 parameters.

    The small net of Wong, Kolter 2018 (arXiv:1711.00851), which later work on MNIST compares on.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def digits_mlp() -> nn.Sequential:
    """(B, 1, 8, 8) to (B, 10): one hidden layer of 64, 4,810 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
