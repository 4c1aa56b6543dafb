"""Robust self-training: examples without labels get those of a net trained on clean examples, and a robust loss learns from both.

    y~ = argmax f_teacher(x~)
    min_w  sum_i loss(w; x_i, y_i) + v * sum_j loss(w; x~_j, y~_j)

The loss is whatever objective `fit` is given: `Trades` with beta 6 is the authors' adversarial one; with a divergence under
normal noise theirs for smoothed nets. What is said here is data: each batch holds `share` of pseudo-labelled examples, and
with n labelled and m others this is v = share / (1 - share) * n / m.

Source: Carmon, Raghunathan, Schmidt, Liang, Duchi 2019, "Unlabeled data improves adversarial robustness", arXiv:1905.13736,
algorithm 1. The authors' settings on CIFAR-10: 500,000 pictures without labels beside 50,000, half of each batch of either kind,
`Trades` with beta 6.

**Differs from the paper:** the authors' program draws pseudo-labelled examples with replacement; here each comes once before
any comes again. How to find unlabelled pictures of the right kind (they train a classifier for that) is outside.

**Status:** holds within the norm and radius it was trained with (Croce, Hein 2020, arXiv:2003.01690, lower the authors' figure
from 62.5 to 59.5 %).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, Labels
from hauberk.errors import DataError, SettingError
from hauberk.train._examples import Examples, collect
from hauberk.train._status import Status
from hauberk.train._teacher import Teacher

__all__ = ["SelfTraining", "pseudo_label"]


def pseudo_label(teacher: nn.Module | Teacher, x: Batch, *, batch_size: int = 256) -> Labels:
    """(n,) int64: the likeliest class of each example, by the teacher in evaluation mode. Cost: one forward an example."""
    teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    device = next(teacher.net.parameters(), x).device
    return torch.cat([teacher(part.to(device)).argmax(dim=1).cpu() for part in x.split(batch_size)])


@dataclass(frozen=True, kw_only=True)
class SelfTraining:
    """Makes the training set: `SelfTraining(share=0.5)(teacher, labelled, unlabelled)`, for `fit` with any objective.

    Args:
        share: of each batch that is pseudo-labelled, 0 < share < 1. An epoch is a pass over the labelled examples.

    Raises:
        SettingError: a share out of range.
    """

    status: ClassVar[Status] = Status("holds", "Croce, Hein 2020, arXiv:2003.01690")

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SettingError(
                f"self-training needs a share of pseudo-labelled examples between 0 and 1, got {self.share}"
            )

    def __call__(self, teacher: nn.Module | Teacher, labelled: object, unlabelled: object) -> Examples:
        """The labelled examples and, after them, the others with the teacher's labels and ids of their own.

        Args:
            teacher: trained on clean examples.
            labelled: as `fit` takes it.
            unlabelled: (m, *shape) inputs, or data as `fit` takes it, whose labels are not looked at.

        Raises:
            DataError: data of different shapes.
        """
        known = collect(labelled)
        x = unlabelled if isinstance(unlabelled, Tensor) else collect(unlabelled).x
        if len(x) == 0 or x.shape[1:] != known.x.shape[1:]:
            raise DataError(
                f"self-training needs unlabelled examples of the labelled ones' shape, got {tuple(x.shape)} beside {tuple(known.x.shape)}"
            )
        x = x.to(known.x.dtype)
        y = pseudo_label(teacher, x)
        ids = int(known.ids.max()) + 1 + torch.arange(len(x))
        return Examples(
            torch.cat((known.x, x)), torch.cat((known.y, y)), torch.cat((known.ids, ids)), len(x), self.share
        )
