"""Batch-norm folding: exact, only where it may be done, and undone where it would change the answers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk.victims import wrap
from hauberk.victims.fold import fold_batch_norms


class Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.pad = (o - i) // 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(h + x)


class SmallResNet(nn.Module):
    """ResNet with parameter-free shortcuts and functional calls, like the CIFAR ResNet-20, but three blocks of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 32, 2))
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layers(h).mean((2, 3)))


def lived(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net in eval mode, its batch norms as if trained."""
    g = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if part.running_mean is not None and part.running_var is not None:
                part.running_mean.copy_(torch.randn(part.num_features, generator=g))
                part.running_var.copy_(torch.rand(part.num_features, generator=g) + 0.1)
            if part.affine:
                part.weight.data.copy_(torch.randn(part.num_features, generator=g))
                part.bias.data.copy_(torch.randn(part.num_features, generator=g))
    return net.eval()


def norms_left(net: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())


def assert_exact(net: nn.Module, x: Tensor, folded: int) -> None:
    copied = copy.deepcopy(net)
    folding = fold_batch_norms(copied)
    assert len(folding.names) == folded
    with torch.no_grad():
        want, got = net(x), copied(x)
    size = max(1.0, want.abs().max().item())
    assert (want - got).abs().max().item() <= (1e-5 if x.dtype == torch.float32 else 1e-12) * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_residual_net_with_functional_calls_is_folded_whole_and_exactly(dtype: torch.dtype) -> None:
    assert_exact(lived(SmallResNet()).to(dtype), torch.rand(4, 3, 16, 16, dtype=dtype), folded=7)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4, affine=False)), (2, 7, 7)),
        (nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2, bias=False), nn.BatchNorm1d(4)), (2, 9)),
        (nn.Sequential(nn.Conv3d(1, 3, 2, padding_mode="circular", padding=1), nn.BatchNorm3d(3)), (1, 4, 4, 4)),
        (nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, eps=0.1)), (5,)),
        (nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6)), (5,)),
    ],
)
def test_each_kind_of_layer_is_folded_exactly(net: nn.Module, shape: tuple[int, ...]) -> None:
    assert_exact(lived(net), torch.randn(3, *shape), folded=1)


def test_the_victim_answers_as_the_model_does_with_folded_norms_and_gradients() -> None:
    net, x = lived(SmallResNet()).double(), torch.rand(5, 3, 16, 16, dtype=torch.float64)
    victim, rows = wrap(net), torch.arange(5)
    logits, vjp = victim.pullback(x, rows)
    leaf = x.clone().requires_grad_()
    want = net(leaf)
    (gradient,) = torch.autograd.grad(want[:, 1].sum(), leaf)
    cotangent = torch.zeros_like(logits)
    cotangent[:, 1] = 1
    assert len(victim.description["folded"]) == 7
    assert torch.allclose(logits, want.detach(), atol=1e-11)
    assert torch.allclose(vjp(cotangent), gradient, atol=1e-11)


class Reused(nn.Module):
    """The convolution's output goes into the batch norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.out((self.bn(h) + h).mean((2, 3)))


class Shared(nn.Module):
    """One convolution, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.bn(self.conv(self.conv(x))).mean((2, 3)))


class Peeking(nn.Module):
    """The forward reads the convolution's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.bn(self.conv(x)).mean((2, 3))) * self.conv.weight.norm()


@pytest.mark.parametrize("kind", [Reused, Shared, Peeking])
def test_a_layer_used_elsewhere_is_not_folded(kind: type[nn.Module]) -> None:
    assert_exact(lived(kind()), torch.rand(3, 1, 8, 8), folded=0)


def test_norms_that_use_the_batch_are_not_folded() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    assert_exact(net, torch.rand(6, 4), folded=0)
    assert "depends on the others in its batch" in wrap(net).notes[0]


class Branching(nn.Module):
    """Cannot be traced: its path depends on the values. The block inside can."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
        self.conv, self.bn, self.out = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.conv(self.block(x)))
        return self.out((h if x.sum() > 0 else -h).mean((2, 3)))


def test_a_net_that_cannot_be_traced_is_folded_in_its_parts_and_says_so() -> None:
    net = lived(Branching())
    assert_exact(net, torch.rand(3, 1, 8, 8), folded=1)
    victim = wrap(net)
    assert "1 of 2 batch norms are not folded" in victim.notes[0]


class Optional(nn.Module):
    """An optional argument that must be traced as absent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.conv(x)
        if mask is not None:
            h = h * mask
        return self.out(self.bn(h).mean((2, 3)))


def test_an_optional_argument_is_no_obstacle() -> None:
    assert_exact(lived(Optional()), torch.rand(3, 1, 8, 8), folded=1)


class Hiding(nn.Module):
    """Cannot be traced, and calls the block's convolution once more behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
        self.out = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x) if x.sum() > -1e9 else x
        return self.out((h + self.block[0](x)).mean((2, 3)))


def test_a_folding_that_would_change_the_answers_is_undone_and_noted() -> None:
    net, x = lived(Hiding()), torch.rand(4, 1, 6, 6)
    victim = wrap(net)
    assert torch.allclose(victim.logits(x, torch.arange(4)), net(x).detach(), atol=1e-6)
    assert victim.description["folded"] == []
    assert any("would answer differently" in note for note in victim.notes)


def test_hooks_forbid_folding_and_go_on_working() -> None:
    net, seen = lived(SmallResNet()), []
    net.bn1.register_forward_hook(lambda module, given, answer: seen.append(type(answer)))  # type: ignore[operator, union-attr]
    victim = wrap(net)
    victim.logits(torch.rand(2, 3, 8, 8), torch.arange(2))
    assert victim.description["folded"] == []
    assert set(seen) == {Tensor}
    assert "hooks" in victim.notes[0]


def test_folding_can_be_refused() -> None:
    assert wrap(lived(SmallResNet()), fold=False).description["folded"] == []
