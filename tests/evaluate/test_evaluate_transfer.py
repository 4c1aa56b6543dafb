"""The matrix of who fools whom: its diagonal, its other cells, what counts, and what it refuses."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk import data, zoo
from hauberk.attacks import PGD, Square, Transfer, run_attack
from hauberk.errors import AccessError, DataError, ModelError, SettingError, ThreatError
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.evaluate.transfer import Crossing, transfer_matrix
from hauberk.train import initialise
from hauberk.victims import wrap

NAMES = ("digits-mlp", "digits-trades")
ATTACK = Transfer(steps=4, inputs=("di",))


def digits(n: int = 60) -> tuple[Tensor, Tensor]:
    chunk = next(iter(data.load("digits", n=n).chunks(n)))
    return chunk.x, chunk.y


def test_every_cell_is_what_the_attack_does_to_that_model() -> None:
    x, y = digits()
    victims = [wrap(zoo.net(name), dtype="float64", output="logits", name=name) for name in NAMES]
    rows = torch.arange(len(x))
    right = torch.stack([victim.labels(x.double(), rows) == y for victim in victims])
    kept = right.all(dim=0)
    found = transfer_matrix(victims, x, y, "linf:0.15", attack=ATTACK, seed=3, batch_size=17)
    assert found.names == NAMES
    assert found.sources == (0, 1)
    assert (found.seen, found.kept) == (60, int(kept.sum()))
    assert found.right.tolist() == right.sum(dim=1).tolist()
    for source in (0, 1):
        mine = run_attack(ATTACK, victims[source], x[kept], y[kept], "linf:0.15", seed=3, ids=rows[kept])
        assert int(found.broken[source, source]) == int(mine.broken.sum())  # the white-box success
        labels = victims[1 - source].labels(mine.adversarials, rows[: len(mine.adversarials)])
        assert int(found.broken[source, 1 - source]) == int((labels != y[kept]).sum())
        assert float(found.forwards[source]) == 4 * 2 + 1
        assert float(found.backwards[source]) == 4
    assert found.transferred == pytest.approx(float((found.success[0, 1] + found.success[1, 0]) / 2))


def test_it_does_not_depend_on_the_batches() -> None:
    x, y = digits()
    victims = {name: wrap(zoo.net(name), dtype="float64", output="logits") for name in NAMES}
    one, other = (transfer_matrix(victims, x, y, "l2:0.8", attack=ATTACK, batch_size=size) for size in (7, 60))
    assert torch.equal(one.broken, other.broken)
    assert one.to_json() == other.to_json()


def test_a_model_of_labels_only_is_judged_on_and_nothing_is_crafted_on_it() -> None:
    x, y = digits()
    net = zoo.net("digits-trades")

    def labels(array: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(array).float()).argmax(dim=1).numpy()

    models = {
        "own": zoo.load("digits-mlp"),
        "theirs": wrap(labels, output="labels"),
        "white": zoo.load("digits-trades"),
    }
    found = transfer_matrix(models, x, y, "linf:0.15", attack=ATTACK)
    assert found.sources == (0, 2)
    assert found.broken[:, 1].tolist() == found.broken[:, 2].tolist()
    with pytest.raises(AccessError, match="of at least one of the models"):
        transfer_matrix([models["theirs"], models["theirs"]], x, y, "linf:0.15")
    with pytest.raises(AccessError, match="give labels only"):
        transfer_matrix(list(models.values()), x, y, "linf:0.15@labels")


def test_the_json_has_an_interval_for_each_cell_and_names_what_was_done() -> None:
    x, y = digits(30)
    found = transfer_matrix([zoo.load("digits-mlp")] * 2, x, y, "linf:0.2@grid16", attack=PGD(steps=2), seed=1)
    result = json.loads(json.dumps(found.to_json()))
    assert result["schema"] == "hauberk.transfer/1"
    assert [model["name"] for model in result["models"]] == ["digits-mlp (1)", "digits-mlp (2)"]
    assert result["attack"] == "pgd"
    assert result["settings"]["steps"] == 2
    assert len(result["matrix"]) == 4
    assert [cell["white_box"] for cell in result["matrix"]] == [True, False, False, True]
    shares = {cell["success"]["value"] for cell in result["matrix"]}
    assert len(shares) == 1  # one net under two names
    assert result["matrix"][1]["success"] == clopper_pearson(int(found.broken[0, 1]), found.kept).to_json()
    assert result["cost_per_example"][0]["source"] == "digits-mlp (1)"
    assert 0 < result["cost_per_example"][0]["backwards"] <= 2


@pytest.mark.parametrize("goal", ["target=3", "least-likely", "top2"])
def test_goals_are_judged_as_they_were_meant(goal: str) -> None:
    x, y = digits()
    x, y = x[y != 3], y[y != 3]
    rows = torch.arange(len(x))
    models = [zoo.load(name) for name in NAMES]
    crossed = Crossing(models, f"linf:0.3@{goal}", ATTACK).add(x, y)
    for source in (0, 1):
        for target in (0, 1):
            scores = models[target].logits(crossed.adversarials[source], rows)
            if goal == "target=3":
                reached = scores.argmax(dim=1) == 3
            elif goal == "least-likely":
                reached = scores.argmax(dim=1) == models[source].logits(x, rows).argmin(dim=1)
            else:
                reached = (scores.topk(2, dim=1).indices != y[:, None]).all(dim=1)
            assert torch.equal(crossed.broken[source, target], reached & crossed.kept)
    assert bool(crossed.broken.any()) or goal == "least-likely"


def test_a_batch_says_what_came_of_each_example() -> None:
    x, y = digits(20)
    y = y.clone()
    y[4] = (y[4] + 1) % 10  # a wrong label
    crossing = Crossing([zoo.load(name) for name in NAMES], "linf:0.15", ATTACK)
    crossed = crossing.add(x, y)
    assert not bool(crossed.kept[4])
    assert torch.equal(
        crossed.adversarials[:, ~crossed.kept], crossed.originals[~crossed.kept].expand(2, -1, -1, -1, -1)
    )
    assert not bool(crossed.broken[:, :, ~crossed.kept].any())
    matrix = crossing.matrix()
    assert torch.equal(crossed.broken.sum(dim=2), matrix.broken)
    assert float((crossed.adversarials - x).abs().max()) <= 0.15 + 1e-6


def tiny(classes: int = 10) -> nn.Module:
    return initialise(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)), seed=classes)


@pytest.mark.parametrize(
    ("models", "threat", "error", "words"),
    [
        ([tiny()], "linf:0.1", SettingError, "give two or more models"),
        ([tiny(), wrap(tiny(), bounds=(-1, 1))], "linf:0.1", ModelError, "the same bounds"),
        ([tiny(), tiny(12)], "linf:0.1", ModelError, "the same classes, got 10 and 12"),
        ([tiny(), tiny()], "spatial:rotation=30", ThreatError, "balls of a norm"),
        ([tiny(), tiny()], "l1:3", ThreatError, "transfer works in"),
        ([tiny(), tiny()], "linf:0.1,0.2", ThreatError, "one radius"),
        ([tiny(), tiny()], "linf", ThreatError, "one radius"),
    ],
)
def test_what_cannot_be_crossed_is_refused(models: list[Any], threat: str, error: type[Exception], words: str) -> None:
    x, _ = digits(20)
    labels = wrap(models[0]).labels(x, torch.arange(20))
    with pytest.raises(error, match=words):
        transfer_matrix(models, x, labels, threat)


def test_no_example_that_all_get_right_is_an_error() -> None:
    x, _ = digits(8)
    model = zoo.load("digits-mlp")
    wrong = (model.labels(x, torch.arange(8)) + 1) % 10
    with pytest.raises(DataError, match="got none among 8"):
        transfer_matrix([model, model], x, wrong, "linf:0.1", attack=ATTACK)


def test_an_attack_on_scores_may_craft_too() -> None:
    x, y = digits(20)
    found = transfer_matrix([zoo.load(name) for name in NAMES], x, y, "linf:0.3", attack=Square(steps=20))
    assert int(found.broken.diagonal().sum()) > 0
    assert found.backwards.tolist() == [0.0, 0.0]
