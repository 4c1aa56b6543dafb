"""The monitor: what it measures, which weights it keeps, and what its detectors find and do."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import MissingExtraError, SettingError
from hauberk.train import (
    SGD,
    Constant,
    Epoch,
    Losses,
    MLflow,
    Moment,
    Monitor,
    Natural,
    Recipe,
    TensorBoard,
    collapse,
    fit,
    initialise,
    robust_overfitting,
)
from hauberk.train._averaging import swapped


def _line(count: int = 40) -> tuple[Tensor, Tensor]:
    """Points of a line; class 1 lies beyond one half."""
    x = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    return x, (x[:, 0] > 0.5).long()


class _Line(nn.Module):
    """Scores by x - `cut`."""

    def __init__(self, cut: float = 0.5) -> None:
        super().__init__()
        self.cut = nn.Parameter(torch.tensor(cut, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.cut - x, x - self.cut], dim=1) * 4


def test_the_monitor_measures_what_a_line_says() -> None:
    x, y = _line()
    found = Monitor(data=(x, y), threat="linf:0.1").look(_Line())
    far = ((x[:, 0] - 0.5).abs() > 0.1).double().mean().item()
    assert found["clean"] == 1.0
    assert found["fgsm"] == found["pgd"] == found["robust"] == pytest.approx(far)
    assert found["alignment"] == pytest.approx(1.0)
    margin = (2 * y - 1) * (x[:, 0] - 0.5)
    clean = torch.nn.functional.softplus(-8 * margin).mean().item()
    assert found["clean_loss"] == pytest.approx(clean)
    worst = x[:, 0] - 0.1 * (2 * y - 1)  # the box stops those at the ends only on the safe side
    robust = torch.nn.functional.softplus(-8 * (2 * y - 1) * (worst - 0.5)).mean().item()
    assert found["robust_loss"] == pytest.approx(robust)


def test_the_monitor_looks_the_same_at_any_batch_size_and_moves_nothing() -> None:
    net = _Line().train()
    before = torch.get_rng_state()
    looks = [Monitor(data=_line(), threat="linf:0.2", batch_size=size).look(net) for size in (3, 40)]
    assert looks[0] == pytest.approx(looks[1], rel=1e-12)
    assert net.training
    assert net.cut.grad is None
    assert torch.equal(before, torch.get_rng_state())


def test_the_alignment_of_a_sure_net_is_not_lost_in_rounding() -> None:
    x, y = (part.clone() for part in _line())
    sure = _Scaled(69.0)
    found = Monitor(data=(x.float(), torch.zeros_like(y)), threat="linf:0.1").look(sure)
    assert found["alignment"] == pytest.approx(1.0)


class _Scaled(nn.Module):
    """So sure of class 0 that the square of the gradient is 0 in float32."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.bias + x, -x], dim=1)


def test_scores_that_are_not_finite_are_never_right() -> None:
    class Broken(_Line):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.nan

    x, y = _line()
    found = Monitor(data=(x, torch.zeros_like(y)), threat="linf:0.1").look(Broken())  # argmax of NaN is class 0
    assert found["clean"] == found["fgsm"] == found["pgd"] == found["robust"] == 0.0


def test_two_looks_at_a_net_that_draws_agree() -> None:
    class Noisy(_Line):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(2, dtype=x.dtype)

    before = torch.get_rng_state()
    monitor = Monitor(data=_line(), threat="linf:0.1", batch_size=16)
    assert monitor.look(Noisy()) == monitor.look(Noisy())
    assert torch.equal(torch.get_rng_state(), before)


