"""A folder with small models and data, good and bad, and a way to run the command line inside it."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from hauberk.cli import app
from hauberk.evaluate import evaluate
from hauberk.victims import load

NETS = '''
import sys
import numpy as np
import torch
from torch import nn

class Tiny(nn.Module):
    """Three classes by the mean brightness of three rows of a 1x4x4 picture."""
    def __init__(self, classes=3):
        super().__init__()
        self.dense = nn.Linear(16, classes)
        with torch.no_grad():
            self.dense.weight.zero_()
            self.dense.bias.zero_()
            for c in range(classes):
                self.dense.weight[c, 4 * c : 4 * c + 4] = 2.0
    def forward(self, x):
        return self.dense(x.flatten(1))

class Changed(Tiny):
    def __init__(self, change):
        super().__init__()
        self.change = change
    def forward(self, x):
        return self.change(super().forward(x))

def tiny(): return Tiny()
def four(): return Tiny(4)
def other(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
def conv(): return nn.Sequential(nn.Conv2d(3, 3, 4), nn.Flatten())
def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(17, 3))
def probabilities(): return Changed(lambda z: z.softmax(1))
def nan(): return Changed(lambda z: z * float("nan"))
def table(): return Changed(lambda z: {"scores": z, "features": z[:, :2]})
def solid(): return Changed(lambda z: z[:, :, None].expand(-1, -1, 2))
def summed(): return Changed(lambda z: z.sum(0))
def imaginary(): return Changed(lambda z: z.to(torch.complex64))
def words(): return Changed(lambda z: "cat")
def raising(): return Changed(lambda z: z @ torch.zeros(7, 7))
def needs(size): return Tiny(size)
def failing(): raise RuntimeError("no weights here\\nsecond line")
def leaving(): sys.exit(0)
def only_labels(x): return np.asarray(x).reshape(len(x), 4, 4)[:, :3].mean(2).argmax(1)
def only_scores(x): return np.asarray(x, dtype=np.float32).reshape(len(x), 4, 4)[:, :3].mean(2)
number = 5
state = tiny().state_dict()
data = (np.zeros((4, 1, 4, 4), np.float32), np.zeros(4, np.int64))
triple = (1, 2, 3)
def bad_data(): raise ValueError("no such disk")
'''


def examples(n: int = 12, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose row y is the brightest, with a few that are wrong and a few that are hard."""
    generator = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = generator.uniform(0.2, 0.5, size=(n, 1, 4, 4)).astype(np.float32)
    x[np.arange(n), 0, y] += np.linspace(-0.05, 0.45, n, dtype=np.float32)[:, None]
    return x.clip(0, 1), y


