"""What is proven of a victim's examples, and that float32 does not prove what float64 would not."""

import pytest
import torch
from torch import nn

import hauberk as hb
from hauberk.certify import prover as module
from hauberk.certify.prover import CHEAP, METHODS, Prover, methods_to
from hauberk.errors import ModelError, SettingError
from hauberk.threat import Ball, Norm


def _net(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    x = torch.rand(40, 1, 4, 4)
    return net, x, net(x).argmax(dim=1)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1])
@pytest.mark.parametrize("name", CHEAP)
def test_every_proof_in_float32_is_one_in_float64(norm: Norm, name: str) -> None:
    net, x, y = _net()
    single = Prover.of(hb.wrap(net, bounds=(0, 1)), x.shape[1:])
    double = Prover.of(hb.wrap(net.double(), bounds=(0, 1), dtype="float64"), x.shape[1:])
    net.float()
    widest = {Norm.LINF: 0.5, Norm.L2: 2.5, Norm.L1: 9.0}[norm]
    decided = 0
    for radius in torch.linspace(0.1, 1.0, 8).mul(widest).tolist():
        proven = single.least(x, y, Ball(norm, radius, (0.0, 1.0)), name) > 0
        again = double.least(x.double(), y, Ball(norm, radius, (0.0, 1.0)), name) > 0
        assert bool((again | ~proven).all())
        decided += int(proven.sum())
    assert 20 < decided < 310  # of 320: some are proven and some are not


def test_a_bound_that_is_positive_by_little_is_computed_again_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = _net()
    prover = Prover.of(hb.wrap(net, bounds=(0, 1)), x.shape[1:])
    region = Ball(Norm.LINF, 0.05, (0.0, 1.0))
    honest = prover.least(x, y, region, "crown")
    dtypes: list[torch.dtype] = []

    def careless(graph: object, ranges: object, spec: torch.Tensor) -> torch.Tensor:
        dtypes.append(spec.dtype)
        small = 1e-6 if spec.dtype == torch.float32 else -1e-6
        return torch.full(spec.shape[:2], small, dtype=spec.dtype)

    monkeypatch.setattr(module, "lower_bounds", careless)
    assert bool((prover.least(x, y, region, "crown") <= 0).all())
    assert dtypes == [torch.float32, torch.float64]
    assert bool((honest > 0).any())


def test_the_largest_radii_are_proven_and_a_little_more_is_not() -> None:
    net, x, y = _net(1)
    prover = Prover.of(hb.wrap(net, bounds=(0, 1)), x.shape[1:])
    found = prover.radii(x, y, Norm.LINF, "crown", prover.farthest(x, Norm.LINF))
    inside = found > 0
    assert bool(inside.any())
    at = Ball(Norm.LINF, found[inside].float(), (0.0, 1.0))
    assert bool((prover.least(x[inside], y[inside], at, "crown") > 0).all())
    beyond = Ball(Norm.LINF, (found + 2e-4).float(), (0.0, 1.0))
    assert bool((prover.least(x, y, beyond, "crown") <= 0).all())


def test_a_target_asks_for_one_margin_only() -> None:
    net, x, y = _net(2)
    prover = Prover.of(hb.wrap(net, bounds=(0, 1)), x.shape[1:])
    region = Ball(Norm.LINF, 0.03, (0.0, 1.0))
    any_class = prover.least(x, y, region, "crown")
    each = torch.stack([prover.least(x, y, region, "crown", (y + shift) % 4) for shift in (1, 2, 3)])
    torch.testing.assert_close(each.amin(dim=0), any_class)
    row = int(any_class.argmin())
    one = slice(row, row + 1)
    wide = Ball(Norm.LINF, 0.4, (0.0, 1.0))
    holds, point = prover.searched(x[one], y[one], wide, lambda: False, lambda z: True, (y[one] + 1) % 4)
    assert holds or (point is not None and int(net(point[None]).argmax()) != int(y[row]))


def test_a_graph_that_decides_otherwise_is_refused() -> None:
    net, x, y = _net()
    prover = Prover.of(hb.wrap(net, bounds=(0, 1)), x.shape[1:])
    prover.check(x, y)
    with pytest.raises(ModelError, match="disagree on 40 of 40"):
        prover.check(x, (y + 1) % 4)


def test_methods_are_named_up_to_the_last() -> None:
    assert methods_to("auto") == METHODS[1:] == methods_to("branch_and_bound")
    assert methods_to("crown") == ("crown_ibp", "crown")
    with pytest.raises(SettingError, match="crown_ibp"):
        methods_to("crwn")
