import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from hauberk.certify._falsify import Witness
from hauberk.certify._property import Case, Property, Verdict
from hauberk.certify.input_split import InputSplit
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.lower import lowered
from hauberk.layered.ops import Add, Concat, Conv, Elementwise, Linear, Mean, Reshape, Scale

F64 = torch.float64


def needle(center: list[float], *, width: float = 0.02, depth: float = 1.0) -> Graph:
    """depth - max(0, width - |x - center|_1) / width: below `depth` only in a small diamond, where it falls to depth - 1."""
    size, builder = len(center), Builder((len(center),), dtype=F64)
    apart = builder.add(Linear(torch.eye(size, dtype=F64), -torch.tensor(center, dtype=F64)), 0)
    far = builder.add(
        Linear(-torch.ones(1, size, dtype=F64), torch.tensor([width], dtype=F64)),
        builder.add(Elementwise("abs"), apart),
    )
    builder.add(Scale(-1.0 / width, depth), builder.add(Elementwise("relu"), far))
    return lowered(builder.finish())


def case_of(low: list[float], high: list[float], C: list[list[float]], d: list[float]) -> Case:
    width = len(C[0]) if C else 1
    return Case(np.array(low), np.array(high), np.array(C).reshape(len(d), width), np.array(d))


def decided(graph: Graph, *cases: Case, seconds: float = 20.0, batch: int = 512) -> Verdict:
    asked, began = Property(cases), time.perf_counter()
    witness = Witness(graph.to(dtype=torch.float32), asked)
    late = lambda: time.perf_counter() - began > seconds  # noqa: E731
    return InputSplit(batch=batch)(graph.to(dtype=F64), asked, witness, late=late)


def checked(verdict: Verdict, graph: Graph, *cases: Case) -> None:
    """The witness is float32, in a box, and violates in float32."""
    assert verdict.status == "violated"
    x = verdict.witness
    assert x is not None
    assert x.dtype == np.float32
    y = graph.to(dtype=torch.float32)(torch.from_numpy(x).reshape(1, *graph.input_shape)).detach().numpy()
    inside = [bool(np.all(x.astype(float) >= case.lower) and np.all(x.astype(float) <= case.upper)) for case in cases]
    assert any(within and case.holds(y) for within, case in zip(inside, cases, strict=True))


@pytest.mark.parametrize("center", [[0.31], [0.31, -0.77], [0.123, 0.456, -0.9]])
def test_a_needle_is_found_where_it_is_and_only_there(center: list[float]) -> None:
    """It takes less than a millionth of the box."""
    graph, size = needle(center, width=0.01), len(center)
    whole = case_of([-1.0] * size, [1.0] * size, [[1.0]], [-0.5])
    found = decided(graph, whole)
    checked(found, graph, whole)
    assert found.witness is not None
    assert float(np.abs(found.witness - np.array(center)).sum()) <= 0.0051
    away = case_of([-1.0, *[-1.0] * (size - 1)], [center[0] - 0.0051, *[1.0] * (size - 1)], [[1.0]], [-0.5])
    proof = decided(graph, away)
    assert proof.status == "holds"
    assert proof.domains >= 1


@pytest.mark.parametrize("function", ["relu", "softplus"])
@pytest.mark.parametrize("seed", range(2))
def test_verdicts_change_at_the_minimum_of_a_dense_grid(function: str, seed: int) -> None:
    generator, builder = torch.Generator().manual_seed(seed), Builder((2,), dtype=F64)

    def linear(inputs: int, outputs: int) -> Linear:
        draw: Tensor = torch.randn(outputs, inputs + 1, generator=generator, dtype=F64)
        return Linear(draw[:, 1:], draw[:, 0])

    first = builder.add(Elementwise(function), builder.add(linear(2, 5), 0))
    second = builder.add(Elementwise(function), builder.add(linear(5, 5), first))
    builder.add(linear(10, 1), builder.add(Concat(0), builder.add(Add(), first, second), first))
    graph = builder.finish()
    axis = torch.linspace(-1, 1, 401, dtype=F64)
    least = float(graph(torch.cartesian_prod(axis, axis)).min())
    box = ([-1.0, -1.0], [1.0, 1.0])
    violated = case_of(*box, [[1.0]], [-least - 1e-3])
    checked(decided(graph, violated), graph, violated)
    assert decided(graph, case_of(*box, [[1.0]], [-least + 0.05])).status == "holds"


