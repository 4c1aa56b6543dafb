"""Model files and Python objects, read by their spelling. Nothing pickled is loaded unless the user says so.

    FILE.safetensors + arch     weights into the module that the factory `arch` builds
    FILE.pt2                    a program of `torch.export`
    FILE.pt, FILE.pth, FILE.ts  TorchScript; with trust_pickle also a pickled module, or pickled weights + arch
    FILE.onnx                   for onnxruntime
    sklearn:FILE                .skops; with trust_pickle also .pkl, .pickle, .joblib
    py:module:object            an object of an importable module, or of a file: py:path/to/file.py:object
    http://HOST/v2/models/NAME  a model over a wire; see `hauberk.victims.http`

TorchScript and exported programs are programs: they cannot reach out of torch, but load only what you would run.
"""

import importlib
import importlib.util
import inspect
import io
import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hauberk.errors import HauberkError, ModelError, SettingError, require
from hauberk.victims.fingerprint import file_digest
from hauberk.victims.http import Endpoint
from hauberk.victims.victim import first_line

__all__ = ["Found", "load_object", "load_state", "read"]

_TRUST = "pass trust_pickle=True (--trust-pickle) if you trust whoever made it"
_TORCH, _PICKLES, _SKLEARN = (
    {".pt", ".pth", ".ts", ".torchscript", ".bin", ".ckpt"},
    {".pkl", ".pickle", ".joblib"},
    {".skops"},
)
_READABLE = ".safetensors, .pt2, .pt (TorchScript), .onnx, sklearn:FILE.skops, py:module:object or http://..."


@dataclass(frozen=True, eq=False)
class Found:
    """What a spelling led to: a model that `wrap` takes (a Path stands for an ONNX file), and what was guessed."""

    model: Any
    name: str
    notes: tuple[str, ...] = ()


def read(spec: str, *, arch: str | None = None, trust_pickle: bool = False) -> Found:
    """Read a model by one of the spellings above.

    Raises:
        ModelError: it cannot be read; the message says why.
        SettingError: `arch` where none is needed, or missing where it is.
    """
    kind, _, rest = spec.partition(":")
    if kind.lower() in ("http", "https") and rest.startswith("//"):
        _no_arch(arch, spec)
        return Found(Endpoint(spec), "")
    if kind == "py":
        _no_arch(arch, spec)
        return _python(rest)
    path = Path(rest if kind == "sklearn" else spec).expanduser()
    suffix = path.suffix.lower()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"the model file {str(path)!r} {what}; a model is given as {_READABLE}")
    if path.stat().st_size == 0:
        raise ModelError(f"the model file {path.name} is empty; copy it again")
    if suffix == ".safetensors":
        return Found(*_weights(path, arch))
    if kind == "sklearn" or suffix in _SKLEARN | _PICKLES:
        _no_arch(arch, spec)
        return Found(_estimator(path, trust_pickle), path.stem)
    if suffix in _TORCH:
        return _torch_file(path, arch, trust_pickle)
    _no_arch(arch, spec)
    if suffix == ".pt2":
        return Found(_exported(path, trust_pickle), path.stem)
    if suffix == ".onnx":
        return Found(path, path.stem)
    raise ModelError(f"cannot tell what {path.name} is by its ending {suffix!r}; a model is given as {_READABLE}")


