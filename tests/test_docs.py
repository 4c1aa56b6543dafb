"""The pages tell the truth: their Python runs, their links lead somewhere, their commands name options that exist."""

import doctest
import functools
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from hauberk.evidence.table import ROWS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]
RUN = [
    "README.md",
    "docs/tutorial.md",
    "docs/threats.md",
    "docs/wrappers.md",
    "docs/transfer.md",
    "docs/label_only.md",
    "docs/http.md",
    "docs/defenses.md",
    "docs/certify.md",
    "docs/verify.md",
    "docs/certified_training.md",
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[tuple[str, str, int]]:
    """Language, text and first line of each fenced block."""
    text = page.read_text(encoding="utf-8")
    return [
        (match[1], match[2], text.count("\n", 0, match.start()) + 2)
        for match in BLOCK.finditer(text)
        if match[1] in languages
    ]


@pytest.mark.parametrize("page", RUN)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    report: list[str] = []
    for language, text, line in blocks(ROOT / page, "python", "pycon"):
        if language == "python":
            exec(compile("\n" * (line - 1) + text, page, "exec"), namespace)
            continue
        test = parser.get_doctest(text, namespace, page, page, line - 1)
        runner.run(test, out=report.append, clear_globs=False)
        namespace.update(test.globs)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path = target.split("#")[0]
        assert not path or (page.parent / path).exists(), f"{name(page)} links to {target}, which is not there"


@functools.cache
def help_of(command: str) -> str:
    quiet = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    run = [sys.executable, "-c", "from hauberk.cli import main; main()", command, "--help"]
    done = subprocess.run(run, capture_output=True, text=True, env=quiet, check=False)
    assert done.returncode == 0, f"`hauberk {command} --help` failed: {done.stderr}"
    return done.stdout


def commands(page: Path) -> list[str]:
    lines = [line for _, text, _ in blocks(page, "console") for line in text.replace("\\\n", " ").splitlines()]
    fenced = [line.removeprefix("$ ") for line in lines if line.startswith("$ hauberk ")]
    prose = re.findall(r"`(hauberk [^`]+)`", page.read_text(encoding="utf-8"))
    return fenced + prose


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_on_a_page_use_options_that_exist(page: Path) -> None:
    for line in commands(page):
        words = line.split("#")[0].split()
        text = help_of(words[1])
        for word in words[2:]:
            option = word.split("=")[0]
            if option.startswith("-"):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{name(page)}: {line} has {option}"


def test_the_json_contract_names_every_field_and_every_column() -> None:
    text = (ROOT / "docs/json_contract.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text))
    schema = json.loads(
        resources.files("hauberk.evaluate").joinpath("evaluation.schema.json").read_text(encoding="utf-8")
    )

    def fields(part: dict[str, Any]) -> set[str]:
        inner = [*part.get("properties", {}).values(), *([part["items"]] if "items" in part else [])]
        inner += part.get("oneOf", [])
        return set(part.get("properties", {})).union(*(fields(value) for value in inner))

    proportion = set(schema["$defs"]["proportion"]["properties"])
    missing = (fields(schema) | set(ROWS.names)) - proportion - named
    assert not missing
    assert all(f'"{name}": ' in text for name in proportion)


def test_every_target_of_the_makefile_is_explained_by_its_help() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert declared is not None
    explained = set(re.findall(r'@echo "make ([\w-]+) ', text))
    assert explained == set(declared[1].split()) - {"help"}


def test_changelog_fragments_have_a_kind_and_something_to_say() -> None:
    for fragment in (ROOT / "changelog.d").iterdir():
        if fragment.name != "README.md":
            assert re.fullmatch(r"(\+[\w-]+|\d+)\.(added|changed|fixed|faster|removed)\.md", fragment.name), (
                fragment.name
            )
            assert fragment.read_text(encoding="utf-8").strip()
