"""ONNX files as victims. The graphs are written here by hand, so that the expected answers come from numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hauberk.errors import AccessError, ModelError, SettingError
from hauberk.threat import Access, Differentiable
from hauberk.victims import OnnxVictim, wrap

pytest.importorskip("onnx", reason="writes the files of these tests")
pytest.importorskip("onnxruntime", reason="onnxruntime is optional")
import onnx
from onnx import TensorProto, helper, numpy_helper

W = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
X = torch.rand(5, 1, 3, 4, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(5)
WANT = X.numpy().reshape(5, -1) @ W


def write(
    path: Path, shape: list[Any], *, end: str | None = None, also: bool = False, kind: Any = None, parts: int = 1
) -> Path:
    kind = kind or TensorProto.FLOAT
    weights = numpy_helper.from_array(W.astype(helper.tensor_dtype_to_np_dtype(kind)), "W")
    inputs = [helper.make_tensor_value_info("x" * (i + 1), kind, shape) for i in range(parts)]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "W"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", kind, None)]
    if end == "ArgMax":
        nodes.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0))
        outputs = [helper.make_tensor_value_info("labels", TensorProto.INT64, None)]
    elif end is not None:
        nodes.append(helper.make_node(end, ["logits"], ["end"], axis=1))
        outputs = [helper.make_tensor_value_info("end", kind, None)]
    if also:
        outputs.append(helper.make_tensor_value_info("flat", kind, None))
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_a_file_gives_scores(tmp_path: Path) -> None:
    victim = wrap(write(tmp_path / "net.onnx", ["n", 1, 3, 4]))
    assert isinstance(victim, OnnxVictim)
    assert isinstance(victim, Differentiable)
    victim.probe(X)
    assert (victim.access, victim.classes, victim.name, victim.notes) == (Access.GRADIENTS, 3, "net", ())
    assert np.allclose(victim.logits(X, ROWS).numpy(), WANT, atol=1e-5)
    assert np.array_equal(victim.labels(X, ROWS).numpy(), WANT.argmax(1))


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_a_fixed_batch_size_is_met_by_looping(tmp_path: Path, size: int) -> None:
    victim = wrap(write(tmp_path / "net.onnx", [size, 1, 3, 4]))
    for n in (1, 5):
        assert np.allclose(victim.logits(X[:n], ROWS[:n]).numpy(), WANT[:n], atol=1e-5)
    assert any("fixes the batch size" in note for note in victim.notes) == (size > 1)


def test_normalisation_happens_before_the_file(tmp_path: Path) -> None:
    victim = wrap(str(write(tmp_path / "net.onnx", ["n", 1, 3, 4])), mean=0.5, std=[0.25])
    want = ((X.numpy() - 0.5) / 0.25).reshape(5, -1) @ W
    assert np.allclose(victim.logits(X, ROWS).numpy(), want, atol=1e-5)


def test_probabilities_are_recognised(tmp_path: Path) -> None:
    victim = wrap(write(tmp_path / "net.onnx", ["n", 1, 3, 4], end="Softmax"))
    assert np.allclose(victim.logits(X, ROWS).numpy(), torch.from_numpy(WANT).log_softmax(1), atol=1e-5)
    assert "look like probabilities" in victim.notes[0]


def test_labels_are_recognised(tmp_path: Path) -> None:
    victim = wrap(write(tmp_path / "net.onnx", ["n", 1, 3, 4], end="ArgMax"))
    victim.probe(X)
    assert victim.access is Access.LABELS
    assert np.array_equal(victim.labels(X, ROWS).numpy(), WANT.argmax(1))
    with pytest.raises(AccessError):
        victim.logits(X, ROWS)


def test_several_outputs_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", ["n", 1, 3, 4], also=True)
    with pytest.raises(ModelError, match=r"'logits' \(5, 3\), 'flat' \(5, 12\)"):
        wrap(path).logits(X, ROWS)
    for output in ("logits", 0):
        assert np.allclose(wrap(path, output=output).logits(X, ROWS).numpy(), WANT, atol=1e-5)


def test_doubles_are_doubles_and_halves_are_given_halves(tmp_path: Path) -> None:
    double = wrap(write(tmp_path / "d.onnx", ["n", 1, 3, 4], kind=TensorProto.DOUBLE))
    assert double.dtype == torch.float64
    assert np.allclose(double.logits(X.double(), ROWS).numpy(), WANT, atol=1e-5)
    half = wrap(write(tmp_path / "h.onnx", ["n", 1, 3, 4], kind=TensorProto.FLOAT16))
    assert half.logits(X, ROWS).dtype == torch.float32


def test_axes_of_length_one_come_and_go_and_nothing_else(tmp_path: Path) -> None:
    victim = wrap(write(tmp_path / "net.onnx", ["n", 1, 3, 4]))
    assert np.allclose(victim.logits(X[:, 0], ROWS).numpy(), WANT, atol=1e-5)
    for wrong in (X.reshape(5, 1, 4, 3), X.permute(0, 1, 3, 2), X.reshape(5, 12)):
        with pytest.raises(ModelError, match=r"takes examples of shape \(1, 3, 4\)"):
            victim.logits(wrong, ROWS)


def test_images_are_flattened_for_a_file_that_takes_vectors(tmp_path: Path) -> None:
    victim = wrap(write(tmp_path / "net.onnx", [1, 12, 1]))
    victim.probe(X)
    assert np.allclose(victim.logits(X, ROWS).numpy(), WANT, atol=1e-5)
    assert [note for note in victim.notes if "flattened row by row" in note] == list(victim.notes)
    with pytest.raises(ModelError, match="takes examples of shape"):
        victim.logits(X[:, :, :2], ROWS)


def test_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", ["n", 1, 3, 4])
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:50])
    cases: list[tuple[Any, str]] = [
        (tmp_path / "cut.onnx", "cannot be read as ONNX"),
        (tmp_path / "none.onnx", "does not exist"),
        (write(tmp_path / "two.onnx", ["n", 1, 3, 4], parts=2), "has 2 inputs"),
    ]
    for wrong, said in cases:
        with pytest.raises(ModelError, match=said) as caught:
            wrap(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match="CPU"):
        wrap(path, device="meta")


def test_the_fingerprint_is_that_of_the_bytes_and_the_preprocessing(tmp_path: Path) -> None:
    one = write(tmp_path / "a.onnx", ["n", 1, 3, 4])
    two = write(tmp_path / "b.onnx", ["m", 1, 3, 4])
    assert wrap(one).fingerprint() == wrap(one, name="other").fingerprint()
    assert len({wrap(one).fingerprint(), wrap(two).fingerprint(), wrap(one, mean=0.1).fingerprint()}) == 3
    before = wrap(one).fingerprint()
    (tmp_path / "a.onnx.data").write_bytes(b"weights")
    assert wrap(one).fingerprint() != before
