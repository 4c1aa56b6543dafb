"""The trainer: it learns, it repeats itself, it resumes bit-exactly, and it touches nothing global."""

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import DataError, ModelError, RunError, SettingError
from hauberk.train import (
    SGD,
    Adam,
    Constant,
    Cyclic,
    Epoch,
    Examples,
    FastAdversarial,
    Losses,
    Moment,
    Monitor,
    Natural,
    Objective,
    OneCycle,
    Optimiser,
    Rate,
    Recipe,
    collect,
    fit,
    initialise,
)
from hauberk.train.records import Log


def _data(count: int = 50) -> tuple[Tensor, Tensor]:
    """Two classes that a line separates."""
    x = torch.rand((count, 1, 2, 3), generator=torch.Generator().manual_seed(1))
    return x, (x.flatten(1)[:, 0] + x.flatten(1)[:, 3] > 1).long()


def _make() -> nn.Sequential:
    layers = nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 2)
    return nn.Sequential(*layers)


def _net(seed: int = 0) -> nn.Sequential:
    return initialise(_make, seed=seed)


def _same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


class _KilledError(Exception):
    pass


@dataclass(frozen=True)
class _Failing:
    """An objective that stops the training at its n-th call, and looks like the one it wraps."""

    inner: Objective
    calls: list[int]

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise _KilledError
        return self.inner(net, x, y, streams=streams, at=at)


RECIPE = Recipe(epochs=3, batch_size=8, seed=5, rate=Cyclic(0.05))  # 7 steps an epoch, the last on 2 examples


def test_training_learns_what_a_line_separates() -> None:
    fitted = fit(_net(), _data(400), Natural(), Recipe(epochs=15, batch_size=16, rate=Cyclic(0.02)))
    x, y = _data(400)
    assert (fitted.net(x).argmax(1) == y).float().mean() > 0.95
    assert not fitted.net.training
    assert [epoch.epoch for epoch in fitted.epochs] == list(range(1, 16))
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again = (fit(_net(), _data(), FastAdversarial(), RECIPE).net for _ in range(2))
    other = fit(_net(), _data(), FastAdversarial(), Recipe(epochs=3, batch_size=8, seed=6, rate=Cyclic(0.05))).net
    assert _same(first, again)
    assert not _same(first, other)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.rand(3)
    a = _net(1)
    torch.rand(5)
    assert _same(a, _net(1))
    assert not _same(a, _net(2))


def test_nothing_global_moves(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    fit(_net(), _data(), FastAdversarial(), RECIPE, out=tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "optimiser", [Adam(), SGD(momentum=0.9, nesterov=True), SGD(momentum=0.0), Adam(weight_decay=1e-3)], ids=repr
)
@pytest.mark.parametrize("killed_after", [1, 6, 7, 10, 18])
def test_a_killed_training_resumes_to_bit_equal_weights(
    tmp_path: Path, optimiser: Optimiser, killed_after: int
) -> None:
    recipe = Recipe(epochs=3, batch_size=8, seed=5, optimiser=optimiser, rate=Cyclic(0.05))
    unbroken = fit(_net(), _data(), FastAdversarial(), recipe)
    out = tmp_path / "run"
    with pytest.raises(_KilledError):
        fit(_net(), _data(), _Failing(FastAdversarial(), [killed_after]), recipe, out=out, checkpoint_every=2)
    resumed = fit(_net(), _data(), FastAdversarial(), recipe, out=out, checkpoint_every=2)
    assert _same(resumed.net, unbroken.net)
    assert 0 <= killed_after - resumed.resumed_at < 2
    shown = [(epoch.step, epoch.loss, epoch.accuracy, epoch.rate) for epoch in unbroken.epochs]
    assert [(epoch.step, epoch.loss, epoch.accuracy, epoch.rate) for epoch in resumed.epochs] == shown
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_a_finished_training_is_only_loaded(tmp_path: Path) -> None:
    first = fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    again = fit(_net(), _data(), _Failing(Natural(), [0]), RECIPE, out=tmp_path)
    assert _same(first.net, again.net)
    assert again.resumed_at == 21
    assert again.epochs == first.epochs
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-00000021.safetensors",
        "checkpoint.json",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda: (_net(1), _data(), Natural(), RECIPE), "initial weights"),
        (lambda: (_net(), _data(49), Natural(), RECIPE), "data"),
        (lambda: (_net(), _data(), FastAdversarial(), RECIPE), "objective"),
        (lambda: (_net(), _data(), Natural(), Recipe(epochs=4, batch_size=8, seed=5, rate=Cyclic(0.05))), "recipe"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, change: Callable[[], tuple[Any, ...]], word: str
) -> None:
    fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    with pytest.raises(RunError, match=f"another training: {word} was"):
        fit(*change(), out=tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    (tensors,) = tmp_path.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(RunError, match="missing or altered"):
        fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    tensors.unlink()
    with pytest.raises(RunError, match="missing or altered"):
        fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    for text in ("{", "[]", "{}", '{"schema": "other/1"}'):
        (tmp_path / "checkpoint.json").write_text(text)
        with pytest.raises(RunError, match="checkpoint"):
            fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="give"):
        fit(_net(), _data(), Natural(), RECIPE, out=tmp_path / "file")


