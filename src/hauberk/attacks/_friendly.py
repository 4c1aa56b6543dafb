"""The friendly face of an attack class: `pgd(model, x, y, "linf:8/255", steps=20, seed=0)`, the same for every attack."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample
from hauberk.attacks._attack import Attack, can_continue, name_of, plain_scalar, whole_number
from hauberk.blocks.judge import judge
from hauberk.errors import AccessError, SettingError, ThreatError
from hauberk.threat import (
    Ball,
    Classed,
    FeatureBall,
    Goal,
    Norm,
    Predicate,
    Region,
    Targeted,
    ThreatModel,
    TopK,
    Untargeted,
    goal_from,
)
from hauberk.victims import Meter, Victim, check_inputs, posed, shown, wrap
from hauberk.victims.answers import as_tensor

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
        parameters: of a threat of a few parameters, such as `spatial`, (n, k) those of each point in their own units (degrees,
            shares, factors), by `parameter_names`; None of any other. The sizes are then those of the parameters.
    """

    adversarials: Batch
    broken: Tensor
    sizes: PerExample
    labels: Labels
    queries: Tensor
    forwards: Tensor
    backwards: Tensor
    parameters: Tensor | None = None
    parameter_names: tuple[str, ...] = ()

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
    threat: str | ThreatModel | None = None,
    *,
    region: Region | None = None,
    seed: int = 0,
    goal: Goal | None = None,
    mask: Any = None,
    ids: Any = None,
    starts: Any = None,
    max_queries: int | None = None,
    batch_size: int = 256,
) -> AttackResult:
    """Attack the examples, batch by batch, and judge what comes out.

    Args:
        attack: the attack with its settings.
        model: a victim, or anything that `hauberk.wrap` takes with its defaults.
        x: (n, *shape) array or tensor of examples inside the victim's bounds.
        y: (n,) true labels.
        threat: what is allowed and wanted; one radius, or none for attacks that seek the smallest change.
        region: in the place of a threat, a set that has no spelling, such as `hauberk.threat.FeatureBall(net, radius)`.
        seed: with the same seed, and in float64 with any batch size, the result is the same.
        goal: replaces the threat's goal, for example `Targeted(targets)` with a target for each example.
        mask: (1 or n, *shape) array or tensor, true where a value may change.
        ids: (n,) whole numbers >= 0, the address of each example's random stream; 0 .. n - 1 where None. Examples of one id
            draw the same numbers.
        starts: (n, *shape) array or tensor of points from which to go on besides the examples, such as what another attack found;
            for attacks that can (`continues`). What lies outside the bounds is brought back.
        max_queries: for any one example; a hard limit. A model over HTTP with a budget allows no more than an even share of it.
        batch_size: examples that are worked on together.

    Raises:
        AccessError: the attack needs more than the victim or the threat gives.
        ThreatError, DataError, SettingError, ModelError: an argument is not what it must be.
    """
    victim, threat = wrap(model), _one_of(threat, region)
    x, y = check_inputs(victim, x, y)
    if len(threat.radii) > 1:
        raise ThreatError(f"an attack works at one radius, got {threat}; use hauberk.evaluate for a curve")
    if region is None and threat.norm not in attack.norms:
        known = ", ".join(sorted(str(norm) for norm in attack.norms))
        raise ThreatError(f"{name_of(attack)} works in {known}, got {threat.norm}")
    access = min(threat.access, victim.access)
    if attack.access > access:
        raise AccessError(
            f"{name_of(attack)} needs {attack.access}, but {victim.name!r} under {threat} gives {access} only; "
            "use an attack for that access, see: hauberk list attacks"
        )
    seed, batch_size = whole_number("seed", seed), whole_number("batch_size", batch_size)
    max_queries = None if max_queries is None else whole_number("max_queries", max_queries)
    if max_queries is not None and max_queries < 1:
        raise SettingError(f"an attack may ask at least one query an example, got max_queries={max_queries}")
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got batch_size={batch_size}")
    everyone = torch.arange(len(x), device=x.device)
    if goal is not None:
        goal = _checked_goal(goal, victim, len(x))
    else:
        _check_target(threat, victim)
    ids = everyone if ids is None else _checked_ids(ids, x)
    starts = None if starts is None else _checked_starts(attack, starts, x, threat)
    region = _masked(threat.ball(victim.bounds) if region is None else region, threat, mask, x)
    threat.check(x, victim.bounds)
    if isinstance(region, Ball | FeatureBall) and threat.chart is None:
        region.check(x)
    most = victim.left(everyone)  # an even share of what may be bought, where the victim costs
    most = most if max_queries is None else most.clamp_max(max_queries)
    parts: list[tuple[Tensor, ...]] = []
    drawn: list[Tensor] = []
    for chosen in everyone.split(batch_size):
        clean, rows = x[chosen], torch.arange(len(chosen), device=x.device)
        space = region.take(chosen)
        meter = Meter(victim, len(chosen), budget=most[chosen], access=access)
        if goal is not None:
            wanted = goal.take(chosen)
        elif threat.goal == "least-likely":
            wanted = goal_from(threat.goal, y[chosen], meter.logits(clean, rows))
        else:
            wanted = goal_from(threat.goal, y[chosen])
        streams = Streams(seed, ids[chosen], name_of(attack))
        asked, start = posed(threat.chart, meter, clean)
        more = {} if starts is None else {"starts": starts[chosen]}
        points = attack(asked, start, wanted, space, streams=streams, **more)
        verdict = judge(posed(threat.chart, victim, clean)[0], points, start, wanted, space, rows)
        sizes = space.size(points, start)
        found = shown(threat.chart, points, clean, victim.bounds)
        drawn.append(points)
        parts.append((found, verdict.broken, sizes, verdict.labels, meter.queries, meter.forwards, meter.backwards))
    found, broken, sizes, labels, *counts = (torch.cat(column) for column in zip(*parts, strict=True))
    names = () if threat.chart is None else threat.chart.names
    parameters = threat.chart.values(torch.cat(drawn)) if threat.chart is not None and names else None
    return AttackResult(found, broken, sizes, labels, *counts[:3], parameters=parameters, parameter_names=names)


