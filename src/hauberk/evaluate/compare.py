"""Two models on the same examples: a paired comparison, which sees far smaller differences than two separate intervals."""

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from hauberk.errors import InputError
from hauberk.evaluate.evaluation import Evaluation
from hauberk.evaluate.statistics import mcnemar, smallest_detectable_difference
from hauberk.evidence import FinishedRun, RunFolder

__all__ = ["COMPARISON_SCHEMA", "compare"]

COMPARISON_SCHEMA = "hauberk.comparison/1"

_OPTIONS = {
    "audit": "evaluate both with the audit or both without it: what it breaks counts",
    "adapt": "evaluate both with --adapt or both without it",
}
"""What decides how hard a model is attacked, besides the suite -> how to make it alike."""

Compared: TypeAlias = Evaluation | FinishedRun | str | os.PathLike[str]


def compare(a: Compared, b: Compared) -> dict[str, Any]:
    """Compare which examples withstand the attacks in two runs, at the largest radius.

    Args:
        a, b: evaluations, finished runs, or the paths of run folders.

    The test is McNemar's, exact; the interval of the difference is Newcombe's square-and-add interval for paired
    proportions (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10).

    Raises:
        InputError: the runs are not about the same examples, threat and attacks; the first difference is named. Seed, batch
            size, number format and versions may differ.
        RunError: a path leads to no finished run.
    """
    a, b = _run(a), _run(b)
    _check_alike(a, b)
    standing_a, standing_b = _standing(a), _standing(b)
    if standing_a.keys() != standing_b.keys():
        raise InputError(
            f"a comparison needs the same examples in both runs, got {len(standing_a)} and {len(standing_b)} with "
            f"{len(standing_a.keys() & standing_b.keys())} in common; evaluate both with the same --n"
        )
    pairs = [(standing_a[example], standing_b[example]) for example in standing_a]
    n = len(pairs)
    both, only_a = pairs.count((True, True)), pairs.count((True, False))
    only_b, neither = pairs.count((False, True)), pairs.count((False, False))
    difference = (only_a - only_b) / n
    low, high = _newcombe(both, only_a, only_b, neither)
    p_value = mcnemar(only_a, only_b)
    # with few discordant examples the rate seen may be 0: one more than seen is a cautious guess
    detectable = smallest_detectable_difference(n, min((only_a + only_b + 1) / n, 1.0))
    result = {
        "schema": COMPARISON_SCHEMA,
        "a": _who(a),
        "b": _who(b),
        "threat": a.manifest.threat,
        "n": n,
        "both_robust": both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": neither,
        "difference": difference,
        "low": low,
        "high": high,
        "p_value": p_value,
        "smallest_detectable_difference": detectable,
    }
    return result | {"sentence": _sentence(result)}


def _run(given: Compared) -> FinishedRun:
    if isinstance(given, Evaluation):
        return given.run
    return given if isinstance(given, FinishedRun) else RunFolder.read(given)


def _check_alike(a: FinishedRun, b: FinishedRun) -> None:
    """Refuse runs whose difference could come from what was asked of the models, not from the models."""
    left, right = a.manifest, b.manifest
    if left.threat != right.threat:
        raise _unlike("threat", left.threat, right.threat, "evaluate both models under one threat")
    # first where the name agrees: of data made by a program, the fingerprint speaks of the first n examples only
    if left.data_fingerprint != right.data_fingerprint and (left.n == right.n or left.data_name != right.data_name):
        raise _unlike("data", _data(a), _data(b), "evaluate both models on the same examples")
    if left.n != right.n:
        raise _unlike("number of examples", str(left.n), str(right.n), "evaluate both with the same --n")
    if left.suite != right.suite:
        raise _unlike("suite", left.suite, right.suite, "evaluate both models with one suite")
    for key, cure in _OPTIONS.items():
        mine, theirs = (_said(run.manifest.options.get(key)) for run in (a, b))
        if mine != theirs:
            raise _unlike(f"choice of {key}", mine, theirs, cure)
    if _names(a) != _names(b):
        cure = (
            "where one model gives no gradients or no scores, a named suite holds other attacks for it: "
            "write that access into the threat of both, @scores or @labels"
        )
        raise _unlike("attacks", ", ".join(_names(a)), ", ".join(_names(b)), cure)
    for old, new in zip(left.attacks, right.attacks, strict=True):
        mine, theirs = old.get("settings", {}), new.get("settings", {})
        for key in dict.fromkeys((*mine, *theirs)):
            if (key in mine) != (key in theirs) or mine[key] != theirs[key]:
                shown = f"{old['name']} with {_setting(mine, key)}", f"with {_setting(theirs, key)}"
                raise _unlike("attacks", *shown, "evaluate both models with the same settings")


