"""ONNX files as layered graphs, operator by operator, against onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hauberk.errors import ModelError
from hauberk.layered import Graph
from hauberk.layered.from_onnx import from_onnx

pytest.importorskip("onnx", reason="writes the files of these tests")
pytest.importorskip("onnxruntime", reason="is the reference")
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def f32(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def write(
    path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[Any], opset: int = 17, batch: Any = "n"
) -> Path:
    """A file whose input is x and whose output is y."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape] if batch else shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def agree(path: Path, shape: list[int], *, batches: tuple[int, ...] = (1, 3), positive: bool = False) -> Graph:
    """The graph, after it gave what onnxruntime gives, all examples at once and one by one."""
    graph = from_onnx(path)
    assert graph.input_shape == tuple(shape)
    for size in batches:
        x = draw(size, *shape)
        x = np.abs(x) + 0.1 if positive else x
        got = graph(torch.from_numpy(x)).numpy()
        want = reference(path, x)
        assert got.shape[1:] == graph.output_shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return graph


N = helper.make_node


def case(kind: str, shape: list[int], *constants: np.ndarray | None, opset: int = 17, **attributes: Any) -> Any:
    """One node: its first input is x, the others are constants."""
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    held = {name: c for name, c in zip(names, constants) if c is not None}
    label = f"{kind}-{opset}-" + "-".join(f"{k}={v}" for k, v in attributes.items()) + "x".join(map(str, shape))
    return pytest.param([N(kind, ["x", *names], ["y"], **attributes)], held, shape, opset, id=label[:60])


