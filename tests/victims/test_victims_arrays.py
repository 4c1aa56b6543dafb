"""Functions on numpy arrays as victims."""

from typing import Any

import numpy as np
import pytest
import torch

from hauberk.errors import AccessError, ModelError, SettingError
from hauberk.threat import Access, Differentiable, Scored
from hauberk.victims import ArrayVictim, Victim, wrap

X = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(5)
W = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def scores(x: Any) -> Any:
    return x.reshape(len(x), -1) @ W


def labels(x: Any) -> Any:
    return scores(x).argmax(1)


def test_a_function_gives_scores() -> None:
    victim = wrap(scores)
    assert isinstance(victim, ArrayVictim)
    assert isinstance(victim, Victim)
    assert isinstance(victim, Scored)
    assert not isinstance(victim, Differentiable)
    victim.probe(X)
    assert victim.access is Access.SCORES
    assert (victim.classes, victim.name, victim.notes) == (4, "scores", ())
    assert np.array_equal(victim.logits(X, ROWS).numpy(), scores(X.numpy()))
    assert np.array_equal(victim.labels(X, ROWS).numpy(), labels(X.numpy()))


@pytest.mark.parametrize(
    "dress", [lambda y: y, lambda y: y.astype(np.uint8), lambda y: y.tolist(), lambda y: torch.as_tensor(y)]
)
def test_a_function_gives_labels(dress: Any) -> None:
    victim = wrap(lambda x: dress(labels(x)))
    victim.probe(X)
    assert victim.access is Access.LABELS
    assert np.array_equal(victim.labels(X, ROWS).numpy(), labels(X.numpy()))
    assert victim.labels(X, ROWS).dtype == torch.int64
    with pytest.raises(AccessError, match="labels only"):
        victim.logits(X, ROWS)


def test_labels_as_floats_are_declared() -> None:
    victim = wrap(lambda x: labels(x).astype(np.float64), output="labels")
    assert np.array_equal(victim.labels(X, ROWS).numpy(), labels(X.numpy()))
    with pytest.raises(ModelError, match="fractions"):
        wrap(lambda x: x.reshape(5, -1)[:, 0] + 0.5, output="labels").labels(X, ROWS)
    with pytest.raises(ModelError, match="label -1"):
        wrap(lambda x: labels(x) * 0 - 1).labels(X, ROWS)
    with pytest.raises(ModelError, match="declared to answer labels"):
        wrap(scores, output="labels").labels(X, ROWS)


def test_the_function_gets_its_own_normalised_copy() -> None:
    def spoil(x: Any) -> Any:
        answer = scores(x)
        x[...] = 9
        return answer

    before = X.clone()
    victim = wrap(spoil, mean=0.5, std=[0.5, 0.25])
    want = scores((X.numpy() - 0.5) / np.array([0.5, 0.25], np.float32)[:, None])
    assert np.allclose(victim.logits(X, ROWS).numpy(), want, atol=1e-5)
    assert torch.equal(X, before)


@pytest.mark.parametrize(
    "dress",
    [
        lambda z: z.tolist(),
        lambda z: np.broadcast_to(z, z.shape),
        lambda z: z[:, ::-1],
        lambda z: z.astype(">f4"),
        list,
    ],
)
def test_any_array_of_scores_will_do(dress: Any) -> None:
    assert wrap(lambda x: dress(scores(x))).logits(X, ROWS).shape == (5, 4)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: np.array(["cat"] * len(x)), "expected an array of scores"),
        (lambda x: [[1, 2], [3]], "expected an array of scores"),
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x: scores(x)[:2], r"shape \(2, 4\) to 5 examples"),
        (lambda x: {"a": scores(x), "b": 1}, "output='a'"),
    ],
)
def test_what_is_no_answer_is_one_sentence(function: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        wrap(function).logits(X, ROWS)
    assert "\n" not in str(caught.value)


def test_options_for_modules_are_refused() -> None:
    refused: list[dict[str, Any]] = [{"compile": True}, {"fold": False}]
    for options in refused:
        with pytest.raises(SettingError, match="PyTorch modules"):
            wrap(scores, **options)
    with pytest.raises(SettingError, match="CPU"):
        wrap(scores, device="meta")


def test_float64_is_passed_on() -> None:
    seen: list[Any] = []
    victim = wrap(lambda x: (seen.append(x.dtype), scores(x))[1], dtype="float64")
    assert victim.logits(X.double(), ROWS).dtype == torch.float64
    assert seen[0] == np.float64
