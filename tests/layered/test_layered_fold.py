import pytest
import torch
from torch import Tensor, nn

from hauberk.layered.fold import folded
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Add, Conv, Elementwise, Input, Linear, Op, Pad, Reshape, Scale, Shape


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def chain(shape: Shape, *ops: Op) -> Graph:
    builder = Builder(shape, dtype=torch.float64)
    place = 0
    for op in ops:
        place = builder.add(op, place)
    return builder.finish()


def kinds(graph: Graph) -> list[type]:
    return [type(node.op) for node in graph.nodes if not isinstance(node.op, Input)]


def check(graph: Graph, *expected: type) -> Graph:
    found = folded(graph)
    x = torch.randn(3, *graph.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found(x), graph(x), rtol=1e-12, atol=1e-12)
    assert kinds(found) == list(expected)
    return found


CONV = Conv(drawn(4, 3, 3, 2), drawn(4))
PADDED = Conv(drawn(6, 1, 3, 3), None, padding=(1, 1), groups=3)
LINEAR = Linear(drawn(4, 6), drawn(4))


@pytest.mark.parametrize(
    "scale",
    [
        Scale(2.0, 1.0),
        Scale(drawn(4, 1, 1), drawn(4, 1, 1)),
        Scale(drawn(4, 1, 1)),
        Scale(torch.tensor(3.0, dtype=torch.float64), drawn(1)),
        Scale(1.0, drawn(4, 1, 1)),
    ],
)
def test_a_scale_after_a_convolution_goes_into_its_weights(scale: Scale) -> None:
    check(chain((3, 5, 6), CONV, scale), Conv)


@pytest.mark.parametrize("scale", [Scale(drawn(4, 3, 5)), Scale(2.0, drawn(5)), Scale(drawn(1, 3, 1))])
def test_a_scale_that_differs_from_pixel_to_pixel_stays(scale: Scale) -> None:
    check(chain((3, 5, 6), CONV, scale), Conv, Scale)


def test_a_scale_after_a_grouped_convolution_without_bias_goes_into_its_weights() -> None:
    check(chain((3, 5, 6), PADDED, Scale(drawn(6, 1, 1), drawn(6, 1, 1))), Conv)
    plain = check(chain((3, 5, 6), PADDED, Scale(drawn(6, 1, 1))), Conv).nodes[1].op
    assert isinstance(plain, Conv)
    assert plain.bias is None


@pytest.mark.parametrize("scale", [Scale(0.5, -1.0), Scale(drawn(4), drawn(4)), Scale(drawn(1, 4))])
def test_a_scale_after_a_dense_layer_goes_into_its_weights(scale: Scale) -> None:
    check(chain((3, 6), LINEAR, scale), Linear)


@pytest.mark.parametrize("scale", [Scale(0.5, -1.0), Scale(drawn(6), drawn(6)), Scale(1.0, drawn(1))])
def test_a_scale_before_a_dense_layer_goes_into_its_weights(scale: Scale) -> None:
    check(chain((6,), scale, LINEAR), Linear)
    check(chain((6,), scale, Linear(drawn(4, 6))), Linear)
    check(chain((2, 6), scale, LINEAR), Linear)


@pytest.mark.parametrize("scale", [Scale(0.5, -1.0), Scale(drawn(3, 1, 1), drawn(3, 1, 1)), Scale(1.0, drawn(1))])
def test_a_scale_before_a_convolution_goes_into_its_weights(scale: Scale) -> None:
    check(chain((3, 5, 6), scale, CONV), Conv)
    check(chain((3, 5, 6), scale, Conv(drawn(6, 1, 2, 2), groups=3, stride=(2, 1))), Conv)