def load_object(spec: str, purpose: str) -> Any:
    """The object `module:name` or `path/to/file.py:name`; name may have dots. The working directory can be imported from.

    Raises:
        ModelError: there is no such module, file or object, or importing it failed.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ModelError(f"{purpose} is given as module:name or path/to/file.py:name, got {spec!r}")
    found = _module_of_file(Path(place).expanduser(), purpose) if place.endswith(".py") else _module(place, purpose)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            known = [key for key, item in vars(found).items() if callable(item) and not key.startswith("_")][:8]
            hint = f"; it holds {', '.join(known)}" if known else ""
            raise ModelError(f"{place} has no {name!r}, asked for as {purpose}{hint}") from error
    return found


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Load weights that fit exactly; prefixes that DataParallel and torch.compile add are taken off, with a note.

    Raises:
        ModelError: names or shapes differ; the message lists the first of them.
    """
    notes: tuple[str, ...] = ()
    own = module.state_dict()
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            notes += (f"The prefix {prefix!r} was taken off the names of the weights.",)
    kind = type(module).__name__
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing or extra:
        said = " and ".join(_some(keys, what) for keys, what in ((missing, "missing"), (extra, "too many")) if keys)
        raise ModelError(f"the weights in {source} do not fit {kind}: {said}; check the architecture")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"the weights in {source} do not fit {kind}: {key} has shape {tuple(value.shape)}, the architecture has "
                f"{tuple(own[key].shape)}; check its settings"
            )
    module.load_state_dict(state)
    return notes


def _some(keys: list[str], what: str) -> str:
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"


def _no_arch(arch: str | None, spec: str) -> None:
    if arch is not None:
        raise SettingError(
            f"arch is for files that hold weights only, and {spec!r} holds a whole model; leave arch out"
        )


def _python(spec: str) -> Found:
    found, note = load_object(spec, "a Python model"), ()
    if (isinstance(found, type) and callable(found)) or (inspect.isfunction(found) and _takes_nothing(found)):
        found = _build(found, spec)
        note = (f"{spec} was called without arguments to build the model.",)
    return Found(found, spec.rpartition(":")[2], note)


def _takes_nothing(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _build(factory: Any, spec: str) -> Any:
    try:
        return factory()
    except HauberkError:
        raise
    except (Exception, SystemExit) as error:  # the user's code
        raise ModelError(
            f"calling {spec} without arguments failed: {type(error).__name__}: {first_line(error)}"
        ) from error


def _module(name: str, purpose: str) -> Any:
    added = str(Path.cwd()) not in sys.path
    if added:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code runs at import
        raise ModelError(f"cannot import {name} for {purpose}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        if added and str(Path.cwd()) in sys.path:
            sys.path.remove(str(Path.cwd()))


def _module_of_file(path: Path, purpose: str) -> Any:
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r} for {purpose}; check the path")
    name = f"hauberk_user_{path.stem}_{file_digest(path)[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and the like look themselves up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code
        del sys.modules[name]
        raise ModelError(f"{path.name} failed for {purpose}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _architecture(arch: str | None, path: Path) -> nn.Module:
    if arch is None:
        raise SettingError(
            f"{path.name} holds weights only; say which architecture they are of, arch='module:factory' (--arch)"
        )
    factory = load_object(arch, "the architecture")
    module = factory if isinstance(factory, nn.Module) else _build(factory, arch) if callable(factory) else factory
    if not isinstance(module, nn.Module):
        raise ModelError(f"the architecture {arch} gives {type(module).__name__}, expected an nn.Module")
    return module.eval()


def _weights(path: Path, arch: str | None) -> tuple[nn.Module, str, tuple[str, ...]]:
    from safetensors.torch import load_file

    module = _architecture(arch, path)
    try:
        state = load_file(path)
    except Exception as error:  # safetensors has an error class of its own, raised from Rust
        raise ModelError(f"{path.name} cannot be read as safetensors: {first_line(error)}; copy it again") from error
    return module, path.stem, load_state(module, state, path.name)


def _torch_file(path: Path, arch: str | None, trust_pickle: bool) -> Found:
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if any("/code/" in name for name in names):
        _no_arch(arch, str(path))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # torch's word on TorchScript; its files exist all the same
                return Found(torch.jit.load(str(path), map_location="cpu"), path.stem)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path.name} cannot be read as TorchScript: {first_line(error)}") from error
    if names and not any(name.endswith("data.pkl") for name in names):
        return Found(_exported(path, trust_pickle), path.stem)
    if not trust_pickle:
        raise ModelError(
            f"{path.name} is a pickle, which can run any code when it is loaded; save safetensors, or {_TRUST}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs foreign code
        raise ModelError(f"{path.name} cannot be unpickled: {type(error).__name__}: {first_line(error)}") from error
    if isinstance(content, nn.Module):
        _no_arch(arch, str(path))
        return Found(content, path.stem)
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("state_dict", "model_state_dict", "model") if key in content), None)
        if not isinstance(inner, Mapping | nn.Module):
            break
        content = inner
    if isinstance(content, nn.Module):
        return Found(content, path.stem)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path.name} holds {type(content).__name__}, expected a module or a table of weights")
    module = _architecture(arch, path)
    return Found(module, path.stem, load_state(module, content, path.name))


