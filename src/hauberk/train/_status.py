"""What is known of a defense: whether it held against attacks that knew it, and who broke it if not."""

from dataclasses import dataclass
from typing import TypeAlias

from hauberk.errors import SettingError

__all__ = ["KINDS", "Kind", "Status"]

Kind: TypeAlias = str
"""One of `KINDS`."""

KINDS: dict[Kind, str] = {
    "certified": "a proof comes with each answer it vouches for",
    "holds": "attacks that knew the defense were tried, and it kept what it claims",
    "partial": "attacks that knew it took part of what it claims, or it holds under conditions",
    "broken": "attacks that knew it took what it claims",
    "none": "it is not a defense and claims nothing",
}
"""The kinds of status, and what each says."""


@dataclass(frozen=True)
class Status:
    """The standing of a defense, shown wherever it is listed; each class of a defense has one, as `status`.

    Args:
        kind: one of `KINDS`.
        by: who tested or broke it, and where that stands (authors, year, arXiv id); needed where it is partial or broken.

    Raises:
        SettingError: an unknown kind; a partial or broken defense that names nobody.

    >>> print(Status("broken", "Engstrom, Ilyas, Athalye 2018, arXiv:1807.10272"))
    broken (Engstrom, Ilyas, Athalye 2018, arXiv:1807.10272)
    """

    kind: Kind
    by: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError(f"the status of a defense is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind in ("partial", "broken") and not self.by:
            raise SettingError(f"a {self.kind} defense needs by= (authors, year, arXiv id), got nobody")

    def __str__(self) -> str:
        return f"{self.kind} ({self.by})" if self.by else self.kind
