"""Fingerprints: the same for the same model in every process, another where anything that decides answers differs."""

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk.victims import wrap
from hauberk.victims.fingerprint import digest


def mlp(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()


class Tempered(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = mlp(), temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.temperature


def test_the_same_model_has_the_same_fingerprint() -> None:
    net = mlp()
    first = wrap(net).fingerprint()
    assert len(first) == 64
    assert (
        first
        == wrap(mlp()).fingerprint()
        == wrap(net, name="other").fingerprint()
        == wrap(net, fold=False).fingerprint()
    )
    assert first == wrap(mlp().train()).fingerprint()
    victim = wrap(net)
    victim.probe(torch.rand(3, 4))
    assert victim.fingerprint() == first


def test_whatever_decides_the_answers_changes_the_fingerprint() -> None:
    moved, buffered = mlp(), mlp()
    moved[0].weight.data[0, 0] += 1e-6  # type: ignore[index, union-attr]
    buffered[1].running_mean[0] += 1e-6  # type: ignore[index, operator]
    victims = [
        wrap(mlp()),
        wrap(moved),
        wrap(buffered),
        wrap(nn.Sequential(mlp()[0], mlp()[1], nn.GELU(), mlp()[3]).eval()),
        wrap(mlp(), mean=0.1),
        wrap(mlp(), std=0.1),
        wrap(mlp(), bounds=(0, 2)),
        wrap(mlp(), output="logits"),
        wrap(mlp(), dtype="float64"),
        wrap(Tempered(1.0)),
        wrap(Tempered(2.0)),
    ]
    assert len({victim.fingerprint() for victim in victims}) == len(victims)


def linear(weights: Any, gain: float = 1.0) -> Callable[[Any], Any]:
    def classify(x: Any) -> Any:
        return gain * (x @ weights)

    return classify


def scaled(x: Any, weights: Any) -> Any:
    return x @ weights


class Model:
    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def __call__(self, x: Any) -> Any:
        return x @ self.weights

    def scores(self, x: Any) -> Any:
        return x @ self.weights


def test_functions_are_told_apart_by_code_and_by_what_they_hold() -> None:
    a, b = np.ones((4, 3)), np.full((4, 3), 2.0)
    makers: list[Callable[[], Any]] = [
        lambda: linear(a),
        lambda: linear(b),
        lambda: linear(a, 2.0),
        lambda: Model(a),
        lambda: Model(b),
        lambda: Model(a).scores,
        lambda: functools.partial(scaled, weights=a),
        lambda: lambda x: x[:, :3],
        lambda: lambda x: x[:, 1:4],
    ]
    prints = [wrap(make()).fingerprint() for make in makers]
    assert prints == [wrap(make()).fingerprint() for make in makers]
    assert len(set(prints)) == len(prints)


def test_values_of_every_kind_are_told_apart() -> None:
    values: list[Any] = [
        None, 0, False, "", b"", 0.0, 1, True, "1", b"1", 1.0, [], {}, [1], [1, 1], [[1], 1], {"a": 1}, {1}, np.float32(1), np.ones(1),
        np.ones(1, np.float32), np.ones((1, 1)), np.array(["a"], dtype=object), torch.ones(1), torch.ones(1, dtype=torch.bfloat16),
        torch.float32, torch.eye(2).to_sparse(), torch.eye(3).to_sparse(),
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)


def test_cycles_and_depth_end() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    assert digest(loop) == digest(loop)
    assert digest(deep) == digest(deep)


PROGRAM = """
import numpy as np, torch
from torch import nn
from hauberk.victims import wrap
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)
        self.kinds, self.table = {"b", "a", "c"}, {"x": 1, "y": 2}
    def forward(self, x):
        return self.layer(x)
weights, draw = np.arange(12.).reshape(4, 3), np.random.default_rng()
def classify(x, bias={"u", "v"}):
    return x @ weights + draw.normal(size=3)
FOUND = [wrap(Net()).fingerprint(), wrap(classify).fingerprint()]
"""


def test_every_process_finds_the_same_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fingerprinted.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    here = importlib.import_module("fingerprinted").FOUND
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", "import fingerprinted; print(*fingerprinted.FOUND)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here