def test_a_loss_that_is_not_finite_stops_the_training_and_says_what_to_lower() -> None:
    x, y = _data()
    x[3] = 3e38
    with pytest.raises(SettingError, match="lower the learning rate"):
        fit(_net(), (x, y), Natural(), RECIPE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), "at least one"),
        ((torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)), "one label"),
        ((torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)), "divide"),
        ((torch.zeros(2, 3), torch.zeros(2)), "int64 labels"),
        ((torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), torch.zeros(2, dtype=torch.int64)), "1 of 2 examples with NaN"),
        ((torch.tensor([torch.inf, 0.0]), torch.zeros(2, dtype=torch.int64)), "finite"),
        ((torch.zeros(2, 3), torch.tensor([0, -1])), "int64 labels"),
        ("digits", "got str"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(data: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        collect(data)


def test_two_examples_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="distinct"):
        Examples(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.tensor([4, 4]))


@dataclass
class _Source:
    """Like a `hauberk.data.Source`, in pieces of at most 7."""

    x: Tensor
    y: Tensor
    told: int | None = None

    def __len__(self) -> int:
        return len(self.x) if self.told is None else self.told

    def chunks(self, size: int) -> Iterator[Examples]:
        for start in range(0, len(self.x), min(size, 7)):
            rows = torch.arange(start, min(start + 7, len(self.x)))
            yield Examples(self.x[rows], self.y[rows], rows)


def test_a_source_is_trained_on_like_its_tensors() -> None:
    x, y = _data()
    assert collect(_Source(x, y)).fingerprint() == collect((x, y)).fingerprint()
    assert _same(fit(_net(), _Source(x, y), Natural(), RECIPE).net, fit(_net(), (x, y), Natural(), RECIPE).net)


def test_a_source_that_miscounts_is_refused() -> None:
    with pytest.raises(DataError, match="said it holds 60"):
        collect(_Source(*_data(), told=60))


def test_the_cyclic_rate_rises_and_falls_in_straight_lines() -> None:
    values = [Cyclic(2.0, rise=0.5)(step, 99) for step in range(99)]
    assert max(values) == pytest.approx(2.0)
    assert values[49] == pytest.approx(2.0)
    assert values[0] == pytest.approx(values[-1]) == pytest.approx(0.04)
    assert all(abs(abs(b - a) - 0.04) < 1e-12 for a, b in itertools.pairwise(values))


def test_the_one_cycle_rate_agrees_with_torch() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.3, total_steps=101, pct_start=31 / 101, cycle_momentum=False
    )
    for step in range(101):
        assert OneCycle(0.3, rise=0.3)(step, 101) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6)
        optimiser.step()
        if step < 100:
            theirs.step()


@pytest.mark.parametrize(
    "rate", [lambda: Constant(0.0), lambda: Cyclic(-1.0), lambda: OneCycle(0.1, rise=1.0), lambda: Cyclic(float("nan"))]
)
def test_a_rate_that_means_nothing_is_refused(rate: Callable[[], Rate]) -> None:
    with pytest.raises(SettingError, match="got"):
        rate()


def test_a_constant_rate_is_constant() -> None:
    assert {Constant(0.1)(step, 10) for step in range(10)} == {0.1}


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for epochs, batch_size in ((0, 8), (1, 0)):
        with pytest.raises(SettingError, match=">= 1"):
            Recipe(epochs, batch_size)
    with pytest.raises(SettingError, match="checkpoint_every"):
        fit(_net(), _data(), Natural(), RECIPE, checkpoint_every=3)
    with pytest.raises(SettingError, match="checkpoint_every"):
        fit(_net(), _data(), Natural(), RECIPE, checkpoint_every=0, out=tmp_path)


