"""The habits that keep the public face flat and honest, checked on every module of the package."""

import ast
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hauberk
from hauberk import errors

PACKAGE = Path(hauberk.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400
OPTIONAL = {
    "jinja2",
    "matplotlib",
    "mlxtend",
    "onnx",
    "onnxruntime",
    "skimage",
    "sklearn",
    "skops",
    "transformers",
    "typer",
}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def each_file() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", FILES, ids=module_name)


@each_file()
def test_a_file_opens_with_a_docstring_and_names_its_public_face(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{file} does not open with a docstring"
    assigned = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in assigned, f"{file} has no __all__"
    before = assigned[: assigned.index("__all__")]
    assert not before, f"{file}: __all__ comes after {before}"


@each_file()
def test_a_file_holds_one_idea(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{file} has {lines} lines; past {LONGEST} it usually holds two ideas"


@each_file()
def test_every_public_name_exists_and_is_documented(file: Path) -> None:
    module = importlib.import_module(module_name(file))
    names: list[str] = module.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert name == "__version__" or not name.startswith("_"), f"{module.__name__}.{name} is private by its name"
        value = getattr(module, name)
        own = getattr(value, "__module__", None) == module.__name__
        if own and (inspect.isclass(value) or inspect.isfunction(value)):
            assert value.__doc__, f"{module.__name__}.{name} has no docstring"


def _seeding_calls(node: ast.AST, inside_fork: bool = False) -> Iterator[str]:
    """Calls that touch a global generator, unless a `fork_rng` block puts it back."""
    if isinstance(node, ast.With):
        inside_fork |= any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
    if isinstance(node, ast.Call) and not inside_fork:
        name = ast.unparse(node.func)
        if re.fullmatch(
            r"(torch|random|np\.random|numpy\.random|torch\.cuda|torch\.random)\.(manual_seed|seed|manual_seed_all)",
            name,
        ):
            yield f"{name} at line {node.lineno}"
    for child in ast.iter_child_nodes(node):
        yield from _seeding_calls(child, inside_fork)


@each_file()
def test_no_file_sets_a_global_seed(file: Path) -> None:
    calls = list(_seeding_calls(ast.parse(file.read_text(encoding="utf-8"))))
    assert not calls, f"{file}: {calls}"


def test_the_facade_has_what_the_tutorial_uses() -> None:
    assert {"ThreatModel", "__version__", "attacks", "evaluate", "wrap"} <= set(hauberk.__all__)


def test_the_version_is_the_one_that_was_installed() -> None:
    assert getattr(hauberk, "__version__", None) == importlib.metadata.version("hauberk")


def test_the_tree_in_the_errors_module_is_the_tree_of_the_classes() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    root = -1
    for line in errors.__doc__.splitlines():
        match = re.match(r"[\s│├└─]*([A-Z]\w*Error)\b(?: \((\w+)\))?", line)
        if match is None:
            continue
        root = match.start(1) if root < 0 else root
        depth = (match.start(1) - root) // 4
        path[depth:] = [match.group(1)]
        drawn[match.group(1)] = (path[depth - 1] if depth else None, match.group(2))
    written: dict[str, tuple[str | None, str | None]] = {}
    for name in errors.__all__:
        value = getattr(errors, name)
        if inspect.isclass(value):
            ours = [base.__name__ for base in value.__bases__ if issubclass(base, errors.HauberkError)]
            builtin = [base.__name__ for base in value.__bases__ if not issubclass(base, errors.HauberkError)]
            written[name] = (ours[0], builtin[0] if builtin else None) if ours else (None, None)
    assert drawn == written


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error") and name != "HauberkError"])
def test_every_error_is_also_a_builtin(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.HauberkError)
    assert issubclass(error, ValueError | TypeError | RuntimeError | LookupError | ImportError | AssertionError)


def test_importing_the_facade_loads_nothing_optional_and_leaves_torch_as_it_was() -> None:
    code = """
import json, sys, torch
before = (torch.initial_seed(), torch.get_num_threads(), str(torch.get_default_dtype()))
import hauberk
after = (torch.initial_seed(), torch.get_num_threads(), str(torch.get_default_dtype()))
print(json.dumps({"loaded": sorted({name.split(".")[0] for name in sys.modules}), "same": before == after}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert not OPTIONAL & set(seen["loaded"])
    assert seen["same"]
