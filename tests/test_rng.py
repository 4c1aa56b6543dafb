"""Addressed randomness: the generator is Philox, and a draw depends on its address alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hauberk._rng import Streams, philox
from hauberk.blocks import Canvas
from hauberk.blocks.starts import block_corner
from hauberk.threat import Ball, Norm

Draw = Callable[[Streams, Tensor], Tensor]
DRAWS: dict[str, Draw] = {
    "uniform32": lambda s, rows: s.uniform(rows, (2, 3)),
    "uniform64": lambda s, rows: s.uniform(rows, (5,), dtype=torch.float64),
    "signs": lambda s, rows: s.signs(rows, (7,)),
    "normal": lambda s, rows: s.normal(rows, (3,)),
    "exponential": lambda s, rows: s.exponential(rows, (4,)),
    "integers": lambda s, rows: s.integers(rows, 1000, (2,)),
    "one integer": lambda s, rows: s.integers(rows, 1000),
}
N = 20_000


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter: str, key: str, expected: str) -> None:
    a, b, c, d = (torch.tensor([int(word, 16)]) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    assert [f"{word:08x}" for word in philox((a, b, c, d), (k0, k1))[0].tolist()] == expected.split()


@given(
    words=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
    key=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)
def test_philox_is_that_of_exact_integers(words: list[int], key: tuple[int, int]) -> None:
    a, b, c, d = words
    k0, k1 = key
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ k0, q % 2**32, (p >> 32) ^ d ^ k1, p % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    t = [torch.tensor(word) for word in words]
    assert philox((t[0], t[1], t[2], t[3]), key).tolist() == [a, b, c, d]


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@given(ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=8, unique=True), data=st.data())
def test_neither_batch_nor_order_changes_what_an_example_draws(draw: Draw, ids: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(ids))))
    together = Streams(3, torch.tensor(ids))
    first, second = draw(together, torch.arange(len(ids))), draw(together, torch.arange(len(ids)))
    shuffled = Streams(3, torch.tensor([ids[i] for i in order]))
    assert torch.equal(draw(shuffled, torch.arange(len(ids))), first[list(order)])
    alone = Streams(3, torch.tensor(ids))
    for row in order:  # one at a time, each twice
        rows = torch.tensor([row])
        assert torch.equal(draw(alone, rows)[0], first[row])
        assert torch.equal(draw(alone, rows)[0], second[row])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_an_example_that_leaves_early_changes_nothing_for_the_others(draw: Draw) -> None:
    whole, rows = Streams(0, torch.arange(4)), torch.arange(4)
    expected = [draw(whole, rows), draw(whole, rows), draw(whole, rows)]
    some = Streams(0, torch.arange(4))
    assert torch.equal(draw(some, rows), expected[0])
    assert torch.equal(draw(some, rows[[0, 2]]), expected[1][[0, 2]])
    assert torch.equal(draw(some, rows[[2, 0]]), expected[2][[2, 0]])
    assert torch.equal(draw(some, rows[[1, 3]]), expected[1][[1, 3]])


def test_taken_streams_are_fresh_and_of_the_same_examples() -> None:
    streams = Streams(5, torch.tensor([10, 20, 30]), "start")
    rows = torch.arange(3)
    first = streams.uniform(rows, (4,))
    taken = streams.take(torch.tensor([2, 0]))
    assert taken.ids.tolist() == [30, 10]
    assert len(taken) == 2
    assert torch.equal(taken.uniform(torch.arange(2), (4,)), first[[2, 0]])


def test_every_part_of_the_address_counts() -> None:
    ids, rows = torch.arange(50), torch.arange(50)
    draws = [
        Streams(0, ids).uniform(rows, (8,)),
        Streams(1, ids).uniform(rows, (8,)),
        Streams(-1, ids).uniform(rows, (8,)),
        Streams(2**70, ids).uniform(rows, (8,)),
        Streams(0, ids, "a").uniform(rows, (8,)),
        Streams(0, ids).child("a").uniform(rows, (8,)),
        Streams(0, ids).child("a").child(0).uniform(rows, (8,)),
        Streams(0, ids).child("a").child(1).uniform(rows, (8,)),
        Streams(0, ids + 2**32).uniform(rows, (8,)),
        Streams(0, ids + 50).uniform(rows, (8,)),
    ]
    again = Streams(0, ids)
    again.uniform(rows, (8,))
    draws.append(again.uniform(rows, (8,)))
    values = torch.cat([draw.reshape(-1) for draw in draws])
    assert len(values.unique()) > 0.999 * len(values)
    correlations = np.corrcoef(torch.stack([draw.reshape(-1) for draw in draws]).numpy())
    assert np.abs(correlations - np.eye(len(draws))).max() < 0.2


def test_a_shorter_draw_begins_like_a_longer_one() -> None:
    rows = torch.arange(3)
    short, long = Streams(0, rows).uniform(rows, (3,)), Streams(0, rows).uniform(rows, (9,))
    assert torch.equal(short, long[:, :3])


@pytest.mark.parametrize(
    ("name", "values", "distribution"),
    [
        ("uniform32", lambda s, r: s.uniform(r, (20,)), "uniform"),
        ("uniform64", lambda s, r: s.uniform(r, (20,), dtype=torch.float64), "uniform"),
        ("normal", lambda s, r: s.normal(r, (20,), dtype=torch.float64), "norm"),
        ("exponential", lambda s, r: s.exponential(r, (20,), dtype=torch.float64), "expon"),
    ],
)
def test_draws_have_the_distribution_they_are_named_after(name: str, values: Draw, distribution: str) -> None:
    rows = torch.arange(N // 20)
    drawn = values(Streams(11, rows), rows)
    assert stats.kstest(drawn.double().numpy().ravel(), distribution).pvalue > 1e-3
    # Each position across examples, and each example across positions, not only the whole.
    assert stats.kstest(drawn[:, 0].double().numpy(), distribution).pvalue > 1e-4
    flat = drawn.double().numpy()
    assert abs(np.corrcoef(flat[:-1].ravel(), flat[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(flat[:, :-1].ravel(), flat[:, 1:].ravel())[0, 1]) < 0.03


def test_signs_are_fair_and_integers_uniform() -> None:
    rows = torch.arange(N // 10)
    signs = Streams(1, rows).signs(rows, (10,))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert stats.binomtest(int((signs > 0).sum()), signs.numel()).pvalue > 1e-3
    integers = Streams(1, rows).integers(rows, 7, (10,))
    assert stats.chisquare(torch.bincount(integers.reshape(-1), minlength=7).numpy()).pvalue > 1e-3
    high = torch.arange(1, len(rows) + 1)
    each = Streams(1, rows).integers(rows, high, (3,))
    assert bool(((each >= 0) & (each < high[:, None])).all())
    assert Streams(1, rows).integers(rows, high).shape == rows.shape


def test_integers_are_the_high_words_of_exact_products() -> None:
    rows = torch.arange(50)
    words = [int(word) for word in Streams(1, rows).integers(rows, 2**31, (7,)).reshape(-1)]
    assert max(words) > 2**30
    for high in (1, 3, 255, 2**31 - 1):
        drawn = Streams(1, rows).integers(rows, high, (7,)).reshape(-1).tolist()
        assert all(abs(a * 2**31 - word * high) <= 2**31 for a, word in zip(drawn, words, strict=True))
        each = Streams(1, rows).integers(rows, torch.full((50,), high), (7,))
        assert each.reshape(-1).tolist() == drawn


def test_fewer_words_of_a_block_are_its_first() -> None:
    counter = (torch.arange(5), torch.tensor([7]), torch.tensor([[1], [2]]), torch.tensor([0]))
    whole = philox(counter, (3, 4))
    assert whole.shape == (2, 5, 4)
    for words in (1, 2, 3):
        assert torch.equal(philox(counter, (3, 4), words), whole[..., :words])


class _NoFloat64OnMps(TorchDispatchMode):
    """An Apple device as far as dtypes go: float64 there is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "mps" and tensor.dtype == torch.float64:
                raise TypeError(f"{func} makes float64 on mps")
        return out


