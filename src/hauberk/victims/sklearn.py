"""scikit-learn estimators (and what has the same face) as victims: scores where they have some, else labels."""

import warnings
from typing import Any, final

import numpy as np
import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import AccessError, ModelError, SettingError
from hauberk.threat import Access
from hauberk.victims.answers import Answers, Output
from hauberk.victims.check import probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.preprocess import Normalisation
from hauberk.victims.victim import trouble, unlimited

__all__ = ["SklearnVictim"]

_METHODS = {"logits": "decision_function", "probabilities": "predict_proba", "labels": "predict"}


@final
class SklearnVictim:
    """A fitted classifier. Inputs are flattened to (B, features); classes are numbered in the order of `classes_`.

    `labels` is always what `predict` says. Scores come from `decision_function`, else from the logarithm of `predict_proba`;
    if on the first answer their argmax is not what `predict` says, the victim gives labels only, with a note.

    Args:
        estimator: fitted; it is not copied and not changed.
        bounds, normalisation, output, classes, name: see `hauberk.victims.wrap`; `output` may be "logits", "probabilities" or
            "labels", for `decision_function`, `predict_proba` or `predict`.

    Raises:
        ModelError: not a fitted classifier with one label per example.
    """

    forwards_per_query = 1

    def __init__(
        self,
        estimator: Any,
        *,
        bounds: tuple[float, float],
        normalisation: Normalisation,
        output: Output,
        device: torch.device,
        dtype: torch.dtype,
        classes: int | None,
        name: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        if device.type != "cpu":
            raise SettingError(
                f"a scikit-learn estimator is asked on the CPU, got device={str(device)!r}; leave device out"
            )
        if output is not None and output not in _METHODS:
            raise SettingError(f"output of an estimator is one of {', '.join(_METHODS)}, got {output!r}")
        self.name, self.bounds, self.device, self.dtype = name, bounds, device, dtype
        self._estimator, self._normalisation = estimator, normalisation
        found = _classes(estimator, name)
        if classes is not None and classes != len(found):
            raise ModelError(f"{name!r} was declared to have {classes} classes, but was fitted on {len(found)}")
        self._classes = found
        self._notes = [*notes, *normalisation.notes]
        if not np.array_equal(found, np.arange(len(found))):
            shown = ", ".join(map(str, found[:10].tolist())) + (", ..." if len(found) > 10 else "")
            self._notes.append(f"The classes {shown} are numbered 0 to {len(found) - 1} in this order.")
        kind = output if isinstance(output, str) else _best(estimator)
        if not hasattr(estimator, _METHODS[kind]):
            raise ModelError(f"{name!r} has no {_METHODS[kind]}, which output={kind!r} needs; leave output out")
        self._method, self._access = _METHODS[kind], Access.LABELS if kind == "labels" else Access.SCORES
        self._answers = Answers(name, kind, None if kind == "labels" else len(found), dtype, device)
        if kind == "probabilities" and output is None:
            self._notes.append("The estimator gives probabilities: their logarithms are used as scores.")
        self._digest = digest("sklearn", estimator, bounds, normalisation.description, kind, str(dtype))

    @property
    def access(self) -> Access:
        return self._access

    @property
    def classes(self) -> int:
        return len(self._classes)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._answers.notes)

    @property
    def description(self) -> dict[str, Any]:
        return {
            "kind": "sklearn",
            "type": f"{type(self._estimator).__module__}.{type(self._estimator).__qualname__}",
            "bounds": list(self.bounds),
            **self._normalisation.description,
            "method": self._method,
            "answers": self._answers.kind,
            "features": getattr(self._estimator, "n_features_in_", None),
            "classes": self.classes,
            "class_names": [str(value) for value in self._classes.tolist()],
        }

    def fingerprint(self) -> str:
        return self._digest

    def left(self, rows: Rows) -> PerExample:
        return unlimited(rows)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) what `predict` says."""
        features = self._features(x)
        if not self._answers.settled and self._access is Access.SCORES and len(x):
            self._settle(self._answers.pick(self._call(self._method, features, x)), features, x)
        return self._predict(features, x)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores.

        Raises:
            AccessError: the estimator gives labels only.
            ModelError: the estimator failed.
        """
        if self._access is Access.LABELS:
            raise AccessError(f"{self.name!r} gives labels only, not scores; use a label-only attack")
        features = self._features(x)
        scores = self._answers.pick(self._call(self._method, features, x))
        if not self._answers.settled and len(x) and not self._settle(scores, features, x):
            raise AccessError(
                f"{self.name!r} gives labels only: its {self._method} does not agree with its predict; use a label-only attack"
            )
        return self._answers.logits(scores, len(x))

    def _settle(self, scores: torch.Tensor, features: Any, x: Batch) -> bool:
        """Whether the scores say the same as `predict`, by the first answer; if not, labels are all there is."""
        pairwise = scores.ndim == 2 and scores.shape[1] not in (
            1,
            len(self._classes),
        )  # one against one: a score per pair
        if not pairwise:
            self._answers.settle(scores, len(x))
            if torch.equal(self._answers.labels(scores, len(x)), self._predict(features, x)):
                return True
        self._access = Access.LABELS
        self._notes.append(f"The largest {self._method} is not always what predict says: the victim gives labels only.")
        return False

    def _predict(self, features: Any, x: Batch) -> Labels:
        answer = np.asarray(self._call("predict", features, x)).reshape(-1)
        places = np.searchsorted(self._classes, answer)
        if len(answer) != len(x) or not np.array_equal(self._classes[places.clip(max=len(self._classes) - 1)], answer):
            raise ModelError(f"{self.name!r} predicts labels that are not among its classes_")
        return torch.from_numpy(places.astype(np.int64))

    def _features(self, x: Batch) -> Any:
        features = self._normalisation(x.detach()).cpu().numpy().reshape(len(x), -1)
        wanted = getattr(self._estimator, "n_features_in_", None)
        if wanted is not None and wanted != features.shape[1]:
            raise ModelError(
                f"{self.name!r} was fitted on {wanted} features, but examples of shape {tuple(x.shape[1:])} "
                f"have {features.shape[1]}; pass data of the same size"
            )
        return features

    def _call(self, method: str, features: Any, x: Batch) -> Any:
        try:
            with warnings.catch_warnings():  # fitted on a table with names, asked with an array: the order is the same
                warnings.filterwarnings("ignore", message="X does not have valid feature names")
                return getattr(self._estimator, method)(features)
        except Exception as error:  # foreign code: whatever it raises becomes one sentence
            raise trouble(self.name, x, error) from error


def _best(estimator: Any) -> str:
    return next(kind for kind, method in _METHODS.items() if hasattr(estimator, method))


def _classes(estimator: Any, name: str) -> Any:
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        raise ModelError(f"{name!r} gives several labels per example; wrap a function that answers one of them")
    if classes is None:
        if getattr(estimator, "_estimator_type", None) == "regressor" or hasattr(estimator, "transform"):
            raise ModelError(f"{name!r} is no classifier; wrap an estimator with classes_, or a function on arrays")
        raise ModelError(f"{name!r} has no classes_: it is not fitted, or no classifier; call its fit first")
    classes = np.asarray(classes)
    if len(classes) < 2:
        raise ModelError(f"{name!r} was fitted on one class only; a classifier needs at least two")
    if not np.array_equal(np.sort(classes), classes):
        raise ModelError(f"{name!r} has classes_ that are not sorted; wrap a function on arrays instead")
    return classes
