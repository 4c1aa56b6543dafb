"""`python -m hauberk.zoo.measure`: it fills the card through `hauberk.evaluate`, and the page follows."""

import json
import shutil
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from hauberk import data, zoo
from hauberk.train import collect
from hauberk.zoo import measure as command
from hauberk.zoo.cards import document, read_card, shipped
from hauberk.zoo.measure import clean_accuracy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with resources.as_file(shipped()) as weights:
        for end in ("json", "safetensors"):
            shutil.copy(weights / f"digits-mlp.{end}", tmp_path)
    card = json.loads((tmp_path / "digits-mlp.json").read_text())
    (tmp_path / "digits-mlp.json").write_text(json.dumps(card | {"measured": None}))
    return tmp_path


def test_measuring_fills_the_card_and_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["digits-mlp", "--weights", str(folder), "--suite", "quick", "--n", "24", "--seed", "3"]
    assert command.main(arguments) == 0
    assert "robust at most" in capsys.readouterr().out
    card = read_card("digits-mlp", folder)
    jsonschema.validate(card, json.loads(resources.files("hauberk.zoo").joinpath("card.schema.json").read_text()))
    measured = card["measured"]
    assert (measured["suite"], measured["n"], measured["seed"]) == ("quick", 24, 3)
    assert measured["clean_accuracy"]["count"] == 500
    robust = [row["robust_accuracy"]["upper"]["value"] for row in measured["radii"]]
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < measured["clean_accuracy"]["value"]
    assert (folder / "README.md").read_text() == document([card])
    assert "Robust accuracy at most" in document([card])


def test_clean_accuracy_counts_every_held_out_example() -> None:
    source = data.load("digits", n=30)
    examples = collect(source)
    right = int((zoo.net("digits-mlp")(examples.x).argmax(1) == examples.y).sum())
    found = clean_accuracy(zoo.load("digits-mlp"), source)
    assert found["value"] == pytest.approx(right / 30)
    assert found["count"] == 30
    assert found["low"] < found["value"] <= found["high"]


def test_a_missing_test_set_is_one_sentence_and_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mnist-natural", "--data-root", str(folder), "--n", "5"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: measuring needs")
    assert error.count("\n") == 1
