"""The attack made to transfer: the contract, what it is without its parts, its exact cost, and that it transfers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hauberk import data, zoo
from hauberk._rng import Streams
from hauberk.attacks import PGD, Attack, Momentum, run_attack, settings_of
from hauberk.attacks.transfer import Transfer, transfer
from hauberk.blocks import Frontier, ascend, loss_named, schedule_named
from hauberk.blocks.transfer_gradient import TransferClimb
from hauberk.errors import SettingError, ThreatError, UnknownNameError
from hauberk.testing.setting import pictures, run, vectors
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.train import Natural, Recipe, collect, fit, initialise
from hauberk.victims import Meter, wrap

S = pictures()
PLAIN = Transfer(steps=6, step_size=0.02, inputs=(), gradients=(), momentum=0.0, variance=0)
BALLS = [Ball(Norm.LINF, 0.06), Ball(Norm.L2, 0.35), Ball(Norm.LINF, 0.06, grid=255)]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"inputs": ("di:shrink=1,probability=1",)},
        {"inputs": ("di:probability=0",)},
        {"inputs": ("si:copies=1",)},
        {"inputs": ("ssa:copies=1,rho=0,sigma=0",)},
        {"inputs": ("bsr:copies=1,blocks=1,angle=0",)},
        {"inputs": ("admix:pool=POOL,copies=1,share=0",)},
        {"gradients": ("ti:size=1",)},
        {"variance": 1, "variance_spread": 0.0},
        {"penalty": 1, "penalty_spread": 0.0, "penalty_weight": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2", "grid"])
def test_parts_that_change_nothing_leave_pgd(change: dict[str, Any], ball: Ball, tmp_path: Any) -> None:
    if "admix" in str(change):
        import numpy as np

        np.savez(tmp_path / "pool.npz", images=S.x.numpy(), labels=S.y.numpy())
        change = {"inputs": (change["inputs"][0].replace("POOL", str(tmp_path / "pool.npz")),)}
    wanted = run(PGD(steps=6, step_size=0.02, start="clean", early_stop=False), S, ball)
    found = run(replace(PLAIN, **change), S, ball)
    torch.testing.assert_close(found.points, wanted.points, rtol=0, atol=1e-9)
    assert torch.equal(found.broken, wanted.broken)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_the_look_ahead_are_those_of_momentum(nesterov: bool) -> None:
    for ball in BALLS:
        wanted = run(Momentum(steps=5, nesterov=nesterov, early_stop=False), S, ball)
        found = run(Transfer(steps=5, inputs=(), gradients=(), look_ahead=nesterov, variance=0), S, ball)
        assert torch.equal(found.points, wanted.points)
        assert torch.equal(found.forwards, wanted.forwards)


def slope(x: Tensor) -> Tensor:
    """The gradient of the true class's cross-entropy, as it is."""
    logits, vjp = S.victim.pullback(x, torch.arange(len(x)))  # type: ignore[attr-defined]
    leaf = logits.clone().requires_grad_()
    loss = -leaf.log_softmax(dim=1).gather(1, S.y[:, None])
    return vjp(torch.autograd.grad(loss.sum(), leaf)[0])


def test_scales_climb_the_mean_of_the_gradients_with_their_own_weights() -> None:
    ball = Ball(Norm.L2, 0.35)
    x = S.x
    mean = sum((slope(x / 2**power) / 2**power for power in range(1, 4)), slope(x))
    assert isinstance(mean, Tensor)
    wanted = ball.project(ball.step(x, mean, 0.1), x)
    attack = Transfer(steps=1, step_size=0.1, inputs=("si:copies=4",), gradients=(), momentum=0.0)
    seen: list[Tensor] = []
    climb = attack.climb()
    frontier = Frontier(Meter(S.victim, len(S)), x, Untargeted(S.y), ball, early_stop=False)
    ask = frontier.ask
    frontier.ask = lambda z: (seen.append(z), ask(z))[1]  # type: ignore[method-assign]
    climb(frontier, x, 0.1, Streams(0, S.ids, "transfer"))
    torch.testing.assert_close(seen[-1], wanted, rtol=0, atol=1e-9)


