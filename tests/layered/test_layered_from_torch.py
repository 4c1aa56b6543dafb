import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk import zoo
from hauberk.errors import ModelError
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Graph
from hauberk.layered.ops import Add, Conv, Linear, Product, Scale

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

Forward = Callable[[Tensor], Any]


class Written(nn.Module):
    """A forward written as a function."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.written = forward

    def forward(self, x: Tensor) -> Any:
        return self.written(x)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)), dtype=torch.float64)


def constants(forward: Callable[..., Tensor], **shapes: tuple[int, ...]) -> nn.Module:
    """A forward with buffers and parameters: names that end in _p are parameters."""
    module = Written(lambda x: forward(x, *(getattr(module, name) for name in shapes)))
    for name, shape in shapes.items():
        if name.endswith("_p"):
            module.register_parameter(name, nn.Parameter(drawn(*shape)))
        else:
            module.register_buffer(name, drawn(*shape))
    return module


PICTURE = (3, 8, 6)
ROW = (12,)

FUNCTIONS: dict[str, Forward] = {
    "relu": F.relu,
    "relu_": lambda x: F.relu(x + 0, inplace=True),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu_": lambda x: F.leaky_relu(x * 2, 0.2, inplace=True),
    "rrelu": nn.RReLU().eval(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, beta=3.0),
    "logsigmoid": F.logsigmoid,
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.4),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "relu6": lambda x: F.relu6(8 * x),
    "clamp": lambda x: x.clamp(-0.2, 0.3),
    "clamp_one_side": lambda x: x.clamp(max=0.3).clamp(min=-0.2),
    "clamp_min": lambda x: torch.clamp_min(torch.clamp_max(x, 0.1), -0.1),
    "hardsigmoid": lambda x: F.hardsigmoid(4 * x),
    "hardswish": lambda x: F.hardswish(4 * x),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "abs": torch.abs,
    "neg": lambda x: -x,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: torch.log(x.abs() + 1),
    "log1p": lambda x: torch.log1p(x.abs()),
    "sqrt": lambda x: torch.sqrt(x.abs() + 1),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "reciprocal": lambda x: 1 / (x.abs() + 1) + torch.reciprocal(x.abs() + 2),
    "sin_cos": lambda x: torch.sin(x) + torch.cos(x),
    "square": lambda x: x**2 + torch.square(x) + x * x,
    "cube": lambda x: x**3,
    "root": lambda x: (x.abs() + 1) ** 0.5,
    "power_of_constant": lambda x: 2.0**x,
    "add": lambda x: x + 1.5,
    "alpha": lambda x: torch.add(x, x.abs(), alpha=3),
    "sub": lambda x: x - 0.5,
    "sub_alpha": lambda x: torch.sub(x, torch.relu(x), alpha=2),
    "reverse_sub": lambda x: 1 - x,
    "rsub": lambda x: torch.rsub(x, x.abs(), alpha=2),
    "add_scalar_to_product": lambda x: 2 * x / 3 + 1,
    "add_": lambda x: (x + 1).add_(x, alpha=0.5).mul_(2).sub_(1).div_(3),
    "product": lambda x: x * torch.sigmoid(x),
    "quotient": lambda x: x / (1 + x.abs()),
    "maximum": lambda x: torch.maximum(x, 0.3 - x),
    "minimum": lambda x: torch.minimum(x, 0.3 - x),
    "dropout": lambda x: F.dropout(x, 0.5, training=False) + F.alpha_dropout(x, 0.5, training=False),
    "clone": lambda x: x.clone().contiguous().detach() + x,
    "cast": lambda x: x.to(x.dtype).type_as(x) * 2,
    "zeros": lambda x: torch.cat([x, torch.zeros_like(x), x.new_ones(x.shape)], dim=1),
    "softmax": lambda x: x.softmax(-1),
    "mean_keep": lambda x: x - x.mean(1, keepdim=True),
    "sum": lambda x: x.sum(-1),
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: x.amin(1, keepdim=True),
    "same_twice": lambda x: x + x,
}

PICTURES: dict[str, Forward] = {
    "flatten": lambda x: x.flatten(1) * 2,
    "view": lambda x: x.view(x.size(0), -1) * 2,
    "view_minus_one": lambda x: x.view(-1, 144) * 2,
    "reshape": lambda x: x.reshape(len(x), 6, 24) * 2,
    "unflatten": lambda x: x.unflatten(1, (3, 1)) * 2,
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1).unsqueeze(1),
    "permute": lambda x: x.permute(0, 2, 3, 1) * 2,
    "transpose": lambda x: x.transpose(1, -1) * 2,
    "cat": lambda x: torch.cat([x, 2 * x], dim=-2),
    "stack": lambda x: torch.stack([x, 2 * x], dim=2),
    "slice": lambda x: x[:, :, ::2, 1:5],
    "slice_batch": lambda x: x[:, 1:][: x.shape[0]],
    "select": lambda x: x[:, 1, :, -1],
    "index": lambda x: x[:, [2, 0, 2]],
    "index_select": lambda x: x.index_select(2, torch.tensor([3, 1])),
    "flip": lambda x: x.flip([2, 3]),
    "roll": lambda x: x.roll(2, dims=3),
    "chunk": lambda x: x.chunk(2, dim=3)[1] * x.chunk(2, dim=3)[0],
    "split": lambda x: torch.cat(x.split([1, 2], dim=1)[::-1], dim=1),
    "unbind": lambda x: x.unbind(1)[0] - x.unbind(1)[2],
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1) * 2,
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2)[:, :, 1:],
    "channel_shuffle": lambda x: F.channel_shuffle(x.repeat(1, 2, 1, 1), 2),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "upsample_size": lambda x: F.interpolate(x, size=(11, 7), mode="nearest"),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "pad_channels": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
    "pad_value": lambda x: F.pad(x, (1, 1), value=0.7),
    "pad_less": lambda x: F.pad(x, (-1, 2, 0, -3)),
    "pad_reflect": lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, (2, 1, 1, 0), mode="replicate"),
    "pad_circular": lambda x: F.pad(x, (2, 1, 1, 0), mode="circular"),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "max_pool_settings": lambda x: F.max_pool2d(x, (3, 2), stride=(2, 1), padding=1, dilation=(2, 1), ceil_mode=True),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3, stride=2, padding=1),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1),
    "avg_pool_not_counting": lambda x: F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    "avg_pool_divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 3, stride=2),
    "adaptive_avg_1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_avg_divides": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive_avg_any": lambda x: F.adaptive_avg_pool2d(x, (5, 4)),
    "adaptive_avg_1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 7),
    "adaptive_max_1": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive_max_divides": lambda x: F.adaptive_max_pool2d(x, (4, 2)),
    "mean": lambda x: x.mean((2, 3)),
    "mean_negative_axes": lambda x: x.mean((-1, -2), keepdim=True) + x,
    "sum_one_axis": lambda x: x.sum(dim=1),
    "amax_two_axes": lambda x: x.amax((1, 3)),
    "max_along": lambda x: x.max(dim=2)[0] + x.max(2, keepdim=True).values.mean(-1),
    "max_of_two": lambda x: torch.max(x, x.flip(3)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=(2.5, 1.3), mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True),
    "linear1d": lambda x: F.interpolate(x.flatten(2), size=30, mode="linear"),
    "softmax_channels": lambda x: x.softmax(dim=1),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "broadcast_sum": lambda x: x.mean(1, keepdim=True) - x.mean((2, 3), keepdim=True),
    "glu": lambda x: F.glu(x, dim=2),
    "matmul_of_two": lambda x: x @ x.transpose(-1, -2).relu(),
    "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, x.relu()),
    "write_in_place_twice": lambda x: F.relu_(x + 1).mul_(2).flatten(1).relu_(),
}

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 5), ROW),
    "linear_without_bias": (lambda: nn.Linear(12, 5, bias=False), ROW),
    "linear_on_rows": (lambda: nn.Linear(6, 5), PICTURE),
    "addmm": (lambda: constants(lambda x, w, b: torch.addmm(b, x, w), w_p=(12, 4), b_p=(4,)), ROW),
    "mm": (lambda: constants(lambda x, w: x.mm(w), w_p=(12, 4)), ROW),
    "matmul": (lambda: constants(lambda x, w: x @ w, w_p=(6, 4)), PICTURE),
    "matmul_left": (lambda: constants(lambda x, w: w @ x, w_p=(4, 8)), PICTURE),
    "matmul_heads": (lambda: constants(lambda x, w: x @ w, w_p=(3, 6, 2)), PICTURE),
    "matmul_vector": (lambda: constants(lambda x, w: x @ w, w_p=(12,)), ROW),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), PICTURE),
    "conv2d_settings": (lambda: nn.Conv2d(3, 6, (3, 2), (1, 2), (2, 1), (2, 1), groups=3, bias=False), PICTURE),
    "conv2d_same": (lambda: nn.Conv2d(3, 4, 3, padding="same"), PICTURE),
    "conv2d_same_even": (lambda: nn.Conv2d(3, 4, (4, 2), padding="same", dilation=(1, 3)), PICTURE),
    "conv2d_reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), PICTURE),
    "conv2d_circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), PICTURE),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), (3, 11)),
    "conv1d_same": (lambda: nn.Conv1d(3, 4, 4, padding="same"), (3, 11)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), PICTURE),
    "conv_transpose2d_groups": (
        lambda: nn.ConvTranspose2d(3, 6, (2, 3), (1, 3), (0, 4), groups=3, dilation=2),
        PICTURE,
    ),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 4, 4, 2, 1), (3, 7)),
    "batch_norm2d": (lambda: nn.BatchNorm2d(3), PICTURE),
    "batch_norm2d_plain": (lambda: nn.BatchNorm2d(3, affine=False), PICTURE),
    "batch_norm1d": (lambda: nn.BatchNorm1d(12), ROW),
    "instance_norm": (lambda: nn.InstanceNorm2d(3, affine=True), PICTURE),
    "instance_norm_tracked": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), PICTURE),
    "layer_norm": (lambda: nn.LayerNorm([8, 6]), PICTURE),
    "layer_norm_plain": (lambda: nn.LayerNorm(6, elementwise_affine=False), PICTURE),
    "group_norm": (lambda: nn.GroupNorm(3, 6), (6, 4, 2)),
    "prelu": (lambda: nn.PReLU(), PICTURE),
    "prelu_channels": (lambda: nn.PReLU(3, init=0.4), PICTURE),
    "identity": (lambda: nn.Sequential(nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.ReLU()), PICTURE),
    "normalisation": (lambda: constants(lambda x, m, s: (x - m) / s, m=(3, 1, 1), s=(1, 3, 1, 1)), PICTURE),
    "constant_grows": (lambda: constants(lambda x, w: x[:, :1] * w + w, w_p=(5, 1, 1)), PICTURE),
    "constant_minus": (lambda: constants(lambda x, c: c - x, c=(6,)), PICTURE),
    "constant_maximum": (lambda: constants(lambda x, c: torch.minimum(c, torch.maximum(x, -c)), c=(3, 1, 1)), PICTURE),
    "constant_concat": (
        lambda: constants(lambda x, c: torch.cat([c.expand(len(x), -1, -1, -1), x], 1), c=(1, 1, 8, 6)),
        PICTURE,
    ),
    "constant_scalar": (lambda: constants(lambda x, c: x * c, c_p=()), PICTURE),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 4)), ROW),
    "used_twice": (lambda: constants(lambda x, w: (x @ w).relu() @ w, w_p=(12, 12)), ROW),
}


def ready(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Random statistics and weights, none of which are 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if value.is_floating_point() and not hasattr(module, name):
                value.copy_(0.2 + 0.6 * torch.rand(value.shape, generator=generator))
    return module.eval().to(dtype)


def compare(graph: Graph, module: nn.Module, dtype: torch.dtype) -> None:
    for batch in (1, 2, 5):
        x = torch.randn(batch, *graph.input_shape, generator=torch.Generator().manual_seed(batch), dtype=dtype)
        found, wanted = graph(x.clone()), module(x.clone())
        assert found.dtype == dtype
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def agree(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    compare(from_torch(module, shape, dtype=dtype), module, dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operator_on_values_computes_what_the_module_does(name: str) -> None:
    module = ready(nn.Sequential(nn.Linear(12, 12), Written(FUNCTIONS[name])), torch.float64)
    graph = from_torch(module, ROW)
    compare(graph, module, torch.float64)
    compare(graph.to(dtype=torch.float32), module.float(), torch.float32)


@pytest.mark.parametrize("name", PICTURES)
def test_an_operator_on_pictures_computes_what_the_module_does(name: str) -> None:
    agree(nn.Sequential(nn.BatchNorm2d(3), Written(PICTURES[name])).eval().double(), PICTURE, torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_the_module_does_and_its_parameters_are_live(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    module = ready(make(), dtype)
    agree(module, shape, dtype)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    parameters = list(module.parameters())
    if parameters:
        found = torch.autograd.grad(from_torch(module, shape)(x).square().sum(), parameters)
        wanted = torch.autograd.grad(module(x).square().sum(), parameters)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside)
        self.short, self.act = nn.Conv2d(inside, outside, 1, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(self.conv(x))
        found += self.short(x)
        return self.act(found)


def residual() -> nn.Sequential:
    return nn.Sequential(Block(3, 4), Block(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def test_a_residual_net_with_operators_in_place_agrees() -> None:
    agree(ready(residual(), torch.float64), PICTURE, torch.float64)


@pytest.mark.parametrize(("name", "shape"), [("digits-mlp", (1, 8, 8)), ("mnist-natural", (1, 28, 28))])
def test_a_net_of_the_zoo_agrees(name: str, shape: tuple[int, ...]) -> None:
    agree(zoo.net(name), shape, torch.float32)


def test_the_weights_of_the_graph_are_the_parameters_themselves() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))
    graph = from_torch(module, PICTURE)
    conv, linear = graph.nodes[1].op, graph.nodes[-1].op
    assert isinstance(conv, Conv)
    assert isinstance(linear, Linear)
    assert conv.weight is module[0].weight
    assert conv.bias is module[0].bias
    assert linear.weight is module[3].weight


def test_batch_norm_becomes_a_scale_and_a_gate_a_product() -> None:
    graph = from_torch(nn.Sequential(nn.BatchNorm2d(3), nn.Hardswish()).eval(), PICTURE)
    kinds = [type(node.op) for node in graph.nodes]
    assert Scale in kinds
    assert Product in kinds
    assert Add not in kinds


def test_modes_gradients_and_the_global_generator_are_left_as_they_are() -> None:
    module = residual().train()
    module[1].eval()
    modes = [part.training for part in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    from_torch(module, PICTURE)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in module.parameters())


def test_another_dtype_converts_the_weights_and_keeps_them_live() -> None:
    module = nn.Sequential(nn.Linear(12, 3), nn.ReLU())
    x = torch.rand(2, 12, dtype=torch.float64)
    found = from_torch(module, ROW, dtype=torch.float64)(x)
    assert found.dtype == torch.float64
    found.sum().backward()
    assert module[0].weight.grad is not None


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=-1)])
def test_a_last_softmax_is_dropped_when_asked(last: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(12, 4), last)
    x = torch.rand(3, 12)
    torch.testing.assert_close(from_torch(module, ROW, drop_final_softmax=True)(x), module[0](x))


def test_nothing_is_dropped_where_no_softmax_comes_last() -> None:
    module = nn.Sequential(nn.Linear(12, 4), nn.Softmax(dim=1), nn.Linear(4, 2))
    x = torch.rand(3, 12)
    torch.testing.assert_close(from_torch(module, ROW, drop_final_softmax=True)(x), module(x))


def test_an_unused_answer_of_a_layer_is_no_trouble() -> None:
    agree(Written(lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[0]).double(), (2, 4, 4), torch.float64)


def test_a_tuple_or_a_mapping_of_one_tensor_is_an_answer() -> None:
    x = torch.rand(2, 12)
    assert torch.equal(from_torch(Written(lambda x: (2 * x,)), ROW)(x), 2 * x)
    assert torch.equal(from_torch(Written(lambda x: {"logits": 2 * x}), ROW)(x), 2 * x)


REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "log softmax": (nn.Sequential(nn.Linear(12, 4), nn.LogSoftmax(dim=1)), ROW, "drop_final_softmax=True"),
    "unknown operator": (
        nn.Sequential(nn.ReLU(), nn.Sequential(Written(torch.erf))),
        ROW,
        r"erf.* of 1\.0 \(Written\), line \d+",
    ),
    "batch mean": (Written(lambda x: x - x.mean(0)), ROW, "mixes the examples"),
    "mean of everything": (Written(lambda x: x - x.mean()), ROW, "mixes the examples"),
    "batch in the axes": (Written(lambda x: x.reshape(-1, 6)), ROW, "mixes the examples"),
    "softmax of the batch": (Written(lambda x: x.softmax(0)), ROW, "mixes the examples"),
    "products of examples": (Written(lambda x: x @ x.T), ROW, "mixes the examples"),
    "flipped batch": (Written(lambda x: x.flip(0)), ROW, "mixes the examples"),
    "batch statistics": (nn.BatchNorm1d(12, track_running_stats=False), ROW, "statistics of the batch"),
    "random": (Written(lambda x: x + torch.rand(12)), ROW, "random"),
    "random dropout": (Written(lambda x: F.dropout(x, 0.5)), ROW, "at random"),
    "branches": (Written(lambda x: x if x.sum() > 0 else -x), ROW, "cannot be exported"),
    "wrong shape": (nn.Linear(5, 2), ROW, "cannot be exported for examples of shape"),
    "two answers": (Written(lambda x: (x, 2 * x)), ROW, "2"),
    "constant answer": (Written(lambda x: torch.ones(3)), ROW, "does not depend on its input"),
    "no network": (nn.Identity(), ROW, "nothing to bound"),
    "attention mask in a vector": (Written(lambda x: x[:, :1] @ x.sum(1)[:, None].T), ROW, "mixes the examples"),
    "writes into a view": (Written(lambda x: _through_a_view(x)), ROW, "in place"),
    "hidden without gradients": (Written(lambda x: _without_gradients(x)), ROW, "no_grad"),
    "by the size of the batch": (Written(lambda x: x * len(x)), ROW, "read wrongly"),
    "another precision": (Written(lambda x: x.double()), ROW, r"torch\.float64"),
    "max of everything": (Written(lambda x: x / x.max()), ROW, "mixes the examples"),
    "rounding": (Written(lambda x: torch.div(x, 2, rounding_mode="floor")), ROW, "rounds"),
}


def _without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        found = x * 2
    return found + 1


def _through_a_view(x: Tensor) -> Tensor:
    whole = x + 1
    whole[:, :3].mul_(2)
    return whole


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_cure(name: str) -> None:
    module, shape, words = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        from_torch(module, shape)
    assert re.search(words, str(caught.value)), str(caught.value)


def test_buffers_that_a_forward_changes_are_refused_and_not_changed() -> None:
    module = Written(lambda x: x + module.get_buffer("count").add_(1))
    module.register_buffer("count", torch.zeros(1))
    with pytest.raises(ModelError):
        from_torch(module, ROW)
    assert torch.equal(module.get_buffer("count"), torch.zeros(1))


def test_importing_the_reader_does_not_load_the_exporter() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import hauberk.layered.from_torch
print(sorted(name for name in set(sys.modules) - before if name.startswith(("torch.export", "torch._dynamo"))))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
