"""Whole nets that torch exported: the graph of the file computes what the module computes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hauberk.layered.from_onnx import from_onnx

pytest.importorskip("onnx", reason="torch exports through it")


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 8),
        torch.nn.GELU(),
        torch.nn.Linear(8, 3),
    ).eval()


class Attentive(torch.nn.Module):
    """A small vision transformer: a token, attention of two heads, layer norm; exporters write its shapes as nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(1, 8, 6, 6)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.mixed, self.head = torch.nn.LayerNorm(8), torch.nn.Linear(8, 24), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        q, k, v = self.mixed(self.norm(x)).reshape(x.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        x = x + mixed.transpose(1, 2).reshape(x.shape[0], 5, 8)
        return self.head(x[:, 0])


@pytest.mark.filterwarnings("ignore")  # torch's older exporter warns that it is old
@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("make", [small, Attentive])
def test_a_net_exported_by_torch(tmp_path: Path, make: Any, fold: bool, opset: int) -> None:
    path, net = tmp_path / "net.onnx", make().eval()
    arguments: dict[str, Any] = {"dynamo": False, "do_constant_folding": fold, "opset_version": opset}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    try:
        torch.onnx.export(net, (torch.zeros(1, 1, 12, 12),), str(path), **arguments, **names)
    except Exception as error:
        pytest.skip(f"torch cannot export here: {error}")
    graph, x = from_onnx(path), torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), net(x), rtol=1e-5, atol=1e-5)
