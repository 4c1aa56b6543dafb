"""Models over a wire: what is bought is what the server answered, nothing is bought twice, and bad answers are one sentence each."""

import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hauberk._rng import Streams
from hauberk.attacks import Noise, noise, square
from hauberk.errors import BudgetError, HauberkError, ModelError, RunError, SettingError
from hauberk.threat import Access, ThreatModel, Untargeted
from hauberk.victims import HttpVictim, ModelServer, wrap

X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(12)
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")
W = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
FAST: Any = {"backoff": 0.01, "timeout": 5.0}


def scores(x: Any) -> Any:
    return x.reshape(len(x), -1) @ W


def model() -> Any:
    return wrap(scores, name="tiny")


def over(server: ModelServer, **settings: Any) -> HttpVictim:
    victim = wrap(server.url, **FAST | settings)
    assert isinstance(victim, HttpVictim)
    return victim


def lines(log: Path) -> list[Any]:
    return [json.loads(line) for line in log.read_text().splitlines()]


class Faulty(ModelServer):
    """Replies as `fault` says where it says something."""

    fault: Callable[[int], Any] = staticmethod(lambda number: None)
    late = 0.0
    asked = 0

    def reply(self, method: str, path: str, body: bytes) -> Any:
        if method == "GET":
            return super().reply(method, path, body)
        self.asked += 1
        said = self.fault(self.asked)
        if said is not None:
            return said
        made = super().reply(method, path, body)
        if self.asked == 1 and self.late:
            time.sleep(self.late)
        return made


def test_scores_over_the_wire_are_the_models_own() -> None:
    with ModelServer(model(), shape=(1, 4, 4)) as server:
        victim = over(server, batch=5, concurrency=3)
        assert torch.equal(victim.logits(X, ROWS), model().logits(X, ROWS))
        assert torch.equal(victim.labels(X, ROWS), model().labels(X, ROWS))
        assert (victim.bought, victim.cached, victim.lost, victim.requests) == (12, 12, 0, 4)
        assert (victim.access, victim.classes) == (Access.SCORES, 3)
        assert victim.fingerprint() == over(server).fingerprint()


def test_an_attack_gets_what_it_gets_in_process_and_counts_as_the_server_does(tmp_path: Path) -> None:
    y = model().labels(X, ROWS)
    with ModelServer(model(), log=tmp_path / "log") as server:
        victim = over(server, concurrency=2, batch=4)
        found, local = (square(who, X, y, "linf:0.1", steps=20) for who in (victim, model()))
        assert torch.equal(found.adversarials, local.adversarials)
        assert victim.bought == server.answered == len(lines(tmp_path / "log"))
        assert len({line["sha256"] for line in lines(tmp_path / "log")}) == victim.bought


def test_an_attack_on_labels_with_a_budget_stops_by_itself(tmp_path: Path) -> None:
    y = model().labels(X, ROWS)
    with ModelServer(model(), labels_only=True, log=tmp_path / "log") as server:
        victim = over(server, budget=60, price=0.5)
        victim.probe(X)
        assert victim.access is Access.LABELS
        region = ThreatModel.parse("linf:0.05").ball((0.0, 1.0))
        Noise(tries=50)(victim, X, Untargeted(y), region, streams=Streams(0, ROWS, "noise"))
        assert victim.bought == server.answered == len(lines(tmp_path / "log")) <= 60
        assert victim.spent == victim.bought / 2
        with pytest.raises(BudgetError, match="60 queries in all"):
            victim.labels(torch.rand(61, 1, 4, 4), torch.arange(61))
        assert victim.bought == server.answered


def test_what_is_refused_is_tried_again_and_not_charged() -> None:
    server = Faulty(model())
    server.fault = lambda number: (503, {"error": "busy"}, {"Retry-After": "0"}) if number in (1, 3) else None
    with server:
        victim = over(server, batch=6)
        victim.labels(X, ROWS)
        assert (victim.bought, victim.lost, victim.requests, server.answered) == (12, 0, 5, 12)


def test_an_answer_that_comes_too_late_is_charged_and_bought_again() -> None:
    server = Faulty(model())
    server.late = 1.0
    with server:
        victim = over(server, timeout=0.3)
        victim.labels(X, ROWS)
        assert (victim.bought, victim.lost, server.answered) == (24, 12, 24)


def test_without_a_cache_each_query_is_bought() -> None:
    with ModelServer(model()) as server:
        victim = over(server, cache=False)
        twice = X[[0, 0, 1]]
        assert torch.equal(victim.logits(twice, ROWS[:3]), model().logits(twice, ROWS[:3]))
        victim.logits(twice, ROWS[:3])
        assert victim.bought == server.answered == 6


