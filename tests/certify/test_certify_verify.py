import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hauberk.certify._property import Case, Property, Verdict
from hauberk.certify.verify import FEW_INPUTS, verify
from hauberk.errors import DataError, ModelError
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Conv, Elementwise, Linear, Mean, Product, Reshape, Scale

RELU = Elementwise("relu")
MANY = FEW_INPUTS + 8


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def needle(size: int, used: int) -> Graph:
    """1 - max(0, 0.02 - |x - 0.3|_1) / 0.02 over the first inputs: below 1 only in a small diamond."""
    pick, builder = torch.eye(size)[:used], Builder((size,))
    apart = builder.add(Elementwise("abs"), builder.add(Linear(pick, torch.full((used,), -0.3)), 0))
    far = builder.add(RELU, builder.add(Linear(-torch.ones(1, used), torch.tensor([0.02])), apart))
    builder.add(Scale(-50.0, 1.0), far)
    return builder.finish()


def dense(seed: int, size: int, width: int = 8) -> Graph:
    builder = Builder((size,))
    first = builder.add(RELU, builder.add(Linear(normal(seed, width, size) / 4, normal(seed + 1, width)), 0))
    second = builder.add(RELU, builder.add(Linear(normal(seed + 2, width, width) / 3, normal(seed + 3, width)), first))
    builder.add(Linear(normal(seed + 4, 3, width)), second)
    return builder.finish()


def case_of(size: int, C: list[list[float]], d: list[float], low: float = -1.0, high: float = 1.0) -> Case:
    return Case(np.full(size, low), np.full(size, high), np.array(C), np.array(d))


def violates(found: Verdict, graph: Graph, asked: Property) -> None:
    """The witness is float32, inside a box, and violates in float32."""
    assert found.status == "violated"
    x = found.witness
    assert x is not None
    assert x.dtype == np.float32
    assert x.shape == (asked.inputs,)
    assert any(np.all(x.astype(float) >= case.lower) and np.all(x.astype(float) <= case.upper) for case in asked.cases)
    y = graph(torch.from_numpy(x).reshape(1, *graph.input_shape)).detach().numpy()
    assert asked.violated(x, y)


@pytest.mark.parametrize(("size", "used"), [(1, 1), (2, 2), (3, 3), (MANY, 1), (MANY, 2)])
def test_a_planted_counterexample_is_found(size: int, used: int) -> None:
    """Descent does not see it: the network is flat around it."""
    graph = needle(size, used)
    asked = Property((case_of(size, [[1.0]], [-0.5]),))
    violates(verify(graph, asked, seconds=40), graph, asked)


@pytest.mark.parametrize(("size", "used"), [(1, 1), (3, 3), (MANY, 2)])
def test_what_the_network_never_does_is_proven(size: int, used: int) -> None:
    graph = needle(size, used)
    found = verify(graph, Property((case_of(size, [[1.0]], [0.001]),)), seconds=40)
    assert found.status == "holds"
    assert found.witness is None
    assert verify(graph, Property((case_of(size, [[1.0]], [-0.99], 0.325, 1.0),)), seconds=40).status == "holds"


@pytest.mark.parametrize("size", [3, MANY])
@pytest.mark.parametrize("seed", range(3))
def test_easy_questions_are_answered_rightly(seed: int, size: int) -> None:
    graph = dense(10 * seed, size)
    x = 2 * torch.rand(20_000, size, generator=torch.Generator().manual_seed(seed)) - 1
    least = float((graph(x)[:, 0] - graph(x)[:, 1]).min())
    row = [1.0, -1.0, 0.0]
    asked = Property((case_of(size, [row], [-least - 1e-3]),))
    violates(verify(graph, asked, seconds=20), graph, asked)
    asked = Property((case_of(size, [row], [20 - least]),))
    found = verify(graph, asked, seconds=20)
    assert found.status == "holds"
    assert found.seconds > 0