def test_a_shift_before_zeros_around_stays() -> None:
    check(chain((3, 5, 6), Scale(2.0, 1.0), PADDED), Scale, Conv)
    check(chain((3, 5, 6), Scale(drawn(3, 1, 1), torch.zeros(1, dtype=torch.float64)), PADDED), Conv)
    live = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    check(chain((3, 5, 6), Scale(drawn(3, 1, 1), live), PADDED), Scale, Conv)


@pytest.mark.parametrize("amounts", [(1, 1, 2, 2), (1, 1), (0, 0, 1, 1, 0, 0)])
def test_even_zeros_around_go_into_the_convolution(amounts: tuple[int, ...]) -> None:
    check(chain((3, 5, 6), Pad(amounts), CONV), Conv)
    check(chain((3, 5, 6), Pad(amounts), PADDED), Conv)


@pytest.mark.parametrize("amounts", [(1, 0), (-1, -1), (1, 1, 0, 2)])
def test_uneven_zeros_around_stay(amounts: tuple[int, ...]) -> None:
    check(chain((3, 5, 6), Pad(amounts), CONV), Pad, Conv)


def test_a_normalisation_goes_past_the_flattening_into_the_dense_layer() -> None:
    scale = Scale(drawn(3, 1, 1), drawn(3, 1, 1))
    check(chain((3, 1, 2), Scale(1.0, drawn(3, 1, 1)), scale, Reshape((6,)), LINEAR), Reshape, Linear)
    check(chain((3, 1, 2), Scale(2.0, 1.0), Reshape((6,)), LINEAR, Elementwise("relu")), Reshape, Linear, Elementwise)
    check(chain((3, 1, 2), scale, Reshape((6,)), Elementwise("relu")), Scale, Reshape, Elementwise)


def test_reshapes_become_one_or_none() -> None:
    check(chain((3, 2), Reshape((6,)), Reshape((2, 3)), Elementwise("relu")), Reshape, Elementwise)
    check(chain((3, 2), Elementwise("relu"), Reshape((6,)), Reshape((3, 2))), Elementwise)
    check(chain((3, 2), Reshape((3, 2)), Elementwise("relu"), Scale()), Elementwise)


def test_a_network_that_does_nothing_is_left_alone() -> None:
    check(chain((3, 2), Reshape((3, 2))), Reshape)


def test_what_has_another_reader_is_not_merged() -> None:
    builder = Builder((6,), dtype=torch.float64)
    first = builder.add(LINEAR, 0)
    second = builder.add(Scale(drawn(4), 1.0), first)
    builder.add(Add(), first, second)
    check(builder.finish(), Linear, Scale, Add)
    builder = Builder((6,), dtype=torch.float64)
    first = builder.add(Elementwise("relu"), 0)
    same = builder.add(Reshape((6,)), first)
    scaled = builder.add(Scale(2.0), first)
    builder.add(Add(), same, builder.add(Scale(3.0), scaled))
    check(builder.finish(), Elementwise, Scale, Add)


def test_a_dropped_reshape_leaves_its_readers_to_what_it_read() -> None:
    builder = Builder((6,), dtype=torch.float64)
    first = builder.add(LINEAR, 0)
    same = builder.add(Reshape((4,)), first)
    one, two = builder.add(Scale(2.0), same), builder.add(Scale(3.0), same)
    builder.add(Add(), one, two)
    check(builder.finish(), Linear, Scale, Scale, Add)


def test_live_weights_stay_live_and_kept_ones_the_same() -> None:
    module = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    )
    graph = check(from_torch(module, (3, 5, 6)), Conv, Elementwise, Reshape, Linear)
    last = graph.nodes[-1].op
    assert isinstance(last, Linear)
    assert last.weight is module[4].weight
    x = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    parameters = list(module.parameters())
    found = torch.autograd.grad(graph(x).square().sum(), parameters)
    wanted = torch.autograd.grad(module(x).square().sum(), parameters)
    torch.testing.assert_close(found, wanted)
    check(from_torch(module, (3, 5, 6)).detach(), Conv, Elementwise, Reshape, Linear)
