"""Provenance is told where it is known and left out where it is not."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from hauberk.evidence import git_state, package_versions, provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "a.txt").write_text("1")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_a_clean_checkout_is_clean_even_beside_new_files(checkout: Path) -> None:
    (checkout / "run").mkdir()
    (checkout / "run" / "rows.parquet").write_text("x")
    state = git_state(checkout)
    assert state is not None
    assert len(state["revision"]) == 40
    assert state["dirty"] is False


def test_a_changed_file_makes_it_dirty(checkout: Path) -> None:
    (checkout / "a.txt").write_text("2")
    assert (git_state(checkout) or {})["dirty"] is True


def test_outside_a_checkout_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


def test_provenance_is_json_with_the_versions_that_matter() -> None:
    found = json.loads(json.dumps(provenance()))
    assert set(found) == {"python", "platform", "packages", "git"}
    assert found["packages"]["torch"] == torch.__version__
    assert package_versions() == found["packages"]
