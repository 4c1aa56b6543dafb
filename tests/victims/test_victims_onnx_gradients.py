"""ONNX files as white boxes: gradients of the network that is read from them, attacks and proofs as on the module itself."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

import hauberk as hb
from hauberk.attacks import PGD, run_attack
from hauberk.errors import AccessError, ModelError
from hauberk.layered.from_torch import from_torch
from hauberk.layered.to_onnx import to_onnx
from hauberk.threat import Access, Untargeted
from hauberk.victims import Meter, OnnxVictim, TorchVictim, wrap

pytest.importorskip("onnx", reason="writes files of these tests")
pytest.importorskip("onnxruntime", reason="runs them")
import onnx
from onnx import TensorProto, helper, numpy_helper


def _net(*, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5)
    ).to(dtype)


def _file(tmp_path: Path, net: nn.Module | None = None) -> tuple[Path, nn.Module, torch.Tensor, torch.Tensor]:
    net = _net() if net is None else net
    to_onnx(from_torch(net.eval(), (1, 8, 8)), tmp_path / "net.onnx")
    x = torch.rand(20, 1, 8, 8)
    return tmp_path / "net.onnx", net, x, net(x).argmax(dim=1)


def test_gradients_are_those_of_the_module_with_preprocessing(tmp_path: Path) -> None:
    path, net, x, y = _file(tmp_path)
    options = {"bounds": (0.0, 1.0), "mean": 0.4, "std": 0.3}
    file, module = (cast(TorchVictim, wrap(model, **options)) for model in (path, net))
    assert isinstance(file, OnnxVictim | TorchVictim)
    rows = torch.arange(20)
    for goal in (Untargeted(y), Untargeted((y + 1) % 5)):
        found = []
        for victim in (file, module):
            logits, vjp = victim.pullback(x, rows)
            leaf = logits.clone().requires_grad_()
            (cotangent,) = torch.autograd.grad(goal.margin(leaf).sum(), leaf)
            found.append((logits, vjp(cotangent), vjp(2 * cotangent)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_white_box_attack_breaks_what_it_breaks_on_the_module(tmp_path: Path) -> None:
    path, net, x, y = _file(tmp_path)
    attack = PGD(steps=10, loss="margin")
    file, module = (run_attack(attack, wrap(model, bounds=(0, 1)), x, y, "linf:0.5") for model in (path, net))
    assert file.broken.tolist() == module.broken.tolist()
    assert int(file.broken.sum()) > 0
    assert file.queries.tolist() == module.queries.tolist()
    assert file.backwards.tolist() == module.backwards.tolist()


def test_a_meter_counts_a_forward_and_a_backward_a_row(tmp_path: Path) -> None:
    path, _, x, _ = _file(tmp_path)
    meter = Meter(wrap(path, bounds=(0, 1)), 20)
    logits, vjp = meter.pullback(x, torch.arange(20))
    vjp(torch.ones_like(logits))
    vjp(torch.ones_like(logits))
    assert meter.queries.tolist() == meter.forwards.tolist() == [1] * 20
    assert meter.backwards.tolist() == [2] * 20


@pytest.mark.parametrize("threat", ["linf:0.01", "l2:0.05"])
def test_what_is_proven_of_a_file_is_what_is_proven_of_the_module(tmp_path: Path, threat: str) -> None:
    path, net, x, y = _file(tmp_path)
    options = {"bounds": (0.0, 1.0), "mean": 0.1, "std": 0.8}
    y = wrap(net, **options).labels(x, torch.arange(20))
    file, module = (hb.certify(wrap(model, **options), x, y, threat, budget_seconds=5) for model in (path, net))
    assert file.status == module.status
    assert "proven" in file.status


def test_a_softmax_at_the_end_is_no_obstacle_to_proofs(tmp_path: Path) -> None:
    path, net, x, _ = _file(tmp_path, nn.Sequential(_net(), nn.Softmax(dim=1)))
    victim = wrap(path, bounds=(0, 1))
    y = victim.labels(x, torch.arange(20))
    assert victim.access is Access.GRADIENTS
    found = hb.certify(victim, x, y, "linf:0.01", method="crown")
    plain = hb.certify(wrap(net[0], bounds=(0, 1)), x, y, "linf:0.01", method="crown")  # type: ignore[index]
    assert found.status == plain.status


def _strange(path: Path) -> Path:
    weight = torch.randn(64, 5).numpy()
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Asinh", ["flat"], ["waves"], name="the_waves"),
        helper.make_node("MatMul", ["waves", "W"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "W")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_a_file_with_an_unknown_operator_gives_scores_and_says_which(tmp_path: Path) -> None:
    victim = wrap(_strange(tmp_path / "strange.onnx"), bounds=(0, 1))
    x = torch.rand(3, 1, 8, 8)
    assert victim.logits(x, torch.arange(3)).shape == (3, 5)
    assert victim.access is Access.SCORES
    assert any("the_waves" in note and "scores only" in note for note in victim.notes)
    assert isinstance(victim, OnnxVictim)
    with pytest.raises(AccessError, match="the_waves"):
        victim.pullback(x, torch.arange(3))
    with pytest.raises(ModelError, match="the_waves"):
        hb.certify(victim, x, victim.labels(x, torch.arange(3)), "linf:0.1")


def test_a_network_that_is_read_wrongly_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, x, _ = _file(tmp_path)
    from hauberk.layered.graph import Graph

    honest = Graph.__call__
    monkeypatch.setattr(Graph, "__call__", lambda self, x: honest(self, x) * 1.01)
    victim = wrap(path, bounds=(0, 1))
    victim.logits(x, torch.arange(20))
    assert victim.access is Access.SCORES
    assert any("answers otherwise than onnxruntime" in note for note in victim.notes)


def test_axes_that_a_file_leaves_open_are_those_of_the_first_examples(tmp_path: Path) -> None:
    path, net, x, y = _file(tmp_path)
    model = onnx.load(str(path))
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "side" + str(id(axis))
    onnx.save(model, str(path))
    found = run_attack(PGD(steps=3), wrap(path, bounds=(0, 1)), x, y, "linf:0.1")
    assert found.backwards.sum() > 0
    assert net is not None


def test_an_evaluation_of_a_file_uses_gradients_and_proofs(tmp_path: Path) -> None:
    path, _, x, y = _file(tmp_path)
    found = hb.evaluate(wrap(path, bounds=(0, 1)), (x, y), "linf:0.02", suite="quick", certify="crown", sandwich=0)
    assert found.result["cost"]["backwards_per_example"] > 0
    assert found.certified_accuracy is not None