def test_the_rate_is_kept() -> None:
    with ModelServer(model()) as server:
        victim = over(server, batch=1, rate=40, concurrency=4)
        began = time.monotonic()
        victim.labels(X, ROWS)
        assert time.monotonic() - began >= 11 / 40


def forked(job: Callable[[], None]) -> int:
    """The number of a new process that does the job and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child uses none of them
        child = os.fork()
    if child:
        return child
    try:
        job()
    finally:
        os._exit(0)


@linux
def test_another_process_buys_nothing_again(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    with ModelServer(model()) as server:

        def ask() -> None:
            over(server, cache=cache).labels(X[:8], ROWS[:8])

        os.waitpid(forked(ask), 0)
        victim = over(server, cache=cache)
        victim.labels(X, ROWS)
        assert (victim.bought_before, victim.bought, victim.cached, server.answered) == (8, 12, 8, 12)


def start(port: int, log: Path) -> tuple[int, int]:
    """Process and port of a server."""
    end, begin = os.pipe()

    def serve() -> None:
        server = ModelServer(model(), port=port, log=log, labels_only=True)
        os.write(begin, str(server.port).encode())
        server.serve_forever()

    child = forked(serve)
    found = int(os.read(end, 16))
    os.close(end)
    os.close(begin)
    return child, found


@linux
def test_a_server_killed_in_the_middle_is_asked_for_the_rest_only(tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "c.sqlite"
    y = model().labels(X, ROWS)
    child, port = start(0, log)
    url = f"http://127.0.0.1:{port}/v2/models/tiny"

    def attack(victim: Any) -> Any:
        return noise(victim, X, y, "linf:0.02", tries=20)

    before = wrap(url, cache=cache, batch=4, retries=0, rate=60)
    assert isinstance(before, HttpVictim)
    while_asked = Killer(before, child, 50)
    with pytest.raises(ModelError, match=r"gave no answer|cannot be reached"):
        attack(while_asked.victim)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    answered = len(lines(log))
    assert before.bought - before.lost <= answered <= before.bought
    child, _ = start(port, log)
    try:
        after = wrap(url, cache=cache, batch=4)
        assert isinstance(after, HttpVictim)
        found = attack(after)
        assert torch.equal(found.adversarials, attack(lambda x: scores(x).argmax(1)).adversarials)
        rows = [line["sha256"] for line in lines(log)]
        assert after.bought - after.lost == len(set(rows))
        assert len(rows) - len(set(rows)) <= after.lost <= 4  # what the kill lost on its way, one request at most
        assert len(rows) <= after.bought <= len(rows) + after.lost
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Killer:
    """Kills the server from outside, by SIGKILL, once so many rows were bought."""

    def __init__(self, victim: HttpVictim, child: int, rows: int) -> None:
        exchange, sent = victim._transport.exchange, 0

        def counted(method: str, target: str, body: bytes | None, name: str, bill: Any = None) -> Any:
            nonlocal sent
            sent += 4
            if sent - 4 <= rows < sent:
                os.kill(child, signal.SIGKILL)
            return exchange(method, target, body, name, bill)

        victim._transport.exchange = counted  # type: ignore[method-assign]
        self.victim = victim


def tensor(**changed: Any) -> Any:
    whole = {"name": "scores", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6.5]} | changed
    return {"outputs": [{key: value for key, value in whole.items() if value != "gone"}]}


BAD: list[Any] = [
    *(b"", b"<html>oops</html>", b"{", b"nan", b"\xff\xfe", b"[" * 3000, b"12 34"),
    *(None, 1, "x", True, [], {}, [[1, 2, 3], [4, 5, 6]], {"outputs": None}, {"outputs": []}, {"outputs": {}}),
    *({"outputs": [1]}, {"outputs": [None]}, {"outputs": [[]]}, {"error": "no"}, {"outputs": [{}]}),
    *(tensor(name="gone"), tensor(name=3), tensor(datatype="gone"), tensor(datatype="FP128"), tensor(datatype=None)),
    *(tensor(shape="gone"), tensor(shape=6), tensor(shape=[2, -1]), tensor(shape=[2, 2]), tensor(shape=["2", "3"])),
    *(tensor(shape=[6]), tensor(shape=[3, 2]), tensor(shape=[2, 3, 1]), tensor(shape=[1, 6]), tensor(shape=[2.0, 3])),
    *(tensor(data="gone"), tensor(data=None), tensor(data=[]), tensor(data="abc"), tensor(data=[1, 2, 3])),
    *(tensor(data=[1, 2, 3, 4, 5, None]), tensor(data=[1, 2, 3, 4, 5, "6"]), tensor(data=[1, 2, 3, 4, 5, {}])),
    *(tensor(data=[float("nan")] * 6), tensor(data=[1, 2, 3, 4, 5, 1e300]), tensor(data=[[1, 2], [3]])),
    *(tensor(datatype="BYTES"), tensor(datatype="BYTES", data=list("abcdef")), tensor(datatype="INT64")),
    *(tensor(datatype="BOOL", data=[True] * 6), tensor(shape=[2, 0], data=[]), tensor(shape=[0, 3], data=[])),
    {"outputs": [*tensor()["outputs"], *tensor()["outputs"]]},
    {"outputs": [*tensor()["outputs"], *tensor(name="other")["outputs"]]},
    *((status, {"error": "no\nway"}, {}) for status in (301, 400, 401, 404, 413, 418, 500, 502, 503)),
]


def test_bad_answers_are_one_sentence_each() -> None:
    assert len(BAD) >= 50
    server = Faulty(model())
    with server:
        for bad in BAD:
            server.fault = lambda number, bad=bad: bad if isinstance(bad, tuple) else (200, bad, {})
            with pytest.raises(ModelError) as caught:
                over(server, retries=0).labels(X[:2], ROWS[:2])
            said = str(caught.value)
            assert "\n" not in said, said
            assert said.startswith("'tiny'"), said
            assert re.search(r"expected|;", said), said
            assert len(said) < 500, said


def test_a_changed_number_of_classes_is_refused() -> None:
    server = Faulty(model())
    with server:
        victim = over(server)
        victim.labels(X[:1], ROWS[:1])
        server.fault = lambda number: (200, tensor(shape=[2, 2], data=[1, 2, 3, 4]), {})
        with pytest.raises(ModelError, match="answered 3 classes before"):
            victim.labels(X[1:3], ROWS[:2])


def test_a_service_with_a_template_and_names() -> None:
    server = Faulty(model())
    server.fault = lambda number: (200, {"found": [{"id": "cat", "p": 0.7}, {"id": "dog", "p": 0.2}]}, {})
    with server:
        victim = over(
            server,
            body='{"image": "data:$png"}',
            answer="found.*.id|found.*.p",
            class_names=["dog", "cow", "cat"],
            classes=3,
        )
        got = victim.logits(X[:2], ROWS[:2]).exp()
        assert victim.labels(X[:2], ROWS[:2]).tolist() == [2, 2]
        assert torch.allclose(got[0], torch.tensor([0.2, 0.1, 0.7]), atol=1e-5)
        assert victim.requests == 2


def test_the_best_few_rounded() -> None:
    with ModelServer(model(), top_k=1, rounding=2, probabilities=True) as server:
        assert torch.equal(over(server, classes=3).labels(X, ROWS), model().labels(X, ROWS))
        with pytest.raises(ModelError, match="how many there are"):
            over(server).labels(X, ROWS)


def test_secrets_come_from_the_environment_and_are_said_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "hunter2")
    server = Faulty(model())
    server.fault = lambda number: (401, {"error": "bad token hunter2"}, {})
    with server:
        victim = over(server, headers={"Authorization": "Bearer $TOKEN_OF_MINE"})
        with pytest.raises(ModelError, match=r"\*\*\*") as caught:
            victim.labels(X, ROWS)
        assert "hunter2" not in str(caught.value) + json.dumps(victim.description)
        for headers in ({"Authorization": "Bearer hunter2"}, {"X-Api-Key": "hunter2"}, {"A": "$NOT_SET_ANYWHERE"}):
            with pytest.raises(SettingError) as refused:
                over(server, headers=headers)
            assert "hunter2" not in str(refused.value)


def test_settings_and_addresses_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and it is long enough to be looked at " * 20)
    with ModelServer(model()) as server:
        bad: list[dict[str, Any]] = [
            {"batch": 0},
            {"rate": 0},
            {"timeout": float("nan")},
            {"answer": "a"},
            {"cache": True},
        ]
        bad += [{"body": "{"}, {"body": "{}"}, {"class_names": "ab"}, {"budget": -1}, {"headers": 3}, {"zap": 1}]
        for settings in bad:
            with pytest.raises(SettingError):
                over(server, **settings)
        with pytest.raises(RunError, match="cache"):
            over(server, cache=tmp_path / "text")
    for url in ("http://127.0.0.1:1/else", "http://", "http://a:b@127.0.0.1/v2/models/m"):
        with pytest.raises(HauberkError):
            wrap(url)
    with pytest.raises(ModelError, match="cannot be reached"):
        wrap("http://127.0.0.1:1/v2/models/m", retries=0)
    with pytest.raises(SettingError, match="models over HTTP"):
        wrap(scores, budget=3)