def test_nothing_is_drawn_in_float64_on_a_device_that_has_none() -> None:
    with FakeTensorMode(), _NoFloat64OnMps():
        rows = torch.arange(6, device="mps")
        streams = Streams(0, rows)
        assert streams.ids.device.type == "mps"
        for name, draw in DRAWS.items():
            for source in (streams, streams.child("a")):
                drawn = draw(source, rows)
                assert drawn.device.type == ("cpu" if name == "uniform64" else "mps")
        x = torch.zeros(6, 3, 20, 20, device="mps")
        assert streams.integers(rows, torch.full((6,), 9, device="mps")).device == x.device
        assert Canvas(x).sides(streams.uniform(rows, ()), 2).device == x.device
        assert block_corner(x, rows, Ball(Norm.LINF, 0.1), streams).device == x.device
        for norm in Norm:
            for mask in (None, x > 0, torch.ones(1, 3, 20, 20, device="mps") > 0):
                assert norm.sample(streams, rows, x, 1.0, mask).device == x.device
            assert norm.size(x).dtype == torch.float32


def test_uniform_numbers_stay_below_one_and_use_all_their_bits() -> None:
    rows = torch.arange(N)
    for dtype, bits in ((torch.float32, 24), (torch.float64, 53)):
        drawn = Streams(0, rows).uniform(rows, (4,), dtype=dtype)
        assert drawn.dtype == dtype
        assert 0 <= float(drawn.min()) < float(drawn.max()) < 1
        scaled = drawn.double() * 2.0**bits
        assert torch.equal(scaled, scaled.round())
        assert bool((scaled % 2 == 1).any())


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    for draw in DRAWS.values():
        draw(Streams(0, torch.arange(3)), torch.arange(3))
    assert torch.equal(before, torch.get_rng_state())
