"""Addressed randomness: the generator is Philox, and a draw depends on its address alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from hauberk._rng import Streams, philox

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