def _one_of(threat: str | ThreatModel | None, region: Region | None) -> ThreatModel:
    """The threat; for a region in its place one that only says that any wrong label counts."""
    if (threat is None) == (region is None):
        raise ThreatError(
            "an attack needs a threat, such as 'linf:8/255', or a region in its place, got "
            f"{'neither' if threat is None else 'both'}; a goal besides a region is given with goal="
        )
    return ThreatModel(Norm.LINF) if threat is None else ThreatModel.parse(threat)


def _masked(region: Region, threat: ThreatModel, mask: Any, x: Batch) -> Region:
    """The region with the mask, which only a ball of the input's own values can have."""
    if mask is None:
        return region
    if not isinstance(region, Ball) or (threat.chart is not None and threat.chart.names):
        what = type(region).__name__ if threat.chart is None else str(threat)
        raise ThreatError(f"a mask is for balls of a norm, got one with {what}; leave it out")
    return replace(region, mask=_checked_mask(mask, x))


def _check_target(threat: ThreatModel, victim: Victim) -> None:
    """Refuse a threat whose target the victim does not have, where its number of classes is known."""
    target = int(threat.goal.removeprefix("target=")) if threat.goal.startswith("target=") else 0
    if victim.classes is not None and target >= victim.classes:
        raise ThreatError(
            f"the goal names class {target}, but {victim.name!r} has classes 0 to {victim.classes - 1}; choose one of these"
        )


def _checked_goal(goal: Any, victim: Victim, n: int) -> Goal:
    """The goal, its tensors on the victim's device and as long as the batch."""
    if isinstance(goal, type) or not isinstance(goal, Goal):
        raise SettingError(
            f"expected a goal such as hauberk.threat.Targeted(targets), got {goal!r}; "
            "one target for all examples stands in the threat: linf:8/255@target=3"
        )
    if isinstance(goal, Predicate):
        context = _numbers("the context of the goal", goal.context, victim.device)
        _check_length("the context of the goal", context, n)
        return Predicate(goal.function, context)
    if isinstance(goal, TopK):
        goal = replace(goal, k=whole_number("k of the goal", goal.k, 1))
    if not isinstance(goal, Classed):
        return goal
    classes = _whole_numbers("the classes of the goal", goal.classes, victim.device)
    _check_length("the classes of the goal", classes, n)
    if classes.ndim != 1:
        raise SettingError(f"expected one class for each example in the goal, got shape {tuple(classes.shape)}")
    least, most = int(classes.min()), int(classes.max())
    if least < 0 or (victim.classes is not None and most >= victim.classes):
        known = "0, 1, ..." if victim.classes is None else f"0 to {victim.classes - 1}"
        raise SettingError(
            f"the goal names class {least if least < 0 else most}, but {victim.name!r} has classes {known}; choose of these"
        )
    # a goal of the caller's own class keeps its tensors as it has them
    return replace(goal, classes=classes) if isinstance(goal, Untargeted | Targeted | TopK) else goal


