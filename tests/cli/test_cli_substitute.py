"""`hauberk substitute`: what it buys, what it prints, and that its weights go on as a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hauberk.victims import ModelServer, load

Run = Callable[..., Any]
COMMAND = (
    *("--data", "good.npz", "--substitute", "nets.py:Tiny", "--seeds", "3"),
    *("--held-out", "4", "--epochs", "2", "--queries", "6"),
)


@pytest.mark.parametrize("method", ["active", "knockoff", "jacobian"])
def test_a_substitute_is_trained_reported_and_a_model(hauberk: Run, tmp_path: Path, method: str) -> None:
    out, report = tmp_path / "mine.safetensors", tmp_path / "mine.json"
    options = ("--method", method, "--threat", "linf:0.1", "--out", str(out), "--json", str(report))
    done = hauberk("substitute", "py:nets.py:tiny", *COMMAND, *options)
    assert done.exit_code == 0, done.output
    found = json.loads(report.read_text())
    assert found["method"] == method
    assert found["queries"] == 6 or method != "jacobian"
    assert found["queries"] <= 6
    assert found["rounds"][-1]["queries"] == found["queries"]
    assert found["rounds"][-1]["agreement"]["count"] == 4
    assert "agreement" in done.stdout
    assert str(out) in done.stderr
    crossed = hauberk(
        "transfer", str(out), "py:nets.py:tiny", "--arch", "nets.py:Tiny", "--data", "good.npz", "-t", "linf:0.1"
    )
    assert crossed.exit_code == 0, crossed.output


def test_over_http_no_more_is_bought_than_was_said_and_nothing_twice(hauberk: Run, bench: Path, tmp_path: Path) -> None:
    with ModelServer(load(f"py:{bench / 'nets.py'}:tiny"), labels_only=True) as server:
        for bought in (6 + 4, 6 + 4):
            done = hauberk("substitute", server.url, *COMMAND, "--cache", str(tmp_path / "c.sqlite"))
            assert done.exit_code == 0, done.output
            assert server.answered <= bought
        assert "bought 0 queries" in done.stderr


def test_what_measures_nothing_buys_the_queries_and_no_more(hauberk: Run, bench: Path) -> None:
    with ModelServer(load(f"py:{bench / 'nets.py'}:tiny"), labels_only=True) as server:
        done = hauberk("substitute", server.url, *COMMAND, "--held-out", "0")
        assert done.exit_code == 0, done.output
        assert "Measured" not in done.stdout
        assert server.answered <= 6


def test_the_architecture_of_a_net_of_the_zoo_goes_on_as_it_is_spelled(hauberk: Run, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    command = f"substitute zoo:digits-mlp --substitute zoo:digits-mlp --data digits --n 30 --seeds 10 --out {out}"
    done = hauberk(*command.split(), "--held-out", "5", "--epochs", "1", "--queries", "12")
    assert done.exit_code == 0, done.output
    again = f"attack noise {out} --arch zoo:digits-mlp --data digits --n 5 --threat linf:0.1".split()
    done = hauberk(*again)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--held-out", "0", "--threat", "linf:0.1"), "leave out --threat"),
        (("--seeds", "0"), "--seeds is a whole number"),
        (("--held-out", "11"), "expected at least 14 examples"),
        (("--method", "psychic"), "unknown method of substitution"),
        (("--substitute", "nets.py:nothing"), "nothing"),
        (("--queries", "0"), "queries"),
        (("--threat", "linf:0.1,0.2"), "one radius"),
        (("--out", "mine.txt"), ".safetensors"),
    ],
)
def test_bad_options_are_one_sentence(hauberk: Run, options: tuple[str, ...], said: str) -> None:
    done = hauberk("substitute", "py:nets.py:tiny", *COMMAND, *options)
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
