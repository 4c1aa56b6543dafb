"""Models read from files and Python objects: every spelling, and every way it can go wrong."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hauberk.errors import HauberkError, ModelError, SettingError
from hauberk.threat import Access
from hauberk.victims import TorchVictim, load, wrap

X = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(5)
ARCH = """
from dataclasses import dataclass
from torch import nn
import sibling

@dataclass
class Settings:
    width: int = 4

def net(width=None):
    width = width or Settings().width
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 3))

def wide(): return net(8)
def deep(): return nn.Sequential(net(), nn.Linear(3, 3))
def broken(): raise RuntimeError("no weights\\nhere")
def number(): return 3
class Inner: make = staticmethod(net)
ready = net()
def classify(x): return x.reshape(len(x), -1)[:, :3]
hidden = sibling.VALUE
"""


def net(width: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 3)
        )
    return made.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "arch.py").write_text(ARCH)
    (tmp_path / "sibling.py").write_text("VALUE = 1")
    (tmp_path / "broken_arch.py").write_text("import no_such_module_at_all")
    save_file(net().state_dict(), tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def agree(victim: Any, module: nn.Module) -> None:
    assert torch.allclose(victim.logits(X, ROWS), module(X).detach(), atol=1e-6)


@pytest.mark.parametrize("arch", ["arch.py:net", "arch:net", "./arch.py:Inner.make", "arch.py:ready"])
def test_weights_are_loaded_into_an_architecture(folder: Path, arch: str) -> None:
    victim = load("net.safetensors", arch=arch)
    assert isinstance(victim, TorchVictim)
    agree(victim, net())
    assert (victim.name, victim.notes) == ("net", ())
    assert len(victim.description["folded"]) == 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_prefixes_of_shells_are_taken_off_and_noted(folder: Path, prefix: str) -> None:
    save_file({prefix + key: value for key, value in net().state_dict().items()}, "p.safetensors")
    victim = load("p.safetensors", arch="arch:net")
    agree(victim, net())
    assert prefix in victim.notes[0]


def test_options_reach_wrap(folder: Path) -> None:
    victim = load("net.safetensors", arch="arch:net", mean=0.5, std=0.5, bounds=(0, 1), name="mine", dtype=None)
    agree(victim, nn.Sequential(Shift(), net()))
    assert victim.name == "mine"
    with pytest.raises(SettingError, match="no option 'means'"):
        load("net.safetensors", arch="arch:net", means=0.5)


class Shift(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) / 0.5


@pytest.mark.parametrize(
    ("spec", "arch", "error", "said"),
    [
        ("net.safetensors", None, SettingError, "say which architecture"),
        ("net.safetensors", "arch", ModelError, "module:name"),
        ("net.safetensors", "nowhere:net", ModelError, "cannot import nowhere"),
        ("net.safetensors", "nowhere.py:net", ModelError, "there is no file"),
        ("net.safetensors", "arch:nothing", ModelError, "has no 'nothing'.*it holds"),
        ("net.safetensors", "broken_arch.py:net", ModelError, "ModuleNotFoundError"),
        ("net.safetensors", "arch:broken", ModelError, "RuntimeError: no weights$"),
        ("net.safetensors", "arch:number", ModelError, "gives int"),
        (
            "net.safetensors",
            "arch:wide",
            ModelError,
            r"0\.\w+ has shape \(4.*\), the architecture has \(8",
        ),
        ("net.safetensors", "arch:deep", ModelError, r"9 missing .* and 7 too many"),
        ("none.safetensors", "arch:net", ModelError, "does not exist"),
        (".", None, ModelError, "is a folder"),
        ("empty.pt2", None, ModelError, "is empty"),
        ("cut.safetensors", "arch:net", ModelError, "cannot be read as safetensors"),
        ("arch.py", None, ModelError, "cannot tell what arch.py is"),
        ("sklearn:none.skops", None, ModelError, "does not exist"),
        ("sklearn:arch.py", None, ModelError, "an estimator is read from"),
        ("sklearn:bad.skops", None, ModelError, "cannot be read as skops"),
        ("sklearn:bad.pkl", None, ModelError, "is a pickle"),
        ("bad.pt", None, ModelError, "is a pickle"),
        ("bad.pt2", None, ModelError, "no zip archive"),
        ("zip.pt2", None, ModelError, "cannot be read as a torch.export file"),
        ("py:arch", None, ModelError, "module:name"),
        ("py:arch:broken", None, ModelError, "without arguments failed"),
        ("py:arch:net", "arch:net", SettingError, "leave arch out"),
        ("bad.onnx", "arch:net", SettingError, "leave arch out"),
        ("bad.onnx", None, ModelError, "cannot be read as ONNX"),
    ],
)
def test_every_fault_is_one_sentence(
    folder: Path, spec: str, arch: str | None, error: type[HauberkError], said: str
) -> None:
    (folder / "empty.pt2").touch()
    (folder / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:-40])
    for name in ("bad.skops", "bad.pkl", "bad.pt", "bad.pt2", "bad.onnx"):
        (folder / name).write_bytes(b"not a model")
    with zipfile.ZipFile("zip.pt2", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(error, match=said) as caught:
        load(spec, arch=arch)
    assert "\n" not in str(caught.value)


def test_importing_leaves_the_search_path_alone(folder: Path) -> None:
    import sys

    before = list(sys.path)
    load("net.safetensors", arch="arch.py:net")
    load("net.safetensors", arch="arch:net")
    assert sys.path == before


def test_python_objects_are_models_factories_or_functions(folder: Path) -> None:
    assert load("py:arch.py:ready").name == "ready"
    built = load("py:arch:net")
    assert "was called without arguments" in built.notes[0]
    function = load("py:arch:classify")
    function.probe(X)
    assert function.access is Access.SCORES
    (folder / "victims_here.py").write_text("import arch, hauberk.victims\nvictim = hauberk.victims.wrap(arch.ready)")
    assert isinstance(load("py:victims_here:victim"), TorchVictim)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["net.pt", "net.ts"])
def test_torchscript_files_have_gradients(folder: Path, name: str) -> None:
    torch.jit.script(net()).save(name)
    victim = load(name)
    assert isinstance(victim, TorchVictim)
    agree(victim, net())
    logits, vjp = victim.pullback(X, ROWS)
    leaf = X.clone().requires_grad_()
    (want,) = torch.autograd.grad(net()(leaf).sum(), leaf)
    for _ in range(3):  # the interpreter changes its mind after the first runs
        assert torch.allclose(vjp(torch.ones_like(logits)), want, atol=1e-5)
        logits, vjp = victim.pullback(X, ROWS)
    assert victim.fingerprint() == load(name).fingerprint()
    with pytest.raises(SettingError, match="leave arch out"):
        load(name, arch="arch:net")


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # torch's exporter warns of its own code
@pytest.mark.parametrize("dynamic", [True, False])
def test_exported_programs_have_gradients_for_every_batch_size(folder: Path, dynamic: bool) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(net(), (X[:4],), dynamic_shapes=shapes), "net.pt2")
    victim = load("net.pt2")
    assert isinstance(victim, TorchVictim)
    leaf = X.clone().requires_grad_()
    want = net()(leaf)
    (gradient,) = torch.autograd.grad(want.sum(), leaf)
    for n in (1, 4, 5):
        logits, vjp = victim.pullback(X[:n], ROWS[:n])
        assert torch.allclose(logits, want[:n].detach(), atol=1e-6)
        assert torch.allclose(vjp(torch.ones_like(logits)), gradient[:n], atol=1e-5)
    assert victim.access is Access.GRADIENTS
    assert victim.notes == ()
    assert victim.fingerprint() == load("net.pt2").fingerprint()
    with pytest.raises(ModelError, match="failed on a batch of shape"):
        victim.logits(torch.rand(5, 1, 7, 7), ROWS)


class Trap:
    def __reduce__(self) -> Any:
        return (Path("sprung").touch, ())


def test_nothing_pickled_is_loaded_unasked(folder: Path) -> None:
    torch.save(net(), "module.pt")
    torch.save({"state_dict": net().state_dict()}, "state.pth")
    (folder / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    torch.save(Trap(), "trap.pt")
    for spec in ("module.pt", "state.pth", "trap.pt", "sklearn:trap.pkl", "trap.pkl"):
        with pytest.raises(ModelError, match="--trust-pickle"):
            load(spec)
    assert not (folder / "sprung").exists()
    agree(load("module.pt", trust_pickle=True), net())
    agree(load("state.pth", arch="arch:net", trust_pickle=True), net())
    with pytest.raises(SettingError, match="say which architecture"):
        load("state.pth", trust_pickle=True)


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning"
)  # torch's exporter warns of its own code
def test_a_pickle_inside_an_exported_program_is_not_run(folder: Path) -> None:
    torch.export.save(torch.export.export(net(), (X[:4],)), "net.pt2")
    torch.save(Trap(), "trap.pt")
    with zipfile.ZipFile("net.pt2") as old, zipfile.ZipFile("trap.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(
                name, Path("trap.pt").read_bytes() if name.endswith("sample_inputs/model.pt") else old.read(name)
            )
    with pytest.raises(ModelError, match="holds a pickle"):
        load("trap.pt2")
    assert not (folder / "sprung").exists()


def test_estimators_are_read_from_skops_and_from_pickles_that_are_trusted(folder: Path) -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is optional")
    sio = pytest.importorskip("skops.io", reason="skops is optional")
    joblib = pytest.importorskip("joblib")
    data = np.random.default_rng(0).random((60, 36))
    estimator = linear.LogisticRegression().fit(data, (data[:, 0] * 3).astype(int))
    sio.dump(estimator, "m.skops")
    joblib.dump(estimator, "m.joblib")
    Path("m.pkl").write_bytes(pickle.dumps(estimator))
    want = estimator.decision_function(X.numpy().reshape(5, -1))
    for spec in ("sklearn:m.skops", "m.skops", "sklearn:m.joblib", "sklearn:m.pkl"):
        victim = load(spec, trust_pickle="skops" not in spec)
        assert np.allclose(victim.logits(X.double(), ROWS).numpy(), want, atol=1e-6)
        assert victim.name == "m"
    with pytest.raises(ModelError, match="--trust-pickle"):
        load("sklearn:m.joblib")


def test_wrap_takes_a_path_too(folder: Path) -> None:
    with pytest.raises(SettingError, match="say which architecture"):
        wrap("net.safetensors")
    with pytest.raises(ModelError, match="does not exist"):
        wrap(Path("none.onnx"))
