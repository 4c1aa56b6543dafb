"""PyTorch victims: private, in eval mode, frozen; answers, gradients and guesses."""

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk.errors import AccessError, HauberkError, ModelError, SettingError
from hauberk.threat import Access, Differentiable, Scored
from hauberk.victims import TorchVictim, Victim, wrap

ROWS = torch.arange(6)


def mlp(out: int = 3, *, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, out)).eval()


def inputs(n: int = 6) -> Tensor:
    return torch.rand(n, 2, 4, generator=torch.Generator().manual_seed(1))


class Answer(nn.Module):
    """A net whose answer is dressed by a function."""

    def __init__(self, dress: Callable[[Tensor], Any], out: int = 3) -> None:
        super().__init__()
        self.net, self.dress = mlp(out), dress

    def forward(self, x: Tensor) -> Any:
        return self.dress(self.net(x))


def test_a_module_becomes_a_differentiable_victim() -> None:
    net, x = mlp(), inputs()
    victim = wrap(net)
    assert isinstance(victim, TorchVictim)
    assert isinstance(victim, Differentiable)
    assert isinstance(victim, Victim)
    assert victim.access is Access.GRADIENTS
    assert torch.equal(victim.logits(x, ROWS), net(x).detach())
    assert torch.equal(victim.labels(x, ROWS), net(x).argmax(1))
    assert victim.classes == 3
    assert victim.left(ROWS).tolist() == [2**62] * 6
    assert victim.notes == ()
    assert victim.forwards_per_query == 1


def test_pullback_gives_detached_logits_and_a_function_that_can_be_called_again() -> None:
    net, x = mlp().double(), inputs().double()
    logits, vjp = wrap(net).pullback(x, ROWS)
    assert not logits.requires_grad
    first, second = torch.randn_like(logits), torch.randn_like(logits)
    leaf = x.clone().requires_grad_()
    for cotangent in (first, second, first):
        (want,) = torch.autograd.grad(net(leaf), leaf, cotangent)
        assert torch.allclose(vjp(cotangent), want, atol=1e-12)
    assert not x.requires_grad


def test_pullback_works_inside_no_grad() -> None:
    with torch.no_grad():
        logits, vjp = wrap(mlp()).pullback(inputs(), ROWS)
        assert vjp(torch.ones_like(logits)).abs().sum() > 0


def test_the_users_model_and_inputs_stay_as_they_are() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)
    ).train()
    x = torch.rand(6, 1, 8, 8)
    net(x).sum().backward()
    before, given = copy.deepcopy(net), x.clone()
    grads = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    victim, state = wrap(net, mean=0.5, std=0.5), torch.get_rng_state()
    logits, vjp = victim.pullback(x, ROWS)
    vjp(torch.ones_like(logits))
    victim.labels(x, ROWS)
    assert net.training
    assert all(part.training for part in net.modules())
    for (name, old), new in zip(before.named_parameters(), net.parameters(), strict=True):
        assert torch.equal(old, new), name
        assert new.requires_grad
    for old, parameter in zip(grads, net.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(old, parameter.grad)
    for old, new in zip(before.buffers(), net.buffers(), strict=True):
        assert torch.equal(old, new)
    assert torch.equal(x, given)
    assert torch.equal(state, torch.get_rng_state())
    assert "training mode" in victim.notes[0]


def test_later_training_of_the_users_model_does_not_reach_the_victim() -> None:
    net, x = mlp(), inputs()
    victim = wrap(net)
    before = victim.logits(x, ROWS)
    nn.init.zeros_(net[1].weight)  # type: ignore[arg-type]
    assert torch.equal(victim.logits(x, ROWS), before)


def test_a_first_step_in_place_changes_neither_inputs_nor_gradients() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), *mlp()).eval()
    x = inputs() - 0.5
    given = x.clone()
    victim = wrap(net, bounds=(-0.5, 0.5))
    logits, vjp = victim.pullback(x, ROWS)
    assert torch.equal(x, given)
    assert torch.equal(victim.logits(x, ROWS), logits)
    assert vjp(torch.ones_like(logits)).shape == x.shape
    assert torch.equal(x, given)


