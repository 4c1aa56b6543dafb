"""Several victims that answer as one: means of logits, probabilities and losses, and what they cost."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hauberk as hb
from hauberk.errors import AccessError, ModelError, SettingError
from hauberk.threat import Access
from hauberk.victims import Meter, ensemble, eot, wrap

ROWS = torch.arange(4)


def net(seed: int, out: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, out)).double().eval()


def inputs() -> Tensor:
    return torch.rand(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def expected(combine: str, a: Tensor, b: Tensor) -> Tensor:
    if combine == "logits":
        return 0.25 * a + 0.75 * b
    if combine == "probabilities":
        return (0.25 * a.softmax(dim=1) + 0.75 * b.softmax(dim=1)).log()
    return 0.25 * a.log_softmax(dim=1) + 0.75 * b.log_softmax(dim=1)


@pytest.mark.parametrize("combine", ["logits", "probabilities", "loss"])
def test_scores_and_gradients_are_those_of_the_weighted_mean(combine: Any) -> None:
    first, second, x = net(1), net(2), inputs()
    victim = ensemble([first, wrap(second)], [1, 3], combine)
    leaf = x.clone().requires_grad_()
    wanted = expected(combine, first(leaf), second(leaf))
    assert torch.allclose(victim.logits(x, ROWS), wanted, atol=1e-12)
    assert torch.equal(victim.labels(x, ROWS), wanted.argmax(dim=1))
    scores, vjp = victim.pullback(x, ROWS)
    assert torch.equal(scores, victim.logits(x, ROWS))
    assert not scores.requires_grad
    cotangent = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(vjp(cotangent), torch.autograd.grad(wanted, leaf, cotangent)[0], atol=1e-12)
    assert torch.equal(vjp(cotangent), vjp(cotangent))


def test_the_loss_ensemble_has_the_mean_of_the_margins() -> None:
    first, second, x = net(1), net(2), inputs()
    scores = ensemble([first, second], combine="loss").logits(x, ROWS)
    gaps = [(z.log_softmax(dim=1)[:, 0] - z.log_softmax(dim=1)[:, 1]) / 2 for z in (first(x), second(x))]
    assert torch.allclose(scores[:, 0] - scores[:, 1], gaps[0] + gaps[1], atol=1e-12)


def test_a_query_costs_what_one_of_each_member_costs() -> None:
    victim = ensemble([net(1), ensemble([net(2)] * 4), net(3)])
    meter = Meter(victim, 4)
    _, vjp = meter.pullback(inputs(), ROWS)
    vjp(torch.ones(4, 3, dtype=torch.float64))
    assert meter.forwards.tolist() == meter.backwards.tolist() == [6] * 4
    assert meter.queries.tolist() == [1] * 4
    assert victim.left(ROWS).tolist() == [2**62] * 4


def test_a_member_that_is_judged_by_vote_is_refused_as_its_vote_would_be_lost() -> None:
    with pytest.raises(ModelError, match="around it"):
        ensemble([net(1), eot(net(2), 4)])
    assert eot(ensemble([net(1), net(2)]), 4).judge_samples == 100


def test_it_gives_what_every_member_gives() -> None:
    scores_only = wrap(lambda array: array[:, :3] + 2.0, dtype="float64")
    both = ensemble([net(1), scores_only])
    both.probe(inputs())
    assert both.access is Access.SCORES
    assert both.logits(inputs(), ROWS).shape == (4, 3)
    labels_only = wrap(lambda array: np.full(len(array), 2), dtype="float64")
    mixed = ensemble([net(1), net(2), labels_only], [1, 1, 3])
    mixed.probe(inputs())
    assert mixed.access is Access.LABELS
    assert mixed.labels(inputs(), ROWS).tolist() == [2] * 4
    with pytest.raises(AccessError):
        mixed.logits(inputs(), ROWS)
    light = ensemble([net(1), net(1), labels_only], [1, 1, 1])
    assert torch.equal(light.labels(inputs(), ROWS), wrap(net(1)).labels(inputs(), ROWS))


def test_a_member_that_fails_to_answer_does_not_hide_the_others() -> None:
    broken = wrap(lambda array: np.full((len(array), 3), np.nan), output="logits", dtype="float64")
    assert ensemble([net(1), broken]).labels(inputs(), ROWS).tolist() == [-1] * 4


def test_an_attack_on_an_ensemble_fools_all_of_it() -> None:
    victim, x = ensemble([net(1), net(2)], combine="probabilities"), inputs()
    y = victim.labels(x, ROWS)
    found = hb.attacks.pgd(victim, x, y, "linf:0.9", steps=20, loss="margin", seed=0)
    assert bool(found.broken.any())
    assert torch.equal(victim.labels(found.adversarials, ROWS) != y, found.broken)


def test_an_ensemble_says_what_it_is() -> None:
    members = [wrap(net(1), name="one"), wrap(net(2), name="two")]
    victim = ensemble(members)
    victim.probe(inputs())
    assert victim.name == "one + two"
    assert victim.classes == 3
    assert victim.weights == (0.5, 0.5)
    assert [part["kind"] for part in victim.description["members"]] == ["torch", "torch"]
    assert victim.notes[-1].startswith("2 models answer as one")
    prints = {ensemble(members, w, c).fingerprint() for w in ([1, 1], [1, 2]) for c in ("logits", "loss")}
    assert len(prints) == 4
    assert ensemble(members, [2, 2]).fingerprint() == victim.fingerprint()


@pytest.mark.parametrize(
    ("models", "weights", "combine", "words"),
    [
        ([], None, "logits", "one model or more"),
        (["a", "b"], [1], "logits", "2 finite numbers"),
        (["a", "b"], [1, -1], "logits", "2 finite numbers"),
        (["a", "b"], [0, 0], "logits", "2 finite numbers"),
        (["a", "b"], None, "labels", "combine"),
    ],
)
def test_settings_that_mean_nothing_are_refused(models: Any, weights: Any, combine: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        ensemble([net(k) for k in range(len(models))], weights, combine)


def test_members_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ModelError, match="same dtype"):
        ensemble([net(1), net(2).float()])
    with pytest.raises(ModelError, match="same bounds"):
        ensemble([net(1), wrap(net(2), bounds=(-1, 1))])
    with pytest.raises(ModelError, match="same classes"):
        ensemble([net(1), net(2, 4)]).logits(inputs(), ROWS)
