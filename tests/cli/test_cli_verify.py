"""`hauberk verify`: verdicts, witnesses, lists, and what it refuses."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hauberk.cli.instances import COLUMNS
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
    table = [dict(zip(COLUMNS, row, strict=True)) for row in csv.reader(out.read_text().splitlines())]
    assert [row["result"] for row in table] == ["unsat", "error", "sat", "error"]
    assert {(row["category"], row["timeout"], row["verifier"]) for row in table} == {(tmp_path.name, "20", "hauberk")}
    assert (table[2]["net"], table[2]["property"]) == ("net.onnx", "false.vnnlib")
    assert all(float(row["prepare"]) >= 0 and float(row["seconds"]) >= 0 for row in table)
    assert "broken.onnx" in table[1]["note"]
    assert "4 properties: 1 holds, 1 violated, 2 error" in found.stderr
    again = hauberk("verify", "--instances", str(tmp_path / "all.csv"), "--out", str(out))
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["error:", "error:"]
    assert "2 of 4 rows are in" in again.stderr
    assert "4 properties: 1 holds, 1 violated, 2 error" in again.stderr
    longer = hauberk("verify", "--instances", str(tmp_path / "all.csv"), "--out", str(out), "--timeout", "30")
    assert longer.stdout.splitlines()[0].startswith("holds (")  # another limit is another question


def _listed(folder: Path, *rows: str) -> str:
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "all.csv")


def test_rows_of_a_list_can_be_chosen(hauberk: Run, net: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _property(tmp_path, f"{name}.vnnlib", "(>= Y_0 2.01)")
    listed = _listed(tmp_path, *(f"net.onnx,{name}.vnnlib,20" for name in ("a", "b", "c")))
    found = hauberk("verify", "--instances", listed, "--only", "2-3")
    assert [line.split()[-1] for line in found.stdout.splitlines()] == ["b.vnnlib", "c.vnnlib"]
    assert "[2/3]" in found.stdout
    assert hauberk("verify", "--instances", listed, "--only", "1").stdout.count("\n") == 1
    for wrong in ("0", "3-4", "3-2", "two"):
        refused = hauberk("verify", "--instances", listed, "--only", wrong)
        assert refused.exit_code == 2
        assert "--only" in refused.stderr


def test_a_table_that_was_cut_off_is_gone_on_with(hauberk: Run, net: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    _property(tmp_path / "one", "p.vnnlib", "(>= Y_0 2.01)")
    _property(tmp_path / "two", "p.vnnlib", "(>= Y_0 1.9)")  # the same name, another property
    listed, out = _listed(tmp_path, "net.onnx,one/p.vnnlib,20", "net.onnx,two/p.vnnlib,20"), tmp_path / "out.csv"
    assert hauberk("verify", "--instances", listed, "--out", str(out)).exit_code == 0
    whole = out.read_text().splitlines(keepends=True)
    assert [line.split(",")[4] for line in whole] == ["unsat", "sat"]
    out.write_text(whole[0] + whole[1][:20])
    found = hauberk("verify", "--instances", listed, "--out", str(out))
    assert found.stdout.split()[0] == "violated"
    assert [line.split(",")[4] for line in out.read_text().splitlines()] == ["unsat", "sat"]
    other = tmp_path / "other.csv"
    other.write_text("a,b\n")
    refused = hauberk("verify", "--instances", listed, "--out", str(other))
    assert refused.exit_code == 2
    assert "no table of this command" in refused.stderr


@pytest.mark.parametrize("last", [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())])
def test_outputs_are_taken_as_they_are_and_not_for_scores(hauberk: Run, tmp_path: Path, last: nn.Module) -> None:
    """Numbers between 0 and 1, which a reader of classifiers would take for probabilities."""
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), last)
    with torch.no_grad():
        for value in module.parameters():
            value.fill_(0.1)
    to_onnx(from_torch(module, (2,)), tmp_path / "plain.onnx")
    outputs = int(module(torch.zeros(1, 2)).shape[1])
    names = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in (0, 1))
    names += "".join(f"(declare-const Y_{i} Real)" for i in range(outputs))
    (tmp_path / "p.vnnlib").write_text(names + "(assert (>= Y_0 0.05))(assert (<= Y_0 1.0))")
    found = hauberk("verify", str(tmp_path / "plain.onnx"), str(tmp_path / "p.vnnlib"), "--timeout", "20")
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith("violated (")
    assert "checked by onnxruntime" in found.stdout


def test_without_onnxruntime_the_line_says_who_checked(
    hauberk: Run, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = hauberk("verify", str(net), str(_property(tmp_path, "false.vnnlib", "(>= Y_0 1.9)")))
    assert found.stdout.startswith("violated (")
    assert "checked by hauberk's own reading of the file, as onnxruntime is not installed" in found.stdout


def _fake(folder: Path, answer: str) -> str:
    script = folder / "fake.py"
    script.write_text(f"import sys\nopen(sys.argv[5], 'w').write({answer!r})\n")
    return f"{sys.executable} -S {script}"


def test_another_verifier_decides_and_its_witness_is_checked(hauberk: Run, net: Path, tmp_path: Path) -> None:
    asked = str(_property(tmp_path, "false.vnnlib", "(>= Y_0 1.9)"))
    found = hauberk("verify", str(net), asked, "--with", _fake(tmp_path, "sat\n((X_0 1) (X_1 -1) (Y_0 5) (Y_1 5))"))
    assert found.stdout.startswith("violated (")
    assert "checked by onnxruntime" in found.stdout
    assert "(Y_0 2)" in found.stdout
    wrong = hauberk("verify", str(net), asked, "--with", _fake(tmp_path, "sat\n((X_0 0) (X_1 0) (Y_0 5))"))
    assert wrong.stdout.startswith("unknown (")
    assert "does not violate the property" in wrong.stdout
    proven = hauberk("verify", str(net), asked, "--with", _fake(tmp_path, "unsat"))
    assert proven.stdout.startswith("holds (")
    assert "a proof that hauberk has not checked" in proven.stdout


def test_another_verifier_has_its_own_rows_in_a_table(hauberk: Run, net: Path, tmp_path: Path) -> None:
    _property(tmp_path, "true.vnnlib", "(>= Y_0 2.01)")
    words = ("verify", "--instances", _listed(tmp_path, "net.onnx,true.vnnlib,20"), "--out", str(tmp_path / "out.csv"))
    other = _fake(tmp_path, "unknown")
    assert hauberk(*words).stdout.startswith("holds (")
    assert hauberk(*words, "--with", other).stdout.startswith("unknown (")
    assert hauberk(*words, "--with", other).stdout == ""
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


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
        (("{net}", "{true}", "--only", "1"), "--only"),
        (("{net}", "{true}", "--with", "marabu"), "did you mean marabou"),
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