@pytest.mark.parametrize("size", [2, MANY])
def test_cases_rows_and_boxes_mean_what_they_say(size: int) -> None:
    builder = Builder((size,))
    builder.add(RELU, builder.add(Linear(torch.eye(size)[:2]), 0))
    graph = builder.finish()  # y = relu(x0), relu(x1)
    impossible = case_of(size, [[1.0, 0.0], [-1.0, 0.0]], [-0.2, 0.3])  # y0 <= 0.2 and y0 >= 0.3
    never = case_of(size, [[0.0, 1.0]], [0.1])  # y1 <= -0.1
    narrow = case_of(size, [[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], [-0.31, 0.3, 0.9])
    elsewhere = case_of(size, [[-1.0, 0.0]], [1.55], 1.5, 1.6)
    if size == 2:  # with many inputs one row of a case is proven, not several together
        assert verify(graph, Property((impossible, never)), seconds=20).status == "holds"
    assert verify(graph, Property((never, case_of(size, [[-1.0, 0.0]], [1.7], 1.5, 1.6))), seconds=20).status == "holds"
    for cases in ((narrow,), (narrow, impossible), (never, elsewhere), (elsewhere, narrow)):
        asked = Property(cases)
        violates(verify(graph, asked, seconds=20), graph, asked)


def test_a_case_without_rows_is_violated_by_any_input() -> None:
    for size in (2, MANY):
        graph = dense(0, size)
        asked = Property((Case(-np.ones(size), np.ones(size), np.zeros((0, 3)), np.zeros(0)),))
        violates(verify(graph, asked), graph, asked)


def test_pictures_are_asked_about_flattened() -> None:
    builder = Builder((1, 4, 5))
    first = builder.add(RELU, builder.add(Conv(normal(0, 3, 1, 3, 3), normal(1, 3), (1, 1), (1, 1)), 0))
    builder.add(Mean((1,)), builder.add(Reshape((3, 20)), first))
    graph = builder.finish()
    asked = Property((case_of(20, [[1.0, 0.0, 0.0]], [0.01]),))
    assert verify(graph, asked, seconds=20).status == "holds"  # means of ReLUs are not below 0
    low = float(graph(torch.zeros(1, 1, 4, 5))[0, 0])
    asked = Property((case_of(20, [[1.0, 0.0, 0.0]], [-low]),))
    violates(verify(graph, asked, seconds=20), graph, asked)


def test_time_that_runs_out_leaves_the_question_open() -> None:
    graph = dense(0, 40, 60)
    x = 2 * torch.rand(2_000, 40, generator=torch.Generator().manual_seed(0)) - 1
    y = graph(x)[:, 0]
    middle = float(y.min() - 0.5 * (y.max() - y.min()))  # no sample is so low, and no bound so tight
    began = time.perf_counter()
    found = verify(graph, Property((case_of(40, [[1.0, 0.0, 0.0]], [-middle]),)), seconds=0.0)
    assert time.perf_counter() - began < 20
    assert found.status in ("unknown", "violated")
    hard = needle(10, 10)
    began = time.perf_counter()
    found = verify(hard, Property((case_of(10, [[1.0]], [-0.001]),)), seconds=1.0, confirm=lambda _: False)
    assert found.status == "unknown"
    assert time.perf_counter() - began < 10


def test_another_opinion_can_refuse_a_counterexample() -> None:
    graph, seen = dense(0, 2), list[NDArray[np.float32]]()

    def refuse(x: NDArray[np.float32]) -> bool:
        seen.append(x)
        return False

    asked = Property((case_of(2, [[0.0, 0.0, 0.0]], [-1.0]),))
    assert verify(graph, asked, seconds=1.0, confirm=refuse).status == "unknown"
    assert seen
    assert all(x.dtype == np.float32 and x.shape == (2,) for x in seen)


def test_the_same_seed_gives_the_same_witness() -> None:
    graph, asked = dense(3, MANY), Property((case_of(MANY, [[1.0, 0.0, 0.0]], [-1.0]),))
    one, two = (verify(graph, asked, seed=5, seconds=20) for _ in range(2))
    assert one.status == two.status == "violated"
    assert np.array_equal(np.asarray(one.witness), np.asarray(two.witness))


def test_properties_of_another_network_are_refused() -> None:
    graph = dense(0, 3)
    for asked in (case_of(2, [[1.0, 0.0, 0.0]], [0.0]), case_of(3, [[1.0, 0.0]], [0.0])):
        with pytest.raises(DataError, match="the network has 3 and 3"):
            verify(graph, Property((asked,)))


def test_nodes_without_bounds_are_refused_by_name() -> None:
    builder = Builder((2,))
    builder.add(Product(), 0, builder.add(Scale(2.0), 0), name="square")
    with pytest.raises(ModelError, match="'square': Product has no linear bounds"):
        verify(builder.finish(), Property((case_of(2, [[1.0, 0.0]], [0.0]),)))


def test_the_network_and_its_gradients_are_left_alone() -> None:
    weight = normal(0, 3, MANY).requires_grad_()
    builder = Builder((MANY,))
    builder.add(RELU, builder.add(Linear(weight), 0))
    graph, before = builder.finish(), weight.detach().clone()
    assert verify(graph, Property((case_of(MANY, [[1.0, 0.0, 0.0]], [0.5]),)), seconds=10).status == "holds"
    assert weight.grad is None
    assert torch.equal(weight, before)