def test_the_progress_bar_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    fit(_net(), _data(), Natural(), RECIPE, progress=True)
    assert "epoch 3/3" in capsys.readouterr().out


def test_only_checkpoints_of_a_training_are_removed_from_its_folder(tmp_path: Path) -> None:
    others = ["my-checkpoint-7.safetensors.bak", "my-checkpoint-00000007.safetensors", "checkpoint-best.safetensors"]
    own = [
        "checkpoint-00000003.safetensors",
        ".checkpoint-00000003.safetensors.tmp",
        ".tmp-checkpoint-00000003.safetensors",
    ]
    for name in others + own:
        (tmp_path / name).write_text("")
    fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*others, "checkpoint-00000021.safetensors", "checkpoint.json", "metrics.jsonl"}


def test_a_full_disk_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="make room"):
        fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_records_that_cannot_be_written_end_in_one_sentence(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", 0)
    log.path = tmp_path
    with pytest.raises(RunError, match="records"):
        log.add(Epoch(1, 7, 0.5, 0.5, 0.1, 1.0))


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_checkpoints_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) == 1  # the records are written as any file is


def test_a_checkpoint_that_is_well_formed_and_wrong_is_refused(tmp_path: Path) -> None:
    fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    path = tmp_path / "checkpoint.json"
    right = path.read_text()

    def refused(change: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads(right)
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(RunError, match="expected"):
            fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)

    for wrong in (None, [], "x"):
        refused(lambda document, wrong=wrong: document.update(settings=wrong))  # type: ignore[misc]
    refused(lambda document: document["position"]["plain"].pop("now"))
    refused(lambda document: document["position"]["plain"]["now"].pop("optimiser"))
    refused(lambda document: document["position"].update(plain=None))
    (file,) = tmp_path.glob("*.safetensors")
    save_file({name: value for name, value in load_file(file).items() if not name.startswith("net/")}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    refused(lambda document: document["tensors"].update(sha256=digest))


def test_a_torn_last_record_is_left_out(tmp_path: Path) -> None:
    first = fit(_net(), _data(), Natural(), RECIPE, out=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "step": 28, "measures": {}')  # ends as a whole line may
    assert fit(_net(), _data(), Natural(), RECIPE, out=tmp_path).epochs == first.epochs


def test_labels_beyond_the_nets_classes_are_refused_before_training() -> None:
    x, y = _data()
    with pytest.raises(DataError, match=r"labels below 2.*got 3"):
        fit(_net(), (x, y + 2), Natural(), RECIPE)
    held = Monitor(data=(x, y + 1), threat="linf:0.1")
    with pytest.raises(DataError, match=r"labels below 2.*got 2"):
        fit(_net(), (x, y), Natural(), RECIPE, monitor=held)


def test_a_net_that_cannot_learn_is_refused_before_training() -> None:
    for net in (nn.Flatten(), _net().requires_grad_(requires_grad=False)):
        with pytest.raises(ModelError, match="trainable parameters"):
            fit(net, _data(), Natural(), RECIPE)
    with pytest.raises(ModelError, match="classes"):
        fit(nn.Linear(3, 2), _data(), Natural(), RECIPE)


def test_a_last_batch_of_one_example_names_the_cure_where_the_net_has_batch_norm() -> None:
    with pytest.raises(SettingError, match=r"batch of 1 .*batch_size"):
        fit(_net(), _data(49), Natural(), RECIPE)


def test_settings_of_optimisers_that_mean_nothing_are_refused() -> None:
    wrong: list[Callable[[], object]] = [
        lambda: Adam(betas=(0.9, 1.0)),
        lambda: Adam(betas=(-0.1, 0.9)),
        lambda: Adam(betas=(0.9,)),  # type: ignore[arg-type]
        lambda: Adam(weight_decay=-1.0),
        lambda: Adam(weight_decay=float("nan")),
        lambda: SGD(momentum=-0.1),
        lambda: SGD(momentum=float("inf")),
        lambda: SGD(momentum=0.0, nesterov=True),
        lambda: SGD(weight_decay=-1.0),
    ]
    for make in wrong:
        with pytest.raises(SettingError, match="got"):
            make()