def _fold(steep: float) -> nn.Module:
    """A net whose slope at each example points away from where it fails: one step is harmless, several small ones are not."""

    class Fold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(steep, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            dip = (x - 0.55).abs() - 0.05  # low in the middle of the way, high again where one whole step lands
            return torch.cat([-dip, dip], dim=1) * self.scale

    return Fold()


def test_a_net_that_only_resists_one_step_is_told() -> None:
    x = torch.full((8, 1), 0.45, dtype=torch.float64)
    held = Monitor(data=(x, torch.ones(8, dtype=torch.int64)), threat="linf:0.2", steps=20).look(_fold(1.0))
    assert held["fgsm"] - held["pgd"] > 0.5
    said = collapse(held, gap=0.25, alignment=None)
    assert said is not None
    for word in ("catastrophic overfitting", "grad_align", "more steps", "smaller step"):
        assert word in said


def test_alignment_alone_can_tell_where_asked() -> None:
    held = {"fgsm": 0.5, "pgd": 0.45, "alignment": 0.1}
    assert collapse(held, gap=0.25, alignment=None) is None
    apart = {**held, "fgsm": 0.9, "pgd": 0.3}
    assert collapse(apart, gap=0.25, alignment=None, before=0.1) is None  # it still learns
    for known in (0.29, 0.8):
        assert collapse(apart, gap=0.25, alignment=None, before=known)
    assert "0.100, below 0.2" in (collapse(held, gap=0.25, alignment=0.2) or "")
    assert collapse({**held, "alignment": 0.3}, gap=0.25, alignment=0.2) is None


def test_robust_overfitting_is_a_rise_that_lasts_while_the_training_loss_falls() -> None:
    falling = [(k, 2.0 - 0.1 * k, loss) for k, loss in enumerate([1.5, 1.2, 1.3, 1.4, 1.5], 1)]
    said = robust_overfitting(falling, patience=3)
    assert said is not None
    assert "since epoch 2" in said
    assert robust_overfitting(falling[:4], patience=3) is None  # too early to tell
    assert robust_overfitting([(k, 1.0 + k, loss) for k, _, loss in falling], patience=3) is None  # nothing is learnt
    dipped = [*falling[:3], (4, 1.6, 1.21), falling[4]]
    assert robust_overfitting(dipped, patience=3) is None  # within the margin of the best


@dataclass(frozen=True)
class _Driven:
    """Moves the cut of `_Line` to a place for each epoch: the gradient is what takes it there in one step of rate 1."""

    places: tuple[float, ...]

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
        cut: Any = net.get_parameter("cut")
        return Losses(cut * (cut.detach() - self.places[at.epoch]), net(x))


ONE_STEP = Recipe(4, 100, optimiser=SGD(momentum=0.0), rate=Constant(1.0))


def test_the_weights_of_the_best_look_are_handed_out_and_written(tmp_path: Path) -> None:
    objective = _Driven((0.7, 0.5, 0.65, 0.9))
    monitor = Monitor(data=_line(), threat="linf:0.1")
    fitted = fit(_Line(0.2), _line(), objective, ONE_STEP, monitor=monitor, out=tmp_path)
    assert fitted.best == 2
    assert fitted.net.get_parameter("cut").item() == pytest.approx(0.5)
    assert load_file(tmp_path / "best.safetensors")["cut"].item() == pytest.approx(0.5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["held_out"]["clean"] == 1.0 for line in lines] == [False, True, False, False]
    kept = json.loads((tmp_path / "checkpoint.json").read_text())["position"]
    assert kept["best_pgd"] == max(
        line["held_out"]["pgd"] for line in lines
    )  # what a resumed training, and each process, goes by
    again = fit(_Line(0.2), _line(), objective, ONE_STEP, monitor=monitor, out=tmp_path)
    assert (again.best, again.epochs) == (2, fitted.epochs)
    last = fit(_Line(0.2), _line(), objective, ONE_STEP, monitor=replace(monitor, keep_best=False))
    assert last.best == 0
    assert last.net.get_parameter("cut").item() == pytest.approx(0.9)


def test_a_monitor_looks_when_it_is_asked_to() -> None:
    monitor = Monitor(data=_line(), threat="linf:0.1", every=3)
    fitted = fit(_Line(), _line(), Natural(), ONE_STEP, monitor=monitor)
    assert [bool(epoch.held_out) for epoch in fitted.epochs] == [False, False, True, True]


class _Doomed(nn.Module):
    """Like `_Line` while its weight is below 1, like the fold from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.fold = _fold(1.0)
        self.fold.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        line = torch.cat([0.1 - x, x - 0.1], dim=1) + 0 * self.cut
        return self.fold(x) if self.cut.item() >= 1 else line


def _doomed(places: tuple[float, ...], action: str, out: Path | None = None, every: int = 1) -> tuple[Any, list[str]]:
    x = torch.full((8, 1), 0.45, dtype=torch.float64)
    data, told = (x, torch.ones(8, dtype=torch.int64)), list[str]()
    monitor = Monitor(data=data, threat="linf:0.2", steps=20, on_collapse=action, every=every)
    recipe = replace(ONE_STEP, epochs=len(places))
    return fit(_Doomed(), data, _Driven(places), recipe, monitor=monitor, tell=told.append, out=out), told


def test_a_collapse_is_told_once_and_recorded_each_time() -> None:
    fitted, told = _doomed((0.5, 2.0, 2.0), "warn")
    assert len(fitted.epochs) == 3
    assert [len(epoch.findings) for epoch in fitted.epochs] == [0, 1, 1]
    assert len(fitted.findings) == 2
    assert len(told) == 1
    assert told[0].startswith("epoch 2: catastrophic overfitting")
    assert fitted.best == 1


def test_a_collapse_is_told_once_where_not_each_epoch_is_looked_at() -> None:
    _, told = _doomed((0.5, 0.5, 2.0, 2.0, 2.0, 2.0), "warn", every=2)
    assert [text.partition(":")[0] for text in told] == ["epoch 4"]


def test_where_every_look_is_a_collapse_the_last_weights_come_out_and_it_is_told() -> None:
    fitted, told = _doomed((2.0, 3.0), "warn")
    assert fitted.best == 0
    assert fitted.net.get_parameter("cut").item() == pytest.approx(3.0)
    assert any("last weights" in text for text in told)


def test_a_collapse_can_stop_the_training(tmp_path: Path) -> None:
    fitted, _ = _doomed((0.5, 2.0, 3.0, 4.0), "stop", tmp_path)
    assert len(fitted.epochs) == 2
    assert "catastrophic" in fitted.stopped
    assert fitted.net.get_parameter("cut").item() == pytest.approx(0.5)
    again, _ = _doomed((0.5, 2.0, 3.0, 4.0), "stop", tmp_path)
    assert (again.stopped, len(again.epochs)) == (fitted.stopped, 2)


def test_a_collapse_can_be_rolled_back_to_the_best_weights() -> None:
    seen: list[float] = []

    @dataclass(frozen=True)
    class Watched(_Driven):
        def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
            seen.append(net.get_parameter("cut").item())
            return super().__call__(net, x, y, streams=streams, at=at)

    x = torch.full((8, 1), 0.45, dtype=torch.float64)
    data = (x, torch.ones(8, dtype=torch.int64))
    monitor = Monitor(data=data, threat="linf:0.2", steps=20, on_collapse="rollback")
    fit(_Doomed(), data, Watched((0.5, 2.0, 0.6)), replace(ONE_STEP, epochs=3), monitor=monitor)
    assert seen == pytest.approx([0.4, 0.5, 0.5])  # the third epoch begins where the first ended


def test_a_training_that_collapses_again_and_again_stops() -> None:
    fitted, told = _doomed((0.5, *[2.0] * 9), "rollback")
    assert len(fitted.epochs) == 5  # one good, three rolled back, one that was too much
    assert fitted.stopped
    assert sum("going back to the weights of epoch 1" in text for text in told) == 3


def test_a_first_look_that_is_a_collapse_leaves_nothing_to_go_back_to() -> None:
    fitted, _ = _doomed((2.0, 0.5), "rollback")
    assert len(fitted.epochs) == 1
    assert fitted.stopped


@pytest.mark.parametrize(
    "wrong",
    [{"every": 0}, {"patience": 0}, {"on_collapse": "pray"}, {"gap": 0.0}, {"threat": "linf:0.1,0.2"}, {"steps": 0}],
)
def test_settings_of_a_monitor_out_of_range_are_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(SettingError, match="got"):
        Monitor(**({"data": _line(), "threat": "linf:0.1"} | dict(wrong)))


def test_swapping_weights_in_and_out_leaves_the_same_bits() -> None:
    net = initialise(lambda: nn.Linear(3, 3), seed=0)
    own = {name: value.clone() for name, value in net.state_dict().items()}
    with swapped(net, {name: value + 1 for name, value in own.items()}):
        assert torch.equal(net.weight, own["weight"] + 1)
    assert torch.equal(net.weight, own["weight"])


class _Sink:
    def __init__(self, kept: list[tuple[dict[str, float], int]]) -> None:
        self.kept, self.closed = kept, False

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        self.kept.append((dict(numbers), step))

    def close(self) -> None:
        self.closed = True


def test_loggers_are_told_the_numbers_of_the_records() -> None:
    kept: list[tuple[dict[str, float], int]] = []
    sink = _Sink(kept)

    @dataclass(frozen=True)
    class Listening:
        def open(self, settings: Mapping[str, str], step: int) -> _Sink:
            assert "objective" in settings
            assert step == 0
            return sink

    monitor = Monitor(data=_line(), threat="linf:0.1")
    fitted = fit(_Line(), _line(), Natural(), ONE_STEP, monitor=monitor, loggers=[Listening()])
    assert kept == [(epoch.numbers(), epoch.step) for epoch in fitted.epochs]
    assert sink.closed
    assert kept[0][0]["held_out/pgd"] == fitted.epochs[0].held_out["pgd"]
    assert kept[0][0]["loss"] == fitted.epochs[0].loss


def test_numbers_of_a_record_have_one_name_each() -> None:
    numbers = Epoch(
        1, 3, 0.5, 0.9, 0.1, 2.0, measures={"steps": 4.0}, held_out={"clean": 1.0}, findings=("x",)
    ).numbers()
    assert numbers["measures/steps"] == 4.0
    assert numbers["held_out/clean"] == 1.0
    assert all(isinstance(value, int | float) for value in numbers.values())


@pytest.mark.filterwarnings("ignore")  # tensorboard's own imports
def test_event_files_hold_the_numbers_of_the_records(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fitted = fit(_Line(), _line(), Natural(), ONE_STEP, loggers=[TensorBoard(str(tmp_path))])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(epoch.step, pytest.approx(epoch.loss)) for epoch in fitted.epochs]


@pytest.mark.parametrize("module", ["tensorboard", "mlflow"])
def test_a_logger_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    logger: Callable[[str], Any] = TensorBoard if module == "tensorboard" else MLflow
    with pytest.raises(MissingExtraError, match=rf"hauberk\[{module}\]"):
        fit(_Line(), _line(), Natural(), ONE_STEP, loggers=[logger("x")])


class _Client:
    """Stands for MLflow's."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.queries: list[str] = []
        self.info = SimpleNamespace(run_id="1")

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id="0")

    def search_runs(self, experiments: list[str], query: str, *, max_results: int) -> list["_Client"]:
        self.queries.append(query)
        return [self]

    def create_run(self, experiment: str, *, run_name: str) -> "_Client":
        return self

    def log_param(self, *_: object) -> None: ...
    def log_metric(self, *_: object, step: int) -> None: ...
    def set_terminated(self, run: str, status: str = "FINISHED") -> None:
        self.ended.append(status)


def test_a_run_of_mlflow_ends_as_the_training_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    client = _Client()
    monkeypatch.setitem(__import__("sys").modules, "mlflow", SimpleNamespace(MlflowClient=lambda _: client))

    @dataclass(frozen=True)
    class Ends:
        error: type[BaseException]

        def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Losses:
            raise self.error

    fit(_Line(), _line(), Natural(), ONE_STEP, loggers=[MLflow("x")])
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            fit(_Line(), _line(), Ends(error), ONE_STEP, loggers=[MLflow("x")])
    assert client.ended == ["FINISHED", "FAILED", "KILLED"]
    MLflow("Ann's").open({}, 1)
    assert client.queries == ['attributes.run_name = "Ann\'s"']
    with pytest.raises(SettingError, match="quotes"):
        MLflow("'\"")


def test_records_that_mlflow_cannot_open_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str | None) -> None:
        raise ValueError("unsupported URI 'x'\nand more")

    monkeypatch.setitem(__import__("sys").modules, "mlflow", SimpleNamespace(MlflowClient=refuse))
    with pytest.raises(SettingError, match="unsupported URI 'x'; set MLFLOW_TRACKING_URI"):
        fit(_Line(), _line(), Natural(), ONE_STEP, loggers=[MLflow("x")])
