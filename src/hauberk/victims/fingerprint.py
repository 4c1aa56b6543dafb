"""A SHA-256 over everything that decides what a model answers: weights, structure, code and settings.

Objects are walked, not pickled, so that the same model has the same fingerprint in every process. Code is compared without
comments and formatting.
"""

import ast
import functools
import hashlib
import inspect
import random
import sys
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["digest", "file_digest"]

_DEPTH = 12
_CHANCE = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)
"""Their state says where a run is, not what a model is."""
_VERSIONS = {
    "_sklearn_version",
    "_sklearn_output_config",
}  # written into the state by scikit-learn; no part of the model


def digest(*parts: Any) -> str:
    """SHA-256 in hex of the parts, in order."""
    walker = _Walker()
    for part in parts:
        walker.add(part, 0)
    return walker.hash.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 in hex of a file's bytes; the file is streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Walker:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is only unique as long as its object lives

    def _text(self, *words: str) -> None:
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            self.hash.update(len(data).to_bytes(8, "little"))
            self.hash.update(data)

    def add(self, value: Any, depth: int) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str):
            return self._text(type(value).__name__, repr(value))
        if isinstance(value, bytes | bytearray):
            self._text("bytes", str(len(value)))
            return self.hash.update(value)
        if isinstance(value, torch.dtype | torch.device | torch.Size | slice | type(Ellipsis)):
            return self._text(str(value))
        if isinstance(value, np.generic):
            return self._text(str(value.dtype), repr(value.item()))
        if id(value) in self._seen:
            return self._text("again", str(self._seen[id(value)]))
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        if depth > _DEPTH:
            return self._text("deep", type(value).__qualname__)
        return self._object(value, depth + 1)

    def _object(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._array(value, depth)
        elif isinstance(value, torch.jit.ScriptModule):
            self._script(value)
        elif isinstance(value, nn.Module):
            self._module(value, depth)
        elif isinstance(value, Mapping):
            self._text("map", str(len(value)))
            for key in sorted(value, key=repr):
                self.add(key, depth)
                self.add(value[key], depth)
        elif isinstance(value, set | frozenset):
            self._text("set", *sorted(map(repr, value)))
        elif isinstance(value, list | tuple):
            self._text("list", str(len(value)))
            for item in value:
                self.add(item, depth)
        elif isinstance(value, Path):
            self._text("path", str(value))
        elif isinstance(value, types.ModuleType | type):
            self._text("name", value.__name__, _source(value) if isinstance(value, type) else "")
        elif isinstance(value, types.MethodType):
            self._function(value.__func__, depth)
            self.add(value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        else:
            self._instance(value, depth)

    def _tensor(self, value: Tensor) -> None:
        self._text("tensor", str(value.dtype), str(tuple(value.shape)))
        if value.device.type != "meta":
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            if dense.is_quantized:
                dense = dense.dequantize()
            data = dense.cpu().contiguous().reshape(-1)
            if data.numel():
                self.hash.update(data.view(torch.uint8).numpy().data)

    def _array(self, value: np.ndarray[Any, Any], depth: int) -> None:
        self._text("array", str(value.dtype), str(value.shape))
        if value.dtype.hasobject:
            for item in value.reshape(-1).tolist():
                self.add(item, depth)
        else:
            self.hash.update(np.ascontiguousarray(value).tobytes())

    def _script(self, module: torch.jit.ScriptModule) -> None:
        self._text("script", str(module.training))
        for name, part in module.named_modules():
            self._text(name, str(getattr(part, "code", "")))
        for name, tensor in sorted(module.state_dict().items()):
            self._text(name)
            self._tensor(tensor)

    def _module(self, module: nn.Module, depth: int) -> None:
        self._text("module", str(module))
        for name, part in module.named_modules():
            self._text(name, type(part).__qualname__, _source(type(part)))
            if isinstance(part, torch.fx.GraphModule):
                self._text(part.code)
            # plain attributes decide answers too: a temperature, a flag, a list of numbers
            plain = {key: item for key, item in vars(part).items() if _is_plain(key, item)}
            self.add(plain, depth)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self._text(name)
            self._tensor(tensor)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        self._text("function", function.__qualname__, _source(function))
        if _is_library(function):
            return self._text(function.__module__)
        self.add(function.__defaults__, depth)
        self.add(function.__kwdefaults__, depth)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                held = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            self._text(name)
            self.add(held, depth)
        for name in function.__code__.co_names:
            if name in function.__globals__:
                self._text(name)
                self.add(function.__globals__[name], depth)
        return None

    def _instance(self, value: Any, depth: int) -> None:
        self._text("object", type(value).__module__, type(value).__qualname__, _source(type(value)))
        if isinstance(value, types.BuiltinFunctionType):
            return self._text(value.__name__)
        if isinstance(value, functools.partial):
            return self.add((value.func, value.args, value.keywords), depth)
        if isinstance(value, _CHANCE) or (_is_standard(type(value)) and not isinstance(value, types.SimpleNamespace)):
            return None  # loggers, locks, files: their state is of the process, not of the model
        state: Any = None
        if hasattr(value, "__dict__"):
            state = {key: item for key, item in vars(value).items() if key not in _VERSIONS}
        else:
            try:
                state = value.__getstate__()
            except Exception:  # a foreign object may refuse for any reason; its type is then all that we know
                state = None
        return self.add(state, depth)


def _is_plain(key: str, item: Any) -> bool:
    if key in {"training", "_is_full_backward_hook"} or (key.startswith("_") and isinstance(item, dict | set)):
        return False  # the mode is ours, and the tables of nn.Module are walked by name
    return isinstance(item, bool | int | float | str | tuple | list | np.ndarray | Tensor | types.FunctionType | None)


def _is_standard(thing: Any) -> bool:
    top = (getattr(thing, "__module__", None) or "").split(".")[0]
    return top in sys.stdlib_module_names and top != "__main__"


def _is_library(thing: Any) -> bool:
    """Part of an installed library, whose version is recorded elsewhere, and not the user's own code."""
    module = getattr(thing, "__module__", None) or ""
    if _is_standard(thing) or module.split(".")[0] in {"hauberk", "torch", "numpy"}:
        return True
    return "site-packages" in (getattr(sys.modules.get(module), "__file__", None) or "")


def _source(thing: Any) -> str:
    """The code of a class or function without comments; empty where it is part of a library or cannot be found."""
    if _is_library(thing):
        return ""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError, ValueError):
        code = getattr(thing, "__code__", None)
        return "" if code is None else f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
