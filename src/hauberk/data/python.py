"""`py:module:object`: an object of the user's own code, found by importing a module or running a file."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hauberk.errors import DataError

__all__ = ["find_object"]


def find_object(spec: str) -> Any:
    """The object that `py:module:object` or `py:path/to/file.py:object` names; modules in the working directory are found.

    Raises:
        DataError: no such module or object, or importing it fails.
    """
    place, colon, attribute = spec.removeprefix("py:").rpartition(":")
    if not (colon and place and attribute):
        raise DataError(f"expected py:module:object or py:file.py:object, got {spec!r}")
    try:
        found: Any = _run_file(Path(place)) if place.endswith(".py") else _import(place)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        text = str(error).strip().splitlines()
        cause = f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__
        raise DataError(f"importing {place!r} for {spec!r} failed with {cause}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")][:12]
            raise DataError(f"{place!r} has no {attribute!r}; it has {', '.join(public) or 'nothing public'}")
        found = getattr(found, part)
    return found


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` has it; an installed command does not
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise DataError(f"there is no file {path}; give the path of a Python file, or an importable module name")
    resolved = path.resolve()
    name = f"_hauberk_data_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} cannot be imported as Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
