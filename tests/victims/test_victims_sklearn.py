"""scikit-learn estimators as victims."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from hauberk.errors import AccessError, ModelError, SettingError
from hauberk.threat import Access, Differentiable
from hauberk.victims import SklearnVictim, wrap

pytest.importorskip("sklearn", reason="scikit-learn is optional")
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

RNG = np.random.default_rng(0)
X = RNG.random((90, 6))
Y = (X[:, 0] * 3).astype(int).clip(max=2)
T, ROWS = torch.from_numpy(X[:20].reshape(20, 1, 2, 3)), torch.arange(20)


@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        (LogisticRegression(), "decision_function"),
        (Perceptron(), "decision_function"),
        (RandomForestClassifier(10, random_state=0), "predict_proba"),
        (HistGradientBoostingClassifier(max_iter=5), "decision_function"),
        (KNeighborsClassifier(), "predict_proba"),
        (GaussianNB(), "predict_proba"),
        (DecisionTreeClassifier(), "predict_proba"),
        (make_pipeline(StandardScaler(), SVC()), "decision_function"),
    ],
)
@pytest.mark.parametrize("names", [[0, 1, 2], ["ant", "bee", "cat"], [7, 8, 9]])
def test_scores_and_labels_are_those_of_the_estimator(estimator: Any, method: str, names: list[Any]) -> None:
    estimator.fit(X, np.array(names)[Y])
    victim = wrap(estimator)
    assert isinstance(victim, SklearnVictim)
    assert not isinstance(victim, Differentiable)
    victim.probe(T)
    assert victim.access is Access.SCORES
    assert victim.dtype == torch.float64
    want = getattr(estimator, method)(X[:20])
    got = victim.logits(T, ROWS).numpy()
    assert np.allclose(np.log(want.clip(np.finfo(float).tiny)) if method == "predict_proba" else want, got)
    assert np.array_equal(np.array(names)[victim.labels(T, ROWS).numpy()], estimator.predict(X[:20]))
    assert victim.description["method"] == method
    assert json.loads(json.dumps(victim.description))["features"] == 6
    assert any("are numbered 0 to 2" in note for note in victim.notes) == (names != [0, 1, 2])


def test_two_classes_have_two_logits() -> None:
    estimator = LogisticRegression().fit(X, Y > 0)
    victim = wrap(estimator)
    logits = victim.logits(T, ROWS).numpy()
    assert np.allclose(logits[:, 1] - logits[:, 0], estimator.decision_function(X[:20]))
    assert np.array_equal(victim.labels(T, ROWS).numpy(), estimator.predict(X[:20]).astype(int))


def test_output_chooses_the_method() -> None:
    estimator = LogisticRegression().fit(X, Y)
    assert np.allclose(wrap(estimator, output="probabilities").logits(T, ROWS), estimator.predict_log_proba(X[:20]))
    victim = wrap(estimator, output="labels")
    assert victim.access is Access.LABELS
    assert victim.classes == 3
    with pytest.raises(AccessError, match="labels only"):
        victim.logits(T, ROWS)
    with pytest.raises(ModelError, match="no predict_proba"):
        wrap(Perceptron().fit(X, Y), output="probabilities")
    with pytest.raises(SettingError, match="one of logits"):
        wrap(estimator, output=1)


def test_predict_only_gives_labels() -> None:
    class Centroid(NearestCentroid):
        predict_proba = property(lambda self: (_ for _ in ()).throw(AttributeError()))  # type: ignore[assignment]
        decision_function = predict_proba  # type: ignore[assignment]

    estimator = Centroid().fit(X, Y)
    victim = wrap(estimator)
    victim.probe(T)
    assert victim.access is Access.LABELS
    assert np.array_equal(victim.labels(T, ROWS).numpy(), estimator.predict(X[:20]))


def test_scores_that_contradict_predict_are_not_used() -> None:
    estimator = SVC(decision_function_shape="ovo").fit(X, Y + 3 * (X[:, 1] > 0.5))  # six classes, fifteen pairs
    victim = wrap(estimator)
    assert np.array_equal(victim.labels(T, ROWS).numpy(), estimator.predict(X[:20]))
    assert victim.access is Access.LABELS
    assert "not always what predict says" in victim.notes[0]
    fresh = wrap(estimator)
    with pytest.raises(AccessError, match="does not agree"):
        fresh.logits(T, ROWS)


def test_a_table_with_column_names_gives_no_warning() -> None:
    estimator = LogisticRegression().fit(X, Y)
    estimator.feature_names_in_ = np.array(list("abcdef"), dtype=object)  # what fitting on a table leaves
    wrap(estimator).logits(T, ROWS)


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (LogisticRegression(), "call its fit first"),
        (StandardScaler().fit(X), "expected an nn.Module, a fitted classifier"),
        (LinearRegression().fit(X, Y), "no classifier|not fitted"),
        (DecisionTreeClassifier().fit(X, np.stack((Y, Y), 1)), "several labels"),
        (MultiOutputClassifier(LogisticRegression()).fit(X, np.stack((Y, Y), 1)), "several labels"),
        (DecisionTreeClassifier().fit(X, Y * 0), "one class only"),
    ],
)
def test_what_is_no_fitted_classifier_is_refused(estimator: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        wrap(estimator)


def test_another_number_of_features_is_refused() -> None:
    with pytest.raises(ModelError, match="fitted on 6 features"):
        wrap(LogisticRegression().fit(X, Y)).logits(T[:, :, :1], ROWS)
    with pytest.raises(ModelError, match="declared to have 4 classes"):
        wrap(LogisticRegression().fit(X, Y), classes=4)


def test_the_fingerprint_follows_what_was_fitted() -> None:
    def fingerprint(seed: int, trees: int = 5) -> str:
        return wrap(RandomForestClassifier(trees, random_state=seed).fit(X, Y)).fingerprint()

    assert fingerprint(0) == fingerprint(0)
    assert len({fingerprint(0), fingerprint(1), fingerprint(0, 6)}) == 3
    neighbours = [wrap(KNeighborsClassifier(algorithm="kd_tree").fit(X[:n], Y[:n])).fingerprint() for n in (90, 90, 89)]
    assert neighbours[0] == neighbours[1] != neighbours[2]
