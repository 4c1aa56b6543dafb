"""`python -m hauberk.zoo.train`: what is kept out of training, repetition bit for bit, and bad input in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hauberk import data
from hauberk.errors import DataError
from hauberk.train import collect
from hauberk.zoo import train as command
from hauberk.zoo.cards import read_card, read_weights
from hauberk.zoo.recipes import DIGITS_HELD_OUT, digits_training, held_out, mnist_training


def test_the_digits_net_is_made_again_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("a", "b"):
        torch.rand(1)  # what the global generator did before does not matter
        assert command.main(["digits-mlp", "--out", str(tmp_path / part)]) == 0
    first, second = ((tmp_path / part / "digits-mlp.safetensors").read_bytes() for part in ("a", "b"))
    assert first == second
    assert "1,297 of 1,797 examples; 500 removed" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["digits-mlp.json", "digits-mlp.safetensors"]
    card = read_card("digits-mlp", tmp_path / "a")
    assert card["measured"] is None
    assert card["recipe"]["seed"] == 0
    read_weights("digits-mlp", tmp_path / "a")


def test_another_seed_makes_other_weights_and_the_card_says_so(tmp_path: Path) -> None:
    assert command.main(["digits-mlp", "--out", str(tmp_path), "--seed", "3"]) == 0
    card = json.loads((tmp_path / "digits-mlp.json").read_text())
    assert card["recipe"]["seed"] == 3
    assert "--seed 3" in card["training"]["command"]
    assert card["weights"]["sha256"] != read_card("digits-mlp")["weights"]["sha256"]


def test_the_pictures_of_mnist5k_are_kept_out_of_training(tmp_path: Path) -> None:
    shown = (collect(data.load("mnist5k", n=30)).x * 255).round().to(torch.uint8).squeeze(1).numpy()
    other = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    images = np.concatenate([other[:10], shown, other[10:]])
    np.savez(tmp_path / "mnist_train.npz", images=images, labels=np.arange(50, dtype=np.uint8) % 10)
    examples, account = mnist_training(tmp_path)
    assert (account["available"], account["removed"], account["used"]) == (50, 30, 20)
    assert examples.ids.tolist() == [*range(10), *range(40, 50)]
    np.testing.assert_array_equal((examples.x * 255).round().to(torch.uint8).squeeze(1).numpy(), other)


def test_the_held_out_digits_are_none_of_those_trained_on(tmp_path: Path) -> None:
    examples, _ = digits_training(tmp_path)
    held = collect(held_out("digits-mlp", tmp_path))
    assert len(held) == DIGITS_HELD_OUT
    assert not set(examples.ids.tolist()) & set(held.ids.tolist())
    assert len(examples) + len(held) == 1797


def test_a_missing_file_is_one_sentence_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mnist-natural", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: training needs")
    assert "--data-root" in error
    assert error.count("\n") == 1
    with pytest.raises(DataError, match="mnist_test"):
        held_out("mnist-natural", tmp_path)
