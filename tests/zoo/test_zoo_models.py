"""The nets of the zoo as they are shipped: names, cards, weights, and that they classify."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import hauberk as hb
from hauberk import data, zoo
from hauberk.errors import ModelError, UnknownNameError
from hauberk.evidence.fingerprint import state_fingerprint
from hauberk.threat import Access
from hauberk.train import collect
from hauberk.zoo.architectures import digits_mlp, mnist_cnn
from hauberk.zoo.cards import document, read_card, read_weights, shipped
from hauberk.zoo.recipes import DIGITS_HELD_OUT, RECIPES

NAMES = [
    "mnist-natural",
    "mnist-fgsm-rs",
    "mnist-robust",
    "mnist-pgd-at",
    "mnist-mart",
    "mnist-certified",
    "digits-mlp",
    "digits-pgd-at",
    "digits-trades",
    "digits-mart",
]


def _schema() -> dict[str, Any]:
    return json.loads(resources.files("hauberk.zoo").joinpath("card.schema.json").read_text(encoding="utf-8"))


def test_the_names_are_those_promised_each_with_a_line() -> None:
    assert list(zoo.names()) == NAMES
    assert all(zoo.names().values())


def test_the_nets_have_the_sizes_that_the_literature_compares_on() -> None:
    assert sum(value.numel() for value in mnist_cnn().parameters()) == 166_406
    assert sum(value.numel() for value in digits_mlp().parameters()) == 4_810
    assert list(mnist_cnn().state_dict()) == [
        f"{layer}.{part}" for layer in (0, 2, 5, 7) for part in ("weight", "bias")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_card_follows_the_schema_and_speaks_of_these_weights(name: str) -> None:
    card, net = zoo.card(name), zoo.net(name)
    jsonschema.Draft202012Validator.check_schema(_schema())
    jsonschema.validate(card, _schema())
    assert card["name"] == name
    assert card["summary"] == zoo.names()[name]
    assert card["limits"] == RECIPES[name].limits
    assert card["recipe"]["objective"] == repr(RECIPES[name].objective)
    assert card["recipe"]["rate"] == repr(RECIPES[name].recipe.rate)
    assert (card["recipe"]["epochs"], card["recipe"]["batch_size"]) == (
        RECIPES[name].recipe.epochs,
        RECIPES[name].recipe.batch_size,
    )
    assert card["weights"]["fingerprint"] == state_fingerprint(net.state_dict())
    assert card["architecture"]["parameters"] == sum(value.numel() for value in net.parameters())
    assert card["data"]["used"] + card["data"]["removed"] == card["data"]["available"]
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
    assert not net.training


def test_a_card_with_a_field_too_many_or_missing_breaks_the_schema() -> None:
    card = zoo.card("digits-mlp")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(card | {"colour": "red"}, _schema())
    del card["limits"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(card, _schema())


def test_the_page_of_cards_is_written_from_the_cards() -> None:
    page = shipped().joinpath("README.md").read_text(encoding="utf-8")
    assert page == document([zoo.card(name) for name in NAMES])


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_net_is_a_differentiable_victim_named_after_itself(name: str) -> None:
    victim, card = zoo.load(name), zoo.card(name)
    assert victim.name == name
    assert victim.bounds == (0.0, 1.0)
    assert victim.access is Access.GRADIENTS
    x = torch.rand((3, *card["architecture"]["input"]), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(victim.logits(x, torch.arange(3)), zoo.net(name)(x).detach())


@pytest.mark.parametrize(("name", "least"), [("mnist-natural", 0.98), ("mnist-fgsm-rs", 0.97), ("mnist-robust", 0.97)])
def test_the_mnist_nets_classify_pictures_they_never_saw(name: str, least: float) -> None:
    examples = collect(data.load("mnist5k", n=400))
    assert (zoo.net(name)(examples.x).argmax(1) == examples.y).float().mean() >= least


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("digits")])
def test_the_digits_nets_classify_the_digits_held_out_from_them(name: str) -> None:
    examples = collect(data.load("digits", n=DIGITS_HELD_OUT))
    assert (zoo.net(name)(examples.x).argmax(1) == examples.y).float().mean() >= 0.94


def test_the_cards_say_what_the_suite_left() -> None:
    """The hardened nets keep what their cards say, and the most robust one what it is there for."""
    at = {
        name: {row["radius"]: row["robust_accuracy"]["upper"] for row in zoo.card(name)["measured"]["radii"]}
        for name in NAMES
    }
    assert at["mnist-robust"][0.3]["value"] >= 0.9
    proven = zoo.card("mnist-certified")["measured"]["radii"][-1]
    assert proven["radius"] == 0.3
    assert proven["robust_accuracy"]["upper"]["value"] >= proven["robust_accuracy"]["lower"]["value"] >= 0.85
    assert zoo.card("mnist-robust")["measured"]["clean_accuracy"]["value"] >= 0.98
    for name in ("digits-pgd-at", "digits-trades", "digits-mart"):
        assert at[name][0.1]["low"] > at["digits-mlp"][0.1]["high"]
    examples = collect(data.load("mnist5k", n=100))
    found = hb.attacks.pgd(zoo.load("mnist-robust"), examples.x, examples.y, "linf:0.3", steps=20, loss="margin")
    assert found.success_rate <= 1 - at["mnist-robust"][0.3]["low"] + 0.05


def test_training_against_fgsm_pays_under_pgd_and_the_natural_net_falls() -> None:
    examples = collect(data.load("mnist5k", n=128))
    robust: dict[str, float] = {}
    for name in ("mnist-natural", "mnist-fgsm-rs"):
        net, x, y = zoo.net(name).requires_grad_(False), examples.x, examples.y
        start = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
        z = (x + start).clamp(0, 1)
        for _ in range(20):
            z.requires_grad_()
            (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net(z), y), z)
            z = (z.detach() + 0.03 * g.sign()).clamp(0, 1)
            z = torch.minimum(torch.maximum(z, x - 0.3), x + 0.3)
        robust[name] = (net(z).argmax(1) == y).float().mean().item()
    assert robust["mnist-natural"] < 0.1
    assert robust["mnist-fgsm-rs"] > 0.8


def test_intervals_prove_the_certified_net_right_and_no_other() -> None:
    examples = collect(data.load("mnist5k", n=200))
    shares = {
        name: hb.certify(zoo.load(name), examples.x, examples.y, "linf:0.3", method="crown_ibp").certified_accuracy(0.3)
        for name in ("mnist-certified", "mnist-robust")
    }
    assert shares["mnist-certified"] > 0.8
    assert shares["mnist-robust"] == 0


def test_two_calls_give_two_copies() -> None:
    first, second = zoo.net("digits-mlp"), zoo.net("digits-mlp")
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0


@pytest.mark.parametrize("call", [zoo.card, zoo.net, zoo.load])
def test_an_unknown_name_is_answered_with_near_ones(call: Any) -> None:
    with pytest.raises(UnknownNameError, match="mnist-natural"):
        call("mnist-naturel")


def test_weights_that_are_not_those_of_the_card_are_refused(tmp_path: Path) -> None:
    for end in ("json", "safetensors"):
        with resources.as_file(shipped().joinpath(f"digits-mlp.{end}")) as file:
            shutil.copy(file, tmp_path)
    assert read_weights("digits-mlp", tmp_path) is not None
    weights = tmp_path / "digits-mlp.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="not those of the card"):
        read_weights("digits-mlp", tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="missing"):
        read_weights("digits-mlp", tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "hauberk.card/0"}'])
def test_a_damaged_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "digits-mlp.json").write_text(text)
    with pytest.raises(ModelError, match="model card"):
        read_card("digits-mlp", tmp_path)
