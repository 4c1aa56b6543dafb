"""`hauberk train` says no before it trains: to options without effect, folders it would write over, teachers of other examples."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hauberk import train as training
from hauberk.cli.trained import MANIFEST

Run = Callable[..., Any]

PLAIN = ("--arch", "nets.py:other", "--data", "more.npz", "--batch-size", "8", "--epochs", "1")
THREAT = ("--threat", "linf:0.1")
NATURAL = ("--objective", "natural")


def refused(done: Any, words: str) -> None:
    assert done.exit_code == 2, (done.stdout, done.stderr)
    assert words in " ".join(done.stderr.split())
    assert len(done.stderr.strip().splitlines()) == 1


IN_VAIN = {
    "--every": ("--every", "2"),
    "--on-collapse": ("--on-collapse", "stop"),
    "--last": ("--last",),
    "--share": ("--share", "0.25"),
}


@pytest.mark.parametrize("option", IN_VAIN)
def test_an_option_that_would_have_no_effect_is_refused(hauberk: Run, tmp_path: Path, option: str) -> None:
    done = hauberk("train", *PLAIN, *THREAT, *IN_VAIN[option], "--out", str(tmp_path / "net"))
    refused(done, f"{option} {'is of what --unlabelled adds' if option == '--share' else 'needs held-out examples'}")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--hold-out", "3", "--every", "0"), "--every is a number of epochs >= 1, got 0"),
        (("--hold-out", "3", "--on-collapse", "pray"), "--on-collapse is one of warn, rollback, stop"),
        (("--teacher", "x", "--unlabelled", "more.npz", "--share", "1"), "between 0 and 1, got 1.0"),
    ],
)
def test_an_option_out_of_range_is_refused_before_any_data_is_read(
    hauberk: Run, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    options = [word if word != "more.npz" else "absent.npz" for word in PLAIN]
    refused(hauberk("train", *options, *THREAT, *more, "--out", str(tmp_path / "net")), words)


def test_a_regulariser_without_a_threat_is_refused_unless_it_names_its_own(hauberk: Run, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "net"))
    refused(hauberk("train", *PLAIN, *NATURAL, "--with", "grad_align", *out), "--with grad_align needs --threat")
    done = hauberk("train", *PLAIN, *NATURAL, "--with", "grad_align:weight=0.1,threat=linf:0.05", *out)
    assert done.exit_code == 0, done.stderr
    assert "linf:0.05" in json.loads((tmp_path / "net" / MANIFEST).read_text())["settings"]["objective"]
    opened = hauberk("evaluate", *(out[1], *PLAIN[2:4], *THREAT, "--suite", "quick", "--stages", "1", "--no-audit"))
    assert opened.exit_code == 0, opened.stderr


def test_nothing_is_written_over_a_training_whose_checkpoint_is_gone(hauberk: Run, tmp_path: Path) -> None:
    out = tmp_path / "net"
    command = ("train", *PLAIN, *NATURAL, "--out", str(out))
    assert hauberk(*command).exit_code == 0
    assert hauberk(*command).exit_code == 0  # finished, and with its checkpoint: it is only opened
    (out / "checkpoint.json").unlink()
    before = (out / "weights.safetensors").read_bytes()
    refused(hauberk(*command, "--seed", "1"), "already holds a training; give another --out or remove it")
    (out / MANIFEST).unlink()
    refused(hauberk(*command), "already holds a training")
    assert (out / "weights.safetensors").read_bytes() == before
    (out / "weights.safetensors").unlink()  # as one leaves it that was killed before its first checkpoint
    assert hauberk(*command).exit_code == 0


def test_a_resumption_that_is_refused_is_not_announced(hauberk: Run, tmp_path: Path) -> None:
    command = ("train", *PLAIN, *NATURAL, "--out", str(tmp_path / "net"))
    assert hauberk(*command).exit_code == 0
    assert "resuming after step 3" in hauberk(*command).stderr
    done = hauberk(*command, "--seed", "1")
    assert done.exit_code == 2
    assert "of another training" in done.stderr
    assert "resuming" not in done.stderr


def test_a_wrapped_distillation_is_taught_by_its_teacher(hauberk: Run, tmp_path: Path) -> None:
    teacher = str(tmp_path / "teacher")
    assert hauberk("train", *PLAIN, *NATURAL, "--out", teacher).exit_code == 0
    distilled = ("--objective", "distillation", "--with", "jacobian", "--teacher", teacher)
    for name, more in (("alone", ()), ("both", ("--unlabelled", "good.npz"))):
        done = hauberk("train", *PLAIN, *distilled, *more, "--out", str(tmp_path / name))
        assert done.exit_code == 0, done.stderr
        manifest = json.loads((tmp_path / name / MANIFEST).read_text())
        assert "Teacher(fingerprint=" in manifest["settings"]["objective"]
        assert "Jacobian" in manifest["settings"]["objective"]


def test_a_teacher_of_other_inputs_or_classes_is_refused(hauberk: Run, tmp_path: Path) -> None:
    wide, four = str(tmp_path / "wide"), str(tmp_path / "four")
    colours = ("--arch", "nets.py:conv", "--data", "colours.npz", "--epochs", "1")
    assert hauberk("train", *colours, *NATURAL, "--out", wide).exit_code == 0
    assert hauberk("train", "--arch", "nets.py:four", *PLAIN[2:], *NATURAL, "--out", four).exit_code == 0
    student = ("train", *PLAIN, "--out", str(tmp_path / "out"))
    words = "cannot be given examples of shape (1, 4, 4)"
    refused(hauberk(*student, "--objective", "distillation", "--teacher", wide), words)
    refused(hauberk(*student, *NATURAL, "--teacher", wide, "--unlabelled", "good.npz"), words)
    words = "to tell 3 classes apart as the net that learns from it does, got 4"
    refused(hauberk(*student, "--objective", "distillation", "--teacher", four), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["objective", "bounds", "schema"])
def test_a_manifest_without_what_it_should_say_is_refused_with_a_cure(
    hauberk: Run, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "net"
    assert hauberk("train", *PLAIN, *NATURAL, "--out", str(out)).exit_code == 0
    manifest = json.loads((out / MANIFEST).read_text())
    if change == "schema":
        manifest["schema"] = "hauberk.training/99"
    elif change == "bounds":
        del manifest["bounds"]
    else:
        del manifest["objective"]["threat"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    cure = "train anew in another folder" if change == "schema" else "give the same hauberk train command again"
    refused(hauberk("evaluate", str(out), *PLAIN[2:4], *THREAT), cure)


def test_the_manifest_tells_the_data_learnt_from_and_who_taught(hauberk: Run, tmp_path: Path) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    assert hauberk("train", *PLAIN, *NATURAL, "--out", str(teacher)).exit_code == 0
    assert json.loads((teacher / MANIFEST).read_text())["teacher"] is None
    more = ("--teacher", str(teacher), "--unlabelled", "good.npz", "--share", "0.25", "--hold-out", "4")
    done = hauberk("train", *PLAIN, *THREAT, "--inner", "pgd:steps=1", *more, "--out", str(out))
    assert done.exit_code == 0, done.stderr
    first, taught = (json.loads((folder / MANIFEST).read_text()) for folder in (teacher, out))
    assert taught["data"]["n"] == 20
    assert taught["held_out"]["n"] == 4
    assert taught["data"]["source"] == first["data"]["source"]
    assert taught["data"]["fingerprint"] != first["data"]["fingerprint"]  # of the rows that were learnt from
    assert taught["unlabelled"] | {"fingerprint": "", "name": ""} == {
        "fingerprint": "",
        "name": "",
        "n": 12,
        "share": 0.25,
    }
    assert len(taught["unlabelled"]["fingerprint"]) == 64
    assert taught["teacher"] == {"folder": str(teacher), "fingerprint": first["weights"]["fingerprint"]}


def test_what_was_started_from_is_known_before_the_training(
    hauberk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hauberk("train", *PLAIN, *NATURAL, "--out", str(tmp_path / "first")).exit_code == 0
    start = tmp_path / "start.safetensors"
    shutil.copy(tmp_path / "first" / "weights.safetensors", start)
    fit = training.fit

    def fit_and_lose(*args: Any, **more: Any) -> Any:
        fitted = fit(*args, **more)
        start.unlink()
        return fitted

    monkeypatch.setattr(training, "fit", fit_and_lose)
    done = hauberk("train", *PLAIN, *NATURAL, "--weights", str(start), "--out", str(tmp_path / "second"))
    assert done.exit_code == 0, done.stderr
    first, second = (json.loads((tmp_path / name / MANIFEST).read_text()) for name in ("first", "second"))
    assert second["started_from"]["sha256"] == first["weights"]["sha256"]


def test_a_tilde_is_the_home_folder(hauberk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert hauberk("train", *PLAIN, *NATURAL, "--out=~/first").exit_code == 0
    done = hauberk("train", *PLAIN, *NATURAL, "--weights=~/first/weights.safetensors", "--out=~/second")
    assert done.exit_code == 0, done.stderr
    assert not Path("~").exists()
    kept = [load_file(tmp_path / name / "weights.safetensors") for name in ("first", "second")]
    assert any(not torch.equal(value, kept[1][name]) for name, value in kept[0].items())


def test_the_device_of_a_training_is_documented_as_it_is(hauberk: Run) -> None:
    said = " ".join(hauberk("train", "--help").stdout.replace("│", " ").split())
    assert "if not given cpu, and under torchrun cuda" in said
