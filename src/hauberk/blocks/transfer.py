"""Copies of an input whose mean gradient transfers to other models, and the kernel that smooths a gradient for that.

Each transform makes differentiable copies of a batch; chained, each makes copies of the copies of the one before it.

    di      diverse inputs: resized and padded, with a probability                      Xie et al. 2019, arXiv:1803.06978
    si      scales: x, x/2, x/4, ...                                                     Lin et al. 2020, arXiv:1908.06281
    admix   a share of another picture is added (with si after it: Admix as published)   Wang et al. 2021, arXiv:2102.00436
    ssa     noise, and a random weight on each frequency                                 Long et al. 2022, arXiv:2207.05382
    bsr     blocks are shuffled and each is turned                                       Wang et al. 2024, arXiv:2308.10299
    ti      the gradient is convolved with a Gaussian: the mean over small translations  Dong et al. 2019, arXiv:1904.02884

**Differs from the papers:** every example draws for itself, and `admix` mixes with a pool that is given, not with the batch, so that
no result depends on the batch; what leaves the box is clipped, the gradient let through; scales, padding and turned corners go
to the box's lower end (0 for pictures in [0, 1]); `di` shrinks and pads within the picture, since a net may take one size only;
`ssa` transforms whole pictures; the kernel of `ti` grows with the picture (15 at 299, as published). Vectors are pictures one row high.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hauberk._rng import Streams
from hauberk._settings import read_settings, split_spelling
from hauberk._shapes import Batch, Labels, Rows
from hauberk.blocks.canvas import Canvas
from hauberk.blocks.warps import dct_matrix, sampled, shuffled
from hauberk.data import load
from hauberk.errors import SettingError, UnknownNameError

__all__ = [
    "GRADIENTS",
    "INPUTS",
    "Admix",
    "Blocks",
    "Diverse",
    "InputTransform",
    "Mix",
    "Scales",
    "Scene",
    "Spectrum",
    "Translate",
    "copies_of",
    "ready",
    "transform_named",
]


@dataclass(frozen=True, eq=False)
class Scene:
    """What a transform knows besides the points.

    Args:
        rows: (B,) the example of each point; none twice.
        streams: where its draws come from.
        box: the smallest and largest value of an input.
        leave: (B,) the class each example is to leave; None where the goal has none.
    """

    rows: Rows
    streams: Streams
    box: tuple[float, float]
    leave: Labels | None = None

    def uniform(self, shape: tuple[int, ...], x: Tensor) -> Tensor:
        """(B, *shape) numbers uniform in [0, 1), as x is."""
        return self.streams.uniform(self.rows, shape, dtype=x.dtype).to(x)


class InputTransform(Protocol):
    """A frozen dataclass of settings; `keeps` says that the first copy is the input itself."""

    @property
    def copies(self) -> int: ...
    @property
    def keeps(self) -> bool: ...
    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        """`copies` differentiable copies of each point, inside the box."""
        ...


@dataclass(frozen=True)
class Diverse:
    """`di`: the picture shrunk to a random size and put at a random place.

    Args:
        shrink: the smallest side, as a share of the picture's.
        probability: of a change; without one the copy is the point itself.
    """

    shrink: float = 0.9
    probability: float = 0.5
    copies: int = field(default=1, init=False)
    keeps: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _share("di", "shrink", self.shrink)
        _share("di", "probability", self.probability)

    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        canvas = Canvas(z)
        height, width, rows, streams = canvas.height, canvas.width, scene.rows, scene.streams
        longest = max(height, width)
        least = max(1, round(self.shrink * longest))
        side = least + streams.integers(rows, max(1, longest - least))
        tall = (side * height / longest).round().clamp(1, height).long()
        wide = (side * width / longest).round().clamp(1, width).long()
        top = streams.integers(rows, height - tall + 1)[:, None]
        left = streams.integers(rows, width - wide + 1)[:, None]
        changed = (scene.uniform((), z) < self.probability) & (side < longest)
        y = torch.arange(height, dtype=z.dtype, device=z.device)[None] - top
        x = torch.arange(width, dtype=z.dtype, device=z.device)[None] - left
        inside = ((y >= 0) & (y < tall[:, None]))[:, :, None] & ((x >= 0) & (x < wide[:, None]))[:, None, :]
        from_y = ((y + 0.5) * (height / tall[:, None].to(z.dtype)) - 0.5).clamp(0, height - 1)
        from_x = ((x + 0.5) * (width / wide[:, None].to(z.dtype)) - 0.5).clamp(0, width - 1)
        drawn = sampled(canvas.picture(z), from_y[:, :, None], from_x[:, None, :], inside, scene.box[0])
        return [torch.where(changed.reshape(-1, *(1,) * (z.ndim - 1)), canvas.back(drawn), z)]


@dataclass(frozen=True)
class Scales:
    """`si`: the picture darkened to 1, 1/2, 1/4, ... of its values; the first copy is the picture.

    Args:
        copies: how many scales.
    """

    copies: int = 5
    keeps: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        _count("si", "copies", self.copies)

    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        low = scene.box[0]
        return [z if power == 0 else low + (z - low) / 2**power for power in range(self.copies)]


@dataclass(frozen=True)
class Admix:
    """`admix`: a share of a picture of another class is added to it; which one is drawn for each example from a pool.

    Args:
        pool: data, as `hauberk.data.load` reads it: a name or a path. Needed.
        copies: pictures mixed in, each alone.
        share: of the other picture.
        size: how many of the pool's first pictures are drawn from.
    """

    pool: str = ""
    copies: int = 3
    share: float = 0.2
    size: int = 256
    keeps: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _count("admix", "copies", self.copies)
        _count("admix", "size", self.size)
        _share("admix", "share", self.share)
        if not self.pool:
            raise SettingError("admix mixes with the pictures of a pool, got none; write for example admix:pool=digits")

    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        return self.loaded(z, scene.box)(z, scene)

    def loaded(self, x: Batch, box: tuple[float, float]) -> "Mix":
        """The same with the pool in memory, as x is.

        Raises:
            DataError, UnknownNameError: no such data.
            SettingError: pictures of another shape.
        """
        chunk = next(iter(load(self.pool, bounds=box).chunks(self.size)), None)
        if chunk is None or chunk.x.shape[1:] != x.shape[1:]:
            got = "nothing" if chunk is None else f"examples of shape {tuple(chunk.x.shape[1:])}"
            raise SettingError(
                f"admix needs a pool of examples of shape {tuple(x.shape[1:])}, got {got} in {self.pool}"
            )
        return Mix(chunk.x.to(x), chunk.y.to(x.device), self.copies, self.share)


@dataclass(frozen=True, eq=False)
class Mix:
    """`admix` with the pool in memory.

    Args:
        images: (P, *shape) pictures.
        labels: (P,) their classes; None mixes with any.
        copies, share: as `Admix` has them.
    """

    images: Batch
    labels: Labels | None = None
    copies: int = 3
    share: float = 0.2
    keeps: bool = field(default=False, init=False)

    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        low, high = scene.box
        made: list[Batch] = []
        for _ in range(self.copies):
            mixed = z + self.share * (self.images[self._drawn(scene)] - low)
            made.append(mixed + (mixed.clamp(low, high) - mixed).detach())
        return made

    def _drawn(self, scene: Scene) -> Tensor:
        """(B,) a place in the pool for each example, of another class than the one it leaves where there is one."""
        count = len(self.images)
        if self.labels is None or scene.leave is None:
            return scene.streams.integers(scene.rows, count)
        order = self.labels.argsort(stable=True)
        known = self.labels[order].contiguous()
        first = torch.searchsorted(known, scene.leave.contiguous())
        same = torch.searchsorted(known, scene.leave.contiguous(), right=True) - first
        same = torch.where(same == count, 0, same)  # a pool of that one class only
        place = scene.streams.integers(scene.rows, count - same)
        return order[torch.where(place >= first, place + same, place)]


@dataclass(frozen=True)
class Spectrum:
    """`ssa`: inverse DCT of (DCT of the picture and noise) times a weight uniform in [1 - rho, 1 + rho] on each frequency.

    Args:
        copies: how many.
        rho: how much the weights differ.
        sigma: of the noise, in widths of the box.
    """

    copies: int = 20
    rho: float = 0.5
    sigma: float = 16 / 255
    keeps: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _count("ssa", "copies", self.copies)
        for name, value in (("rho", self.rho), ("sigma", self.sigma)):
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(f"ssa needs {name} >= 0, got {name}={value!r}")

    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        canvas, (low, high) = Canvas(z), scene.box
        tall, wide = dct_matrix(canvas.height, z), dct_matrix(canvas.width, z)
        shape = tuple(z.shape[1:])
        made: list[Batch] = []
        for _ in range(self.copies):
            noise = scene.streams.normal(scene.rows, shape, dtype=z.dtype).to(z) * (self.sigma * (high - low))
            weights = 1 + self.rho * (2 * canvas.picture(scene.uniform(shape, z)) - 1)
            spectrum = tall @ canvas.picture(z - low + noise) @ wide.T
            copy = canvas.back(tall.T @ (spectrum * weights) @ wide) + low
            made.append(copy + (copy.clamp(low, high) - copy).detach())
        return made


@dataclass(frozen=True)
class Blocks:
    """`bsr`: the picture is cut into strips and these into blocks, at random; both are shuffled, and each block is turned.

    Args:
        copies: how many.
        blocks: strips, and blocks of each strip.
        angle: the largest turn, in degrees.
    """

    copies: int = 20
    blocks: int = 2
    angle: float = 24.0
    keeps: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        _count("bsr", "copies", self.copies)
        _count("bsr", "blocks", self.blocks)
        if not 0 <= self.angle <= 180:
            raise SettingError(f"bsr needs an angle from 0 to 180 degrees, got angle={self.angle!r}")

    def __call__(self, z: Batch, scene: Scene) -> list[Batch]:
        canvas = Canvas(z)
        return [canvas.back(self._once(canvas, canvas.picture(z), scene)) for _ in range(self.copies)]

    def _once(self, canvas: Canvas, picture: Tensor, scene: Scene) -> Tensor:
        n, height, width = len(picture), canvas.height, canvas.width
        strips = min(self.blocks, height)
        parts = min(self.blocks, width)
        cut, order = scene.uniform((1, strips), picture), scene.uniform((1, strips), picture)
        y, top, tall, strip = (part[:, 0] for part in shuffled(height, cut, order))  # (n, height)
        cut, order = scene.uniform((strips, parts), picture), scene.uniform((strips, parts), picture)
        across = [part.gather(1, strip[:, :, None].expand(-1, -1, width)) for part in shuffled(width, cut, order)]
        x, left, wide, block = across  # (n, height, width)
        y, top, tall = (part[:, :, None].expand(n, height, width) for part in (y, top, tall))
        turn = (scene.uniform((strips * parts,), picture) * 2 - 1) * math.radians(self.angle)
        angle = turn.gather(1, (strip[:, :, None] * parts + block).reshape(n, -1)).reshape(n, height, width)
        dy, dx = y - (tall - 1) / 2, x - (wide - 1) / 2
        turned_y = dy * angle.cos() + dx * angle.sin() + (tall - 1) / 2
        turned_x = dx * angle.cos() - dy * angle.sin() + (wide - 1) / 2
        near = 0.5 + 1e-6
        inside = (turned_y > -near) & (turned_y < tall - 1 + near) & (turned_x > -near) & (turned_x < wide - 1 + near)
        from_y, from_x = (
            turned_y.clamp_min(0).minimum(tall - 1.0) + top,
            turned_x.clamp_min(0).minimum(wide - 1.0) + left,
        )
        return sampled(picture, from_y, from_x, inside, scene.box[0])


@dataclass(frozen=True)
class Translate:
    """`ti`: a Gaussian over the gradient.

    Args:
        size: odd length of the kernel; where 0, the nearest to a twentieth of the picture's longer side, at least 3. 1: no change.
        sigma: of the Gaussian; a fifth of its length where 0.
    """

    size: int = 0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 0 or (self.size and self.size % 2 == 0):
            raise SettingError(f"ti needs an odd size, or 0 for one that fits the picture, got size={self.size!r}")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise SettingError(f"ti needs sigma >= 0, got sigma={self.sigma!r}")

    def __call__(self, gradient: Batch) -> Batch:
        canvas = Canvas(gradient)
        size = self.size or max(3, 2 * round((max(canvas.height, canvas.width) / 20 - 1) / 2) + 1)
        if size == 1 or not len(gradient):
            return gradient
        place = torch.arange(size, dtype=gradient.dtype, device=gradient.device) - size // 2
        line = torch.exp(-place.square() / (2 * (self.sigma or size / 5) ** 2))
        line = line / line.sum()
        picture = canvas.picture(gradient).flatten(0, 1)[:, None]
        if canvas.height > 1:
            picture = F.conv2d(picture, line.reshape(1, 1, -1, 1), padding=(size // 2, 0))
        picture = F.conv2d(picture, line.reshape(1, 1, 1, -1), padding=(0, size // 2))
        return canvas.back(picture.reshape(len(gradient), canvas.channels, canvas.height, canvas.width))


INPUTS: dict[str, type[Any]] = {"di": Diverse, "si": Scales, "admix": Admix, "ssa": Spectrum, "bsr": Blocks}
GRADIENTS: dict[str, type[Any]] = {"ti": Translate}


def transform_named(text: str, known: dict[str, type[Any]], kind: str) -> Any:
    """The transform that a text like `di:shrink=0.8,probability=1` spells.

    Raises:
        UnknownNameError: no such transform, or it has no such setting.
        SettingError: a value that does not fit.
    """
    name, settings = split_spelling(text, "di:shrink=0.8")
    if name not in known:
        raise UnknownNameError.of(kind, name, known)
    return known[name](**read_settings(known[name], name, settings))


def ready(transforms: list[Any], x: Batch, box: tuple[float, float]) -> list[InputTransform]:
    """The transforms with their pools in memory."""
    return [transform.loaded(x, box) if isinstance(transform, Admix) else transform for transform in transforms]


def copies_of(transforms: list[InputTransform], z: Batch, scene: Scene) -> list[Batch]:
    """The copies of a chain of transforms; the point itself where there is none."""
    made = [z]
    for transform in transforms:
        made = [copy for part in made for copy in transform(part, scene)]
    return made


def _share(name: str, key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise SettingError(f"{name} needs {key} between 0 and 1, got {key}={value!r}")


def _count(name: str, key: str, value: int) -> None:
    if value < 1:
        raise SettingError(f"{name} needs {key} >= 1, got {key}={value!r}")
