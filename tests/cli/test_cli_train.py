"""`hauberk train`: a command that can be killed, opened by `hauberk evaluate`, and refuses what it cannot do in one sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., Any]

SMALL = ("--arch", "nets.py:other", "--data", "more.npz", "--threat", "linf:0.1", "--batch-size", "8", "--epochs", "2")
INNER = ("--inner", "pgd:steps=2")


def test_a_training_writes_weights_a_manifest_and_what_evaluate_opens(hauberk: Run, tmp_path: Path) -> None:
    out = tmp_path / "net"
    done = hauberk(
        "train",
        *SMALL,
        *INNER,
        "--objective",
        "trades:beta=3",
        "--with",
        "awp:gamma=0.01",
        "--hold-out",
        "6",
        "--out",
        str(out),
    )
    assert done.exit_code == 0, done.stderr
    assert f"hauberk evaluate {out}" in done.stdout.replace("\n", "")
    manifest = json.loads((out / "training.json").read_text())
    assert manifest["objective"] == {
        "objective": "trades:beta=3",
        "threat": "linf:0.1",
        "inner": "pgd:steps=2",
        "with": ["awp:gamma=0.01"],
    }
    assert "Trades(" in manifest["settings"]["objective"]
    assert manifest["classes"] == 3
    assert manifest["data"]["n"] == 18
    assert manifest["held_out"]["n"] == 6
    assert manifest["environment"]["packages"]["torch"] == torch.__version__
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    found = hauberk("evaluate", str(out), *SMALL[2:6], "--suite", "quick", "--stages", "1", "--no-audit", "--json", "-")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["model"]["name"] == "net"
    refused = hauberk("evaluate", str(out), *SMALL[2:6], "--arch", "nets.py:other")
    assert refused.exit_code == 2
    assert "leave out --arch" in refused.stderr


def test_the_same_command_again_only_opens_what_is_done(hauberk: Run, tmp_path: Path) -> None:
    command = ("train", *SMALL, *INNER, "--out", str(tmp_path / "net"))
    assert hauberk(*command).exit_code == 0
    before = load_file(tmp_path / "net" / "weights.safetensors")
    again = hauberk(*command)
    assert again.exit_code == 0
    assert "resuming after step 6" in again.stderr
    assert all(
        torch.equal(value, before[name]) for name, value in load_file(tmp_path / "net" / "weights.safetensors").items()
    )
    other = hauberk(*command, "--seed", "1")
    assert other.exit_code == 2
    assert "of another training" in other.stderr


def test_a_command_killed_in_an_epoch_ends_in_the_same_weights(bench: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    base = [
        sys.executable,
        "-m",
        "hauberk",
        "train",
        "--arch",
        "zoo:digits_mlp",
        "--data",
        "digits",
        "--threat",
        "linf:0.1",
    ]
    base += [
        "--n",
        "256",
        "--epochs",
        "40",
        "--batch-size",
        "16",
        "--threads",
        "1",
        "--checkpoint-every",
        "3",
        *INNER,
        "--out",
    ]

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*base, str(out)], env=environment, cwd=bench, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(whole)
    process.communicate(timeout=300)
    assert process.returncode == 0
    process = start(broken)
    deadline = time.monotonic() + 120
    while not (broken / "checkpoint.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (broken / "weights.safetensors").exists()
    process = start(broken)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0
    assert b"resuming after step" in said
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (whole, broken))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


BAD = {
    "an unknown objective": (("--objective", "tradess"), "did you mean trades?"),
    "an unknown setting of an objective": (("--objective", "trades:bta=1"), "did you mean beta?"),
    "an unknown inner maximiser": (("--inner", "pdg"), "did you mean pgd?"),
    "an inner maximiser that nothing uses": (
        ("--objective", "natural", "--inner", "pgd"),
        "leave out the inner maximiser",
    ),
    "a wrapper as the objective": (("--objective", "awp"), "--with awp"),
    "an unknown regulariser": (("--with", "grad_alin"), "did you mean grad_align?"),
    "an unknown architecture of the zoo": (("--arch", "zoo:mnist_cn"), "did you mean mnist_cnn"),
    "an architecture that is not there": (("--arch", "nets.py:absent"), "has no 'absent'"),
    "an architecture that fails": (("--arch", "nets.py:failing"), "no weights here"),
    "an architecture that is no net": (("--arch", "nets.py:only_scores"), "building"),
    "an architecture for other inputs": (("--arch", "nets.py:wide"), "cannot be given examples of shape (1, 4, 4)"),
    "an architecture that answers no scores": (("--arch", "nets.py:table"), "expected scores of shape"),
    "labels beyond the classes": (("--data", "toobig.npz"), "3 classes apart, got a label 7"),
    "data that is not there": (("--data", "absent.npz"), "there is no file"),
    "a threat that cannot be read": (("--threat", "linf:x"), "a radius is a number"),
    "a threat of several radii": (("--threat", "linf:0.1,0.2"), "one radius"),
    "no epochs": (("--epochs", "0"), "epochs >= 1"),
    "an unknown precision": (("--precision", "int8"), "unknown precision"),
    "an unknown optimiser": (("--optimiser", "adm"), "did you mean adam?"),
    "a rate that is none": (("--rate", "constant:peak=0"), "> 0"),
    "an unknown device": (("--device", "toaster"), "cannot train on --device toaster"),
    "a device that holds no numbers": (("--device", "meta"), "give cpu, cuda"),
    "two ways to hold out": (("--validate", "good.npz", "--hold-out", "3"), "give one of them"),
    "more held out than there is": (("--hold-out", "24"), "from 1 to 23"),
    "an unknown end of a collapse": (("--hold-out", "3", "--on-collapse", "pray"), "warn, rollback, stop"),
    "an unknown logger": (("--log", "papyrus"), "unknown logger"),
    "weights of another net": (("--weights", "tiny.safetensors"), "do not fit"),
    "a file as the folder": (("--out", "good.npz"), "names a folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_training_that_cannot_be_is_refused_in_one_sentence(hauberk: Run, tmp_path: Path, name: str) -> None:
    changes, words = BAD[name]
    options = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {"--out": str(tmp_path / "net")}
    options |= dict(zip(changes[::2], changes[1::2], strict=True))
    done = hauberk("train", *(word for pair in options.items() for word in pair))
    assert done.exit_code == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
    assert not (tmp_path / "net" / "training.json").exists()


def test_an_adversarial_objective_without_a_threat_is_refused(hauberk: Run, tmp_path: Path) -> None:
    options = [word for word in SMALL if word not in ("--threat", "linf:0.1")]
    done = hauberk("train", *options, "--out", str(tmp_path / "net"))
    assert done.exit_code == 2
    assert "needs --threat" in done.stderr


@pytest.mark.parametrize("change", ["weights", "manifest", "architecture"])
def test_a_damaged_folder_is_not_evaluated(hauberk: Run, tmp_path: Path, change: str) -> None:
    out = tmp_path / "net"
    assert hauberk("train", *SMALL, "--objective", "natural", "--out", str(out)).exit_code == 0
    manifest = out / "training.json"
    if change == "weights":
        (out / "weights.safetensors").write_bytes(b"")
    elif change == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace(":other", ":wide"))
    done = hauberk("evaluate", str(out), *SMALL[2:6])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_net_of_the_zoo_is_trained_by_its_name(hauberk: Run, tmp_path: Path) -> None:
    refused = hauberk("zoo", "train", "digits-mpl", "--out", str(tmp_path))
    assert refused.exit_code == 2
    assert "did you mean digits-mlp" in refused.stderr
    missing = hauberk("zoo", "train", "mnist-natural", "--data-root", str(tmp_path), "--out", str(tmp_path))
    assert missing.exit_code == 2
    assert "--data-root" in missing.stderr


def test_the_list_of_objectives_says_how_each_stands_as_a_defense(hauberk: Run) -> None:
    done = hauberk("list", "objectives")
    assert done.exit_code == 0
    assert "trades" in done.stdout
    assert "broken" in done.stdout
