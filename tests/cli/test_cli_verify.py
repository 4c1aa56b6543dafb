"""`hauberk verify`: verdicts, witnesses, lists, and what it refuses."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hauberk.layered.from_torch import from_torch
from hauberk.layered.to_onnx import to_onnx

Run = Callable[..., Any]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """|x0| + |x1| and twice that less one, of two inputs."""
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    first, last = module[0], module[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[1.0] * 4, [2.0] * 4]))
        last.bias.copy_(torch.tensor([0.0, -1.0]))
    to_onnx(from_torch(module, (2,)), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def _property(folder: Path, name: str, claim: str) -> Path:
    box = "\n".join(f"(assert (>= X_{i} -1))\n(assert (<= X_{i} 1))" for i in (0, 1))
    names = "\n".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    (folder / name).write_text(f"{names}\n{box}\n(assert {claim})\n")
    return folder / name


def test_the_first_word_is_the_verdict(hauberk: Run, net: Path, tmp_path: Path) -> None:
    true = _property(tmp_path, "true.vnnlib", "(>= Y_0 2.01)")
    found = hauberk("verify", str(net), str(true))
    assert found.exit_code == 0
    assert found.stdout.startswith("holds (")
    late = hauberk(
        "verify", str(net), str(_property(tmp_path, "hard.vnnlib", "(>= Y_0 1.999999)")), "--timeout", "1e-9"
    )
    assert late.exit_code == 0
    assert late.stdout.split()[0] in ("unknown", "violated")


def test_a_violation_comes_with_a_witness_that_violates(hauberk: Run, net: Path, tmp_path: Path) -> None:
    false = _property(tmp_path, "false.vnnlib", "(>= Y_0 1.9)")
    found = hauberk("verify", str(net), str(false))
    first, rest = found.stdout.split("\n", 1)
    assert first.startswith("violated (")
    assert "checked by" in first
    pairs = [line.strip(" ()").split() for line in rest.strip().split("\n")]
    values = {name: float(value) for name, value in pairs}
    x = np.abs([values["X_0"], values["X_1"]])
    assert x.max() <= 1
    assert values["Y_0"] == pytest.approx(x.sum(), rel=1e-6)
    assert values["Y_0"] >= 1.9
    out = tmp_path / "deep" / "result.txt"
    again = hauberk("verify", str(net), str(false), "--out", str(out))
    assert again.stdout.count("\n") == 1
    assert out.read_text().startswith("sat\n((X_0 ")


def test_a_list_goes_on_past_a_bad_row_and_does_nothing_twice(hauberk: Run, net: Path, tmp_path: Path) -> None:
    _property(tmp_path, "true.vnnlib", "(>= Y_0 2.01)")
    _property(tmp_path, "false.vnnlib", "(>= Y_0 1.9)")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    rows = [
        "net.onnx,true.vnnlib,20",
        "broken.onnx,true.vnnlib,20",
        "net.onnx,false.vnnlib,20",
        "net.onnx,absent.vnnlib,20",
    ]
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out.csv"
    found = hauberk("verify", "--instances", str(tmp_path / "all.csv"), "--out", str(out))
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["holds", "error:", "violated", "error:"]
    table = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["verdict"] for row in table] == ["holds", "error", "violated", "error"]
    assert "4 properties: 1 holds, 1 violated, 2 error" in found.stderr
    again = hauberk("verify", "--instances", str(tmp_path / "all.csv"), "--out", str(out))
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["error:", "error:"]
    assert "2 rows were in" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a network and a property"),
        (("absent.onnx", "{true}"), "absent.onnx"),
        (("{net}", "absent.vnnlib"), "absent.vnnlib"),
        (("{net}", "{other}"), "4 inputs and 2 outputs, the network has 2 and 2"),
        (("{net}", "{true}", "--timeout", "0"), "--timeout"),
        (("{net}", "{true}", "--threads", "0"), "--threads"),
        (("{net}", "{true}", "--instances", "{true}"), "leave one out"),
        (("--instances", "{true}"), "NET,PROPERTY,SECONDS"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    hauberk: Run, net: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    names = {
        "net": net,
        "true": _property(tmp_path, "true.vnnlib", "(>= Y_0 2.01)"),
        "other": tmp_path / "other.vnnlib",
    }
    text = names["true"].read_text()
    more = "".join(f"(declare-const X_{i} Real)\n(assert (>= X_{i} 0))\n(assert (<= X_{i} 1))\n" for i in (2, 3))
    names["other"].write_text(more + text)
    found = hauberk("verify", *(word.format(**names) for word in words))
    assert found.exit_code == 2
    assert said in found.stderr
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
