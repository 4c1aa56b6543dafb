"""The edge: examples and labels coerced, every usual mistake one sentence with its cure."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk.errors import DataError, ModelError
from hauberk.victims import Meter, TorchVictim, check_inputs, probe, wrap


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def victim(**options: Any) -> TorchVictim:
    return wrap(cnn(), **options)


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 4])


def test_tensors_and_arrays_become_what_the_strict_layer_takes() -> None:
    for x in (images(), images().numpy(), images().double().numpy(), images().numpy()[:, :, ::-1].copy()[:, :, ::-1]):
        for y in (
            LABELS,
            LABELS.numpy(),
            LABELS.numpy().astype(np.uint16),
            [0, 1, 2, 4],
            LABELS.double(),
            LABELS[:, None],
        ):
            got_x, got_y = check_inputs(victim(), x, y)
            assert got_x.dtype == torch.float32
            assert torch.equal(got_x, images())
            assert torch.equal(got_y, LABELS)
            assert got_y.dtype == torch.int64


def test_bytes_are_mapped_to_the_bounds() -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(4, 64).reshape(4, 3, 8, 8)
    assert torch.allclose(check_inputs(victim(), x, LABELS)[0], x / 255)
    assert torch.equal(check_inputs(victim(bounds=(0, 255)), x, LABELS)[0], x.float())
    assert torch.allclose(check_inputs(victim(bounds=(-1, 1)), x, LABELS)[0], x / 127.5 - 1, atol=1e-6)


def test_inputs_are_not_changed_and_carry_no_graph() -> None:
    x = images().requires_grad_()
    assert not check_inputs(victim(), x, LABELS)[0].requires_grad
    assert x.grad is None


def poisoned(value: float) -> Tensor:
    x = images()
    x[2, 1, 3, 3] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (images() * 255, LABELS, r"expected values in \[0, 1\], got values in .*8-bit data; divide by 255"),
        (
            (images() - 0.45) / 0.22,
            LABELS,
            r"normalised already \(mean .*, std .*\); pass raw values and give mean= and std=",
        ),
        (images() * 1.0005, LABELS, "clip the examples"),
        (images() * 1e6 - 1e5, LABELS, "bounds of the data"),
        (poisoned(float("nan")), LABELS, "got NaN in example 2"),
        (poisoned(float("inf")), LABELS, "got infinity in example 2"),
        (images().permute(0, 2, 3, 1), LABELS, r"channels come last; pass x.permute\(0, 3, 1, 2\)"),
        (images()[0, 0, 0], LABELS, r"one example is x\[None\]"),
        (images() > 0.5, LABELS, "got bool"),
        (images().to(torch.complex64), LABELS, "got complex64"),
        (torch.zeros(4, 0), LABELS, "batch of examples"),
        (images(0), LABELS[:0], "at least one example"),
        ([[1.0, 2.0], [3.0]], LABELS[:2], "no numeric array"),
        (np.array(["a", "b"]), LABELS[:2], "no numeric array"),
        (None, LABELS, "no numeric array"),
        (images(), None, "no numeric array"),
        (images(), LABELS[:3], "got 4 examples and 3 labels"),
        (images(), LABELS + 0.5, "whole numbers"),
        (images(), torch.full((4,), float("nan")), "whole numbers"),
        (images(), torch.eye(4), "argmax"),
        (images(), LABELS[None, None], r"shape \(n,\)"),
        (images(), LABELS - 1, "got -1"),
        (images(), LABELS + 1, r"labels 0 \.\. 4 for the 5 classes of 'Sequential', got the label 5"),
    ],
)
def test_a_usual_mistake_is_one_sentence(x: Any, y: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        check_inputs(victim(), x, y)
    assert "\n" not in str(caught.value)


def test_data_normalised_twice_is_told_from_data_normalised_once() -> None:
    with pytest.raises(DataError, match="normalises inside already"):
        check_inputs(victim(mean=0.45, std=0.22), (images() - 0.45) / 0.22, LABELS)


def test_data_divided_by_255_is_told_where_the_bounds_say_0_to_255() -> None:
    with pytest.raises(DataError, match=r"bounds=\(0, 1\)"):
        check_inputs(victim(bounds=(0, 255)), images(), LABELS)
    check_inputs(victim(bounds=(0, 255)), images() * 0, LABELS)  # black pictures prove nothing


def test_messages_call_examples_by_their_ids() -> None:
    with pytest.raises(DataError, match="example 72"):
        check_inputs(victim(), poisoned(float("nan")), LABELS, ids=torch.tensor([70, 71, 72, 73]))


def test_a_wrong_size_is_the_models_error_in_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"failed on a batch of shape") as caught:
        check_inputs(victim(), torch.rand(4, 3, 9, 9), LABELS)
    assert "\n" not in str(caught.value)


def test_checking_probes_a_victim_once_and_charges_no_meter() -> None:
    meter = Meter(victim(), 4, budget=0)
    check_inputs(meter, images(), LABELS)
    assert meter.classes == 5
    assert meter.queries.sum() == 0


def test_a_probe_refuses_scores_that_are_not_finite() -> None:
    net = cnn()
    net[2].bias.data[3] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match=r"to example 0, expected finite scores"):
        wrap(net).probe(images())


class Mixing(nn.Module):
    """As many classes as there are examples."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ x.flatten(1).T


def test_a_probe_refuses_classes_that_depend_on_the_batch() -> None:
    with pytest.raises(ModelError, match=r"now"):
        wrap(Mixing()).probe(images())


def test_a_probe_works_for_any_object_with_the_verbs() -> None:
    probe(Meter(victim(), 8), images())
