"""Which models' adversarial examples fool which others: points are crafted on each model and judged on all of them.

Only examples that every model classifies rightly count, so that a success is the attack's and the same examples stand behind every
cell. The diagonal is the success of the white-box attack. A model that gives the attack too little access is judged on only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels
from hauberk.attacks import Attack, name_of, run_attack, settings_of
from hauberk.attacks._attack import seeks_smallest
from hauberk.attacks.transfer import Transfer
from hauberk.blocks.judge import judge
from hauberk.errors import AccessError, DataError, ModelError, SettingError, ThreatError
from hauberk.evaluate.statistics import Proportion, clopper_pearson
from hauberk.threat import Goal, ThreatModel, goal_from
from hauberk.victims import Victim, check_inputs, wrap

__all__ = ["TRANSFER_SCHEMA", "Crossed", "Crossing", "TransferMatrix", "transfer_matrix"]

TRANSFER_SCHEMA = "hauberk.transfer/1"


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """Who fools whom.

    Attributes:
        names: of the models, no two alike.
        sources: the places of the models that points were crafted on, in the order of the rows.
        broken: (sources, models) int64, how many of the `kept` examples the points crafted on a row's model break on a column's.
        seen: how many examples there were.
        right: (models,) int64, how many of them each model classifies rightly.
        kept: how many all of them do.
        forwards, backwards: (sources,) float64, what crafting cost an example, as a mean.
        threat, attack, settings, seed, fingerprints: what was done, and to which models.
    """

    names: tuple[str, ...]
    sources: tuple[int, ...]
    broken: Tensor
    seen: int
    right: Tensor
    kept: int
    forwards: Tensor
    backwards: Tensor
    threat: str
    attack: str
    settings: dict[str, Any]
    seed: int
    fingerprints: tuple[str, ...]

    @property
    def success(self) -> Tensor:
        """(sources, models) float64, the shares of the kept examples."""
        return self.broken.double() / self.kept

    @property
    def transferred(self) -> float | None:
        """The mean success on a model that the points were not crafted on; None where there is one model only."""
        others = torch.ones_like(self.broken, dtype=torch.bool)
        others[torch.arange(len(self.sources)), torch.tensor(self.sources)] = False
        return float(self.success[others].mean()) if bool(others.any()) else None

    def interval(self, source: int, target: int) -> Proportion:
        """The share in row `source` and column `target`, with its exact 95 % interval over the choice of the examples."""
        return clopper_pearson(int(self.broken[source, target]), self.kept)

    def to_json(self) -> dict[str, Any]:
        """The matrix as JSON can hold it, schema `hauberk.transfer/1`."""
        models = [
            {
                "name": name,
                "fingerprint": self.fingerprints[place],
                "clean_accuracy": clopper_pearson(int(self.right[place]), self.seen).to_json(),
                "source": place in self.sources,
            }
            for place, name in enumerate(self.names)
        ]
        cells = [
            {
                "source": self.names[source],
                "target": target,
                "white_box": place == source,
                "success": self.interval(row, place).to_json(),
            }
            for row, source in enumerate(self.sources)
            for place, target in enumerate(self.names)
        ]
        costs = [
            {"source": self.names[source], "forwards": forwards, "backwards": backwards}
            for source, forwards, backwards in zip(
                self.sources, self.forwards.tolist(), self.backwards.tolist(), strict=True
            )
        ]
        return {
            "schema": TRANSFER_SCHEMA,
            "threat": self.threat,
            "attack": self.attack,
            "settings": self.settings,
            "seed": self.seed,
            "examples": self.seen,
            "kept": self.kept,
            "models": models,
            "matrix": cells,
            "mean_transfer": self.transferred,
            "cost_per_example": costs,
        }


@dataclass(frozen=True, eq=False)
class Crossed:
    """What came of one batch.

    Attributes:
        kept: (B,) bool, every model is right.
        originals: (B, *shape) the examples.
        adversarials: (sources, B, *shape) the points; of examples that are not kept, the example.
        broken: (sources, models, B) bool, the judge's word.
    """

    kept: Tensor
    originals: Batch
    adversarials: Tensor
    broken: Tensor


class Crossing:
    """Crafts on each model, judges on all, batch after batch; `transfer_matrix` for data in memory.

    Args:
        models: two or more, or a mapping from names to models: victims, or anything that `hauberk.wrap` takes with its defaults.
        threat: of one norm, with one radius.
        attack: with its settings; `Transfer()` where None.
        seed: of its draws.

    Raises:
        SettingError, ModelError, AccessError, ThreatError: they cannot be crossed; the message says why.
    """

    def __init__(
        self,
        models: Sequence[Any] | Mapping[str, Any],
        threat: str | ThreatModel,
        attack: Attack | None = None,
        seed: int = 0,
    ) -> None:
        given = list(models.values()) if isinstance(models, Mapping) else list(models)
        self.victims: list[Victim] = [wrap(model) for model in given]
        if len(self.victims) < 2:
            raise SettingError(
                f"transfer is from one model to another, got {len(self.victims)}; give two or more models"
            )
        for name in ("bounds", "device"):
            values = {str(getattr(victim, name)) for victim in self.victims}
            if len(values) > 1:
                raise ModelError(
                    f"models that are asked about the same points must have the same {name}, got "
                    f"{' and '.join(sorted(values))}; wrap them alike"
                )
        self.threat, self.attack, self.seed = ThreatModel.parse(threat), attack or Transfer(), seed
        if self.threat.chart is not None:
            raise ThreatError(
                f"transfer is measured in balls of a norm, got {self.threat}; write for example linf:8/255"
            )
        if self.threat.norm not in self.attack.norms:
            known = ", ".join(sorted(map(str, self.attack.norms)))
            raise ThreatError(f"{name_of(self.attack)} works in {known}, got {self.threat.norm}")
        if len(self.threat.radii) != 1 and (self.threat.radii or not seeks_smallest(self.attack)):
            raise ThreatError(f"transfer is measured at one radius, got {self.threat}; write for example linf:8/255")
        names = list(models) if isinstance(models, Mapping) else [victim.name for victim in self.victims]
        self.names = tuple(
            name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
            for place, name in enumerate(names)
        )
        count = len(self.victims)
        self.sources: tuple[int, ...] = ()
        self._seen, self._kept = 0, 0
        self._right = torch.zeros(count, dtype=torch.int64)
        self._broken = torch.zeros(count, count, dtype=torch.int64)
        self._costs = torch.zeros(count, 2, dtype=torch.int64)

    def settle(self, x: Any, y: Any, ids: Tensor | None = None) -> list[Batch]:
        """The examples as each model takes them; from the first ones on it is known who can be crafted on.

        Raises:
            AccessError: nobody.
            DataError, ModelError: examples and models do not go together.
        """
        shown = [check_inputs(victim, x, y, ids=ids)[0] for victim in self.victims]
        known = {victim.classes for victim in self.victims if victim.classes is not None}
        if len(known) > 1:
            raise ModelError(
                f"models that are judged by the same labels must have the same classes, got {' and '.join(map(str, sorted(known)))}"
            )
        if not self.sources:
            needed = self.attack.access
            access = [min(self.threat.access, victim.access) for victim in self.victims]
            self.sources = tuple(place for place, given in enumerate(access) if given >= needed)
            if not self.sources:
                raise AccessError(
                    f"{name_of(self.attack)} needs {needed} of at least one of the models, which under {self.threat} give "
                    f"{max(access)} only; use an attack for that access, or add a model of your own"
                )
        return shown

    def add(self, x: Any, y: Any, ids: Tensor | None = None) -> Crossed:
        """Craft and judge a batch."""
        shown = self.settle(x, y, ids)
        device = shown[0].device
        labels: Labels = check_inputs(self.victims[0], x, y, ids=ids)[1]
        ids = torch.arange(self._seen, self._seen + len(labels), device=device) if ids is None else ids.to(device)
        everyone = torch.arange(len(labels), device=device)
        right = torch.stack([v.labels(z, everyone) == labels for v, z in zip(self.victims, shown, strict=True)])
        kept = right.all(dim=0)
        self._seen += len(labels)
        self._kept += int(kept.sum())
        self._right += right.sum(dim=1).cpu()
        adversarials = torch.stack([shown[0]] * len(self.sources))
        broken = torch.zeros(len(self.sources), len(self.victims), len(labels), dtype=torch.bool, device=device)
        if bool(kept.any()):
            for row, source in enumerate(self.sources):
                found, verdicts = self._cross(source, [z[kept] for z in shown], labels[kept], ids[kept])
                adversarials[row, kept] = found.to(adversarials)
                broken[row, :, kept] = verdicts
                self._broken[source] += verdicts.sum(dim=1).cpu()
        return Crossed(kept, shown[0], adversarials, broken)

    def matrix(self) -> TransferMatrix:
        """What all batches together came to.

        Raises:
            DataError: there is no example that every model classifies rightly.
        """
        if not self._kept:
            raise DataError(
                f"transfer is measured on examples that every model classifies rightly, got none among {self._seen}; "
                "give more examples, or leave out the model that is wrong on them"
            )
        rows = torch.tensor(self.sources)
        costs = self._costs[rows].double() / self._kept
        return TransferMatrix(
            names=self.names,
            sources=self.sources,
            broken=self._broken[rows],
            seen=self._seen,
            right=self._right.clone(),
            kept=self._kept,
            forwards=costs[:, 0],
            backwards=costs[:, 1],
            threat=str(self.threat),
            attack=name_of(self.attack),
            settings=settings_of(self.attack),
            seed=self.seed,
            fingerprints=tuple(victim.fingerprint() for victim in self.victims),
        )

    def _cross(self, source: int, shown: list[Batch], y: Labels, ids: Tensor) -> tuple[Batch, Tensor]:
        """The points crafted on one model, and (models, B) where they are broken."""
        rows = torch.arange(len(y), device=y.device)
        goal: Goal
        if self.threat.goal == "least-likely":
            asked: Any = self.victims[source]
            goal = goal_from(self.threat.goal, y, asked.logits(shown[source], rows))
        else:
            goal = goal_from(self.threat.goal, y)
        found = run_attack(
            self.attack,
            self.victims[source],
            shown[source],
            y,
            self.threat,
            seed=self.seed,
            goal=goal,
            ids=ids,
            batch_size=len(y),
        )
        self._costs[source] += torch.stack([found.forwards.sum(), found.backwards.sum()]).cpu()
        region = self.threat.ball(self.victims[source].bounds)
        verdicts = [
            found.broken
            if place == source
            else judge(victim, found.adversarials.to(z.dtype), z, goal, region, rows).broken
            for place, (victim, z) in enumerate(zip(self.victims, shown, strict=True))
        ]
        return found.adversarials, torch.stack(verdicts)


def transfer_matrix(
    models: Sequence[Any] | Mapping[str, Any],
    x: Any,
    y: Any,
    threat: str | ThreatModel,
    *,
    attack: Attack | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> TransferMatrix:
    """Craft adversarial examples on each model, and judge them on all.

    Args:
        models, threat, attack, seed: as `Crossing` has them. An attack that leaves an example once it is broken (`early_stop`) makes
            points that hardly transfer.
        x: (n, *shape) array or tensor of examples inside the models' bounds.
        y: (n,) true labels.
        batch_size: examples that are worked on together.

    Raises:
        DataError: no example that every model classifies rightly, or examples that cannot be used.
        AccessError, ModelError, SettingError, ThreatError: an argument is not what it must be.

    Cost: of each model the attack's, and a forward for each model for each kept example.
    """
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got batch_size={batch_size}")
    crossing = Crossing(models, threat, attack, seed)
    crossing.settle(x, y)
    for first in range(0, len(x), batch_size):
        crossing.add(x[first : first + batch_size], y[first : first + batch_size])
    return crossing.matrix()
