"""The adversarial points that the judge accepted in a chunk."""

import torch
from torch import Tensor

from hauberk.blocks.judge import Verdict
from hauberk.threat import Norm

__all__ = ["Found"]


class Found:
    """The adversarial point that the judge accepted for each example of a chunk."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.points = x, x.clone()
        self.labels = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.confidence = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        self.radius = torch.full((len(x),), torch.nan, dtype=torch.float64)
        self.method_index = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.vote = torch.full((3, len(x)), torch.nan, dtype=torch.float64)  # low, share, high; NaN where nobody voted
        self.methods: list[str] = []
        self.parameters: Tensor | None = None

    def draw(self, rows: Tensor, parameters: Tensor) -> None:
        """Remember which parameters drew the points of these rows."""
        if self.parameters is None:
            self.parameters = parameters.new_zeros(len(self.x), parameters.shape[1])
        self.parameters[rows] = parameters

    def keep(self, rows: Tensor, points: Tensor, verdict: Verdict, radius: float, method: str) -> None:
        """Remember these points, one for each of the rows, with what the judge said of them."""
        self.points[rows], self.labels[rows] = points, verdict.labels
        self.confidence[rows] = verdict.confidence.to(self.confidence)
        if verdict.vote is not None:
            self.vote[:, rows.cpu()] = torch.stack(verdict.vote).to("cpu", torch.float64)
        self.radius[rows.cpu()] = radius
        if method not in self.methods:
            self.methods.append(method)
        self.method_index[rows] = self.methods.index(method)

    def tensors(self, ids: Tensor) -> dict[str, Tensor]:
        """For the broken examples: `example`, `radius` they were first broken at, `adversarials`, `originals`; under a threat of a
        few parameters also the `parameters` of each adversarial, in their own units."""
        broken = self.method_index >= 0
        return {
            "example": ids[broken.to(ids.device)],
            "radius": self.radius[broken.cpu()],
            "adversarials": self.points[broken],
            "originals": self.x[broken],
        } | ({} if self.parameters is None else {"parameters": self.parameters[broken]})

    def within(self, radius: float) -> Tensor:
        """(n,) bool: broken by a point within this radius."""
        return (self.method_index >= 0) & (self.radius <= radius).to(self.method_index.device)

    def sizes(self, norm: Norm) -> Tensor:
        """(n,) float64 on the CPU, of the changes that break; infinite where none was found."""
        size = norm.size((self.points - self.x).cpu().double())
        return torch.where(self.method_index.cpu() >= 0, size, torch.inf)
