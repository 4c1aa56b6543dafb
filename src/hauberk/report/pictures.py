"""Pictures of an example, of a change and of the sum, as `data:` URIs that a page can hold.

A grey change is drawn in two colours that colour-blind readers tell apart, orange where it brightens and blue where it darkens, as opaque
as it is large, on whatever ground the page has. A change in colour is drawn around mid-grey. Both are magnified by
a factor that the caller prints.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["LARGEST_SIDE", "as_pixels", "change_uri", "image_uri", "magnification"]

LARGEST_SIDE = 256
"""Pictures with a longer side are reduced to it, so that a report of photographs stays small enough to mail."""
_BRIGHTER = np.array((226, 112, 24), dtype=np.uint8)
_DARKER = np.array((47, 127, 196), dtype=np.uint8)

Pixels = npt.NDArray[np.float64]


def as_pixels(x: npt.NDArray[np.generic], shape: Sequence[int]) -> Pixels:
    """An image of one of the shapes that `words.is_image` accepts, as (H, W) grey or (H, W, 3)."""
    pixels = np.asarray(x, dtype=np.float64).reshape(tuple(shape))
    if pixels.ndim == 3:
        if pixels.shape[0] in (1, 3):
            pixels = pixels.transpose(1, 2, 0)
        if pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
    return pixels


def magnification(delta: Pixels, bounds: tuple[float, float]) -> float:
    """The largest factor of two digits at which the change still fits the scale of its picture; 1 for no change."""
    peak = float(np.abs(delta).max(initial=0.0)) / (bounds[1] - bounds[0])
    if not (math.isfinite(peak) and peak > 0):
        return 1.0
    # Rounded up a hair first: the float32 nearest to 0.1 should give 10, not 9.9.
    factor = (1.0 if delta.ndim == 2 else 0.5) / peak * (1 + 1e-5)
    digits = 10.0 ** (math.floor(math.log10(factor)) - 1)
    return float(f"{math.floor(factor / digits) * digits:.2g}")


def image_uri(x: Pixels, bounds: tuple[float, float]) -> str:
    """The picture of an example whose values lie in `bounds`."""
    share = (x - bounds[0]) / (bounds[1] - bounds[0])
    return _uri(Image.fromarray(_bytes(share)))


def change_uri(delta: Pixels, bounds: tuple[float, float], factor: float) -> str:
    """The picture of a change, magnified by `factor`."""
    share = factor * np.nan_to_num(delta) / (bounds[1] - bounds[0])
    if delta.ndim == 3:
        return _uri(Image.fromarray(_bytes(0.5 + share)))
    rgba = np.empty((*delta.shape, 4), dtype=np.uint8)
    rgba[..., :3] = np.where((delta > 0)[..., None], _BRIGHTER, _DARKER)
    rgba[..., 3] = _bytes(np.abs(share))
    return _uri(Image.fromarray(rgba))


def _bytes(share: Pixels) -> npt.NDArray[np.uint8]:
    return np.rint(255 * np.clip(np.nan_to_num(share), 0.0, 1.0)).astype(np.uint8)


def _uri(image: Image.Image) -> str:
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
