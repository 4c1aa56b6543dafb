"""Attacks on estimated gradients beyond the contract: cost to the query, priors, partial information, spans."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hauberk import wrap
from hauberk._rng import Streams
from hauberk.attacks import (
    NES,
    Attack,
    Bandits,
    Boundary,
    HopSkipJump,
    LabelNES,
    PartialNES,
    PriorRGF,
    Spanning,
    Square,
    ZerothOrderFrankWolfe,
    run_attack,
    settings_of,
    spanning,
)
from hauberk.blocks.plateaus import Plateaus
from hauberk.blocks.subspaces import Span
from hauberk.errors import AccessError, SettingError
from hauberk.testing import linear_settings
from hauberk.threat import Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter

TINY = Ball(Norm.LINF, 1e-6)


def spent(attack: Attack) -> Meter:
    victim, setting = linear_settings()["vectors"]
    meter = Meter(victim, len(setting))
    attack(meter, setting.x, Untargeted(setting.y), TINY, streams=Streams(0, setting.ids, "test"))
    return meter


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (NES(steps=4, samples=10), 1 + 4 * 11),
        (Bandits(steps=7, space="identity"), 1 + 3 * 7),
        (ZerothOrderFrankWolfe(steps=5, samples=6), 1 + 5 * 7),
        (PriorRGF(steps=5, samples=6), 1 + 5 * 7),
    ],
    ids=str,
)
def test_it_costs_what_it_says_to_the_query(attack: Attack, queries: int) -> None:
    meter = spent(attack)
    assert set(meter.queries.tolist()) == {queries}
    assert not bool(meter.backwards.any())


def test_a_prior_costs_a_query_a_step_and_ten_looks_every_tenth_step() -> None:
    victim, _ = linear_settings()["vectors"]
    known = spent(PriorRGF(steps=11, samples=4, prior=victim)).queries
    # the prior is the model itself: the directions are its own, and no sample is drawn
    assert set(known.tolist()) == {1 + 11 * 2 + 2 * 10}


def test_a_good_prior_saves_queries_and_a_wrong_one_is_turned_round() -> None:
    victim, setting = linear_settings()["pictures"]
    radius = 1.1 * float(victim.optimal_distance(setting.x, setting.y, Norm.L2).nan_to_num(0, 0, 0).max())
    wrong = type(victim)(-victim.weights, -victim.bias)

    def asked(prior: Any) -> float:
        found = run_attack(
            PriorRGF(prior=prior, samples=10),
            victim,
            setting.x,
            setting.y,
            region=Ball(Norm.L2, radius),
            max_queries=2000,
        )
        return found.queries.double().mean().item()

    plain, good, turned = asked(None), asked(victim), asked(wrong)
    assert good < plain / 2
    assert turned < plain / 2


def test_a_prior_is_a_module_or_a_victim_for_the_same_inputs() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    victim = wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    x, y = torch.rand(4, 12), torch.zeros(4, dtype=torch.int64)
    assert run_attack(PriorRGF(prior=net, steps=2), victim, x, y, "linf:0.1").queries.max() <= 1 + 2 * 52 + 10
    with pytest.raises(SettingError, match="bounds"):
        run_attack(PriorRGF(prior=wrap(net, bounds=(-1, 1))), victim, x, y, "linf:0.1")
    with pytest.raises(AccessError, match="gradients"):
        run_attack(PriorRGF(prior=wrap(lambda x: x[:, :3])), victim, x, y, "linf:0.1")
    with pytest.raises(SettingError, match="got int"):
        PriorRGF(prior=3)


def test_settings_with_models_and_spans_can_be_written_down() -> None:
    net = wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), name="mine")
    span = Span.principal(torch.rand(20, 12), 5)
    for attack in (
        PriorRGF(prior=net),
        PriorRGF(prior=net.net if hasattr(net, "net") else "a.pt2"),
        Spanning(NES(), span),
    ):
        text = json.dumps(settings_of(attack))
        assert "tensor (" in text or "mine" in text or "a.pt2" in text or "Sequential" in text
    assert settings_of(Spanning(NES(steps=3), span))["attack"]["steps"] == 3


def test_steps_shrink_on_a_plateau_to_a_hundredth_and_no_further() -> None:
    plateaus = Plateaus(torch.tensor([1.0, 1.0]), torch.zeros(2), patience=2, drop=2.0)
    for step in range(40):
        plateaus.see(torch.tensor([0.0, float(step)]))
        if step == 1:
            assert plateaus.step.tolist() == [0.5, 1.0]
    assert plateaus.step.tolist() == pytest.approx([0.01, 1.0])


class Top(nn.Module):
    """The best two of five classes; the others get one less than the second."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(5, 20, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        scores = (x - 0.5) @ self.weights.T
        least = scores.topk(2, dim=1).values[:, -1:]
        return torch.where(scores >= least, scores, least - 1)


