"""The monitor: looks at a net in training with examples that are not learnt from, and says when to distrust what it sees.

Its attacks are small, so its robust accuracy serves to choose among epochs and to see failures; a number to publish comes from
`hauberk evaluate`. Choosing the best epoch flatters it a little on these very examples: measure the net on others.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.blocks import start_named
from hauberk.errors import SettingError
from hauberk.threat import ThreatModel
from hauberk.train._adversarial import Adversarial, in_mode
from hauberk.train._draws import private_draws
from hauberk.train._examples import Examples, collect
from hauberk.train._input_gradients import cosine
from hauberk.train._objective import Moment
from hauberk.train.inner import Climb, InnerPGD, ascent_direction
from hauberk.train.parallel import World, alone

__all__ = ["Monitor"]

_ACTIONS = ("warn", "rollback", "stop")


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """What to look at after an epoch, and what to do about it.

    Args:
        data: held-out examples, as `fit` takes them.
        threat: a norm and one radius.
        bounds: the range of the input.
        every: look after so many epochs, and after the last.
        steps: of PGD, of 2.5 * radius / steps each, from a uniform start.
        batch_size: examples that are looked at together.
        keep_best: hand out the weights of the look with the highest robust accuracy (the later of equals), not the last. A look at
            which catastrophic overfitting was found is never chosen; where every look is one, the last weights come out.
        on_collapse: after catastrophic overfitting `warn` and go on, `stop`, or `rollback` to weights and optimiser of the best look before
            and go on from there; where none was good yet, and after three rollbacks, rollback stops.
        gap: FGSM accuracy minus PGD accuracy beyond which it is catastrophic overfitting.
        alignment: the gradient alignment below which it is; None: by the gap alone.
        patience: robust overfitting is when at each of so many looks, the last ones, the held-out loss is more than 2 % above the least
            before them, and the training loss has fallen since.

    Raises:
        SettingError, ThreatError, DataError: a setting out of range, or data that cannot be used.
    """

    data: object = field(repr=False)
    threat: ThreatModel | str
    bounds: tuple[float, float] = (0.0, 1.0)
    every: int = 1
    steps: int = 10
    batch_size: int = 256
    keep_best: bool = True
    on_collapse: str = "warn"
    gap: float = 0.25
    alignment: float | None = None
    patience: int = 3

    def __post_init__(self) -> None:
        looks = Adversarial(threat=self.threat, bounds=self.bounds, inner=InnerPGD(steps=self.steps))
        object.__setattr__(self, "threat", looks.threat)
        object.__setattr__(self, "data", collect(self.data))
        for name in ("every", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise SettingError(f"a monitor needs {name} >= 1, got {getattr(self, name)}")
        if self.on_collapse not in _ACTIONS:
            raise SettingError(f"on_collapse is one of {', '.join(_ACTIONS)}, got {self.on_collapse!r}")
        if not 0 < self.gap <= 1:
            raise SettingError(f"the gap between FGSM and PGD accuracy is a share between 0 and 1, got {self.gap}")

    def examples(self) -> Examples:
        """The held-out examples."""
        return collect(self.data)

    def look(self, net: nn.Module, *, seed: int = 0, world: World | None = None) -> dict[str, float]:
        """Measure the net, in evaluation mode; the same draws at each call.

        Returns:
            `clean`, `fgsm`, `pgd`: accuracies on the examples as they are, after one step of the whole radius, and after PGD; scores that
            are not finite are wrong;
            `robust`: the fraction that is right on all three; `clean_loss`, `robust_loss`: mean cross-entropy of clean and of PGD
            points; `alignment`: mean cosine of the gradients at x and at a point drawn evenly from the region (the paper
            adds noise of the radius, which may leave the range of the input), 1 where one of the two is 0.

        Cost: for each example `steps` + 3 forwards and backwards, and 3 forwards.
        """
        world = world or alone()
        examples = self.examples()
        reference = next(net.parameters())
        sums = torch.zeros(len(_NAMES), dtype=torch.float64)
        with in_mode(net, training=False):
            pieces = torch.arange(len(examples)).split(self.batch_size)
            for rows in pieces[world.rank :: world.size]:
                x = examples.x[rows].to(reference.device, reference.dtype)
                y = examples.y[rows].to(reference.device)
                streams = Streams(seed, examples.ids[rows].to(reference.device), "monitor")
                with private_draws(seed, "monitor", rows[0].item(), device=reference.device):  # for a net that draws
                    sums += self._sums(net, x, y, streams).cpu()
        sums = world.total(sums.to(world.device or "cpu")).cpu() / len(examples)
        return dict(zip(_NAMES, sums.tolist(), strict=True))

    def _sums(self, net: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        threat = ThreatModel.parse(self.threat)
        ball = threat.ball(self.bounds)
        climb: Climb = lambda z, rows: F.cross_entropy(net(z), y[rows], reduction="none")  # noqa: E731
        now, rows = Moment(), torch.arange(len(x), device=x.device)
        fast = InnerPGD(steps=1, step_size=threat.radius, start="clean")
        points = {
            "fgsm": fast(climb, x, ball, streams=streams.child("fgsm"), at=now),
            "pgd": InnerPGD(steps=self.steps)(climb, x, ball, streams=streams.child("pgd"), at=now),
        }
        near = start_named("uniform")(x, rows, ball, streams.child("near"))
        here, there = (ascent_direction(climb, z, rows)[1] for z in (x, near))
        with torch.no_grad():
            scores = {"clean": net(x)} | {name: net(z) for name, z in points.items()}
        right = {name: (score.argmax(1) == y) & score.isfinite().all(1) for name, score in scores.items()}
        losses = (F.cross_entropy(scores[name], y, reduction="none") for name in ("clean", "pgd"))
        found = (*right.values(), right["clean"] & right["fgsm"] & right["pgd"], *losses, cosine(here, there))
        return torch.stack([values.double().sum() for values in found])


_NAMES = ("clean", "fgsm", "pgd", "robust", "clean_loss", "robust_loss", "alignment")
