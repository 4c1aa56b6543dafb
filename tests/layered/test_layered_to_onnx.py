"""Layered graphs written as ONNX files: onnxruntime computes what the graph computes, and reading them gives it back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hauberk.errors import ModelError
from hauberk.layered import Builder, Graph, ops
from hauberk.layered.from_onnx import from_onnx
from hauberk.layered.to_onnx import to_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="is the reference")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def one(op: ops.Op, *shape: int) -> Callable[[], Graph]:
    def graph() -> Graph:
        builder = Builder(shape)
        builder.add(op, 0)
        return builder.finish()

    return graph


def both(op: ops.Op, *shape: int) -> Callable[[], Graph]:
    def graph() -> Graph:
        builder = Builder(shape)
        builder.add(op, builder.add(ops.Elementwise("exp"), 0), 0)
        return builder.finish()

    return graph


FUNCTIONS = dict.fromkeys(("relu", "abs", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "softplus", "exp"), ())
FUNCTIONS |= {"log": (), "sqrt": (), "sin": (), "cos": (), "leaky_relu": (0.2,), "elu": (0.7,), "power": (3.0,)}
GRAPHS = {
    **{name: one(ops.Elementwise(name, settings), 2, 3) for name, settings in FUNCTIONS.items()},
    "clamp": one(ops.Elementwise("clamp", (0.2, 0.5)), 4),
    "clamp on one side": one(ops.Elementwise("clamp", (0.5, float("inf"))), 4),
    "linear": one(ops.Linear(draw(3, 4), draw(3)), 4),
    "linear of no bias": one(ops.Linear(draw(3, 4)), 4),
    "linear of two axes": one(ops.Linear(draw(3, 4), draw(3)), 2, 4),
    "conv": one(ops.Conv(draw(4, 1, 3, 3), draw(4), (2, 1), (1, 0), (1, 2), 2), 2, 7, 8),
    "conv of one axis": one(ops.Conv(draw(4, 2, 3), None, (2,), (1,), (1,)), 2, 7),
    "scale": one(ops.Scale(draw(3, 1), draw(4)), 3, 4),
    "scale by a number": one(ops.Scale(2.0), 3),
    "shift": one(ops.Scale(shift=0.5), 3),
    "nothing": one(ops.Scale(), 3),
    "reshape": one(ops.Reshape((3, 2)), 6),
    "permute": one(ops.Permute((2, 0, 1)), 2, 3, 4),
    "pick": one(ops.Pick(torch.tensor([[0, -1], [3, 5]])), 2, 3),
    "pick without zeros": one(ops.Pick(torch.tensor([4, 1])), 2, 3),
    "pad": one(ops.Pad((1, 2, 0, 1)), 2, 3, 3),
    "mean": one(ops.Mean((1, 2)), 2, 3, 4),
    "sum": one(ops.Mean((0,), keep=True, total=True), 2, 3),
    "average": one(ops.AvgPool((3, 3), (2, 2), (1, 1), count_padding=False), 2, 7, 8),
    "average of zeros too": one(ops.AvgPool((3, 3), (2, 2), (1, 1)), 2, 7, 8),
    "maximum": one(ops.MaxPool((3, 2), (2, 2), (1, 1)), 2, 7, 8),
    "softmax": one(ops.Softmax(0), 3, 2),
    "add": both(ops.Add(), 3),
    "concat": both(ops.Concat(1), 2, 3),
    "product": both(ops.Product(), 3),
    "quotient": both(ops.Quotient(), 3),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_comes_back_from_its_file(tmp_path: Path, name: str) -> None:
    graph, path = GRAPHS[name](), tmp_path / "net.onnx"
    to_onnx(graph, path)
    x = draw(3, *graph.input_shape).abs() + 0.1
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    want = graph(x)
    torch.testing.assert_close(torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0]), want)
    if name == "nothing":
        return
    again = from_onnx(path)
    assert (again.input_shape, again.output_shape) == (graph.input_shape, graph.output_shape)
    torch.testing.assert_close(again(x), want)
    if name not in ("scale", "gelu_tanh", "clamp on one side", "pick"):  # these are written, or read, as several
        assert isinstance(again.nodes[-1].op, type(graph.nodes[-1].op))


def test_onnx_finds_the_files_valid(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="has a checker")
    for name, graph in GRAPHS.items():
        to_onnx(graph(), tmp_path / "net.onnx")
        onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)
        assert name


def test_weights_keep_their_bits(tmp_path: Path) -> None:
    builder = Builder((4,), dtype=torch.float64)
    builder.add(ops.Linear(draw(3, 4).double() / 3, draw(3).double()), 0)
    graph = builder.finish()
    to_onnx(graph, tmp_path / "net.onnx")
    again, x = from_onnx(tmp_path / "net.onnx", dtype=torch.float64), draw(2, 4).double()
    assert torch.equal(again(x), graph(x))


def test_an_operator_without_a_counterpart_is_refused(tmp_path: Path) -> None:
    class Odd(ops.Input):
        pass

    with pytest.raises(ModelError, match=r"node 'odd_1' \(Odd\) has no counterpart in ONNX"):
        to_onnx(one(Odd(), 3)(), tmp_path / "net.onnx")


def test_a_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        to_onnx(one(ops.Scale(2.0), 3)(), tmp_path / "none" / "net.onnx")