def test_partial_information_reaches_a_target_that_is_not_shown_at_first() -> None:
    victim = wrap(Top(), dtype="float64")
    x = torch.rand(200, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = victim.labels(x, torch.arange(200))
    order = victim.logits(x, torch.arange(200)).argsort(dim=1)
    far = x[:20], labels[:20], order[:20, 0]  # a class that is hidden
    starts = torch.stack([x[(labels == target).nonzero()[0, 0]] for target in far[2]])
    for attack in (PartialNES(top_k=2, samples=20), LabelNES(samples=20)):
        found = run_attack(
            attack, victim, far[0], far[1], "linf:0.35", goal=Targeted(far[2]), starts=starts, max_queries=4000
        )
        alone = run_attack(
            replace(attack, steps=1), victim, far[0], far[1], "linf:0.35", goal=Targeted(far[2]), starts=starts
        )
        assert found.success_rate >= 0.9 > alone.success_rate


def test_spanned_directions_lie_in_the_span_and_other_draws_are_as_before() -> None:
    basis = Span.principal(torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 4)
    seen: list[Tensor] = []

    class Probe:
        access, norms = NES.access, NES.norms

        def __call__(self, victim: Any, x: Tensor, goal: Any, region: Any, *, streams: Streams) -> Tensor:
            rows = torch.arange(len(x))
            inner = streams.child("probes").take(rows)
            seen.extend((inner.normal(rows, (7, 3, 4, 4)), inner.signs(rows, (3, 4, 4))[:, None]))
            plain = Streams(streams.seed, streams.ids, streams.purpose)
            assert torch.equal(streams.uniform(rows, (3, 4, 4)), plain.uniform(rows, (3, 4, 4)))
            assert torch.equal(streams.normal(rows, (5,)), plain.normal(rows, (5,)))
            return x

    victim = wrap(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    reinforced: Any = Spanning(Probe(), basis)
    run_attack(reinforced, victim, torch.rand(6, 3, 4, 4), torch.zeros(6, dtype=torch.int64), "linf:0.1")
    flat = basis.basis.flatten(1)
    for draw in seen:
        vectors = draw.flatten(2)
        torch.testing.assert_close(vectors @ flat.T @ flat, vectors, rtol=0, atol=1e-5)
        assert vectors.square().mean() == pytest.approx(1.0, rel=0.35)


@pytest.mark.parametrize("attack", [NES(samples=10), HopSkipJump(noise="white"), Boundary(noise="white")], ids=str)
def test_a_span_that_holds_the_gradient_saves_queries(attack: Attack) -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(4, 120, generator=generator, dtype=torch.float64)
    net = nn.Linear(120, 4, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(few / few.norm(dim=1, keepdim=True))
        net.bias.zero_()
    victim = wrap(net, dtype="float64")
    x = 0.5 + 0.05 * torch.randn(16, 120, generator=generator, dtype=torch.float64)
    y = victim.labels(x, torch.arange(16))
    unlabelled = torch.rand(300, 4, generator=generator, dtype=torch.float64) @ few
    reached = "l2"
    if not getattr(attack, "smallest", False):
        reached = "l2:0.15"
    plain = run_attack(attack, victim, x, y, reached, max_queries=150)
    better = spanning(victim, x, y, reached, attack=attack, unlabelled=unlabelled, max_queries=150)
    if reached == "l2":
        assert better.sizes.median() < 0.8 * plain.sizes.median()
    else:
        assert better.broken.sum() >= plain.broken.sum()
        assert better.queries.double().mean() < 0.8 * plain.queries.double().mean()


def test_what_spanning_cannot_take_is_refused() -> None:
    victim = wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    x, y = torch.rand(4, 12), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(SettingError, match="reinforces an attack"):
        spanning(victim, x, y, "linf:0.1", attack="nes", unlabelled=x)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="shape"):
        spanning(victim, x, y, "linf:0.1", attack=NES(), unlabelled=torch.rand(9, 11))
    with pytest.raises(SettingError, match="finite"):
        spanning(victim, x, y, "linf:0.1", attack=NES(), unlabelled=x / 0)
    with pytest.raises(SettingError, match="which"):
        spanning(victim, x, y, "linf:0.1", attack=Square(), unlabelled=x, part="middle")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (NES, {"samples": 3}),
        (NES, {"momentum": 1.0}),
        (NES, {"drop": 0.5}),
        (NES, {"space": "dct"}),
        (Bandits, {"probe": 0}),
        (ZerothOrderFrankWolfe, {"step_size": 1.5}),
        (PartialNES, {"top_k": 0}),
        (LabelNES, {"samples": 3}),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        kind(**settings)
