"""The friendly face of an attack class: `pgd(model, x, y, "linf:8/255", steps=20, seed=0)`, the same for every attack."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample
from hauberk.attacks._attack import Attack, name_of
from hauberk.blocks.judge import judge
from hauberk.errors import AccessError, SettingError, ThreatError
from hauberk.threat import Goal, ThreatModel, goal_from
from hauberk.victims import Meter, check_inputs, wrap

__all__ = ["AttackResult", "friendly", "run_attack"]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found, as the judge saw it; one entry per example.

    Attributes:
        adversarials: (n, *shape) the proposed points, on the victim's device; of examples that are not broken, the best try.
        broken: (n,) bool, the judge's word.
        sizes: (n,) size of each change in the threat's norm, in the units of the input.
        labels: (n,) int64, the class the victim gives each proposed point.
        queries, forwards, backwards: (n,) int64, what the attack cost; the judge's own forward is not in them.
    """

    adversarials: Batch
    broken: Tensor
    sizes: PerExample
    labels: Labels
    queries: Tensor
    forwards: Tensor
    backwards: Tensor

    @property
    def success_rate(self) -> float:
        """Share of the examples that are broken."""
        return self.broken.double().mean().item()

    def __repr__(self) -> str:
        n = len(self.broken)
        return (
            f"AttackResult(broken {int(self.broken.sum())} of {n}, {self.queries.sum().item() / n:.1f} queries and "
            f"{self.backwards.sum().item() / n:.1f} backwards an example)"
        )


def run_attack(
    attack: Attack,
    model: Any,
    x: Any,
    y: Any,
    threat: str | ThreatModel,
    *,
    seed: int = 0,
    goal: Goal | None = None,
    mask: Tensor | None = None,
    ids: Tensor | None = None,
    budget: int | None = None,
    batch_size: int = 256,
) -> AttackResult:
    """Attack the examples, batch by batch, and judge what comes out.

    Args:
        attack: the attack with its settings.
        model: a victim, or anything that `hauberk.wrap` takes with its defaults.
        x: (n, *shape) array or tensor of examples inside the victim's bounds.
        y: (n,) true labels.
        threat: what is allowed and wanted; one radius, or none for attacks that seek the smallest change.
        seed: with the same seed, and in float64 with any batch size, the result is the same.
        goal: replaces the threat's goal, for example `Targeted(targets)` with a target for each example.
        mask: (1 or n, *shape) bool, True where a value may change.
        ids: (n,) int64, the address of each example's random stream; 0 .. n - 1 where None.
        budget: the most queries for any one example.
        batch_size: examples that are worked on together.

    Raises:
        AccessError: the attack needs more than the victim or the threat gives.
        ThreatError, DataError, SettingError, ModelError: an argument is not what it must be.
    """
    victim, threat = wrap(model), ThreatModel.parse(threat)
    x, y = check_inputs(victim, x, y)
    if len(threat.radii) > 1:
        raise ThreatError(f"an attack works at one radius, got {threat}; use hauberk.evaluate for a curve")
    if threat.norm not in attack.norms:
        known = ", ".join(sorted(str(norm) for norm in attack.norms))
        raise ThreatError(f"{name_of(attack)} works in {known}, got {threat.norm}")
    access = min(threat.access, victim.access)
    if attack.access > access:
        raise AccessError(
            f"{name_of(attack)} needs {attack.access}, but {victim.name!r} under {threat} gives {access} only; "
            "use an attack for that access, see: hauberk list attacks"
        )
    if budget is not None and budget < 1:
        raise SettingError(f"a budget is at least one query an example, got {budget}")
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got batch_size={batch_size}")
    everyone = torch.arange(len(x), device=x.device)
    ids = everyone if ids is None else torch.as_tensor(ids, device=x.device)
    if ids.shape != (len(x),):
        raise SettingError(f"ids must hold one id for each of the {len(x)} examples, got shape {tuple(ids.shape)}")
    parts: list[tuple[Tensor, ...]] = []
    for chosen in everyone.split(batch_size):
        clean, rows = x[chosen], torch.arange(len(chosen), device=x.device)
        region = threat.ball(victim.bounds)
        if mask is not None:
            part = mask[chosen] if len(mask) > 1 else mask
            region = type(region)(region.norm, region.radius, region.box, part.to(x.device, torch.bool), region.grid)
        region.check(clean)
        meter = Meter(victim, len(chosen), budget=budget, access=access)
        if goal is not None:
            wanted = goal.take(chosen)
        elif threat.goal == "least-likely":
            wanted = goal_from(threat.goal, y[chosen], meter.logits(clean, rows))
        else:
            wanted = goal_from(threat.goal, y[chosen])
        streams = Streams(seed, ids[chosen], name_of(attack))
        points = attack(meter, clean, wanted, region, streams=streams)
        verdict = judge(victim, points, clean, wanted, region, rows)
        sizes = region.size(points, clean)
        parts.append((points, verdict.broken, sizes, verdict.labels, meter.queries, meter.forwards, meter.backwards))
    return AttackResult(*(torch.cat(column) for column in zip(*parts, strict=True)))


def friendly(kind: type[Attack]) -> Callable[..., AttackResult]:
    """The function that runs an attack class: settings of the class and options of `run_attack` as keywords."""
    settings = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every attack is a dataclass
    name = kind.__module__.rsplit(".", 1)[-1]
    run_signature = inspect.signature(run_attack)

    def attack(model: Any, x: Any, y: Any, threat: str | ThreatModel, **options: Any) -> AttackResult:
        own = {key: value for key, value in options.items() if key in settings}
        rest = {key: value for key, value in options.items() if key not in settings}
        for key in rest:
            if key not in run_signature.parameters or key in {"attack", "model", "x", "y", "threat"}:
                known = ", ".join(sorted(settings | {"seed", "goal", "mask", "ids", "budget", "batch_size"}))
                raise SettingError(f"{name} has no setting {key!r}; it takes {known}")
        return run_attack(kind(**own), model, x, y, threat, **rest)

    positional = [p for key, p in run_signature.parameters.items() if key in {"model", "x", "y", "threat"}]
    keywords = [p for p in run_signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(kind).parameters.values()]
    attack.__signature__ = inspect.Signature([*positional, *own, *keywords], return_annotation=AttackResult)  # type: ignore[attr-defined]
    attack.__name__ = attack.__qualname__ = name
    attack.__module__ = kind.__module__
    attack.__doc__ = f"{(kind.__doc__ or '').strip()}\n\n    The other arguments and the result are those of `hauberk.attacks.run_attack`."
    return attack