@pytest.mark.parametrize(
    ("mean", "std"), [(0.3, 0.7), ([0.1, 0.2], [0.5, 2.0]), (torch.rand(2, 4), 0.4), ([0.1, 0.2], None)]
)
def test_normalisation_happens_inside(mean: Any, std: Any) -> None:
    net, x = mlp(), inputs()
    m = torch.as_tensor(mean)
    s = torch.as_tensor(1.0 if std is None else std)
    m, s = (v[:, None] if v.ndim == 1 else v for v in (m, s))
    assert torch.allclose(wrap(net, mean=mean, std=std).logits(x, ROWS), net((x - m) / s).detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": [0.1, 0.2, 0.3]}, "3 values, but a batch of shape"),
        ({"mean": torch.rand(3, 4)}, "does not fit inputs"),
    ],
)
def test_normalisation_of_another_shape_is_refused_with_the_first_batch(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        wrap(mlp(), **options).logits(inputs(), ROWS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": 123.7, "std": 58.4}, "divide them by 255"),
        ({"std": 0.0}, "above 0"),
        ({"std": -1}, "above 0"),
        ({"mean": float("nan")}, "finite"),
        ({"mean": "x"}, "one number per channel"),
        ({"mean": [0.1, 0.2], "std": [1, 1, 1]}, "same shape"),
        ({"mean": []}, "finite"),
        ({"bounds": (1, 0)}, "lower first"),
        ({"bounds": (0, float("inf"))}, "finite"),
        ({"bounds": 1}, "two numbers"),
        ({"device": "cuda:99"}, "cannot be used"),
        ({"device": "warp"}, "cannot be used"),
        ({"dtype": "float16"}, "float32 or float64"),
        ({"dtype": torch.bfloat16}, "float32 or float64"),
        ({"output": 1.5}, "output is"),
        ({"output": True}, "output is"),
        ({"classes": 1}, "at least 2"),
        ({"classes": "ten"}, "at least 2"),
    ],
)
def test_an_option_that_means_nothing_is_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        wrap(mlp(), **options)
    assert "\n" not in str(caught.value)


def test_small_means_for_wide_bounds_are_noted() -> None:
    assert "multiply them by 255" in wrap(mlp(), bounds=(0, 255), mean=0.485, std=0.229).notes[0]


def test_dtype_is_the_models_own_unless_given() -> None:
    assert wrap(mlp()).dtype == torch.float32
    assert wrap(mlp().double()).dtype == torch.float64
    assert wrap(mlp(), dtype="float64").logits(inputs().double(), ROWS).dtype == torch.float64
    half = wrap(mlp().half())
    assert half.dtype == torch.float32
    assert "float16" in half.notes[0]


@pytest.mark.parametrize(
    ("dress", "output"),
    [
        (lambda z: {"scores": z, "features": z[:, :1]}, "scores"),
        (lambda z: {"logits": z, "loss": z.sum()}, "logits"),
        (lambda z: (z[:, :1], z), 1),
        (lambda z: [z[:, :1], z], -1),
        (lambda z: {"deep": {"er": z}}, lambda raw: raw["deep"]["er"]),
        (lambda z: z, None),
    ],
)
def test_output_picks_the_scores(dress: Any, output: Any) -> None:
    net, x = Answer(dress).eval(), inputs()
    victim = wrap(net, output=output)
    assert torch.equal(victim.logits(x, ROWS), net.net(x).detach())
    logits, vjp = victim.pullback(x, ROWS)
    assert vjp(torch.ones_like(logits)).abs().sum() > 0


