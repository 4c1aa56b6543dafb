"""`hauberk transfer`: the printed matrix, its JSON, the saved points, and one sentence for each mistake."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hauberk import zoo
from hauberk.attacks import Transfer
from hauberk.evaluate.transfer import transfer_matrix

Run = Callable[..., Any]
FAST = ("--set", "steps=3", "--set", "inputs=di")
PAIR = (
    "transfer",
    "zoo:digits-mlp",
    "zoo:digits-trades",
    "--data",
    "digits",
    "--n",
    "40",
    "--threat",
    "linf:0.15",
    *FAST,
)


def test_the_matrix_is_printed_and_its_json_is_that_of_python(hauberk: Run, tmp_path: Path) -> None:
    from hauberk.data import load

    file = tmp_path / "matrix.json"
    done = hauberk(*PAIR, "--json", str(file), "--seed", "2", "--batch-size", "16")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "crafted on" in said
    assert "on digits-trades" in said
    assert "of 40 examples are right on every model and were attacked by transfer" in said
    result = json.loads(file.read_text())
    chunk = next(iter(load("digits", n=40).chunks(40)))
    models = [zoo.load("digits-mlp"), zoo.load("digits-trades")]
    wanted = transfer_matrix(models, chunk.x, chunk.y, "linf:0.15", attack=Transfer(steps=3, inputs=("di",)), seed=2)
    assert result["data"]["name"] == "digits"
    del result["data"]
    assert result == json.loads(json.dumps(wanted.to_json()))
    assert f"{100 * float(wanted.success[0, 1]):.1f}" in said


def test_json_to_standard_output_is_all_that_is_there(hauberk: Run) -> None:
    done = hauberk(*PAIR, "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["schema"] == "hauberk.transfer/1"


def test_the_points_are_saved_for_each_source(hauberk: Run, tmp_path: Path) -> None:
    file = tmp_path / "found.safetensors"
    done = hauberk(*PAIR, "--out", str(file), "--json", str(tmp_path / "matrix.json"), "--batch-size", "9")
    assert done.exit_code == 0, done.output
    found, result = load_file(file), json.loads((tmp_path / "matrix.json").read_text())
    assert found["broken"].shape == (40, 2, 2)
    assert int(found["kept"].sum()) == result["kept"]
    rows = torch.arange(40)
    for row, name in enumerate(("digits-mlp", "digits-trades")):
        points = found[f"adversarials.{row}"]
        assert float((points - found["originals"]).abs().max()) <= 0.15 + 1e-6
        fooled = (zoo.load(name).labels(points, rows) != found["label"]) & found["kept"]
        assert torch.equal(fooled, found["broken"][:, row, row])
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    assert json.loads(facts["sources"]) == ["digits-mlp", "digits-trades"]
    assert json.loads(facts["settings"])["inputs"] == ["di"]


def test_another_attack_crafts_and_is_told_that_it_stops_early(hauberk: Run) -> None:
    done = hauberk(*PAIR[:-4], "--attack", "pgd", "--set", "steps=2")
    assert done.exit_code == 0, done.output
    assert "early_stop=false" in done.stderr
    quiet = hauberk(*PAIR[:-4], "--attack", "pgd", "--set", "steps=2", "--set", "early_stop=false", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_options_of_a_model_go_to_those_that_do_not_bring_their_own(hauberk: Run) -> None:
    plain = ("transfer", "py:nets.py:tiny", "py:nets.py:tiny", "--data", "good.npz", "--threat", "linf:0.1", *FAST)
    done = hauberk(*plain, "--mean", "0.5", "--std", "2", "--json", "-")
    assert done.exit_code == 0, done.output
    assert [model["name"] for model in json.loads(done.stdout)["models"]] == ["tiny (1)", "tiny (2)"]
    mixed = hauberk(*PAIR, "--mean", "0.5")  # the zoo's nets bring theirs
    assert mixed.exit_code == 0, mixed.output


BAD = {
    "one model": ("zoo:digits-mlp --data digits --threat linf:0.1", "give two or more models"),
    "no model": ("--data digits --threat linf:0.1", "missing argument"),
    "unknown net": ("zoo:digits-mlp zoo:nothing --data digits --threat linf:0.1", "unknown zoo model 'nothing'"),
    "pictures of another size": (
        "zoo:digits-mlp zoo:mnist-natural --data digits --threat linf:0.1",
        "failed on a batch",
    ),
    "unknown attack": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --attack pgdd",
        "did you mean pgd",
    ),
    "unknown setting": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --set step=3",
        "unknown setting of transfer",
    ),
    "unknown transform": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --set inputs=dii",
        "unknown input transform 'dii'",
    ),
    "no pool": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --set inputs=admix",
        "admix mixes with the pictures of a pool",
    ),
    "a pool that is not there": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --set inputs=admix:pool=no.npz",
        "there is no file or folder no.npz",
    ),
    "two radii": ("zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1,0.2", "one radius"),
    "a norm it does not know": ("zoo:digits-mlp zoo:digits-mart --data digits --threat l0:3", "transfer works in"),
    "a chart": ("zoo:digits-mlp zoo:digits-mart --data digits --threat spatial:rotation=30", "balls of a norm"),
    "labels only": ("zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1@labels", "needs gradients"),
    "a batch of none": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --batch-size 0",
        "--batch-size 0",
    ),
    "too many examples": ("zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --n 9999", "holds 1797"),
    "a folder that is not there": (
        "zoo:digits-mlp zoo:digits-mart --data digits --threat linf:0.1 --out no/found.safetensors",
        "folder that does not exist",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_one_sentence(hauberk: Run, what: str) -> None:
    command, words = BAD[what]
    done = hauberk("transfer", *shlex.split(command), "--quiet")
    assert done.exit_code == 2, done.output
    assert words in done.stderr.lower() or words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.output
