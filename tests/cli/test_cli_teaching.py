"""`hauberk train` with a teacher, and with an auxiliary path."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

Run = Callable[..., Any]

SMALL = ("--arch", "nets.py:other", "--data", "more.npz", "--batch-size", "8", "--epochs", "1")
THREAT = ("--threat", "linf:0.1", "--inner", "pgd:steps=1")


def test_a_student_and_a_robust_learner_are_taught_by_a_finished_training(hauberk: Run, tmp_path: Path) -> None:
    teacher, student, robust = (str(tmp_path / name) for name in ("teacher", "student", "robust"))
    assert hauberk("train", *SMALL, "--objective", "distillation:temperature=5", "--out", teacher).exit_code == 0
    done = hauberk("train", *SMALL, "--objective", "distillation:temperature=5", "--teacher", teacher, "--out", student)
    assert done.exit_code == 0, done.stderr
    settings = json.loads((tmp_path / "student" / "training.json").read_text())["settings"]
    assert "Teacher(fingerprint=" in settings["objective"]
    opened = hauberk(
        "evaluate", student, "--data", "more.npz", *THREAT[:2], "--suite", "quick", "--stages", "1", "--no-audit"
    )
    assert opened.exit_code == 0, opened.stderr
    more = ("--teacher", teacher, "--unlabelled", "more.npz", "--share", "0.75", "--n", "6")
    done = hauberk("train", *SMALL, *THREAT, *more, "--objective", "trades", "--out", robust)
    assert done.exit_code == 0, done.stderr
    step = json.loads((tmp_path / "robust" / "metrics.jsonl").read_text().splitlines()[0])["step"]
    assert step == 3  # 6 labelled examples, 2 in each batch of 8


def test_the_auxiliary_path_is_counted_aloud_and_not_written(hauberk: Run, tmp_path: Path) -> None:
    file = tmp_path / "normed.py"
    file.write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))\n"
    )
    command = ("train", "--arch", f"{file}:net", *SMALL[2:], *THREAT, "--objective", "adv_prop")
    done = hauberk(*command, "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert "10 parameters of an auxiliary path" in done.stderr
    assert not [name for name in load_file(tmp_path / "out" / "weights.safetensors") if "auxiliary" in name]
    plain = hauberk("train", *SMALL, *THREAT, "--objective", "adv_prop", "--out", str(tmp_path / "plain"))
    assert plain.exit_code == 2
    assert "without any batch norm" in plain.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--unlabelled", "more.npz"), "give --teacher"),
        (("--teacher", "nowhere"), "finished hauberk train"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(hauberk: Run, tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    done = hauberk("train", *SMALL, *THREAT, *more, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
