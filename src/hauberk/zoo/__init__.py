"""Small reference nets with weights we trained ourselves: `names`, `card`, `net`, `load`.

The weights come with the package; `python -m hauberk.zoo.train` makes them again, bit for bit on the same machine.
"""

from typing import Any

from torch import nn

from hauberk.victims import Victim, wrap
from hauberk.zoo.cards import read_card, read_weights
from hauberk.zoo.recipes import RECIPES

__all__ = ["card", "load", "names", "net"]


def names() -> dict[str, str]:
    """The nets of the zoo, each with one line that describes it.

    >>> [name for name in names() if name.startswith("digits")]
    ['digits-mlp', 'digits-pgd-at', 'digits-trades', 'digits-mart']
    """
    return {name: recipe.summary for name, recipe in RECIPES.items()}


def card(name: str) -> dict[str, Any]:
    """The model card: architecture, data, recipe, seed, and what hauberk measured; fields as in `zoo/card.schema.json`.

    Raises:
        UnknownNameError: the zoo has no such net.
        ModelError: the card is absent or damaged.
    """
    return read_card(name)


def net(name: str) -> nn.Module:
    """The net with its weights, a new copy at each call, in evaluation mode; inputs (B, *shape) in [0, 1], answers logits.

    Raises:
        UnknownNameError: the zoo has no such net.
        ModelError: its files are absent, damaged, or do not belong together.
    """
    return read_weights(name)


def load(name: str) -> Victim:
    """The net as a victim with bounds (0, 1).

    Raises:
        UnknownNameError: the zoo has no such net.
        ModelError: its files are absent, damaged, or do not belong together.
    """
    return wrap(net(name), bounds=(0.0, 1.0), output="logits", classes=10, name=name)
