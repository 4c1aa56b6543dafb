"""A user's mistakes: each ends with exit code 2 and one sentence that says what is wrong, and never with a traceback."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

GOOD = {"model": "py:nets.py:tiny", "--data": "good.npz", "--threat": "linf:0.1", "--suite": "quick", "--stages": "1"}


def evaluation(more: str = "", **changed: str) -> str:
    """A good command with some parts changed, and options added."""
    parts = GOOD | {f"--{name}" if name != "model" else name: value for name, value in changed.items()}
    options = [f"{name} {shlex.quote(value)}" for name, value in parts.items() if name != "model"]
    return f"evaluate {parts['model']} {' '.join(options)} --no-audit {more}"


def data(name: str, more: str = "") -> str:
    return evaluation(more, data=name)


def model(name: str, more: str = "") -> str:
    return evaluation(more, model=name)


def threat(text: str) -> str:
    return evaluation(threat=text)


def attack(text: str, threat: str = "linf:0.1", model: str = "py:nets.py:tiny") -> str:
    name, _, more = text.partition(" ")
    return f"attack {name} {model} --data good.npz --threat {threat} {more}"


BAD = {
    # the values of the data
    "8-bit values as floats": (
        data("floats255.npz"),
        "this looks like 8-bit data; divide by 255, or wrap the model with --bounds 0 255",
    ),
    "normalised data": (data("normalised.npz"), "normalised already"),
    "normalised data and a normalising model": (
        data("normalised.npz", "--mean 0.5 --std 0.2"),
        "normalises inside already",
    ),
    "values far out of range": (data("huge.npz"), "expected values in [0, 1]"),
    "values just out of range": (data("rounded.npz"), "clip the examples"),
    "scaled data under bounds of 255": (data("good.npz", "--bounds 0 255"), "divided by 255 already"),
    "NaN": (data("nan.npz"), "NaN in example 5"),
    "infinity": (data("inf.npz"), "an infinite value in example 5"),
    "complex numbers": (data("complex.npz"), "must be uint8 or float numbers"),
    # the labels
    "labels with fractions": (data("fractions.npz"), "whole numbers"),
    "negative labels": (data("negative.npz"), "-1 often marks examples without a label"),
    "labels beyond the classes": (data("toobig.npz"), "expected labels 0 .. 2 for the 3 classes"),
    "labels that are NaN": (data("nanlabels.npz"), "got nan at example 1"),
    "labels that are words": (data("words.npz"), "number the classes from 0"),
    "labels that are no one-hot rows": (data("square.npz"), "expected one-hot labels"),
    "fewer labels than images": (data("short.npz"), "give one label per image"),
    # the files of the data
    "an npz without labels": (data("nolabels.npz"), "holds no labels"),
    "an npz without images": (data("noimages.npz"), "holds no images"),
    "an npz of unknown keys": (data("strange.npz"), "got alpha, beta"),
    "a truncated npz": (data("truncated.npz"), "truncated"),
    "an npz that ends early": (data("lying.npz"), "truncated"),
    "no npz at all": (data("text.npz"), "cannot be read as an npz archive"),
    "no example": (data("empty.npz"), "give at least one example"),
    "images that are objects": (data("objects.npz"), "unpickling can run any code"),
    "labels that are objects": (data("objectlabels.npz"), "unpickling can run any code"),
    "images that are single numbers": (data("flat.npz"), "expected images of shape (n, ...)"),
    "a data file that is not there": (data("absent.npz"), "there is no file or folder absent.npz"),
    "an unknown data set": (data("digit"), "did you mean digits?"),
    "data of an unknown kind": (data("numbers.csv"), "expected an .npz file"),
    "no parquet at all": (data("text.parquet"), "text.parquet"),
    "a folder without pictures": (data("emptyfolder"), "emptyfolder"),
    "a damaged picture": (data("damaged"), "cannot be decoded"),
    "data of a module that is not there": (data("py:no_such_module_here:data"), "no_such_module_here"),
    "data that is not in its file": (data("py:nets.py:nothing"), "has no 'nothing'"),
    "data of three things": (data("py:nets.py:triple"), "expected a pair (x, y)"),
    "data that is a number": (data("py:nets.py:number"), "got int"),
    "data whose function fails": (data("py:nets.py:bad_data"), "ValueError: no such disk"),
    # the model
    "a model file that is not there": (model("absent.pt2"), "does not exist"),
    "an unknown net of the zoo": (model("zoo:digit-mlp"), "did you mean digits-mlp"),
    "a net of the zoo without its prefix": (model("digits-mlp"), "spelled zoo:digits-mlp"),
    "a net of the zoo with another preprocessing": (model("zoo:digits-mlp", "--mean 0.5"), "leave out --mean"),
    "a net of the zoo for other pictures": (model("zoo:digits-mlp"), "failed on a batch of shape"),
    "a model of an unknown kind": (model("text.xyz"), "by its ending '.xyz'"),
    "a folder as the model": (model("emptyfolder"), "is a folder"),
    "weights without an architecture": (model("tiny.safetensors"), "--arch"),
    "an architecture in no file": (model("tiny.safetensors", "--arch nowhere.py:tiny"), "there is no file"),
    "an architecture that is not in its file": (model("tiny.safetensors", "--arch nets.py:tyni"), "has no 'tyni'"),
    "an architecture that cannot be imported": (
        model("tiny.safetensors", "--arch broken.py:net"),
        "there_is_no_such_module",
    ),
    "an architecture with a syntax error": (model("tiny.safetensors", "--arch syntax.py:net"), "SyntaxError"),
    "an architecture that needs arguments": (
        model("tiny.safetensors", "--arch nets.py:needs"),
        "without arguments failed",
    ),
    "an architecture that is no module": (model("tiny.safetensors", "--arch nets.py:only_labels"), "only_labels"),
    "an architecture without a colon": (model("tiny.safetensors", "--arch nets.py"), "module:name"),
    "an architecture of other names": (model("tiny.safetensors", "--arch nets.py:other"), "do not fit"),
    "an architecture of other shapes": (
        model("tiny.safetensors", "--arch nets.py:four"),
        "has shape (3,), the architecture has (4,)",
    ),
    "an architecture for a whole model": (model("py:nets.py:tiny", "--arch nets.py:tiny"), "leave arch out"),
    "truncated safetensors": (model("cut.safetensors", "--arch nets.py:tiny"), "copy it again"),
    "an empty model file": (model("nothing.safetensors", "--arch nets.py:tiny"), "is empty"),
    "a pickle that is not trusted": (model("weights.pt", "--arch nets.py:tiny"), "--trust-pickle"),
    "an estimator that is not trusted": (model("sklearn:estimator.pkl"), "--trust-pickle"),
    "an estimator that is none": (model("sklearn:estimator.pkl", "--trust-pickle"), "cannot wrap dict"),
    "no ONNX at all": (model("text.onnx"), "text"),
    "no exported program at all": (model("text.pt2"), "no zip archive"),
    "no skops at all": (model("text.skops"), "text.skops"),
    "a model whose code fails": (model("py:nets.py:failing"), "no weights here"),
    "a model whose code leaves": (model("py:leaves.py:net"), "SystemExit: 3"),
    "a model whose function leaves": (model("py:nets.py:leaving"), "SystemExit: 0"),
    "a model that is weights": (model("py:nets.py:state"), "load its weights into the architecture"),
    "a model that is a number": (model("py:nets.py:number"), "cannot wrap int"),
    "a model that answers NaN": (model("py:nets.py:nan"), "expected finite scores"),
    "a model that answers a table": (model("py:nets.py:table"), "name the one with the scores"),
    "a part of the answer that is not there": (model("py:nets.py:table", "--output logits"), "scores"),
    "a model that answers three axes": (model("py:nets.py:solid"), "expected one row of scores for each"),
    "a model that answers once a batch": (model("py:nets.py:summed"), "expected one row of scores"),
    "a model that answers complex numbers": (model("py:nets.py:imaginary"), "complex"),
    "a model that answers words": (model("py:nets.py:words"), "expected an array of scores"),
    "a model that raises": (model("py:nets.py:raising"), "failed on a batch of shape"),
    "pictures of another size": (data("bigger.npz"), "failed on a batch of shape"),
    "pictures of another depth": (model("py:nets.py:conv"), "reads 3 channels, the examples have 1"),
    # how it is wrapped
    "means of three channels for one": (evaluation("--mean 0.1 0.2 0.3 --std 1 1 1"), "has 1 channels"),
    "more means than stds": (evaluation("--mean 0.1 0.2 --std 1,1,1"), "must have the same shape"),
    "a std of zero": (evaluation("--mean 0.5 --std 0"), "std must be above 0"),
    "a negative std": (evaluation("--mean 0.5 --std -1"), "std must be above 0"),
    "a mean of 8-bit values": (evaluation("--mean 125 --std 60"), "divide them by 255"),
    "a mean that is no number": (evaluation("--mean half"), "--mean takes finite numbers, got 'half'"),
    "bounds in the wrong order": (evaluation("--bounds 1 0"), "the lower first"),
    "one bound": (evaluation("--bounds 1"), "--bounds takes two numbers"),
    "bounds that are no numbers": (evaluation("--bounds nan,1"), "--bounds takes finite numbers"),
    "an unknown device": (evaluation("--device tpu9"), "use 'cpu'"),
    "an unknown dtype": (evaluation("--dtype float16"), "float32 or float64"),
    "one class": (evaluation("--classes 1"), "at least 2"),
    "another number of classes": (evaluation("--classes 5"), "declared to have 5 classes, but answers 3"),
    # the threat
    "an unknown norm": (threat("linff:0.1"), "a threat starts with one of linf, l2, l1, l0"),
    "no norm": (threat("0.1"), "a threat starts with"),
    "no radius": (threat("linf"), "an evaluation needs a radius"),
    "no radius after the colon": (threat("linf:"), "a radius must follow the colon"),
    "a radius of zero": (threat("linf:0"), "a radius is a finite number > 0"),
    "a negative radius": (threat("l2:-1"), "a radius is a finite number > 0"),
    "a radius that is no number": (threat("linf:eight"), "eight"),
    "a radius divided by zero": (threat("linf:8/0"), "8/0"),
    "an infinite radius": (threat("linf:inf"), "radius"),
    "a curve that falls": (threat("linf:0.2,0.1"), "must increase"),
    "a radius twice": (threat("linf:0.1,0.1"), "must increase"),
    "a fraction of a pixel": (threat("l0:2.5"), "a whole number"),
    "an unknown modifier": (threat("linf:0.1@fast"), "got @fast"),
    "a grid without steps": (threat("linf:0.1@grid0"), "@grid255"),
    "two goals": (threat("linf:0.1@target=1@top2"), "a second one"),
    "a target beyond the classes": (threat("linf:0.1@target=9"), "9"),
    # the work
    "an unknown suite": (evaluation(suite="quik"), "did you mean quick?"),
    "no stage": (evaluation(stages="0"), "got --stages 0"),
    "more stages than there are": (evaluation(stages="99"), "got --stages 99"),
    "no example asked for": (evaluation("--n 0"), "whole number >= 1"),
    "more examples than there are": (evaluation("--n 99"), "holds 12 examples, got --n 99"),
    "a number of examples that is none": (evaluation("--n many"), "try: hauberk evaluate --help"),
    "a batch of nothing": (evaluation("--batch-size 0"), "got --batch-size 0"),
    "no thread": (evaluation("--threads 0"), "--threads is at least 1"),
    "a seed that is no number": (evaluation("--seed pi"), "--seed"),
    "a bar in per cent": (evaluation("--fail-under 40"), "write 0.4 for 40 %"),
    "a bar below zero": (evaluation("--fail-under -0.1"), "a share from 0 to 1"),
    "a bar that is NaN": (evaluation("--fail-under nan"), "a share from 0 to 1"),
    "leave to pass a gate that is not there": (evaluation("--allow-audit-errors"), "give both or neither"),
    "an unknown option": (evaluation("--fali-under 0.4"), "try: hauberk evaluate --help"),
    "an unknown command": ("evalaute zoo:digits-mlp", "try: hauberk --help"),
    "no model": ("evaluate --data good.npz --threat linf:0.1", "missing argument 'MODEL'"),
    "no data": ("evaluate py:nets.py:tiny --threat linf:0.1", "'--data'"),
    "no threat": ("evaluate py:nets.py:tiny --data good.npz", "'--threat'"),
    "an argument too many": (evaluation("surplus"), "surplus"),
    # what is written
    "a file as the run folder": (evaluation("--out good.npz"), "got a file"),
    "a folder with other files": (evaluation("--out foreign"), "holds diary.txt"),
    "a run of another threat": (evaluation("--out run", threat="linf:0.2"), "threat was linf:0.1, is linf:0.2"),
    "a run of another model": (evaluation("--out run", model="py:nets.py:other"), "model was"),
    "a run of other data": (evaluation("--out run", data="altered.npz"), "data was"),
    "a run of another seed": (evaluation("--out run --seed 5"), "seed was 0, is 5"),
    "a run of other stages": (evaluation("--out run", stages="2"), "suite was quick[:1], is quick[:2]"),
    "a run with a torn manifest": (evaluation("--out run-manifest"), "expected JSON in"),
    "a run of another version": (evaluation("--out run-version"), "hauberk.run/99"),
    "a run whose ledger was altered": (evaluation("--out run-ledger"), "altered since"),
    "a run whose rows were cut": (evaluation("--out run-cut"), "cut short or altered"),
    "JSON in a folder that is not there": (evaluation("--json nowhere/result.json"), "make the folder first"),
    "JSON on a folder": (evaluation("--json foreign"), "got the folder foreign"),
    "HTML on a folder": (evaluation("--html foreign"), "got the folder foreign"),
    # finished runs
    "a report of nothing": ("report absent-run", "absent-run"),
    "a report of a file": ("report good.npz", "got a file"),
    "a report of another folder": ("report foreign", "one without manifest.json"),
    "a report of a run that is not finished": ("report run-unfinished", "give the same command again"),
    "a report of a run with a torn manifest": ("report run-manifest", "expected JSON in"),
    "a report of a run with a torn table": ("report run-rows", "rows.parquet"),
    "a report on a folder": ("report run --out foreign", "got the folder foreign"),
    "a comparison with one run": ("compare run", "RUN_B"),
    "a comparison with nothing": ("compare run absent-run", "absent-run"),
    "a comparison of two threats": ("compare run run-threat", "two runs of the same threat"),
    "a comparison of two data sets": ("compare run run-data", "two runs of the same data"),
    # one attack
    "an unknown attack": (attack("pgdd"), "did you mean pgd"),
    "an unknown setting": (attack("pgd --set stepps=3"), "did you mean steps"),
    "a setting without a value": (attack("pgd --set steps"), "key=value"),
    "a setting given twice": (attack("pgd --set steps=3 --set steps=4"), "twice"),
    "a setting of another kind": (attack("pgd --set steps=many"), "a whole number as steps"),
    "a setting that is neither true nor false": (attack("pgd --set early_stop=maybe"), "true or false as early_stop"),
    "a setting out of range": (attack("pgd --set steps=0"), "steps > 0"),
    "a setting of an unknown name": (attack("pgd --set loss=hinge"), "hinge"),
    "an attack on a curve": (attack("pgd", "linf:0.1,0.2"), "one radius"),
    "an attack in a norm it has not": (attack("square", "l1:1"), "square works in"),
    "a gradient attack on labels": (attack("pgd", model="py:nets.py:only_labels"), "pgd needs gradients"),
    "a gradient attack under a threat of scores": (attack("pgd", "linf:0.1@scores"), "pgd needs gradients"),
    "a score attack on labels": (attack("square", model="py:nets.py:only_labels"), "square needs scores"),
    "adversarials in an npz": (attack("pgd --out found.npz"), "found.safetensors"),
    "an attack on batches of nothing": (attack("pgd --batch-size 0"), "at least one example"),
    "an unknown list": ("list atacks", "did you mean attacks"),
}


@pytest.mark.parametrize(("command", "needle"), BAD.values(), ids=BAD)
def test_bad_input_ends_with_one_sentence_and_exit_code_2(hauberk: Run, bench: Path, command: str, needle: str) -> None:
    before = sorted(bench.iterdir())
    done = hauberk(*shlex.split(command))
    said = done.stderr.splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 1, done.output
    assert said[-1] == errors[0]
    assert all(line.startswith("note: ") for line in said[:-1]), done.stderr
    assert needle in errors[0]
    assert done.exit_code == 2, errors[0]
    assert "Traceback" not in done.output
    assert not done.stdout
    assert sorted(bench.iterdir()) == before, "something was left behind"


def test_the_table_has_the_kinds_that_were_promised() -> None:
    assert len(BAD) >= 45


@pytest.mark.parametrize(
    "command",
    [BAD["a truncated npz"][0], BAD["an unknown option"][0], BAD["a model whose code leaves"][0]],
    ids=["npz", "option", "exit"],
)
def test_a_process_of_its_own_says_the_same(hauberk: Run, bench: Path, command: str) -> None:
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "hauberk", *shlex.split(command)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=bench, env=quiet, check=False)
    assert done.returncode == 2
    assert done.stderr == hauberk(*shlex.split(command)).stderr
    assert not done.stdout
