"""Encoded pictures (PNG, JPEG, ...) decoded to uint8 arrays (channels, height, width) with one or three channels."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from hauberk.errors import DataError

__all__ = ["SUFFIXES", "decode", "from_pil", "match"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def decode(data: bytes | Path, where: str) -> np.ndarray:
    """(1 or 3, height, width) uint8.

    Raises:
        DataError: damaged, not a picture, deeper than 8 bits, or with transparent pixels; the message says `where`.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
            picture.load()
            return from_pil(picture, where)
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if isinstance(error, Image.UnidentifiedImageError):
            cause = "it is no picture of a known kind"
        raise DataError(f"the image at {where} cannot be decoded ({cause}); repair or drop it") from error


def from_pil(picture: Image.Image, where: str) -> np.ndarray:
    """(1 or 3, height, width) uint8 of a decoded picture; every conversion made here keeps what is seen."""
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        raise DataError(
            f"expected 8-bit pictures, got mode {mode} at {where}; convert it to 8 bits, or give float arrays"
        )
    if mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        if clear.getchannel("A").getextrema()[0] != 255:
            raise DataError(
                f"expected opaque pictures, got transparent pixels at {where}; paint it on a background and save it"
            )
        mode = "L" if mode in ("L", "LA", "La") else "RGB"
        picture = clear
    pixels = np.asarray(picture.convert("L" if mode in ("1", "L") else "RGB"))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def match(pixels: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The picture in the shape of the first one: a grey one may become three equal channels, nothing else may differ."""
    if pixels.shape == shape:
        return pixels
    if pixels.shape[1:] != shape[1:]:
        raise DataError(
            f"expected pictures of one size, got {pixels.shape[1]}x{pixels.shape[2]} at {where} after {shape[1]}x{shape[2]} "
            "(height x width); resize them all to the size that the model takes"
        )
    if pixels.shape[0] == 1:
        return np.repeat(pixels, shape[0], axis=0)
    raise DataError(
        f"the first picture is grey but the one at {where} has colours; convert them all to colour or all to grey"
    )
