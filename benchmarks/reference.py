"""The reference models and data of the benchmarks, from a folder that holds `models/` and `data/`.

Architectures are defined here, so `hauberk evaluate MODEL --arch benchmarks/reference.py:mnist_cnn` works too.
"""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["load_reference", "mnist_cnn", "resnet20"]


def mnist_cnn() -> nn.Module:
    """The 166k-parameter MNIST net of the zoo."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad, self.stride = (outputs - inputs) // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(h + x)


class _ResNet20(nn.Module):
    """CIFAR ResNet-20 (He et al. 2016, arXiv:1512.03385) with parameter-free shortcuts; normalisation inside."""

    mu: Tensor
    sd: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[_Block(16, 16, 1) for _ in range(3)])
        self.layer2 = nn.Sequential(_Block(16, 32, 2), *[_Block(32, 32, 1) for _ in range(2)])
        self.layer3 = nn.Sequential(_Block(32, 64, 2), *[_Block(64, 64, 1) for _ in range(2)])
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mu", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1((x - self.mu) / self.sd)))
        h = self.layer3(self.layer2(self.layer1(h)))
        return self.linear(h.mean((2, 3)))


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32 pictures in [0, 1]."""
    return _ResNet20()


def load_reference(root: Path, name: str, n: int) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A reference net in eval mode, its first `n` test examples and labels, and the radius it is measured at."""
    if name.startswith("mnist"):
        net, eps = mnist_cnn(), 0.3
        data = np.load(root / "data/mnist_test.npz")
        x = torch.tensor(data["images"][:n]).unsqueeze(1).float() / 255
        y = torch.tensor(data["labels"][:n]).long()
    else:
        import pyarrow.parquet as pq
        from PIL import Image

        net, eps = resnet20(), 8 / 255
        table = pq.read_table(root / "data/cifar10_test.parquet").slice(0, n).to_pydict()
        pictures = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"]])
        x = torch.tensor(pictures).permute(0, 3, 1, 2).float().contiguous() / 255
        y = torch.tensor(table["label"])
    net.load_state_dict(load_file(root / f"models/{name}.safetensors"))
    return net.eval().requires_grad_(False), x, y, eps