def _archives(place: Path) -> None:
    x, y = examples()

    def npz(name: str, images: Any = x, labels: Any = y, **more: Any) -> None:
        np.savez(place / f"{name}.npz", **{"images": images, "labels": labels} | more)

    def with_value(value: float) -> np.ndarray:
        changed = x.copy()
        changed[5, 0, 1, 1] = value
        return changed

    npz("good")
    npz("more", *examples(24))
    npz("altered", x[::-1].copy(), y[::-1].copy())
    npz("bytes", (x * 255).astype(np.uint8))
    npz("floats255", x * 255)
    npz("normalised", (x - 0.5) / 0.2)
    npz("huge", x * 1e6)
    npz("rounded", x * 0 + 1.0005)
    npz("nan", with_value(np.nan))
    npz("inf", with_value(np.inf))
    npz("complex", x.astype(np.complex64))
    npz("fractions", labels=y + 0.5)
    npz("negative", labels=np.where(y == 1, -1, y))
    npz("toobig", labels=np.where(y == 1, 7, y))
    npz("nanlabels", labels=np.where(y == 1, np.nan, y))
    npz("words", labels=np.array(["cat", "dog", "cow"] * 4))
    npz("square", labels=np.ones((12, 3)))
    npz("short", labels=y[:-1])
    npz("empty", x[:0], y[:0])
    npz("objects", np.array([None, "a", 3] * 4, dtype=object))
    npz("objectlabels", labels=np.array([0, None, 2] * 4, dtype=object))
    npz("flat", y.astype(np.float32))
    npz("bigger", np.zeros((12, 1, 5, 5), np.float32))
    npz("colours", np.zeros((12, 3, 4, 4), np.float32))
    np.savez(place / "nolabels.npz", images=x)
    np.savez(place / "noimages.npz", labels=y)
    np.savez(place / "strange.npz", alpha=x, beta=y)
    whole = (place / "good.npz").read_bytes()
    (place / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(place / "lying.npz", "w") as archive:  # the header promises more rows than follow
        for name, array in (("images", x), ("labels", y)):
            stream = io.BytesIO()
            np.save(stream, array)
            archive.writestr(f"{name}.npy", stream.getvalue()[: -4 if name == "images" else None])
    (place / "text.npz").write_text("this is no archive")
    (place / "text.parquet").write_text("this is no parquet file")
    (place / "numbers.csv").write_text("1,2,3\n")
    (place / "emptyfolder").mkdir()
    (place / "damaged" / "cats").mkdir(parents=True)
    (place / "damaged" / "cats" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")


def _models(place: Path) -> None:
    (place / "nets.py").write_text(NETS)
    (place / "broken.py").write_text("import there_is_no_such_module_at_all\n")
    (place / "syntax.py").write_text("def (:\n")
    (place / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    torch.manual_seed(0)
    weights = torch.nn.Linear(16, 3).state_dict()
    save_file({f"dense.{name}": value for name, value in weights.items()}, place / "tiny.safetensors")
    whole = (place / "tiny.safetensors").read_bytes()
    (place / "cut.safetensors").write_bytes(whole[:100])
    (place / "nothing.safetensors").write_bytes(b"")
    torch.save(weights, place / "weights.pt")
    (place / "estimator.pkl").write_bytes(pickle.dumps({"a": 1}))
    for name in ("text.onnx", "text.pt2", "text.skops", "text.xyz", "text.pt"):
        (place / name).write_text("this is no model")


def _runs(place: Path) -> None:
    victim = load(f"py:{place / 'nets.py'}:tiny")

    def run(name: str, threat: str = "linf:0.1", file: str = "good.npz") -> Path:
        evaluate(victim, place / file, threat, suite="quick", stages=1, audit=False, out=place / name)
        return place / name

    run("run")
    run("run-again")
    run("run-threat", threat="linf:0.2")
    run("run-data", file="altered.npz")
    run("run-more", file="more.npz")
    (run("run-manifest") / "manifest.json").write_text("{")
    version = run("run-version") / "manifest.json"
    version.write_text(json.dumps(json.loads(version.read_text()) | {"schema": "hauberk.run/99"}))
    (run("run-unfinished") / "result.json").unlink()
    ledger = run("run-ledger") / "chunks" / "00000" / "ledger.json"
    ledger.write_text(ledger.read_text().replace('"examples": 12', '"examples": 13'))
    cut = run("run-cut") / "chunks" / "00000" / "rows.parquet"
    cut.write_bytes(cut.read_bytes()[:-20])
    (run("run-rows") / "rows.parquet").write_text("no table")
    (place / "foreign").mkdir()
    (place / "foreign" / "diary.txt").write_text("dear diary")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; tests may add files but must leave alone what is there."""
    place = tmp_path_factory.mktemp("cli")
    _models(place)
    _archives(place)
    _runs(place)
    return place


@pytest.fixture
def hauberk(bench: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command line in this process, in the folder: `hauberk("evaluate", ...)` gives exit_code, stdout, stderr."""
    monkeypatch.chdir(bench)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("HAUBERK_DEBUG", raising=False)

    def run(*args: str) -> Any:
        return CliRunner().invoke(app, list(args), catch_exceptions=False)

    return run
