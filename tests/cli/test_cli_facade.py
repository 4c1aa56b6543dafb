"""`import hauberk as hb` is light, and what it names works together."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hauberk as hb

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


def test_every_error_is_a_hauberk_error_under_one_name() -> None:
    errors = [name for name in hb.__all__ if name.endswith("Error")]
    assert len(errors) >= 11
    assert all(issubclass(getattr(hb, name), hb.HauberkError) for name in errors)
    with pytest.raises(hb.ThreatError):
        hb.ThreatModel.parse("linff")
