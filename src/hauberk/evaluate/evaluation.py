"""`evaluate`: how robust is this model, really? Streams the data, runs the suite chunk by chunk, keeps the evidence."""

import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hauberk import evidence
from hauberk._shapes import Batch, Labels
from hauberk.attacks import Attack, name_of, settings_of
from hauberk.data import Chunk, Source
from hauberk.data import load as load_data
from hauberk.errors import DataError, SettingError, ThreatError
from hauberk.evaluate.adapt import LOOKED, Adaptation, merged, planned, steps_for, wanted_steps
from hauberk.evaluate.audit import POOL, AuditEvidence, audit_victim
from hauberk.evaluate.cascade import run_chunk
from hauberk.evaluate.progress import progress_bar
from hauberk.evaluate.proving import SANDWICHED, Proving
from hauberk.evaluate.queries import Spending
from hauberk.evaluate.result import build_result
from hauberk.evaluate.statement import seen_through, with_a_radius
from hauberk.evaluate.suites import Suite, suite_for
from hauberk.evidence import FinishedRun, Manifest, MemoryRun, RunFolder, rows_table
from hauberk.threat import Access, ThreatModel, goal_from
from hauberk.victims import Victim, check_inputs, wrap

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        run: all the evidence: `run.rows`, `run.adversarials()`, `run.ledgers`, `run.path`.
    """

    run: FinishedRun

    @property
    def result(self) -> dict[str, Any]:
        """The JSON contract, see docs/json_contract.md."""
        return self.run.result

    @property
    def clean_accuracy(self) -> float:
        """Share of the examples that are classified correctly."""
        return self.result["clean_accuracy"]["value"]

    @property
    def robust_accuracy(self) -> float:
        """Upper bound: share that no attack broke, at the largest radius."""
        return self.result["robust_accuracy"]["upper"]["value"]

    @property
    def certified_accuracy(self) -> float | None:
        """Lower bound: share that is proven, at the largest radius; None where no proof was sought."""
        lower = self.result["robust_accuracy"]["lower"]
        return None if lower is None else lower["value"]

    def __repr__(self) -> str:
        upper, proven = self.result["robust_accuracy"]["upper"], self.certified_accuracy
        at_least = "" if proven is None else f"{proven:.1%} <= "
        return (
            f"Evaluation(clean {self.clean_accuracy:.1%}, {at_least}robust <= {upper['value']:.1%} "
            f"[{upper['low']:.1%}, {upper['high']:.1%}] under {self.result['threat']}, n={self.result['n']})"
        )


def evaluate(
    model: Any,
    data: Any,
    threat: str | ThreatModel,
    *,
    suite: str | Suite | Attack | Sequence[Attack] = "standard",
    stages: int | None = None,
    seed: int = 0,
    n: int | None = None,
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 128,
    audit: bool = True,
    adapt: bool | Sequence[str] = False,
    certify: str = "off",
    certify_seconds: float = 0.5,
    sandwich: int = SANDWICHED,
    access: str | Access | None = None,
    max_queries: int | None = None,
    price: float | None = None,
    keep_adversarials: bool = True,
    progress: bool = False,
    command: str | None = None,
) -> Evaluation:
    """Attack a model on data under a threat, and say what is left of its accuracy.

    Args:
        model: a victim, or anything that `hauberk.wrap` takes with its defaults.
        data: whatever `hauberk.data.load` takes: a name, a path, a pair (x, y), a Source.
        threat: with a radius, or several for a curve.
        suite: `quick`, `standard`, or attacks of your own.
        stages: only this many attacks of the suite.
        seed: every draw's address; the same seed repeats the run.
        n: only the first n examples.
        out: the run folder; after a kill at any instant the same call finishes the run. In memory where None.
        batch_size: examples that are worked on together, and kept together in the evidence.
        audit: run the checks on the first examples that say whether the attacks can be trusted.
        adapt: apply the steps that the audit's findings ask for, such as averaging over a model's randomness, and evaluate what the
            suite left once more; a sequence of steps (see `hauberk.evaluate.audit.STEPS`) is applied besides. The result then holds
            the first verdict and the adapted one, which is the headline.
        certify: `auto` to prove what can be proven, or how far to go: `crown_ibp`, `crown`, `alpha_crown` or `branch_and_bound`. Cheap
            proofs come before the attacks, which leave proven examples alone; branch and bound comes after them. `off` proves nothing.
        certify_seconds: of branch and bound, as a mean over the examples. The only limit here that depends on the clock.
        sandwich: so many of the first examples get, if proofs are sought, both ends at any radius: the largest one that is proven,
            CLEVER's estimate, and the smallest change that an attack finds.
        access: `scores` or `labels`: what an attacker sees of the model, if that is not all of it; the suite then holds attacks for that.
        max_queries: the most that any one example may cost over the whole suite, the look at it and the judge's looks included; a hard
            limit, which the attacks share. The audit asks besides, of a few examples.
        price: of a query, in whatever currency; that of the model over HTTP where None. The result then says what it all cost.
        keep_adversarials: keep the broken examples' inputs beside their rows.
        progress: show a progress bar on stderr.
        command: what the user typed, for the report.

    Raises:
        DataError, ModelError, ThreatError, AccessError, SettingError, UnknownNameError: an argument is not what it must be.
        RunError: the run folder belongs to something else.

    Cost: see the suite; counted in `result["cost"]`, with the clean pass, the judge and the audit.
    """
    wanted = wanted_steps(adapt, audit=audit)
    threat = seen_through(ThreatModel.parse(threat), access)
    if threat.smallest:
        raise ThreatError(f"an evaluation needs a radius, got {threat}; write for example {with_a_radius(threat)}")
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got batch_size={batch_size}")
    victim = wrap(model)
    source = load_data(data, bounds=victim.bounds, n=n)
    _look(victim, source, threat)
    access = min(threat.access, victim.access)
    price = (getattr(victim, "price", 0) or None) if price is None else price
    spending = Spending(max_queries, price)
    if max_queries is not None and (wanted is not None or certify != "off"):
        raise SettingError(
            "max_queries limits what attacks ask, which neither adapted attacks nor proofs keep to; leave out adapt and certify"
        )
    traced = spending if max_queries is not None or price is not None or access < Access.GRADIENTS else None
    chosen = suite_for(suite, threat, access, max_queries)
    chosen = chosen if stages is None else chosen.first(stages)
    proving = None
    if certify != "off":
        proving = Proving.of(victim, source.shape, threat, certify, seconds=certify_seconds, looked=sandwich, seed=seed)
    manifest = Manifest(
        model_name=victim.name,
        model_fingerprint=victim.fingerprint(),
        data_name=source.name,
        data_fingerprint=source.fingerprint(),
        threat=str(threat),
        suite=chosen.name,
        attacks=[{"name": name_of(attack), "settings": settings_of(attack)} for attack in chosen.attacks],
        seed=seed,
        n=len(source),
        batch_size=batch_size,
        dtype=str(victim.dtype).removeprefix("torch."),
        options={"audit": audit, "keep_adversarials": keep_adversarials}
        | ({} if wanted is None else {"adapt": list(wanted)})
        | ({} if max_queries is None else {"max_queries": max_queries})
        | ({} if proving is None else {"certify": certify, "certify_seconds": certify_seconds, "sandwich": sandwich}),
        provenance=evidence.provenance(),
    )
    started = _now()
    with RunFolder.open(out, manifest) if out is not None else MemoryRun(manifest) as run:
        with progress_bar(chosen.name, len(source), show=progress) as advance:
            for index, begin in enumerate(range(0, len(source), batch_size)):
                if index in run.done:
                    advance(min(batch_size, len(source) - begin), "resumed")
            found: AuditEvidence | None = None
            adaptation: Adaptation | None = None
            for index, chunk in _missing(source, batch_size, run.done):
                if audit and found is None and index * batch_size < POOL:
                    advance(0, "audit")
                    found = _audit(victim, source, threat, seed, access)
                if wanted is not None and adaptation is None:
                    # what the first chunk was adapted to holds for all: a randomised model may audit otherwise the next time
                    steps = run.ledgers()[0]["adapted"]["steps"] if 0 in run.done else None
                    if steps is None:
                        steps = steps_for(() if found is None else found.findings, threat.access, wanted)
                    # as are the examples that substitutes settle on, whichever chunk a run goes on with
                    adaptation = planned(victim, threat, steps, seed, _first(victim, source, LOOKED)[0])
                ledger, rows, tensors = _work(
                    victim,
                    chunk,
                    threat,
                    chosen,
                    seed,
                    access,
                    found,
                    index == 0,
                    adaptation,
                    advance,
                    proving,
                    0 if proving is None else max(0, min(len(chunk), proving.looked - index * batch_size)),
                    traced,
                )
                if not keep_adversarials:
                    tensors = {name: tensor[:0] for name, tensor in tensors.items()}
                run.write_chunk(index, rows, tensors, ledger)
                advance(len(chunk), "")
        result = build_result(
            victim,
            source,
            threat,
            chosen,
            manifest,
            run.ledgers(),
            spending,
            command=command,
            started=started,
            finished=_now(),
        )
        if out is None:
            result["rows"] = None  # kept in memory: there is no file
        run.finish(result)
        return Evaluation(run.finished())


def _look(victim: Victim, source: Source, threat: ThreatModel) -> None:
    """Refuse what cannot work before any attack is paid for: the first examples go through every check."""
    x, y, _ = _first(victim, source, 32)
    victim.probe(x[:8])
    threat.check(x, victim.bounds)
    if threat.goal != "untargeted":  # a class that does not exist, or a goal that labels alone cannot show
        one = torch.arange(1, device=x.device)
        if min(threat.access, victim.access) < Access.SCORES:
            goal_from(threat.goal, y[:1]).reached(y[:1])
        else:
            scores = victim.logits(x[:1], one)
            goal_from(threat.goal, y[:1], scores).margin(scores)


def _missing(source: Source, size: int, done: set[int]) -> Iterator[tuple[int, Chunk]]:
    """The chunks that are not done, read forward from the first of them."""
    total = -(-len(source) // size)
    missing = [index for index in range(total) if index not in done]
    if not missing:
        return
    wanted = set(missing)
    chunks = source.chunks(size, start=missing[0] * size, stop=min((missing[-1] + 1) * size, len(source)))
    for index, chunk in enumerate(chunks, start=missing[0]):
        if index in wanted:
            yield index, chunk


def _audit(victim: Victim, source: Source, threat: ThreatModel, seed: int, access: Access) -> AuditEvidence:
    """Audit on a fixed number of first examples, so that the findings do not depend on the batch size."""
    x, y, ids = _first(victim, source, POOL)
    return audit_victim(victim, x, y, ids, threat, seed=seed, access=access)


def _first(victim: Victim, source: Source, count: int) -> tuple[Batch, Labels, Tensor]:
    """The first examples, checked, and their ids."""
    chunk = next(iter(source.chunks(min(count, max(len(source), 1)))), None)
    if chunk is None or not len(chunk):
        raise DataError(f"expected at least one example in {source.name}, got none")
    return *check_inputs(victim, chunk.x, chunk.y, ids=chunk.ids), chunk.ids


def _work(
    victim: Victim,
    chunk: Chunk,
    threat: ThreatModel,
    suite: Suite,
    seed: int,
    access: Access,
    found: AuditEvidence | None,
    first: bool,
    adaptation: Adaptation | None,
    advance: Callable[[int, str], None],
    proving: Proving | None,
    look: int,
    spending: Spending | None,
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Evaluate one chunk: its ledger, rows and tensors. The first carries what the audit found and cost."""
    began = time.perf_counter()
    x, y = check_inputs(victim, chunk.x, chunk.y, ids=chunk.ids)
    threat.check(x, victim.bounds)
    ready = Chunk(chunk.ids, x, y)
    made = run_chunk(
        victim,
        ready,
        threat,
        suite,
        seed=seed,
        access=access,
        known=None if found is None or threat.chart is not None else found.broken,  # they lie in a ball around x
        proving=proving,
        look=look,
        spending=spending,
        advance=lambda name, left: advance(0, f"{name}: {left} left"),
    )
    ledger: dict[str, Any] = {
        "examples": len(chunk),
        "attacks": [asdict(tally) for tally in made.tallies],
        "statuses": made.statuses,
        "classes": [[label, *counts] for label, counts in sorted(made.classes.items())],
        "charged": made.charged,
        "broken_before": made.broken_before,
        "audit": found.to_json() if found is not None and first else None,
        "proofs": None if made.proofs is None else made.proofs.to_json(),
        "queries": made.queries,
    }
    if adaptation is not None:
        judge = adaptation.judge
        again = run_chunk(
            judge,
            ready,
            threat,
            adaptation.suite,
            seed=seed,
            access=min(threat.access, judge.access),
            earlier=made,
            advance=lambda name, left: advance(0, f"{name}: {left} left"),
        )
        ledger, made = merged(ledger, made, again, adaptation)
    ledger["seconds"] = time.perf_counter() - began + (found.seconds if found is not None and first else 0.0)
    return ledger, rows_table(made.columns), made.tensors


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
