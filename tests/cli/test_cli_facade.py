"""`import hauberk as hb` is light, and what it names works together."""

import json
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

import hauberk as hb
from hauberk.errors import require
from hauberk.evidence import RunFolder

HEAVY = {"jinja2", "matplotlib", "mlxtend", "onnx", "onnxruntime", "rich", "skimage", "sklearn", "skops", "typer"}


def test_importing_hauberk_loads_neither_the_command_line_nor_a_drawing_library() -> None:
    code = "import json, sys, hauberk; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))


def test_the_facade_evaluates_attacks_and_compares(bench: Path, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    victim = hb.wrap(net, bounds=(0, 1), name="net")
    first = hb.evaluate(victim, bench / "good.npz", "linf:0.1", suite="quick", stages=1, out=tmp_path / "a")
    second = hb.evaluate(
        victim, hb.data.load(bench / "good.npz"), hb.ThreatModel(hb.Norm.LINF, (0.1,)), suite="quick", stages=1
    )
    assert first.robust_accuracy == second.robust_accuracy
    assert second.result["rows"] is None
    for other in (second, second.run, tmp_path / "a", str(tmp_path / "a")):
        assert hb.compare(first, other)["difference"] == 0
    x = np.full((2, 1, 4, 4), 0.5, np.float32)
    targets = torch.tensor([1, 2])
    found = hb.attacks.pgd(victim, x, [0, 0], "linf:0.5", goal=hb.Targeted(targets), steps=20)
    assert torch.equal(found.labels[found.broken], targets[found.broken])
    assert set(hb.zoo.names()) >= {"digits-mlp"}


def test_what_a_notebook_shows_is_short(bench: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    victim = hb.wrap(net, bounds=(0, 255), name="net")
    assert repr(victim) == "TorchVictim('net', 51 parameters, bounds (0, 255), float32 on cpu)"
    wrapped = hb.wrap(net, classes=3, name="net")
    assert repr(wrapped) == "TorchVictim('net', 51 parameters, 3 classes, bounds (0, 1), float32 on cpu)"
    kept = hb.evaluate(wrapped, bench / "good.npz", "linf:0.1", suite="quick", stages=1, audit=False)
    assert repr(kept.run) == "FinishedRun('net' on 'good.npz', linf:0.1, suite quick[:1], n=12, in memory)"
    read = RunFolder.read(bench / "run")
    assert repr(read).endswith(f"suite quick[:1], n=12, in {str(bench / 'run')!r})")


def test_a_missing_extra_is_one_error_with_the_command_that_installs_it() -> None:
    with pytest.raises(hb.MissingExtraError) as caught:
        require("hauberk_no_such_module.part", "onnx", "an ONNX model")
    assert str(caught.value) == (
        "an ONNX model needs hauberk_no_such_module, which is not installed; install it with: pip install 'hauberk[onnx]' "
        "(from a checkout: pip install '.[onnx]')"
    )
    assert "During handling" not in (shown := "".join(traceback.format_exception(caught.value)))
    assert "direct cause" not in shown


def test_every_error_is_a_hauberk_error_under_one_name() -> None:
    errors = [name for name in hb.__all__ if name.endswith("Error")]
    assert len(errors) >= 11
    assert all(issubclass(getattr(hb, name), hb.HauberkError) for name in errors)
    with pytest.raises(hb.ThreatError):
        hb.ThreatModel.parse("linff")
