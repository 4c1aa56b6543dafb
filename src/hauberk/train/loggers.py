"""Where else the numbers of a training go: TensorBoard and MLflow, the same numbers as in `metrics.jsonl`, once an epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hauberk.errors import SettingError, require
from hauberk.victims.victim import first_line

__all__ = ["Logger", "MLflow", "Sink", "TensorBoard"]


class Sink(Protocol):
    """An open logger. One that has a method `fail(error)` is closed by that where the training ended in an exception."""

    def __call__(self, numbers: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Logger(Protocol):
    """Settings that open a logger."""

    def open(self, settings: Mapping[str, str], step: int) -> Sink:
        """Begin, or go on after optimiser step `step`; what was logged after it will be logged again.

        Raises:
            MissingExtraError: what it writes with is not installed.
        """
        ...


@dataclass(frozen=True)
class TensorBoard:
    """Event files for TensorBoard. Needs the extra `tensorboard`.

    Args:
        folder: where they are written.
    """

    folder: str

    def open(self, settings: Mapping[str, str], step: int) -> Sink:
        require("tensorboard", "tensorboard", "logging to TensorBoard")
        writer: Any = require("torch.utils.tensorboard", "tensorboard", "logging to TensorBoard").SummaryWriter(
            self.folder, purge_step=step + 1 if step else None
        )
        if not step:
            for name, value in settings.items():
                writer.add_text(name, value)
        return _Events(writer)


class _Events:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True)
class MLflow:
    """A run of MLflow. Needs the extra `mlflow`.

    Args:
        run: the run's name; a run of this name in the experiment is gone on with.
        experiment: its experiment.
        uri: the tracking server or folder; None: as MLflow is configured.

    Raises:
        SettingError: a name with both kinds of quotes, which MLflow cannot search for; when the training begins, records that
            MLflow cannot open.
    """

    run: str
    experiment: str = "hauberk"
    uri: str | None = None

    def __post_init__(self) -> None:
        if "'" in self.run and '"' in self.run:
            raise SettingError(
                f"the name of an MLflow run has one kind of quotes at most, got {self.run}; choose another"
            )

    def open(self, settings: Mapping[str, str], step: int) -> Sink:
        package: Any = require("mlflow", "mlflow", "logging to MLflow")
        try:
            client: Any = package.MlflowClient(self.uri)
            found = client.get_experiment_by_name(self.experiment)
        except Exception as error:  # MLflow has error classes of its own
            raise SettingError(
                f"MLflow cannot open its records: {first_line(error)}; set MLFLOW_TRACKING_URI to a server or a database"
            ) from error
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        quote = '"' if "'" in self.run else "'"
        query = f"attributes.run_name = {quote}{self.run}{quote}"
        runs = client.search_runs([experiment], query, max_results=1) if step else []
        run = runs[0] if runs else client.create_run(experiment, run_name=self.run)
        if not runs:
            for name, value in settings.items():
                client.log_param(run.info.run_id, name.replace(" ", "_"), value[:500])
        return _Client(client, run.info.run_id)


class _Client:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)

    def fail(self, error: BaseException) -> None:
        self._client.set_terminated(self._run, status="FAILED" if isinstance(error, Exception) else "KILLED")
