"""Two models on the same examples: a paired comparison, which sees far smaller differences than two separate intervals."""

import os
from typing import Any, TypeAlias

from hauberk.errors import InputError
from hauberk.evaluate.evaluation import Evaluation
from hauberk.evaluate.statistics import mcnemar, smallest_detectable_difference
from hauberk.evidence import FinishedRun, RunFolder

__all__ = ["COMPARISON_SCHEMA", "compare"]

COMPARISON_SCHEMA = "hauberk.comparison/1"

Compared: TypeAlias = Evaluation | FinishedRun | str | os.PathLike[str]


def compare(a: Compared, b: Compared) -> dict[str, Any]:
    """Compare which examples withstand the attacks in two runs, at the largest radius.

    Args:
        a, b: evaluations, finished runs, or the paths of run folders.

    The test is McNemar's, exact; the interval of the difference is Newcombe's square-and-add interval for paired
    proportions (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10).

    Raises:
        InputError: the runs are not about the same examples and the same threat.
        RunError: a path leads to no finished run.
    """
    a, b = _run(a), _run(b)
    for what, left, right in (
        ("threat", a.manifest.threat, b.manifest.threat),
        ("data", a.manifest.data_fingerprint, b.manifest.data_fingerprint),
        ("suite", a.manifest.suite, b.manifest.suite),
    ):
        if left != right:
            shown = (_data(a), _data(b)) if what == "data" else (left, right)
            raise InputError(
                f"a comparison needs two runs of the same {what}, got {shown[0]} and {shown[1]}; evaluate both models alike first"
            )
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
            f"{better} withstands the attacks on {gap:.1%} more of the {n} examples than {worse} "
            f"(exact McNemar p = {result['p_value']:.2g})."
        )
    limit = (
        f"differences below {detectable:.1%} could not be seen"
        if detectable is not None
        else "no difference could be seen"
    )
    return (
        f"No difference between {a} and {b} is shown on {n} examples ({gap:.1%}, exact McNemar p = {result['p_value']:.2g}); "
        f"with this many examples {limit}."
    )
