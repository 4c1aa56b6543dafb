"""`audit`: can a robustness number of this model be trusted? Every check on a few examples, and what to do about what they find."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from hauberk import evidence
from hauberk.attacks import Attack
from hauberk.data import Source
from hauberk.data import load as load_data
from hauberk.errors import DataError, SettingError, ThreatError
from hauberk.evaluate.adapt import steps_for, wanted_steps
from hauberk.evaluate.audit import EXAMPLES, POOL, AuditEvidence, audit_victim, in_order
from hauberk.evaluate.evaluation import Evaluation, evaluate
from hauberk.evaluate.statement import threat_statement, with_a_radius
from hauberk.evaluate.suites import Suite
from hauberk.threat import Access, ThreatModel
from hauberk.victims import Victim, check_inputs, wrap

__all__ = ["AUDIT_SCHEMA", "Audit", "audit"]

AUDIT_SCHEMA = "hauberk.audit/1"


@dataclass(frozen=True, eq=False)
class Audit:
    """A finished audit.

    Attributes:
        result: as JSON can hold it, see docs/json_contract.md.
        evaluation: with `adapt`, the evaluation that applied the steps; None without.
    """

    result: dict[str, Any]
    evaluation: Evaluation | None = None

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What was found, errors first: `id`, `severity`, `evidence`, `next`, `adapt`."""
        return self.result["findings"]

    @property
    def errors(self) -> list[str]:
        """The names of the findings that say that a number of this model cannot be trusted."""
        return [finding["id"] for finding in self.findings if finding["severity"] == "error"]

    def __repr__(self) -> str:
        found = ", ".join(f"{finding['severity']} {finding['id']}" for finding in self.findings) or "no findings"
        return f"Audit({found}; {len(self.result['checks'])} checks on {self.result['examples']} examples)"


def audit(
    model: Any,
    data: Any,
    threat: str | ThreatModel,
    *,
    n: int | None = None,
    examples: int = EXAMPLES,
    thorough: bool = True,
    binarisation: bool = False,
    adapt: bool | Sequence[str] = False,
    suite: str | Suite | Attack | Sequence[Attack] = "standard",
    seed: int = 0,
    batch_size: int = 128,
    progress: bool = False,
    command: str | None = None,
) -> Audit:
    """Look for signs that attacks on a model are being fooled, so that its robustness would be overstated.

    Args:
        model: a victim, or anything that `hauberk.wrap` takes with its defaults.
        data: whatever `hauberk.data.load` takes; the first n examples are looked among, 128 at most where None.
        threat: with a radius; of a curve the largest.
        examples: how many correctly classified ones are attacked, at most.
        thorough: run the costlier checks too: other radii and numbers of steps, transfer from a copy of the model.
        binarisation: run the binarisation test (Zimmermann et al. 2022, arXiv:2206.13991) too.
        adapt: evaluate these n examples, apply what the findings ask for and evaluate again; a sequence of steps (see
            `hauberk.evaluate.audit.STEPS`) is applied besides.
        suite: what evaluates them, with `adapt`.

    Raises:
        DataError, ModelError, ThreatError, AccessError, SettingError: an argument is not what it must be.

    Cost: at most about 170 forwards and 65 backwards for each of `examples`, and n forwards; thorough, about 620 and 350, and 26 n.
    """
    threat = ThreatModel.parse(threat)
    if threat.smallest:
        raise ThreatError(f"an audit needs a radius, got {threat}; write for example {with_a_radius(threat)}")
    for name, value in (("n", n), ("examples", examples)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"expected {name} to be a whole number >= 1, got {name}={value!r}")
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got batch_size={batch_size}")
    wanted = wanted_steps(adapt, audit=True)
    victim = wrap(model)
    source = load_data(data, bounds=victim.bounds, n=n)
    if n is None and len(source) > POOL:
        source = load_data(source, bounds=victim.bounds, n=POOL)
    started = _now()
    found = _look(victim, source, threat, examples, seed, batch_size, thorough=thorough, binarisation=binarisation)
    evaluation = None
    asked: dict[str, list[str]] = {}
    if wanted is not None:
        asked = steps_for(found.findings, threat.access, wanted)
        evaluation = evaluate(
            victim,
            source,
            threat,
            suite=suite,
            seed=seed,
            batch_size=batch_size,
            adapt=tuple(asked) or True,
            keep_adversarials=False,
            progress=progress,
            command=command,
        )
    result = {
        "schema": AUDIT_SCHEMA,
        "hauberk": version("hauberk"),
        "model": {
            "name": victim.name,
            "fingerprint": victim.fingerprint(),
            "description": victim.description,
            "notes": list(victim.notes),
        },
        "data": {"name": source.name, "fingerprint": source.fingerprint(), "shape": list(source.shape)},
        "threat": str(threat.at(threat.radius)),
        "threat_statement": threat_statement(
            threat.at(threat.radius), victim.bounds, min(threat.access, victim.access)
        ),
        "seed": seed,
        "n": len(source),
        "examples": found.examples,
        "findings": [finding.to_json() for finding in in_order(found.findings)],
        "checks": list(found.checks),
        "indicators": [indicator.to_json() for indicator in found.indicators],
        "cost": {key: getattr(found, key) for key in ("forwards", "backwards", "queries", "seconds")},
        "adapted": None if evaluation is None else _verdicts(evaluation, asked),
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{key: evidence.provenance().get(key) for key in ("packages", "git")},
            "device": str(victim.device),
            "dtype": str(victim.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "command": command,
            "started": started,
            "finished": _now(),
        },
    }
    return Audit(result, evaluation)


def _look(
    victim: Victim,
    source: Source,
    threat: ThreatModel,
    examples: int,
    seed: int,
    batch_size: int,
    *,
    thorough: bool,
    binarisation: bool,
) -> AuditEvidence:
    pool = next(iter(source.chunks(max(len(source), 1))), None)
    if pool is None or not len(pool):
        raise DataError(f"expected at least one example in {source.name}, got none")
    x, y = check_inputs(victim, pool.x, pool.y, ids=pool.ids)
    victim.probe(x[:8])
    threat.check(x, victim.bounds)
    access = min(threat.access, victim.access)
    if binarisation and access < Access.GRADIENTS:
        raise SettingError(
            f"the binarisation test needs gradients, and {victim.name!r} under {threat} gives {access} only; leave it out"
        )
    return audit_victim(
        victim,
        x,
        y,
        pool.ids,
        threat,
        seed=seed,
        access=access,
        examples=examples,
        thorough=thorough,
        binarisation=binarisation,
        batch_size=batch_size,
    )


def _verdicts(evaluation: Evaluation, asked: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The adapted verdict and the first, of the evaluation that was run; `asked`: the steps and what this audit found for them."""
    result = evaluation.result

    def attributed(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            step | {"findings": list(dict.fromkeys((*asked.get(step["step"], ()), *step["findings"])))}
            for step in steps
        ]

    return {
        "suite": result["suite"],
        **{key: attributed(result["adapted"][key]) for key in ("steps", "not_applied")},
        "first": {key: result["adapted"]["first"][key] for key in ("clean_accuracy", "robust_accuracy")},
        **{key: result[key] for key in ("clean_accuracy", "robust_accuracy", "cost")},
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