def _said(option: Any) -> str:
    """An option of `evaluate` as it was given; steps of an adaptation follow from the model and may differ."""
    return "no" if option is None or option is False else "yes" if isinstance(option, bool) else _listed(option)


def _listed(steps: Any) -> str:
    return ", ".join(map(str, steps)) or "yes"


def _unlike(what: str, left: str, right: str, cure: str) -> InputError:
    return InputError(f"a comparison needs two runs of the same {what}, got {left} and {right}; {cure}")


def _names(run: FinishedRun) -> list[str]:
    return [attack["name"] for attack in run.manifest.attacks]


def _setting(settings: Mapping[str, Any], key: str) -> str:
    return f"{key}={settings[key]!r}" if key in settings else f"no {key}"


def _data(run: FinishedRun) -> str:
    return f"{run.manifest.data_name} ({run.manifest.data_fingerprint[:12]})"


def _standing(run: FinishedRun) -> dict[int, bool]:
    rows = run.rows.select(["example", "radius", "status"]).to_pydict()
    top = max(rows["radius"])
    return {
        example: status in ("undecided", "proven")
        for example, radius, status in zip(rows["example"], rows["radius"], rows["status"], strict=True)
        if radius == top
    }


def _who(run: FinishedRun) -> dict[str, Any]:
    return {
        "name": run.result["model"]["name"],
        "fingerprint": run.result["model"]["fingerprint"],
        "clean_accuracy": run.result["clean_accuracy"],
        "robust_accuracy": run.result["robust_accuracy"],
        "run": None if run.path is None else str(run.path),
    }


def _newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    from hauberk.evaluate.statistics import wilson

    n = both + only_a + only_b + neither
    first, second = wilson(both + only_a, n), wilson(both + only_b, n)
    down_a, up_a = first.value - first.low, first.high - first.value
    down_b, up_b = second.value - second.low, second.high - second.value
    rows = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = both * neither - only_a * only_b
    if cross > 0:  # continuity correction of the correlation
        cross = max(cross - n / 2, 0)
    phi = cross / rows**0.5 if rows else 0.0
    difference = (only_a - only_b) / n
    below = (down_a**2 - 2 * phi * down_a * up_b + up_b**2) ** 0.5
    above = (down_b**2 - 2 * phi * down_b * up_a + up_a**2) ** 0.5
    return difference - below, difference + above


def _sentence(result: dict[str, Any]) -> str:
    a, b, n = result["a"]["name"], result["b"]["name"], result["n"]
    gap = abs(result["difference"])
    detectable = result["smallest_detectable_difference"]
    if result["p_value"] <= 0.05:
        better, worse = (a, b) if result["difference"] > 0 else (b, a)
        return (
            f"{better} withstands the attacks on {_percent(gap)} more of the {n} examples than {worse} "
            f"(exact McNemar p = {result['p_value']:.2g})."
        )
    if detectable is None:  # too few examples on which the models differ to speak of power
        limit = f"a difference from {_percent(result['low'])} to {_percent(result['high'])} remains possible"
    else:
        limit = f"differences below {_percent(detectable)} could not be seen"
    return (
        f"No difference between {a} and {b} is shown on {n} examples ({_percent(gap)}, exact McNemar p = {result['p_value']:.2g}); "
        f"with this many examples {limit}."
    )


def _percent(share: float) -> str:
    """0.03 -> "3.0 %", as reports spell it; what rounds to nothing has no sign."""
    return f"{round(100 * share, 1) + 0.0:.1f} %"
