"""A decoder trained on unlabelled pictures: what it learns, that it repeats itself, and what it refuses."""

import pytest
import torch

from hauberk.blocks.decoder import train_decoder
from hauberk.blocks.subspaces import Bilinear
from hauberk.errors import DataError, SettingError


def blobs(count: int, seed: int) -> torch.Tensor:
    """Pictures of 1 x 8 x 8 that differ in few numbers: smooth sums of four waves."""
    numbers = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return Bilinear(2).lift(numbers, (1, 8, 8))


def test_it_draws_nothing_from_nothing_and_the_opposite_from_the_opposite() -> None:
    decoder = train_decoder(blobs(16, 0), side=2, width=4, steps=5)
    code = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    assert decoder.code == (1, 2, 2)
    assert not bool(decoder.lift(torch.zeros_like(code), (1, 8, 8)).any())
    torch.testing.assert_close(decoder.lift(-code, (1, 8, 8)), -decoder.lift(code, (1, 8, 8)))


def test_training_brings_it_nearer_to_differences_it_has_not_seen() -> None:
    wanted = blobs(20, 1) - blobs(20, 2)

    def missed(steps: int) -> float:
        """Of the squared size of new differences what no code within reach draws, by descent in the codes."""
        decoder = train_decoder(blobs(200, 0), side=2, width=8, steps=steps)
        module = decoder.module
        assert isinstance(module, torch.nn.Module)
        codes = torch.zeros(20, *decoder.code, requires_grad=True)
        rule = torch.optim.Adam([codes], 0.1)
        for _ in range(100):
            rule.zero_grad()
            (module(codes) - wanted).square().mean().backward()
            rule.step()
        left = module(codes.detach()) - wanted
        return float(left.square().mean() / wanted.square().mean())

    assert missed(200) < 0.1 < missed(1)


def test_codes_are_of_the_size_of_what_they_draw() -> None:
    decoder = train_decoder(blobs(200, 0), side=2, width=8, steps=200)
    code = 0.3 * torch.randn(100, *decoder.code, generator=torch.Generator().manual_seed(3))
    drawn = decoder.lift(code, (1, 8, 8))
    assert 0.1 < float(drawn.square().mean().sqrt() / code.square().mean().sqrt()) < 3


def test_a_seed_is_all_it_depends_on() -> None:
    before = torch.random.get_rng_state()
    one, two, other = (train_decoder(blobs(16, 0), side=2, width=4, steps=3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    code = torch.ones(1, 1, 2, 2)
    assert torch.equal(one.lift(code, (1, 8, 8)), two.lift(code, (1, 8, 8)))
    assert not torch.equal(one.lift(code, (1, 8, 8)), other.lift(code, (1, 8, 8)))


def test_other_sizes_and_types_come_out_as_they_went_in() -> None:
    pictures = torch.rand(6, 3, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoder = train_decoder(pictures, side=4, channels=2, width=4, steps=2)
    assert decoder.code == (2, 4, 4)
    drawn = decoder.lift(torch.ones(2, 2, 4, 4, dtype=torch.float64), (3, 9, 5))
    assert drawn.shape == (2, 3, 9, 5)
    assert drawn.dtype == torch.float64


def test_it_says_what_it_cannot_train_on() -> None:
    with pytest.raises(DataError, match="two or more finite pictures"):
        train_decoder(torch.rand(8, 64))
    with pytest.raises(DataError, match="two or more finite pictures"):
        train_decoder(torch.full((4, 1, 8, 8), torch.nan))
    with pytest.raises(SettingError, match="larger than pictures"):
        train_decoder(torch.rand(4, 1, 8, 8), side=9)
    with pytest.raises(SettingError, match="steps"):
        train_decoder(torch.rand(4, 1, 8, 8), steps=0)
