"""Queries of an evaluation: a hard limit over the suite, what the victim was really asked, curves and cost."""

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from hauberk import evaluate, wrap
from hauberk.attacks import PGD, HopSkipJump, Noise, RayS, SignHunter, Square
from hauberk.errors import SettingError, ThreatError, UnknownNameError
from hauberk.evaluate.queries import Spending, Trace, query_curve
from hauberk.report import write_html
from hauberk.threat import Access, Goal, Region

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any


class Counting:
    """A victim that counts, by itself, the rows that it is asked about each input."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.rows, self.calls = inner, 0, Counter[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        self.rows += len(x)
        return self.inner.logits(x, rows)

    def labels(self, x: Tensor, rows: Tensor) -> Tensor:
        self.rows += len(x)
        return self.inner.labels(x, rows)


def some(digits: Digits, n: int = 24) -> tuple[Tensor, Tensor]:
    return digits.x[:n], digits.y[:n]


@pytest.mark.parametrize(
    ("access", "threat"), [("scores", "linf:0.1"), ("labels", "linf:0.1"), ("labels", "l2:0.6"), ("scores", "l0:6")]
)
@pytest.mark.parametrize("limit", [3, 40, 150])
def test_no_example_costs_more_than_the_limit(digits: Digits, access: str, threat: str, limit: int) -> None:
    found = evaluate(digits.mlp, some(digits), threat, access=access, max_queries=limit, audit=False, batch_size=7)
    spent = found.run.rows.column("queries").to_pylist()
    assert max(spent) <= limit
    statuses = found.run.rows.column("status").to_pylist()
    assert all(queries == 1 for queries, status in zip(spent, statuses, strict=True) if status == "misclassified")
    queries = found.result["queries"]
    assert (queries["limit"], queries["asked"]) == (limit, sum(spent))
    assert queries["broken"] == statuses.count("broken")
    assert queries["right"] == len(spent) - statuses.count("misclassified")


def test_a_limit_over_several_radii_is_one_limit(digits: Digits) -> None:
    found = evaluate(
        digits.mlp, some(digits), "linf:0.02,0.05,0.1", access="scores", max_queries=60, audit=False, suite="quick"
    )
    spent: Counter[int] = Counter()
    for example, queries in zip(
        *(found.run.rows.column(name).to_pylist() for name in ("example", "queries")), strict=True
    ):
        spent[example] += queries
    assert max(spent.values()) <= 60


def test_what_is_reported_is_what_the_victim_was_asked(digits: Digits) -> None:
    victim = Counting(wrap(digits.mlp))
    victim.probe(digits.x[:8])
    victim.rows = 0
    x, y = some(digits)
    options: dict[str, Any] = {"access": "labels", "max_queries": 80, "suite": [RayS(steps=60), HopSkipJump(steps=3)]}
    found = evaluate(victim, (x, y), "linf:0.08", price=0.25, **options)
    queries = found.result["queries"]
    assert queries["asked"] == victim.rows
    assert queries["cost"] == pytest.approx(victim.rows / 4)
    assert queries["cost_per_broken"] == pytest.approx(victim.rows / 4 / queries["broken"])


def test_the_curve_tells_when_each_example_broke(digits: Digits) -> None:
    found = evaluate(digits.mlp, some(digits), "linf:0.2", suite=Square(steps=80), access="scores", audit=False)
    rows = found.run.rows.to_pylist()
    queries = found.result["queries"]
    # the example, the attack and the judge: the query that broke it is the last but one
    after = sorted(row["queries"] - 1 for row in rows if row["status"] == "broken")
    assert len(after) > 5
    for point in queries["curve"]:
        assert point["broken"] == sum(count <= point["queries"] for count in after)
    assert queries["curve"][-1]["broken"] == len(after) == queries["broken"]
    assert queries["mean"] == pytest.approx(sum(after) / len(after))
    assert queries["to_half"] == after[-(-queries["right"] // 2) - 1]
    assert [point["queries"] for point in queries["curve"]] == sorted({point["queries"] for point in queries["curve"]})


def test_the_smallest_change_falls_towards_the_radius(digits: Digits) -> None:
    found = evaluate(digits.mlp, some(digits), "l2:0.3", suite=HopSkipJump(steps=10), access="labels", audit=False)
    sizes = [point["median_size"] for point in found.result["queries"]["curve"]]
    known = [size for size in sizes if size is not None]
    assert known == sorted(known, reverse=True)
    assert sizes[0] is None
    assert known[0] > 2 * known[-1] > 0.1


def test_a_larger_limit_goes_on_where_a_smaller_one_ended(digits: Digits) -> None:
    def when(limit: int) -> list[int | None]:
        found = evaluate(
            digits.mlp, some(digits), "linf:0.1", suite=SignHunter(), access="scores", audit=False, max_queries=limit
        )
        return [row["queries"] if row["status"] == "broken" else None for row in found.run.rows.to_pylist()]

    few, many = when(30), when(200)
    assert any(count is not None for count in few)
    assert all(a in (None, b) for a, b in zip(few, many, strict=True))
    assert sum(count is not None for count in many) > sum(count is not None for count in few)


def test_an_attack_of_the_users_own_that_asks_too_much_is_stopped_and_keeps_what_it_met(digits: Digits) -> None:
    class Greedy:
        access, norms = Access.LABELS, Noise.norms

        def __call__(self, victim: Any, x: Tensor, goal: Goal, region: Region, *, streams: Any) -> Tensor:
            rows = torch.arange(len(x))
            while True:
                victim.labels(region.project(x + streams.signs(rows, tuple(x.shape[1:]), dtype=x.dtype), x), rows)

    greedy: Any = Greedy()
    found = evaluate(digits.mlp, some(digits), "linf:0.3", suite=greedy, max_queries=30, audit=False)
    assert max(found.run.rows.column("queries").to_pylist()) <= 30
    assert found.result["queries"]["broken"] > 0


def test_it_is_the_same_after_a_resume_and_with_any_batch(digits: Digits, tmp_path: Any) -> None:
    options: dict[str, Any] = {"suite": "quick", "access": "labels", "max_queries": 50, "audit": False}
    victim = wrap(digits.conv, dtype="float64")
    one = evaluate(victim, some(digits), "l2:0.5", batch_size=24, **options).result["queries"]
    first = evaluate(victim, some(digits), "l2:0.5", batch_size=5, out=tmp_path / "run", **options)
    (tmp_path / "run" / "result.json").unlink()
    again = evaluate(victim, some(digits), "l2:0.5", batch_size=5, out=tmp_path / "run", **options)
    assert one == first.result["queries"] == again.result["queries"]


def test_the_report_shows_what_it_took(digits: Digits, tmp_path: Any) -> None:
    found = evaluate(digits.mlp, some(digits), "linf:0.1", access="labels", max_queries=90, price=2.0)
    text = write_html(found.run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What it took to break them" in text
    assert f"{found.result['queries']['cost']:,.2f}" in text
    assert text.count('<svg class="curve"') == 3
    plain = evaluate(digits.mlp, some(digits), "linf:0.1", suite="quick")
    assert plain.result["queries"] is None
    assert "What it took" not in write_html(plain.run, tmp_path / "plain.html").read_text(encoding="utf-8")


def test_marks_are_fine_and_end_with_the_limit() -> None:
    marks = Spending(limit=1000).marks
    assert marks[0] == 1
    assert marks[-1] == 1000
    assert all(1 < b / a <= 2 for a, b in itertools.pairwise(marks))


def test_nothing_broken_has_no_median() -> None:
    trace = Trace(2, (1, 10, 100))
    part = trace.to_json(torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool), torch.tensor([10, 20]))
    made = query_curve([part], 30, Spending(price=1.0))
    assert (made["broken"], made["median"], made["mean"], made["cost"], made["cost_per_broken"]) == (
        0,
        None,
        None,
        30,
        None,
    )
    assert [point["median_size"] for point in made["curve"]] == [None, None, None]


def test_the_query_number_of_a_success_counts_within_a_batch() -> None:
    trace = Trace(1, (1, 2, 3, 5))
    trace.keep([0, 0, 0], [3, 2, 2], [0.1, 0.4, 0.5], [True, False, False])
    assert trace.first.tolist() == [3]
    assert trace.sizes.cummin(dim=1).values.tolist() == [[torch.inf, 0.4, 0.1, 0.1]]


@pytest.mark.parametrize("limit", [2, 0, 1.5, True])
def test_a_limit_that_is_none_is_refused(digits: Digits, limit: Any) -> None:
    with pytest.raises(SettingError, match="max_queries"):
        evaluate(digits.mlp, some(digits), "linf:0.1", max_queries=limit)


def test_what_contradicts_itself_is_refused(digits: Digits) -> None:
    with pytest.raises(SettingError, match="price"):
        evaluate(digits.mlp, some(digits), "linf:0.1", price=-1)
    with pytest.raises(SettingError, match="adapt and certify"):
        evaluate(digits.mlp, some(digits), "linf:0.1", max_queries=10, adapt=True)
    with pytest.raises(ThreatError, match="say it in one place"):
        evaluate(digits.mlp, some(digits), "linf:0.1@labels", access="scores")
    with pytest.raises(UnknownNameError, match="access"):
        evaluate(digits.mlp, some(digits), "linf:0.1", access="everything")


def test_gradients_may_be_limited_too(digits: Digits) -> None:
    found = evaluate(digits.mlp, some(digits), "linf:0.1", suite=PGD(steps=40), max_queries=12, audit=False)
    assert max(found.run.rows.column("queries").to_pylist()) <= 12
    assert found.result["queries"]["broken"] > 0
