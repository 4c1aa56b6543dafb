"""Two real processes train like one, within rounding; only the first of them writes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hauberk.train.parallel import World, alone

SCRIPT = """
import sys, warnings
import torch
from torch import nn
from safetensors.torch import save_file
from hauberk.train import *

class Stopped(Exception):
    pass

class Stopping:
    def __init__(self, inner, at): self.inner, self.at = inner, at
    def __repr__(self): return repr(self.inner)
    def __call__(self, *args, **more):
        if more["at"].step == self.at:  # a step whose batch both processes have a part of
            raise Stopped
        return self.inner(*args, **more)

def train(out, world, norms=False, sharp=False, stop_at=-1):
    def make():
        middle = [nn.BatchNorm1d(5)] if norms else []
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), *middle, nn.Tanh(), nn.Linear(5, 2))

    net = initialise(make, seed=0).double()
    x = torch.rand((33, 1, 2, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = (x.flatten(1)[:, 0] + x.flatten(1)[:, 3] > 1).long()  # the last batch has one example: one process has none of it
    trades = Trades(threat="linf:0.1", inner=InnerPGD(steps=2))
    objective = Regularised(
        objective=AWP(objective=trades, gamma=0.01) if sharp else trades,
        regularisers=(GradAlign(weight=0.2, threat="linf:0.1"),),
    )
    if norms:
        objective, x, y = PGDAT(threat="linf:0.1", inner=InnerPGD(steps=2)), x[:32], y[:32]
    recipe = Recipe(3, 8, seed=3, rate=Cyclic(0.02), augment=(Flip(),), clip=1.0, average=EMA(0.9) if sharp else None)
    monitor = Monitor(data=(x[:10], y[:10]), threat="linf:0.1", steps=2, batch_size=3, keep_best=False)
    try:
        fitted = fit(
            net, (x, y), Stopping(objective, stop_at), recipe, out=out, checkpoint_every=2, monitor=monitor, world=world
        )
    except Stopped:
        return
    save_file({k: v.contiguous() for k, v in fitted.net.state_dict().items()}, f"{out}.rank{world.rank}.safetensors")

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    world = join("cpu")
    assert world.size == 2
    place = sys.argv[1]
    train(f"{place}/raw", world)
    train(f"{place}/norms", world, norms=True)
    train(f"{place}/sharp", world, sharp=True)
    train(f"{place}/broken", world, sharp=True, stop_at=7)
    world.wait()
    train(f"{place}/broken", world, sharp=True)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained."""
    if importlib.util.find_spec("lightning_fabric") is None:
        pytest.skip("several processes need the extra `distributed`: pip install 'hauberk[distributed]'")
    place = tmp_path_factory.mktemp("two")
    (place / "script.py").write_text(SCRIPT)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(place / "script.py"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(place)], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def _alone(out: Path, **more: Any) -> dict[str, torch.Tensor]:
    space: dict[str, Any] = {"__name__": "script"}
    exec(compile(SCRIPT, "script", "exec"), space)
    space["train"](str(out), alone(), **more)
    return load_file(f"{out}.rank0.safetensors")


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_take_the_steps_of_one_to_the_last_digits(two: Path, tmp_path: Path) -> None:
    weights = load_file(two / "raw.rank0.safetensors")
    for name, value in _alone(tmp_path / "raw").items():
        assert torch.allclose(value, weights[name], rtol=1e-8, atol=1e-10)
    for a, b in zip(_records(tmp_path / "raw"), _records(two / "raw"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-9)
        assert (a["accuracy"], a["forwards"], a["backwards"]) == (b["accuracy"], b["forwards"], b["backwards"])
        assert a["measures"] == pytest.approx(b["measures"], rel=1e-9)
        assert a["held_out"] == pytest.approx(b["held_out"], rel=1e-9)


@pytest.mark.parametrize("name", ["raw", "norms", "sharp", "broken"])
def test_all_processes_have_the_same_bits(two: Path, name: str) -> None:
    first, second = (load_file(two / f"{name}.rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_what_sees_a_part_of_the_batch_ends_near_one_process(two: Path, tmp_path: Path) -> None:
    weights = load_file(two / "sharp.rank0.safetensors")
    for name, value in _alone(tmp_path / "sharp", sharp=True).items():  # AWP steps by the part of the batch
        assert torch.allclose(value, weights[name], atol=2e-2)


def test_two_processes_resume_in_an_epoch_to_the_same_bits(two: Path) -> None:
    whole, resumed = (load_file(two / f"{name}.rank0.safetensors") for name in ("sharp", "broken"))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    kept = ("loss", "accuracy", "forwards", "held_out", "measures")
    for a, b in zip(_records(two / "sharp"), _records(two / "broken"), strict=True):
        for key in kept:
            assert a[key] == pytest.approx(b[key], rel=1e-12)


def test_only_the_first_process_writes(two: Path) -> None:
    assert len(_records(two / "raw")) == 3
    assert sorted(path.name for path in (two / "raw").iterdir()) == [
        "best.safetensors",
        "checkpoint-00000015.safetensors",
        "checkpoint.json",
        "metrics.jsonl",
    ]


def test_the_parts_of_a_batch_are_the_batch() -> None:
    rows = torch.arange(7)
    assert torch.equal(torch.cat([World(rank, 3).part(rows) for rank in range(3)]), rows)
    assert len(World(2, 3).part(rows[:2])) == 0
    assert torch.equal(alone().part(rows), rows)
