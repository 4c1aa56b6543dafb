"""Access protocols: what attacks, the frontier and the judge read is what victims and meters have."""

import torch

from hauberk.threat import Access, Differentiable, Labelled, Scored
from hauberk.victims import Meter, wrap


def test_victims_and_meters_are_what_the_protocols_ask_for() -> None:
    victim = wrap(torch.nn.Linear(3, 2))
    scores = wrap(lambda x: x[:, :2])
    for asked in (victim, Meter(victim, 1)):
        assert isinstance(asked, Differentiable)
        assert asked.access is Access.GRADIENTS
    for asked in (scores, Meter(scores, 1)):
        assert isinstance(asked, Scored | Labelled)
        assert asked.access < Access.GRADIENTS


def test_what_lacks_a_name_or_a_price_is_no_victim() -> None:
    class Nameless:
        access, classes, bounds, device, dtype = Access.LABELS, 2, (0.0, 1.0), torch.device("cpu"), torch.float32
        forwards_per_query = 1

        def labels(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(rows)

        def left(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(rows)

    assert not isinstance(Nameless(), Labelled)
    Nameless.name = "named"  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(Nameless(), Labelled)