@pytest.mark.parametrize(
    ("dress", "output", "said"),
    [
        (lambda z: {"scores": z, "loss": z.sum()}, None, r"'scores' \(6, 3\).*output='scores'"),
        (lambda z: (z, z), None, r"answers several parts: it holds 0 \(6, 3\)"),
        (lambda z: {"scores": z}, "logit", "has no part 'logit'"),
        (lambda z: (z, z), 5, "has no part 5"),
        (lambda z: z, "scores", "leave output out"),
        (lambda z: z, 0, "leave output out"),
        (lambda z: {"a": z}, lambda raw: raw["b"], "output function failed"),
        (lambda z: None, None, "answers NoneType"),
        (lambda z: z[..., None, None], None, r"shape \(6, 3, 1, 1\)"),
        (lambda z: z.sum(), None, "one row of scores"),
        (lambda z: z[:2], None, r"shape \(2, 3\) to 6 examples"),
        (lambda z: z.to(torch.complex64), None, "complex"),
    ],
)
def test_an_answer_that_is_no_row_of_scores_is_one_sentence(dress: Any, output: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        wrap(Answer(dress).eval(), output=output).logits(inputs(), ROWS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dress", [lambda z: z, lambda z: z[:, 0]])
def test_a_single_logit_is_lifted_to_two_exact_logits(dress: Any) -> None:
    net, x = Answer(dress, out=1).eval(), inputs()
    victim = wrap(net)
    z = net.net(x)[:, 0].detach()
    assert torch.equal(victim.logits(x, ROWS), torch.stack((torch.zeros(6), z), 1))
    assert torch.equal(victim.labels(x, ROWS), (z > 0).long())
    assert victim.classes == 2
    assert "logit of class 1" in victim.notes[0]


def test_a_single_number_between_0_and_1_must_be_declared() -> None:
    net, x = Answer(lambda z: z[:, 0].sigmoid(), out=1).eval(), inputs()
    with pytest.raises(ModelError, match="say which"):
        wrap(net).logits(x, ROWS)
    lifted = wrap(net, output="probabilities").logits(x, ROWS)
    assert torch.allclose(lifted[:, 1] - lifted[:, 0], net.net(x)[:, 0].detach(), atol=1e-5)
    assert torch.equal(wrap(net, output="logits").labels(x, ROWS), torch.ones(6, dtype=torch.int64))


def test_probabilities_are_recognised_noted_and_turned_into_log_probabilities() -> None:
    net, x = Answer(lambda z: z.softmax(1)).eval(), inputs()
    victim = wrap(net)
    assert torch.allclose(victim.logits(x, ROWS), F.log_softmax(net.net(x), 1).detach(), atol=1e-6)
    assert torch.equal(victim.labels(x, ROWS), net.net(x).argmax(1))
    assert "look like probabilities" in victim.notes[0]
    logits, vjp = victim.pullback(x, ROWS)
    assert vjp(F.one_hot(logits.argmin(1), 3).float()).abs().sum() > 0


def test_probabilities_declared_as_logits_are_left_alone() -> None:
    net, x = Answer(lambda z: z.softmax(1)).eval(), inputs()
    victim = wrap(net, output="logits")
    assert torch.equal(victim.logits(x, ROWS), net(x).detach())
    assert victim.notes == ()


def test_declared_probabilities_that_are_none_are_refused() -> None:
    with pytest.raises(ModelError, match="leave"):
        wrap(mlp(), output="probabilities").logits(inputs() * 50, ROWS)
    with pytest.raises(ModelError, match="do not sum to 1"):
        wrap(Answer(lambda z: z.sigmoid()).eval(), output="probabilities").logits(inputs(), ROWS)


def test_a_last_softmax_module_is_replaced_so_that_gradients_do_not_vanish() -> None:
    net, x = mlp(), inputs()
    net[3].weight.data *= 5000  # type: ignore[union-attr, operator]
    victim = wrap(nn.Sequential(net, nn.Softmax(dim=1)).eval())
    assert torch.allclose(victim.logits(x, ROWS), F.log_softmax(net(x), 1).detach(), rtol=1e-5)
    assert "softmax" in victim.notes[0]
    logits, vjp = victim.pullback(x, ROWS)
    gradient = vjp(F.one_hot(logits.argmin(1), 3).float())
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_a_last_sigmoid_module_gives_its_logit() -> None:
    net, x = mlp(1), inputs()
    victim = wrap(nn.Sequential(net, nn.Sigmoid()).eval())
    assert torch.equal(victim.logits(x, ROWS)[:, 1], net(x)[:, 0].detach())


def test_log_probabilities_are_fine_as_logits() -> None:
    victim = wrap(Answer(lambda z: z.log_softmax(1)).eval())
    victim.probe(inputs())
    assert victim.notes == ()


def test_a_module_that_answers_labels_gives_labels_only() -> None:
    net, x = Answer(lambda z: z.argmax(1)).eval(), inputs()
    victim = wrap(net)
    assert torch.equal(victim.labels(x, ROWS), net(x))
    assert victim.access is Access.LABELS
    assert "class labels" in victim.notes[0]
    for ask in (victim.logits, victim.pullback):
        with pytest.raises(AccessError, match="labels only"):
            ask(x, ROWS)


def test_a_model_without_gradients_gives_scores_only() -> None:
    victim = wrap(Answer(lambda z: z.detach()).eval())
    victim.probe(inputs())
    assert victim.access is Access.SCORES
    assert "No gradient flows" in victim.notes[0]
    with pytest.raises(AccessError, match="carry no gradient"):
        victim.pullback(inputs(), ROWS)


def test_an_answer_that_changes_its_classes_is_refused() -> None:
    victim = wrap(Answer(lambda z: z[:, : 3 if len(z) > 1 else 2]).eval())
    victim.logits(inputs(), ROWS)
    with pytest.raises(ModelError, match="answered 3 classes before"):
        victim.logits(inputs(1), ROWS[:1])
    with pytest.raises(ModelError, match="declared to have 4 classes"):
        wrap(mlp(), classes=4).logits(inputs(), ROWS)


def test_what_the_model_raises_becomes_one_sentence() -> None:
    def fail(z: Tensor) -> Tensor:
        raise KeyError("first line\nsecond line")

    with pytest.raises(ModelError, match="KeyError") as caught:
        wrap(Answer(fail).eval()).logits(inputs(), ROWS)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"failed on a batch of shape \(6, 3, 5\)"):
        wrap(mlp()).logits(torch.rand(6, 3, 5), ROWS)


def test_a_wrong_layout_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ModelError, match="call it once"):
        wrap(net)
    net(torch.rand(1, 3, 8, 8))
    victim = wrap(net.eval())
    with pytest.raises(ModelError, match="permute"):
        victim.logits(torch.rand(6, 8, 8, 3), ROWS)
    with pytest.raises(ModelError, match=r"channel axis"):
        victim.logits(torch.rand(6, 8, 8), ROWS)
    with pytest.raises(ModelError, match="reads 3 channels, the examples have 1"):
        victim.logits(torch.rand(6, 1, 8, 8), ROWS)