def test_small_batches_come_to_the_same_verdicts() -> None:
    graph = needle([0.25, 0.5], width=0.05)
    inside, away = (case_of([low, -1.0], [1.0, 1.0], [[1.0]], [-0.5]) for low in (-1.0, 0.3))
    for batch in (1, 3, 64):
        assert decided(graph, inside, batch=batch).status == "violated"
        assert decided(graph, away, batch=batch).status == "holds"


def test_a_case_needs_all_of_its_rows_and_a_property_one_of_its_cases() -> None:
    builder = Builder((2,), dtype=F64)
    builder.add(Elementwise("relu"), builder.add(Linear(torch.eye(2, dtype=F64)), 0))
    graph = builder.finish()  # y = relu(x)
    box = ([-1.0, -1.0], [1.0, 1.0])
    both = case_of(*box, [[1.0, 0.0], [-1.0, 0.0]], [-0.2, 0.3])  # y0 <= 0.2 and y0 >= 0.3
    assert decided(graph, both).status == "holds"
    ring = case_of(*box, [[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], [-0.3, 0.29, 0.95])  # 0.29 <= y0 <= 0.3, y1 >= 0.95
    checked(decided(graph, ring), graph, ring)
    checked(decided(graph, both, ring), graph, both, ring)
    never = case_of(*box, [[0.0, 1.0]], [0.1])  # y1 <= -0.1
    assert decided(graph, both, never).status == "holds"
    elsewhere = case_of([0.5, 0.5], [0.6, 0.6], [[-1.0, 0.0]], [0.59])  # y0 >= 0.59, in a box of its own
    checked(decided(graph, both, never, elsewhere), graph, both, never, elsewhere)


def test_a_case_without_rows_is_violated_by_any_input() -> None:
    graph = needle([0.0, 0.0])
    case = case_of([-1.0, -1.0], [1.0, 1.0], [], [])
    checked(decided(graph, case), graph, case)


def test_a_box_of_one_point_is_decided() -> None:
    graph = needle([0.5, 0.25])
    assert decided(graph, case_of([0.5, 0.25], [0.5, 0.25], [[1.0]], [0.1])).status == "holds"
    case = case_of([0.5, 0.25], [0.5, 0.25], [[1.0]], [-0.1])
    checked(decided(graph, case), graph, case)


def test_pictures_are_cut_too() -> None:
    generator, builder = torch.Generator().manual_seed(0), Builder((1, 2, 3), dtype=F64)
    weight = torch.randn(2, 1, 2, 2, generator=generator, dtype=F64)
    conv = builder.add(Elementwise("relu"), builder.add(Conv(weight, None, (1, 1), (1, 1)), 0))
    pooled = builder.add(Mean((1,)), builder.add(Reshape((2, 12)), conv))
    builder.add(Linear(torch.tensor([[1.0, -1.0]], dtype=F64)), pooled)
    graph = builder.finish()
    x = torch.rand(50_000, 1, 2, 3, generator=generator, dtype=F64) - 0.5
    least, size = float(graph(x).min()), math.prod(graph.input_shape)
    case = case_of([-0.5] * size, [0.5] * size, [[1.0]], [-least])
    checked(decided(graph, case), graph, case)
    assert decided(graph, case_of([-0.5] * size, [0.5] * size, [[1.0]], [-least + 0.3])).status == "holds"


def test_time_and_memory_that_run_out_leave_the_question_open() -> None:
    graph = needle([0.3] * 6, width=0.1, depth=1.0)
    case = case_of([-1.0] * 6, [1.0] * 6, [[1.0]], [-0.999999])
    began = time.perf_counter()
    assert decided(graph, case, seconds=0.0).status == "unknown"
    assert time.perf_counter() - began < 5
    asked = Property((case,))
    assert (
        InputSplit(most=1)(graph, asked, Witness(graph.to(dtype=torch.float32), asked, lambda _: False)).status
        == "unknown"
    )