def _exported(path: Path, trust_pickle: bool) -> Any:
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path.name} cannot be read as a torch.export file: it is no zip archive, or cut short; copy it again"
        )
    if not trust_pickle:
        _refuse_pickles(path)
    try:
        return torch.export.load(path)
    except Exception as error:  # the loader checks little: a damaged file fails anywhere
        raise ModelError(
            f"{path.name} cannot be read as a torch.export file: {type(error).__name__}: {first_line(error)}; "
            "export it again with this version of torch"
        ) from error


def _refuse_pickles(path: Path) -> None:
    """`torch.export.load` unpickles constants and, where that fails, sample inputs: let only plain tensors through."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        plain: set[str] = set()
        for name in names:
            if name.endswith("_config.json"):
                try:
                    entries = json.loads(archive.read(name))["config"].values()
                    plain |= {str(entry["path_name"]) for entry in entries if not entry["use_pickle"]}
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ModelError(f"{path.name} cannot be read as a torch.export file: {name} is damaged") from error
        for name in names:
            leaf = name.rpartition("/")[2]
            head = archive.open(name).read(2)
            pickled = (
                leaf.startswith(("custom_obj", "opaque_obj"))
                or head == b"PK"
                or head[:1] == b"\x80"
                or leaf.endswith(".pt")
            )
            if not pickled or (leaf in plain and leaf.startswith(("weight_", "tensor_"))):
                continue
            try:
                torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
            except Exception as error:  # refused by torch's own list of harmless types, or damaged
                raise ModelError(f"{path.name} holds a pickle ({leaf}), which can run any code; {_TRUST}") from error


def _estimator(path: Path, trust_pickle: bool) -> Any:
    if path.suffix.lower() in _SKLEARN:
        sio: Any = require("skops.io", "sklearn", "a .skops model")
        try:
            foreign = sio.get_untrusted_types(file=path)
            if foreign and not trust_pickle:
                raise ModelError(
                    f"{path.name} holds types that skops does not know to be harmless ({foreign[0]}); {_TRUST}"
                )
            return sio.load(path, trusted=foreign)
        except HauberkError:
            raise
        except Exception as error:  # a damaged archive fails anywhere
            raise ModelError(
                f"{path.name} cannot be read as skops: {type(error).__name__}: {first_line(error)}"
            ) from error
    if path.suffix.lower() not in _PICKLES:
        raise ModelError(
            f"an estimator is read from .skops, .joblib or .pkl, got {path.name}; save it with skops.io.dump"
        )
    if not trust_pickle:
        raise ModelError(
            f"{path.name} is a pickle, which can run any code when it is loaded; save it with skops, or {_TRUST}"
        )
    require("sklearn", "sklearn", "a scikit-learn model")
    try:
        if path.suffix.lower() == ".joblib":
            return require("joblib", "sklearn", "a .joblib model").load(path)
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301  # the user said so
    except HauberkError:
        raise
    except Exception as error:  # unpickling runs foreign code
        raise ModelError(f"{path.name} cannot be unpickled: {type(error).__name__}: {first_line(error)}") from error
