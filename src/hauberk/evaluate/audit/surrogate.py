"""A small copy of a model, distilled from its answers around a few examples.

    D <- pool and random allowed points around it, answered by the model;      train g on D
    D <- D and  x + radius * steepest(grad of the answered class of g at x),  answered;      train g again

Source: Papernot et al. 2017, "Practical black-box attacks against machine learning", arXiv:1602.02697 (augmentation along the
copy's own gradients).
**Differs from the paper:** the copy learns the model's probabilities where it gives scores; one round of augmentation, inside the
threat's region.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._shapes import Batch, flat
from hauberk.blocks import start_named
from hauberk.evaluate.audit.part import Part
from hauberk.threat import Access, Ball
from hauberk.victims import TorchVictim, wrap
from hauberk.victims.chance import private_chance

__all__ = ["distilled"]

COPIES = 12
"""Random points around each example of the pool."""
_EPOCHS, _BATCH, _RATE = 12, 64, 2e-3


def distilled(part: Part, pool: Batch) -> tuple[TorchVictim, float]:
    """The copy as a victim, and the share of the pool on which it agrees with the model.

    Cost: 2 * `COPIES` + 1 forwards of the model for each example of the pool; training a net of some 10,000 weights.
    """
    rows = torch.arange(len(pool), device=pool.device)
    region = part.threat.ball(part.meter.bounds)
    streams = part.pool_streams("surrogate", len(pool))
    starts = [start_named("blocks" if place % 2 else "uniform") for place in range(COPIES)]
    made = [pool, *(start(pool, rows, region, streams) for start in starts)]
    points = torch.cat(made)
    answers = _answered(part, points, rows.repeat(len(made)))
    generator = torch.Generator().manual_seed(part.seed)
    with private_chance(
        "surrogate", device=torch.device("cpu")
    ):  # modules draw their first weights from the global generator
        net = _net(pool, answers.shape[1], generator)
    net = net.to(pool.device, torch.float32)
    _train(net, points, answers, generator)
    further = torch.cat([_moved(net, x, answers[: len(pool)].argmax(dim=1), region) for x in made])
    points = torch.cat((points, further))
    answers = torch.cat((answers, _answered(part, further, rows.repeat(len(made)))))
    _train(net, points, answers, generator)
    with torch.no_grad():
        agrees = (net(pool.float()).argmax(dim=1) == answers[: len(pool)].argmax(dim=1)).double().mean()
    copy = wrap(
        net, bounds=part.meter.bounds, output="logits", dtype=str(pool.dtype).removeprefix("torch."), name="copy"
    )
    return copy, float(agrees)


def _answered(part: Part, points: Batch, rows: Tensor) -> Tensor:
    """(B, classes) probabilities, one-hot from a model of labels only."""
    parts = []
    for x, place in zip(points.split(256), rows.split(256), strict=True):
        if part.meter.access >= Access.SCORES:
            parts.append(part.meter.logits(x, place).float().softmax(dim=1).nan_to_num(0.0))
        else:
            classes = max(int(part.y.max()) + 1, part.meter.classes or 2)
            labels = part.meter.labels(x, place).clamp(0, classes - 1)
            parts.append(F.one_hot(labels, classes).float())
    return torch.cat(parts)


def _net(x: Batch, classes: int, generator: torch.Generator) -> nn.Module:
    """Two strided convolutions and a layer for pictures, two layers for anything else; weights from the generator."""
    if x.ndim == 4 and min(x.shape[2:]) >= 8:
        layers = [nn.Conv2d(x.shape[1], 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
        size = flat(nn.Sequential(*layers)(x[:1].detach().float().cpu())).shape[1]
    else:
        layers, size = [nn.Flatten()], flat(x).shape[1]
    net = nn.Sequential(*layers, nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, classes))
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan = flat(part.weight).shape[1]
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * (2 / fan) ** 0.5)
                assert part.bias is not None
                part.bias.zero_()
    return net


def _train(net: nn.Module, points: Batch, answers: Tensor, generator: torch.Generator) -> None:
    rule = torch.optim.Adam(net.parameters(), lr=_RATE)
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(points), generator=generator).to(points.device).split(_BATCH):
                loss = -(answers[rows] * net(points[rows].detach().float()).log_softmax(dim=1)).sum(dim=1).mean()
                rule.zero_grad()
                loss.backward()
                rule.step()


def _moved(net: nn.Module, x: Batch, labels: Tensor, region: Ball) -> Batch:
    """Where the copy is least sure of the answer: one step of the whole radius along its gradient."""
    with torch.enable_grad():
        leaf = x.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels, reduction="sum"), leaf)
    return region.linear_max(gradient.to(x.dtype), x)