FUNCTIONS = [
    *(case(kind, [2, 3]) for kind in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSigmoid")),
    *(case(kind, [2, 3]) for kind in ("HardSwish", "Abs", "Exp", "Neg", "Selu", "Celu", "Softsign", "Sin", "Cos")),
    *(case(kind, [2, 3]) for kind in ("Softmax", "LogSoftmax", "Reciprocal")),
    case("Mish", [2, 3], opset=18),
    case("Gelu", [5], opset=20),
    case("Gelu", [5], opset=20, approximate="tanh"),
    *(case(kind, [4], alpha=0.3) for kind in ("LeakyRelu", "Elu", "Celu")),
    case("HardSigmoid", [4], alpha=0.3, beta=0.4),
    case("Clip", [4], opset=7, min=-0.5, max=0.25),
    case("Clip", [4], f32(-0.5), f32(0.5), opset=13),
    case("Clip", [4], f32(0), opset=13),
    case("Clip", [4], None, f32(0.3), opset=13),
    case("PRelu", [3, 4, 4], draw(3, 1, 1)),
    case("PRelu", [4], f32([0.2])),
    case("Pow", [4], f32(2)),
    case("Pow", [4], f32([3])),
    case("Softmax", [2, 3], opset=11),
    case("Softmax", [2, 3], opset=11, axis=2),
    case("Softmax", [2, 3], axis=1),
]
ARITHMETIC = [
    *(case(kind, [3, 4], draw(3, 4)) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(kind, [3, 4], draw(4)) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    case("Add", [3, 4], f32(0.5)),
    case("Add", [3, 4], draw(1, 3, 4)),
    case("Mul", [3, 1], draw(3, 4)),
    case("Add", [1, 4], draw(3, 1)),
    case("Sum", [3, 4], draw(4), draw(3, 4)),
    case("Mean", [3, 4], draw(4), draw(3, 4)),
    case("Gemm", [6], draw(6, 4), draw(4)),
    case("Gemm", [6], draw(4, 6), draw(1, 4), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", [6], draw(6, 4), opset=13),
    case("Gemm", [6], draw(6, 4), f32(0.5)),
    case("MatMul", [6], draw(6, 4)),
    case("MatMul", [3, 6], draw(6, 4)),
    case("MatMul", [3, 6], draw(1, 6, 4)),
    case("MatMul", [3, 6], draw(6)),
    case("MatMul", [2, 3, 6], draw(2, 6, 4)),
]
MOVES = [
    case("Flatten", [2, 3, 4]),
    case("Reshape", [2, 6], ints(0, -1)),
    case("Reshape", [2, 6], ints(-1, 3, 2, 2)),
    case("Transpose", [2, 3, 4], perm=[0, 3, 1, 2]),
    case("Squeeze", [1, 3], ints(1)),
    case("Squeeze", [1, 3], opset=11, axes=[1]),
    case("Squeeze", [3, 1], ints(-1)),
    case("Unsqueeze", [3], ints(1, 3)),
    case("Unsqueeze", [3], opset=11, axes=[1]),
    case("Slice", [6, 5], ints(1, -4), ints(5, 2**62), ints(1, 2), ints(2, 1)),
    case("Slice", [6], ints(-1), ints(-(2**62)), ints(1), ints(-2)),
    case("Slice", [6, 5], opset=9, starts=[1], ends=[-1], axes=[2]),
    case("Gather", [6, 5], ints(2, 0), axis=1),
    case("Gather", [6, 5], np.array(-1), axis=2),
    case("Expand", [1, 4], ints(1, 3, 4)),
    case("Pad", [2, 3, 3], ints(0, 0, 1, 2, 0, 1, 0, 1)),
    case("Pad", [4], ints(0, 1, 0, 2), f32(0.5)),
    case("Pad", [2, 5], ints(0, 0, 2, 0, 0, 1), mode="reflect"),
    case("Pad", [2, 5], ints(0, 0, -1, 0, 0, 1)),
    case("Pad", [2, 5], ints(0, 0, 2, 0, 0, 1), mode="edge"),
    case("Pad", [4], opset=10, pads=[0, 1, 0, 2], value=0.25),
    case("Pad", [3, 4], ints(1, 2), None, ints(2), opset=18),
    case("DepthToSpace", [8, 2, 3], blocksize=2),
    case("DepthToSpace", [8, 2, 3], blocksize=2, mode="CRD"),
    case("SpaceToDepth", [2, 4, 6], blocksize=2),
    case("Resize", [2, 3, 3], None, f32([1, 1, 2, 2]), mode="nearest"),
    case("Resize", [2, 3, 4], None, f32([1, 1, 2, 1.5]), coordinate_transformation_mode="asymmetric"),
    case(
        "Resize",
        [2, 3, 4],
        None,
        f32([1, 1, 2, 3]),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    case("Resize", [1, 5, 5], None, f32([1, 1, 0.6, 0.6]), coordinate_transformation_mode="pytorch_half_pixel"),
    case("Upsample", [2, 3, 3], f32([1, 1, 2, 3]), opset=9),
]
K, B = draw(6, 4, 3, 3), draw(6)
WINDOWS = [
    case("Conv", [4, 7, 8], K, B),
    case("Conv", [4, 7, 8], K, B, pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", [4, 7, 8], K, pads=[0, 1, 2, 1], strides=[2, 1], dilations=[1, 2]),
    case("Conv", [4, 7, 8], K, B, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", [4, 7, 8], K, B, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", [4, 7, 8], K, B, auto_pad="VALID"),
    case("Conv", [4, 7, 8], draw(6, 2, 3, 3), B, group=2),
    case("Conv", [4, 9], draw(6, 4, 3), B, pads=[1, 1]),
    case("Conv", [4, 9], draw(6, 2, 3), B, pads=[2, 1], group=2, strides=[2]),
    case("ConvTranspose", [4, 5, 6], draw(4, 3, 3, 3), draw(3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", [4, 5, 6], draw(4, 3, 3, 2), strides=[2, 1], pads=[0, 1, 1, 0], output_padding=[1, 0]),
    case("ConvTranspose", [4, 5], draw(4, 3, 3), draw(6), strides=[2], dilations=[2], group=2),
    case("MaxPool", [2, 7, 8], kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", [2, 7, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", [2, 7, 8], kernel_shape=[3, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", [2, 7, 8], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", [2, 8, 8], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", [2, 8, 8], kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", [2, 8], kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("AveragePool", [2, 7, 8], kernel_shape=[2, 3], strides=[2, 2]),
    case("AveragePool", [2, 7, 8], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", [2, 7, 8], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", [2, 7, 8], kernel_shape=[3, 3], pads=[0, 1, 2, 1]),
    case("AveragePool", [2, 7, 8], kernel_shape=[3, 3], pads=[0, 1, 2, 1], count_include_pad=1),
    case("AveragePool", [2, 8], kernel_shape=[3], strides=[2], pads=[1, 0]),
    case("AveragePool", [2, 8, 8], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("AveragePool", [2, 7, 7], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1),
    case("AveragePool", [2, 8, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", [2, 8, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", [2, 7, 7], kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1),
    case("GlobalAveragePool", [3, 4, 5]),
    case("GlobalMaxPool", [3, 4, 5]),
    case("GlobalMaxPool", [3, 5]),
    case("BatchNormalization", [3, 4, 5], draw(3), draw(3), draw(3), np.abs(draw(3))),
    case("BatchNormalization", [3], draw(3), draw(3), draw(3), np.abs(draw(3)), epsilon=0.1),
    case("InstanceNormalization", [3, 4, 5], draw(3), draw(3)),
    case("LayerNormalization", [3, 8], draw(8), draw(8)),
    case("ReduceMean", [3, 4, 5], axes=[2, 3], keepdims=0),
    case("ReduceMean", [3, 4, 5], axes=[-1]),
    case("ReduceMean", [3, 4, 5], ints(1, 3), opset=18, keepdims=0),
    case("ReduceSum", [3, 4, 5], ints(1), keepdims=0),
    case("ReduceL2", [3, 4], axes=[1]),
    case("ReduceL1", [3, 4], axes=[1]),
    case("ReduceSumSquare", [3, 4], axes=[2], keepdims=0),
    case("ReduceMax", [3, 4, 5], axes=[1, 3], keepdims=0),
    case("ReduceMin", [3, 4, 5], axes=[2]),
]


@pytest.mark.parametrize(("nodes", "constants", "shape", "opset"), FUNCTIONS + ARITHMETIC + MOVES + WINDOWS)
def test_an_operator_computes_what_onnxruntime_computes(
    tmp_path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[int], opset: int
) -> None:
    agree(write(tmp_path / "net.onnx", nodes, constants, shape, opset), shape)


@pytest.mark.parametrize("kind", ["Log", "Sqrt"])
def test_functions_of_positive_numbers(tmp_path: Path, kind: str) -> None:
    agree(write(tmp_path / "net.onnx", [N(kind, ["x"], ["y"])], {}, [4]), [4], positive=True)


SEVERAL = {
    "constant first": ([N("Sub", ["v", "x"], ["y"])], [6]),
    "constant over": ([N("Div", ["v", "x"], ["y"])], [6]),
    "power of a constant": ([N("Pow", ["two", "x"], ["y"])], [6]),
    "constant on the left": ([N("MatMul", ["w", "x"], ["y"])], [6, 3]),
    "several constants on the left": ([N("MatMul", ["m", "x"], ["y"])], [2, 6, 3]),
    "two tensors": ([N("Relu", ["x"], ["r"]), N("Sub", ["r", "x"], ["y"])], [6]),
    "product": ([N("Tanh", ["x"], ["r"]), N("Mul", ["r", "x"], ["y"])], [6]),
    "square": ([N("Mul", ["x", "x"], ["y"])], [6]),
    "silu": ([N("Sigmoid", ["x"], ["r"]), N("Mul", ["x", "r"], ["y"])], [6]),
    "quotient": ([N("Exp", ["x"], ["r"]), N("Div", ["x", "r"], ["y"])], [6]),
    "largest": ([N("Neg", ["x"], ["r"]), N("Max", ["r", "x", "v"], ["y"])], [6]),
    "smallest": ([N("Exp", ["x"], ["r"]), N("Min", ["r", "x"], ["y"])], [6]),
    "unequal shapes": ([N("ReduceMean", ["x"], ["r"], axes=[2]), N("Sub", ["x", "r"], ["y"])], [3, 4]),
    "outer sum": (
        [N("Transpose", ["x"], ["t"], perm=[0, 2, 1]), N("Add", ["x", "t"], ["y"])],
        [1, 4],
    ),
    "attention": (
        [
            N("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
            N("MatMul", ["x", "t"], ["s"]),
            N("Softmax", ["s"], ["p"]),
            N("MatMul", ["p", "x"], ["y"]),
        ],
        [3, 4],
    ),
    "concat": ([N("Relu", ["x"], ["r"]), N("Concat", ["x", "r"], ["y"], axis=1)], [2, 3]),
    "split": (
        [N("Split", ["x"], ["a", "b"], axis=1), N("Relu", ["b"], ["r"]), N("Add", ["a", "r"], ["y"])],
        [4, 3],
    ),
    "gelu of Erf": (
        [
            N("Div", ["x", "root"], ["d"]),
            N("Erf", ["d"], ["e"]),
            N("Add", ["e", "one"], ["p"]),
            N("Mul", ["x", "p"], ["q"]),
            N("Mul", ["q", "half"], ["y"]),
        ],
        [6],
    ),
    "gelu of Erf, halved first": (
        [
            N("Mul", ["x", "over"], ["d"]),
            N("Erf", ["d"], ["e"]),
            N("Add", ["one", "e"], ["p"]),
            N("Mul", ["x", "half"], ["h"]),
            N("Mul", ["h", "p"], ["y"]),
        ],
        [6],
    ),
    "shapes computed": (
        [
            N("Shape", ["x"], ["s"]),
            N("Gather", ["s", "i0"], ["n"]),
            N("Unsqueeze", ["n", "i0"], ["n1"]),
            N("Concat", ["n1", "rest"], ["t"], axis=0),
            N("Reshape", ["x", "t"], ["f"]),
            N("Relu", ["f"], ["y"]),
        ],
        [2, 3],
    ),
    "nothing": (
        [
            N("Identity", ["x"], ["a"]),
            N("Dropout", ["a"], ["b"]),
            N("Cast", ["b"], ["c"], to=1),
            N("Neg", ["c"], ["y"]),
        ],
        [2, 3],
    ),
    "batch moved and back": (
        [
            N("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            N("MatMul", ["t", "k34"], ["z"]),
            N("Transpose", ["z"], ["y"], perm=[1, 0, 2]),
        ],
        [2, 3],
    ),
}
HELD = {
    "v": draw(6),
    "w": draw(4, 6),
    "m": draw(2, 4, 6),
    "k34": draw(3, 4),
    "two": f32(2),
    "one": f32(1),
    "half": f32(0.5),
    "root": f32(np.sqrt(2)),
    "over": f32(np.sqrt(0.5)),
    "i0": np.array(0),
    "rest": ints(-1),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_nodes_compute_what_onnxruntime_computes(tmp_path: Path, name: str) -> None:
    nodes, shape = SEVERAL[name]
    used = {key for node in nodes for key in node.input}
    agree(write(tmp_path / "net.onnx", nodes, {k: v for k, v in HELD.items() if k in used}, shape), shape)


def test_a_constant_joins_live_values(tmp_path: Path) -> None:
    nodes = [N("Concat", ["token", "x"], ["y"], axis=1)]
    agree(write(tmp_path / "net.onnx", nodes, {"token": draw(1, 1, 3)}, [2, 3], batch=1), [2, 3], batches=(1,))


def test_a_bias_after_a_product_is_part_of_it(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["m"]), N("Add", ["m", "b"], ["y"])]
    graph = agree(write(tmp_path / "net.onnx", nodes, {"w": draw(6, 4), "b": draw(4)}, [6]), [6])
    assert [type(node.op).__name__ for _, node in graph] == ["Input", "Linear"]


def test_a_gelu_of_erf_is_one_function(tmp_path: Path) -> None:
    nodes, shape = SEVERAL["gelu of Erf"]
    graph = from_onnx(write(tmp_path / "net.onnx", nodes, HELD, shape))
    assert "gelu" in [getattr(node.op, "function", "") for _, node in graph]


def test_an_input_without_a_batch_is_one_example(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["m"]), N("Add", ["m", "b"], ["y"])]
    path = write(tmp_path / "net.onnx", nodes, {"w": draw(6, 4), "b": draw(4)}, [6], batch=None)
    graph, x = from_onnx(path), draw(3, 6)
    assert graph.input_shape == (6,)
    want = np.stack([reference(path, row) for row in x])
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), want, atol=1e-5)


def test_a_fixed_batch_is_no_part_of_an_example(tmp_path: Path) -> None:
    nodes = [N("Reshape", ["x", "s"], ["f"]), N("MatMul", ["f", "w"], ["y"])]
    path = write(tmp_path / "net.onnx", nodes, {"w": draw(6, 4), "s": ints(3, -1)}, [2, 3], batch=3)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(path))), str(path))
    agree(path, [2, 3], batches=(3,))


def test_open_axes_are_given_by_shape(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [N("GlobalAveragePool", ["x"], ["y"])], {}, [3, "h", "w"])
    with pytest.raises(ModelError, match=r"open shape \(\?, 3, \?, \?\); give that of one example as shape="):
        from_onnx(path)
    assert from_onnx(path, shape=(3, 4, 5)).input_shape == (3, 4, 5)
    with pytest.raises(ModelError, match="do not fit"):
        from_onnx(path, shape=(2, 4, 5))


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (N("Softmax", ["x"], ["y"], axis=0), [3]),
        (N("ReduceMean", ["x"], ["y"], axes=[0]), [3]),
        (N("Concat", ["x", "x"], ["y"], axis=0), [3]),
        (N("Reshape", ["x", "s"], ["y"]), [6]),
        (N("Flatten", ["x"], ["y"], axis=0), [6]),
    ],
)
def test_what_mixes_examples_is_refused(tmp_path: Path, node: Any, shape: list[int]) -> None:
    path = write(tmp_path / "net.onnx", [node], {"s": ints(-1, 3)}, shape)
    with pytest.raises(ModelError, match=rf"node 'y' \({node.op_type}\): it .* mix examples; export the net"):
        from_onnx(path)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [N("Round", ["x"], ["y"], name="here")], {}, [3])
    with pytest.raises(ModelError, match=r"net.onnx: node 'here' \(Round\): this operator is not covered; export"):
        from_onnx(path)


def test_an_erf_that_is_no_gelu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="export the function as Gelu"):
        from_onnx(write(tmp_path / "net.onnx", [N("Erf", ["x"], ["y"])], {}, [3]))


def test_weights_may_be_float64(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [N("MatMul", ["x", "w"], ["y"])], {"w": draw(6, 4)}, [6])
    graph = from_onnx(path, dtype=torch.float64)
    assert graph(torch.rand(2, 6, dtype=torch.float64)).dtype == torch.float64