def asked_last(attack: Transfer, ball: Ball) -> Tensor:
    frontier = Frontier(Meter(S.victim, len(S)), S.x, Untargeted(S.y), ball, early_stop=False)
    seen: list[Tensor] = []
    ask = frontier.ask
    frontier.ask = lambda z: (seen.append(z), ask(z))[1]  # type: ignore[method-assign]
    assert attack.step_size is not None
    attack.climb()(frontier, S.x, attack.step_size, Streams(0, S.ids, "transfer"))
    return seen[-1]


def test_variance_tuning_adds_what_the_neighbours_of_the_last_step_say() -> None:
    ball, streams = Ball(Norm.LINF, 0.06), Streams(0, S.ids, "transfer")
    attack = Transfer(steps=2, step_size=0.03, inputs=(), gradients=(), variance=3)
    rows = torch.arange(len(S))
    first = slope(S.x)
    near = [
        slope((S.x + (streams.uniform(rows, S.x.shape[1:], dtype=torch.float64) * 2 - 1) * 0.06 * 1.5).clamp(0, 1))
        for _ in range(3)
    ]
    drift = sum(near[1:], near[0]) / 3 - first
    velocity = first / first.abs().sum(dim=(1, 2, 3), keepdim=True)
    z = ball.project(S.x + 0.03 * velocity.sign(), S.x)
    tuned = slope(z) + drift
    velocity = velocity + tuned / tuned.abs().sum(dim=(1, 2, 3), keepdim=True)
    wanted = ball.project(z + 0.03 * velocity.sign(), S.x)
    torch.testing.assert_close(asked_last(attack, ball), wanted, rtol=0, atol=1e-9)


def test_the_penalty_takes_a_step_back_from_a_neighbour() -> None:
    ball, streams = Ball(Norm.LINF, 0.06), Streams(0, S.ids, "transfer")
    attack = Transfer(steps=1, step_size=0.03, inputs=(), gradients=(), momentum=0.0, penalty=2, penalty_weight=0.4)
    total = torch.zeros_like(S.x)
    for _ in range(2):
        draw = streams.uniform(torch.arange(len(S)), S.x.shape[1:], dtype=torch.float64) * 2 - 1
        near = (S.x + draw * 0.06 * 3).clamp(0, 1)
        here = slope(near)
        back = (near - 0.03 * here / here.abs().mean(dim=(1, 2, 3), keepdim=True)).clamp(0, 1)
        total += 0.6 * here + 0.4 * slope(back)
    wanted = ball.project(S.x + 0.03 * total.sign(), S.x)
    torch.testing.assert_close(asked_last(attack, ball), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "forwards", "backwards"),
    [
        ({"variance": 0}, 5 + 1, 5),
        ({"inputs": ("si:copies=3",)}, 5 * 3 + 1, 5 * 3),
        ({"inputs": ("di",)}, 5 * 2 + 1, 5),
        ({"inputs": ("di", "si")}, 5 * 6 + 1, 5 * 5),
        ({}, 5 * 6 + 1, 5 * 6),
        ({"inputs": ("di", "ssa:copies=2", "si:copies=3")}, 5 * 7 + 1, 5 * 6),
        ({"inputs": (), "variance": 4}, 5 * 5 + 1, 5 * 5),
        ({"inputs": ("bsr:copies=2",), "variance": 4}, 5 * 11 + 1, 5 * 10),
        ({"inputs": (), "penalty": 4, "look_ahead": True}, 5 * 9 + 1, 5 * 8),
        ({"inputs": ("si:copies=2",), "penalty": 4}, 5 * 17 + 1, 5 * 16),
    ],
    ids=str,
)
def test_it_costs_what_it_says_to_the_last_pass(settings: dict[str, Any], forwards: int, backwards: int) -> None:
    attack = Transfer(steps=5, **settings)
    for setting in (pictures(), vectors()):
        outcome = run(attack, setting, Ball(Norm.LINF, 0.06))
        assert set(outcome.forwards.tolist()) == set(outcome.queries.tolist()) == {forwards}
        assert set(outcome.backwards.tolist()) == {backwards}
    climb = attack.climb()
    assert (5 * climb.queries + 1, 5 * climb.backwards) == (forwards, backwards)