def _checked_ids(ids: Any, x: Batch) -> Tensor:
    """The ids as int64 on the device of x, one for each example."""
    given = _whole_numbers("ids", ids, x.device)
    if given.shape != (len(x),):
        raise SettingError(f"ids must hold one id for each of the {len(x)} examples, got shape {tuple(given.shape)}")
    if int(given.min()) < 0:
        raise SettingError(f"expected ids that are whole numbers >= 0, got {int(given.min())}; number from 0")
    return given


def _checked_mask(mask: Any, x: Batch) -> Tensor:
    """The mask as bool on the device of x, one for each example or one for all."""
    given = _numbers("mask", mask, x.device).to(torch.bool)
    if given.ndim != x.ndim or given.shape[1:] != x.shape[1:] or len(given) not in {1, len(x)}:
        one = (1, *x.shape[1:])
        spread = "spread it with torch.broadcast_to if it repeats along an axis"
        cure = "pass mask[None]" if given.shape == x.shape[1:] else spread
        raise SettingError(
            f"expected a mask of shape {tuple(x.shape)}, or {one} for all examples, got {tuple(given.shape)}; {cure}"
        )
    return given


def _checked_starts(attack: Attack, starts: Any, x: Batch, threat: ThreatModel) -> Batch:
    """The starts as x is: one finite point for each example."""
    if not can_continue(attack) or threat.chart is not None:
        what = name_of(attack) if not can_continue(attack) else f"{name_of(attack)} under {threat}"
        raise SettingError(f"{what} begins at the examples only, got starts; leave them out, or use sparse_swap")
    given = _numbers("starts", starts, x.device).to(x.dtype)
    if given.shape != x.shape:
        raise SettingError(
            f"expected starts of shape {tuple(x.shape)}, got {tuple(given.shape)}; give one point for each example"
        )
    if not bool(given.isfinite().all()):
        raise SettingError(
            "expected starts that are finite numbers, got NaN or infinity; give the example itself where there is no start"
        )
    return given


def _check_length(what: str, values: Tensor, n: int) -> None:
    if values.ndim == 0 or len(values) != n:
        got = "a single number" if values.ndim == 0 else str(len(values))
        raise SettingError(
            f"expected {what} to hold one entry for each of the {n} examples, got {got}; "
            "give the entries in the order of x"
        )


def _numbers(what: str, values: Any, device: torch.device) -> Tensor:
    try:
        return as_tensor(values).detach().to(device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise SettingError(
            f"expected {what} as a numeric array or tensor, got {type(values).__name__}; pass a numpy array or a tensor"
        ) from None


def _whole_numbers(what: str, values: Any, device: torch.device) -> Tensor:
    given = _numbers(what, values, device)
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        name = str(given.dtype).removeprefix("torch.")
        raise SettingError(f"expected {what} to be whole numbers, got {name}; convert them to int64")
    return given.to(torch.int64)


def friendly(kind: type[Attack]) -> Callable[..., AttackResult]:
    """The function that runs an attack class: settings of the class and options of `run_attack` as keywords."""
    settings = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every attack is a dataclass
    name = kind.__module__.rsplit(".", 1)[-1]
    run_signature = inspect.signature(run_attack)

    def attack(*given: Any, **options: Any) -> AttackResult:  # model, x, y and the threat, as `__signature__` has them
        own = {key: plain_scalar(value) for key, value in options.items() if key in settings}
        rest = {key: value for key, value in options.items() if key not in settings}
        for key in rest:
            if key not in run_signature.parameters or key == "attack":
                known = ", ".join(
                    sorted(settings | {"region", "seed", "goal", "mask", "ids", "starts", "max_queries", "batch_size"})
                )
                raise SettingError(f"{name} has no setting {key!r}; it takes {known}")
        return run_attack(kind(**own), *given, **rest)

    positional = [p for key, p in run_signature.parameters.items() if key in {"model", "x", "y", "threat"}]
    keywords = [p for p in run_signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(kind).parameters.values()]
    attack.__signature__ = inspect.Signature([*positional, *own, *keywords], return_annotation=AttackResult)  # type: ignore[attr-defined]
    attack.__name__ = attack.__qualname__ = name
    attack.__module__ = kind.__module__
    attack.__doc__ = f"{(kind.__doc__ or '').strip()}\n\n    The other arguments and the result are those of `hauberk.attacks.run_attack`."
    return attack