def test_a_model_with_results_kept_as_attributes_can_be_copied() -> None:
    net = mlp()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net[1])  # type: ignore[arg-type]
    x = inputs()
    net(x).sum().backward()
    assert torch.allclose(wrap(net).logits(x, ROWS), net(x).detach(), atol=1e-6)


def test_a_model_that_cannot_be_copied_is_one_sentence() -> None:
    net = mlp()
    net.lock = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(ModelError, match="cannot be copied"):
        wrap(net)


def test_a_model_on_the_meta_device_is_refused() -> None:
    with pytest.raises(ModelError, match="meta"):
        wrap(nn.Linear(3, 2, device="meta"))


def test_shells_are_taken_off() -> None:
    assert wrap(nn.DataParallel(mlp())).description["type"].endswith("Sequential")
    assert wrap(torch.compile(mlp(), backend="eager")).description["type"].endswith("Sequential")  # type: ignore[call-overload]


def test_randomised_models_stay_random_and_leave_the_global_stream_alone_while_checked() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + torch.randn(x.shape))

    state = torch.get_rng_state()
    victim, x = wrap(Noisy().eval()), torch.rand(6, 4)
    torch.set_rng_state(state)
    victim.logits(x, ROWS)
    first = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.randn(6, 4)
    assert torch.equal(first, torch.get_rng_state())  # one draw: that of the answer itself
    assert len(victim.description["folded"]) == 1
    assert not torch.equal(victim.logits(x, ROWS), victim.logits(x, ROWS))


def test_answers_do_not_depend_on_the_strides_of_the_input() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.rand(6, 3, 8, 8)
    victim = wrap(net)
    assert victim.description["channels_last"]
    turned = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(victim.logits(x, ROWS), victim.logits(turned, ROWS), atol=1e-6)
    logits, vjp = victim.pullback(turned, ROWS)
    assert vjp(torch.ones_like(logits)).is_contiguous()


def test_an_empty_batch_is_answered_once_the_classes_are_known() -> None:
    victim = wrap(mlp())
    victim.probe(inputs())
    assert victim.logits(inputs(0), ROWS[:0]).shape == (0, 3)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_answers_agree_for_every_batch_size(backend: str) -> None:
    net, x = mlp(), inputs()
    victim, plain = wrap(net, compile=backend), wrap(net)
    for n in (1, 3, 6):
        logits, vjp = victim.pullback(x[:n], ROWS[:n])
        want, want_vjp = plain.pullback(x[:n], ROWS[:n])
        assert torch.allclose(logits, want, atol=1e-6)
        for _ in range(2):
            assert torch.allclose(vjp(torch.ones_like(logits)), want_vjp(torch.ones_like(want)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # inductor and its dependencies warn of their own matters
def test_inductor_allows_several_backwards_through_one_forward() -> None:
    net, x = mlp(), inputs()
    logits, vjp = wrap(net, compile=True).pullback(x, ROWS)
    want, want_vjp = wrap(net).pullback(x, ROWS)
    assert torch.allclose(logits, want, atol=1e-5)
    for _ in range(2):
        assert torch.allclose(vjp(torch.ones_like(logits)), want_vjp(torch.ones_like(want)), atol=1e-5)


@pytest.mark.parametrize("thing", [nn.Linear, None, 3, {"weight": torch.zeros(1)}, object()])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    with pytest.raises(ModelError, match=r"expected"):
        wrap(thing)


def test_a_victim_is_given_back_and_options_are_refused() -> None:
    victim = wrap(mlp())
    assert wrap(victim) is victim
    with pytest.raises(SettingError, match="mean cannot be changed"):
        wrap(victim, mean=0.5)


def test_the_description_is_json() -> None:
    import json

    victim = wrap(mlp(), mean=[0.1, 0.2], std=0.5, output=lambda raw: raw)
    victim.probe(inputs())
    assert json.loads(json.dumps(victim.description))["mean"] == [0.1, 0.2]


def test_all_errors_share_one_root() -> None:
    assert issubclass(ModelError, HauberkError)
    assert isinstance(wrap(mlp()), Scored)
