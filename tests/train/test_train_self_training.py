"""Robust self-training: labels from a teacher, and batches with their share of them."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import DataError, SettingError
from hauberk.train import (
    Examples,
    Losses,
    Moment,
    Natural,
    Recipe,
    SelfTraining,
    Teacher,
    fit,
    initialise,
    pseudo_label,
)


def _net() -> nn.Sequential:
    return initialise(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5)), seed=4).double()


def _points(count: int, seed: int) -> Tensor:
    return torch.rand((count, 2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _data(labelled: int = 12, others: int = 30, share: float = 0.5) -> Examples:
    known = Examples(_points(labelled, 0), torch.arange(labelled) % 3, 5 * torch.arange(labelled))
    return SelfTraining(share=share)(_net(), known, _points(others, 1))


def test_pseudo_labels_are_the_teachers_answers_in_evaluation_mode() -> None:
    net, x = _net(), _points(9, 1)
    scores = x.flatten(1) @ net[1].weight.detach().T + net[1].bias.detach()  # type: ignore[union-attr, operator]
    want = [max(range(3), key=lambda k: float(row[k])) for row in scores]
    assert pseudo_label(net, x, batch_size=4).tolist() == want
    assert net.training


def test_the_others_come_after_the_labelled_with_ids_of_their_own() -> None:
    data = _data()
    assert len(data) == 42
    assert data.y[:12].tolist() == [0, 1, 2] * 4
    assert torch.equal(data.y[12:], pseudo_label(_net(), _points(30, 1)))
    assert len(data.ids.unique()) == 42
    assert data.ids[:12].tolist() == list(range(0, 60, 5))


@pytest.mark.parametrize(("share", "size"), [(0.5, 4), (0.25, 8), (0.7, 10), (0.5, 5)])
def test_every_whole_batch_has_its_share_of_pseudo_labels(share: float, size: int) -> None:
    data = _data(share=share)
    batches = data.batches(size, seed=3, epoch=1)
    assert len(batches) == data.steps(size)
    for rows in batches[:-1]:
        assert len(rows) == size
        assert int((rows >= 12).sum()) == int(size * share + 1e-9)
    own = size - int(size * share + 1e-9)
    left = int((batches[-1] < 12).sum())
    assert int((batches[-1] >= 12).sum()) == round(left / own * (size - own))


def test_an_epoch_visits_each_labelled_example_once_and_goes_on_through_the_others() -> None:
    data = _data()
    seen: list[int] = []
    for epoch in range(5):  # 5 * 12 drawn of 30: everything twice
        rows = torch.cat(data.batches(6, seed=3, epoch=epoch))
        assert sorted(rows[rows < 12].tolist()) == list(range(12))
        seen += rows[rows >= 12].tolist()
        if epoch == 1:
            assert max(Counter(seen).values()) == 1
    assert Counter(seen) == dict.fromkeys(range(12, 42), 2)


def test_few_others_are_seen_more_often_and_all_alike() -> None:
    data = _data(others=5)
    rows = torch.cat([row for epoch in range(5) for row in data.batches(6, seed=3, epoch=epoch)])
    assert Counter(rows[rows >= 12].tolist()) == dict.fromkeys(range(12, 17), 12)


def test_batches_depend_on_seed_and_epoch_alone_and_mix_the_kinds() -> None:
    data = _data()
    one, again = (torch.cat(data.batches(6, seed=3, epoch=2)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, torch.cat(data.batches(6, seed=4, epoch=2)))
    assert not torch.equal(one, torch.cat(data.batches(6, seed=3, epoch=3)))
    kinds = torch.stack([rows >= 12 for rows in data.batches(6, seed=3, epoch=2)])
    assert bool(kinds[:, :3].any())  # not all of them at the end of each batch


def test_examples_without_a_supplement_are_a_permutation_cut() -> None:
    from hauberk.train._draws import order

    data = Examples(_points(7, 0), torch.zeros(7, dtype=torch.int64), torch.arange(7))
    assert data.steps(3) == 3
    assert torch.equal(torch.cat(data.batches(3, seed=1, epoch=2)), order(7, seed=1, epoch=2))
    assert [len(rows) for rows in data.batches(3, seed=1, epoch=2)] == [3, 3, 1]


def test_the_share_is_part_of_the_fingerprint() -> None:
    assert _data(share=0.5).fingerprint() != _data(share=0.6).fingerprint()
    plain = Examples(_data().x, _data().y, _data().ids)
    assert plain.fingerprint() != _data().fingerprint()


def test_the_mean_over_batches_weighs_the_pseudo_labelled_as_the_formula_says() -> None:
    data = _data(labelled=12, others=36, share=0.25)  # v = 0.25 / 0.75 * 12 / 36 = 1 / 9
    values = torch.arange(48, dtype=torch.float64).square()
    total = sum(
        float(values[rows].sum()) for epoch in range(9) for rows in data.batches(4, seed=0, epoch=epoch)
    )  # 9 * 4 of the others: each once
    torch.testing.assert_close(total / 9, float(values[:12].sum() + values[12:].sum() / 9))


def test_a_teacher_is_a_frozen_copy_named_by_its_weights() -> None:
    net, x = _net(), _points(3, 1)
    teacher = Teacher(net)
    before = teacher(x)
    with torch.no_grad():
        net[1].weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(teacher(x), before)
    assert teacher.fingerprint in repr(teacher)
    assert repr(teacher) == repr(Teacher(_net()))
    assert repr(teacher) != repr(Teacher(net))
    assert teacher(x.float()).dtype == torch.float32
    assert not any(value.requires_grad for value in teacher.net.parameters())


def test_what_makes_no_sense_is_refused() -> None:
    known = (_points(4, 0), torch.zeros(4, dtype=torch.int64))
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(SettingError, match="share"):
            SelfTraining(share=share)
    with pytest.raises(DataError, match="shape"):
        SelfTraining()(_net(), known, torch.zeros(3, 5, dtype=torch.float64))
    with pytest.raises(DataError, match="shape"):
        SelfTraining()(_net(), known, torch.zeros(0, 2, 2, dtype=torch.float64))
    with pytest.raises(SettingError, match="supplement"):
        Examples(*known, torch.arange(4), supplement=4, share=0.5)
    with pytest.raises(SettingError, match="supplement"):
        Examples(*known, torch.arange(4), supplement=1)


def test_a_training_learns_from_both_kinds_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    data, recipe = _data(), Recipe(epochs=3, batch_size=5)
    whole = fit(_net(), data, Natural(), recipe)
    assert whole.epochs[-1].step == 3 * data.steps(5)
    seen = sum(len(rows) for rows in data.batches(5, seed=0, epoch=0))
    assert whole.epochs[0].forwards == 1.0
    assert seen > 12
    fit_until(_net(), data, recipe, tmp_path, steps=6)
    resumed = fit(_net(), data, Natural(), recipe, out=tmp_path)
    assert resumed.resumed_at > 0
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True))


def fit_until(net: nn.Module, data: Examples, recipe: Recipe, out: Path, *, steps: int) -> None:
    """A training that dies after so many steps."""

    class _Dying(Natural):
        def __call__(self, net: nn.Module, x: Tensor, y: Tensor, *, streams: Streams, at: Moment) -> Losses:
            if at.step == steps:
                raise KeyboardInterrupt
            return super().__call__(net, x, y, streams=streams, at=at)

        def __repr__(self) -> str:
            return repr(Natural())

    with pytest.raises(KeyboardInterrupt):
        fit(net, data, _Dying(), recipe, out=out, checkpoint_every=1)