def test_a_misclassified_example_costs_one_forward_where_it_may_leave() -> None:
    wrong = Untargeted((S.y + 1) % 4)
    outcome = run(Transfer(early_stop=True), S, BALLS[0], goal=wrong)
    assert set(outcome.forwards.tolist()) == {1}
    assert torch.equal(outcome.points, S.x)


def test_tiny_gradients_of_a_sure_model_still_count() -> None:
    sharp = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        for place, parameter in enumerate(sharp.parameters()):
            values = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(place))
            parameter.copy_((values - 0.5) * 200)
    victim, x = wrap(sharp), torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = victim.labels(x, torch.arange(6))
    margin = Untargeted(y).margin(victim.logits(x, torch.arange(6)))
    assert float(margin.min()) < -150  # exp of that is 0 in float32
    found = run_attack(Transfer(steps=2, gradients=(), inputs=(), variance=1), victim, x, y, "linf:0.05")
    assert bool((found.sizes > 0.04).all())


def digits() -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    whole = collect(data.load("digits"))
    training, held = whole.take(torch.arange(500, len(whole))), whole.take(torch.arange(300))

    def conv() -> nn.Module:
        first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        return nn.Sequential(
            first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        )

    net = fit(initialise(conv, seed=1), training, Natural(), Recipe(epochs=12, seed=1)).net
    return {"conv": net, "mlp": zoo.net("digits-mlp")}, held.x, held.y


def test_smoothed_points_transfer_between_digits_nets_where_pgds_do_less() -> None:
    nets, x, y = digits()
    conv, mlp = (wrap(net) for net in nets.values())
    rows = torch.arange(len(x))
    right = (conv.labels(x, rows) == y) & (mlp.labels(x, rows) == y)
    x, y, rows = x[right], y[right], rows[: int(right.sum())]
    smooth = Transfer(inputs=(), variance=5)
    plain = PGD(steps=10, step_size=0.015, start="clean", early_stop=False)

    def fooled(attack: Attack) -> float:
        found = run_attack(attack, mlp, x, y, "linf:0.15")
        return float((conv.labels(found.adversarials, rows) != y).double().mean())

    assert fooled(smooth) > fooled(plain) + 0.03


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inputs": "di"}, "a tuple of names as inputs, got 'di'"),
        ({"inputs": ("dii",)}, "unknown input transform 'dii'"),
        ({"gradients": ("di",)}, "unknown gradient transform 'di'"),
        ({"variance": 2, "penalty": 2}, "by variance or by penalty"),
        ({"penalty_weight": 1.5}, "penalty_weight from 0 to 1"),
        ({"steps": 0}, "steps > 0"),
        ({"momentum": -1.0}, "momentum >= 0"),
        ({"loss": "nothing"}, "unknown loss"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((SettingError, UnknownNameError)) as caught:
        Transfer(**settings)
    assert words in str(caught.value)


def test_settings_cut_at_commas_are_joined_and_written_down() -> None:
    attack = Transfer(inputs=("di:shrink=0.5", "probability=1", "si"))
    assert attack.inputs == ("di:shrink=0.5,probability=1", "si")
    assert Transfer(**settings_of(attack)) == attack
    assert Transfer(inputs=["si"]) == Transfer(inputs=("si",))  # type: ignore[arg-type]  # as JSON gives it back


def test_the_friendly_face_runs_it() -> None:
    found = transfer(S.victim, S.x, S.y, "linf:0.06", steps=2, inputs=("di",), seed=1)
    assert found.adversarials.shape == S.x.shape
    with pytest.raises(ThreatError, match="l1"):
        transfer(S.victim, S.x, S.y, "l1:3")


def test_the_climb_without_its_parts_is_ascend() -> None:
    ball, goal = Ball(Norm.L2, 0.35), Untargeted(S.y)
    one = Frontier(Meter(S.victim, len(S)), S.x, goal, ball)
    other = Frontier(Meter(S.victim, len(S)), S.x, goal, ball)
    ascend(one, S.x, loss=loss_named("dlr"), steps=7, step_size=0.1, schedule=schedule_named("constant"), momentum=0.7)
    TransferClimb([], [], loss_named("dlr"), 7, 0.7, False)(other, S.x, 0.1, Streams(0, S.ids, ""))
    assert torch.equal(one.best, other.best)
    assert torch.equal(one.victim.backwards, other.victim.backwards)
