"""Small spaces to search in: maps from few numbers to a change of the input, the same for every example.

    identity        all the values                                       low frequencies of the DCT-II, `dct:8`
    bilinear:14     a picture of 14 x 14, drawn larger between points    tile:14, drawn larger in blocks of one value
    Span(...)       the span of given vectors, such as the main directions of unlabelled data
    Decoder(...)    whatever a network draws from a code

A query in a space of k numbers tells more of each than one in the whole space, at the price of changes that cannot be made. The maps
of pictures are A v B^T for each channel; vectors are pictures one row high. `lower` finds the numbers whose change is nearest in L2.

Sources: bilinear and decoder, Tu, Ting, Chen et al. 2019, "AutoZOOM", arXiv:1805.11770; tiles, Ilyas, Engstrom, Madry 2019,
arXiv:1807.07978; low frequencies, Guo, Frank, Weinberger 2018, "Low frequency adversarial perturbation", arXiv:1809.08758; spans of
unlabelled data, Wang, Zhang, Si, Hsieh 2020, "Spanning attack", arXiv:2005.04871.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hauberk._shapes import Batch, flat
from hauberk.errors import SettingError, UnknownNameError

__all__ = [
    "SUBSPACES",
    "Bilinear",
    "Decoder",
    "Identity",
    "LowFrequencies",
    "Span",
    "Subspace",
    "Tile",
    "lower",
    "subspace_named",
    "subspaces_named",
]

Shape = tuple[int, ...]


class Subspace(Protocol):
    """A map from few numbers to changes. Those that are linear also have `lower`."""

    def shape(self, x_shape: Shape) -> Shape:
        """Of the numbers of one example, for inputs of this shape."""
        ...

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        """(B, *shape(x_shape)) numbers -> (B, *x_shape) changes."""
        ...


@dataclass(frozen=True)
class Identity:
    """Every value of the input by itself."""

    def shape(self, x_shape: Shape) -> Shape:
        return x_shape

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        return v

    def lower(self, delta: Batch) -> Tensor:
        """The change itself."""
        return delta


@dataclass(frozen=True)
class Bilinear:
    """A picture of `side` x `side` for each channel, interpolated between the centres of its pixels.

    Args:
        side: most numbers along an axis; an axis that is shorter is kept.
    """

    side: int

    def __post_init__(self) -> None:
        _check_side(self.side)

    def shape(self, x_shape: Shape) -> Shape:
        return _small(x_shape, self.side)

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        return _both_axes(v, x_shape, self.side, _interpolating)

    def lower(self, delta: Batch) -> Tensor:
        """The numbers whose change is nearest in L2."""
        return _both_axes(delta, self.shape(tuple(delta.shape[1:])), self.side, _least_squares(_interpolating))


@dataclass(frozen=True)
class Tile:
    """Blocks of one value, `side` x `side` of them for each channel.

    Args:
        side: most blocks along an axis; an axis that is shorter is kept.
    """

    side: int

    def __post_init__(self) -> None:
        _check_side(self.side)

    def shape(self, x_shape: Shape) -> Shape:
        return _small(x_shape, self.side)

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        return _both_axes(v, x_shape, self.side, _blocks)

    def lower(self, delta: Batch) -> Tensor:
        """The mean of each block."""
        return _both_axes(delta, self.shape(tuple(delta.shape[1:])), self.side, _least_squares(_blocks))


@dataclass(frozen=True)
class LowFrequencies:
    """The lowest `side` x `side` frequencies of each channel, orthonormal: lengths are kept.

    Args:
        side: most frequencies along an axis, the constant one among them.
    """

    side: int

    def __post_init__(self) -> None:
        _check_side(self.side)

    def shape(self, x_shape: Shape) -> Shape:
        return _small(x_shape, self.side)

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        return _both_axes(v, x_shape, self.side, _cosines)

    def lower(self, delta: Batch) -> Tensor:
        """The low frequencies of a change."""
        return _both_axes(delta, self.shape(tuple(delta.shape[1:])), self.side, _cosines_of)


@dataclass(frozen=True, eq=False)
class Span:
    """What orthonormal vectors span; lengths are kept.

    Args:
        basis: (k, *input shape) of orthonormal vectors; see `of` and `principal`.
    """

    basis: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> "Span":
        """The span of (n, *input shape) vectors; what depends on the others is left out."""
        return cls.principal(vectors, len(vectors), centred=False)

    @classmethod
    def principal(cls, data: Tensor, count: int, which: str = "top", *, centred: bool = True) -> "Span":
        """The span of the directions in which unlabelled data vary most (`top`) or least (`bottom`).

        Args:
            data: (n, *input shape).
            count: of directions; fewer where the data have fewer.
            which: "top" or "bottom".
            centred: whether the mean of the data is taken off first.
        """
        if which not in {"top", "bottom"}:
            raise SettingError(f"expected which='top' or which='bottom' of the directions, got {which!r}")
        if data.ndim < 2 or not len(data) or count < 1:
            raise SettingError(
                f"a span needs (n, *input shape) with n >= 1 and count >= 1, got shape {tuple(data.shape)} and count={count}"
            )
        rows = flat(data).double()
        rows = rows - rows.mean(dim=0) if centred else rows
        _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
        known = directions[sizes > sizes[0] * 1e-10] if float(sizes[0]) > 0 else directions[:0]
        if not len(known):
            raise SettingError("the vectors of a span are all 0 or all alike; give some that differ")
        chosen = known[:count] if which == "top" else known[-count:]
        return cls(chosen.to(data).reshape(-1, *data.shape[1:]))

    def shape(self, x_shape: Shape) -> Shape:
        if tuple(self.basis.shape[1:]) != tuple(x_shape):
            raise SettingError(
                f"a span of vectors of shape {tuple(self.basis.shape[1:])} has no change for inputs of shape {tuple(x_shape)}; "
                "make one from inputs of that shape"
            )
        return (len(self.basis),)

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        return (v @ flat(self.basis).to(v)).reshape(len(v), *x_shape)

    def lower(self, delta: Batch) -> Tensor:
        """The coordinates of the nearest vector of the span."""
        return flat(delta) @ flat(self.basis).to(delta).T


@dataclass(frozen=True, eq=False)
class Decoder:
    """What a network draws from a code; where it draws another size, the picture is interpolated.

    Args:
        module: takes (B, *code) and gives (B, channels, height, width), or as many values as an input has; it should give about 0 for
            a code of zeros, and is used as it is, in the mode it is in.
        code: shape of a code.
    """

    module: nn.Module | Callable[[Tensor], Tensor]
    code: Shape

    def shape(self, x_shape: Shape) -> Shape:
        return tuple(self.code)

    def lift(self, v: Tensor, x_shape: Shape) -> Batch:
        with torch.no_grad():
            drawn = self.module(v)
        if math.prod(drawn.shape[1:]) == math.prod(x_shape):
            return drawn.reshape(len(v), *x_shape).to(v)
        if drawn.ndim != 4 or len(x_shape) != 3 or drawn.shape[1] != x_shape[0]:
            raise SettingError(
                f"a decoder must draw pictures with the channels of the inputs {tuple(x_shape)}, got {tuple(drawn.shape[1:])}"
            )
        return interpolate(drawn, size=x_shape[1:], mode="bilinear", align_corners=False).to(v)


SUBSPACES: dict[str, type[Bilinear] | type[Tile] | type[LowFrequencies]] = {
    "bilinear": Bilinear,
    "tile": Tile,
    "dct": LowFrequencies,
}


def subspace_named(text: str | Subspace) -> Subspace:
    """The subspace of this name: `identity`, `bilinear:SIDE`, `tile:SIDE`, `dct:SIDE`; a subspace is given back.

    Raises:
        UnknownNameError: there is none of this name.
        SettingError: the side is missing or no whole number > 0.
    """
    if not isinstance(text, str):
        return text
    name, _, side = (part.strip() for part in text.partition(":"))
    if name == "identity" and not side:
        return Identity()
    if name not in SUBSPACES:
        raise UnknownNameError.of("subspace", name, ["identity", *SUBSPACES])
    if not side.isdecimal():
        raise SettingError(f"a subspace {name} needs its side, got {text!r}; write for example {name}:14")
    return SUBSPACES[name](int(side))


def subspaces_named(text: str | Subspace) -> tuple[Subspace, ...]:
    """A list of them, the same kind from coarse to fine: `bilinear:8,16` is `bilinear:8`, then `bilinear:16`."""
    if not isinstance(text, str):
        return (text,)
    name, colon, sides = text.partition(":")
    return tuple(subspace_named(f"{name}{colon}{side}") for side in sides.split(","))


def lower(subspace: Subspace, delta: Batch) -> Tensor:
    """The numbers of the nearest change.

    Raises:
        SettingError: the subspace is a decoder, or another that cannot say.
    """
    found = getattr(subspace, "lower", None)
    if found is None:
        raise SettingError(
            f"a {type(subspace).__name__} cannot be inverted; use a linear subspace, such as bilinear:14"
        )
    return found(delta)


def _check_side(side: int) -> None:
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise SettingError(f"a subspace needs a side that is a whole number > 0, got {side!r}")


def _small(x_shape: Shape, side: int) -> Shape:
    kept = max(len(x_shape) - 2, 0)
    return (*x_shape[:kept], *(min(length, side) for length in x_shape[kept:]))


def _both_axes(v: Tensor, shape: Shape, side: int, matrix: Callable[[int, int], Tensor]) -> Tensor:
    """(B, *small) -> (B, *shape), by `matrix(from, to)` along the last two axes; along the only one of vectors."""
    row = matrix(v.shape[-1], shape[-1]).to(v)
    out = v @ row.T
    if len(shape) >= 2:
        out = matrix(v.shape[-2], shape[-2]).to(v) @ out
    return out


@lru_cache(maxsize=64)
def _interpolating(few: int, many: int) -> Tensor:
    """(many, few) of linear interpolation, the centres of the outer pixels half of theirs from the border."""
    return interpolate(torch.eye(few, dtype=torch.float64)[None], size=many, mode="linear", align_corners=False)[0].T


@lru_cache(maxsize=64)
def _blocks(few: int, many: int) -> Tensor:
    """(many, few) that gives each place the value of its block."""
    place = torch.arange(many) * few // many
    return (place[:, None] == torch.arange(few)[None]).double()


@lru_cache(maxsize=64)
def _cosines(few: int, many: int) -> Tensor:
    """(many, few) of the first vectors of the orthonormal DCT-II."""
    place, frequency = torch.arange(many, dtype=torch.float64)[:, None], torch.arange(few, dtype=torch.float64)[None]
    waves = torch.cos(math.pi * (place + 0.5) * frequency / many) * math.sqrt(2 / many)
    waves[:, 0] /= math.sqrt(2)
    return waves


def _cosines_of(many: int, few: int) -> Tensor:
    """(few, many): the transpose, which is the inverse."""
    return _cosines(few, many).T


def _least_squares(matrix: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
    return lambda many, few: torch.linalg.pinv(matrix(few, many))
