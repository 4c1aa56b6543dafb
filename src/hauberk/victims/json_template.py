"""Any service that takes JSON: a template for what is sent, a path to what is read.

In the template, a text that is exactly one of these is replaced:

    $x      all examples of a request, as nested lists
    $row    one example, as nested lists; a request then holds one
    $flat   one example, as one list
    $png    one example, as a PNG in base64; also inside a longer text, as data:image/png;base64,$png

A path is keys and indices with dots between them, and `*` for each entry of a list: `predictions`, `result.0.scores`,
`predictions.*.score`. Two paths with `|` between them, `predictions.*.id|predictions.*.score`, read the best classes and their
scores.
"""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from hauberk.errors import ModelError, SettingError

__all__ = ["JsonTemplate"]

_WHOLE, _ONE = "$x", ("$row", "$flat", "$png")


@final
class JsonTemplate:
    """How one service is asked.

    Args:
        name: for messages.
        body: the template, as JSON text or as what JSON holds.
        answer: the path; empty for the whole answer.
        bounds: of the examples, which PNGs are scaled from.

    Raises:
        SettingError: no JSON, or a template without a place for examples.
    """

    channels = None
    dtype = np.dtype(np.float32)

    def __init__(self, name: str, body: Any, answer: str, bounds: tuple[float, float]) -> None:
        if isinstance(body, str):
            try:
                body = json.loads(body)
            except ValueError as error:
                raise SettingError(
                    f'the body is no JSON ({error}); write for example body=\'{{"instances": "$x"}}\' (--body)'
                ) from None
        self.name, self._body, self._bounds = name, body, bounds
        text = json.dumps(body)
        used = [word for word in (_WHOLE, *_ONE) if word in text]
        if len(used) != 1:
            what = f"{' and '.join(used)}" if used else "none of them"
            raise SettingError(f"the body has one place for examples, $x, $row, $flat or $png, got {what}")
        self._place = used[0]
        self.single = self._place != _WHOLE
        self._paths = [_steps(path) for path in answer.split("|")]
        if len(self._paths) > 2:
            raise SettingError(f"answer is a path, or those of classes and scores, CLASSES|SCORES, got {answer!r}")
        self.notes = ["Pictures are sent as PNGs of 8 bits, so attack on that grid (@grid255)."] * (
            self._place == "$png"
        )
        self.description: dict[str, Any] = {"protocol": "json", "body": body, "answer": answer}

    def prepared(self, array: Any) -> Any:
        """The examples as they are sent."""
        if self._place != "$png":
            return np.ascontiguousarray(array)
        low, high = self._bounds
        return np.rint((array - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)

    def encode(self, array: Any) -> bytes:
        """The body of a request for these prepared rows."""
        if self._place == _WHOLE:
            value = array.tolist()
        elif self._place == "$row":
            value = array[0].tolist()
        elif self._place == "$flat":
            value = array[0].reshape(-1).tolist()
        else:
            value = _png(self.name, array[0])
        return json.dumps(self._filled(self._body, value), separators=(",", ":"), allow_nan=False).encode()

    def _filled(self, part: Any, value: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: self._filled(inner, value) for key, inner in part.items()}
        if isinstance(part, list):
            return [self._filled(inner, value) for inner in part]
        if part == self._place:
            return value
        if self._place == "$png" and isinstance(part, str):
            return part.replace("$png", value)
        return part

    def decode(self, document: Any, rows: int) -> Any:
        """What stands at the path, as an array with one row for each row of the request; of two paths, a pair of arrays.

        Raises:
            ModelError: there is nothing of the kind.
        """
        found = tuple(self._read(document, path) for path in self._paths)
        return found[0] if len(found) == 1 else dict(zip(("classes", "scores"), found, strict=True))

    def _read(self, document: Any, path: list[str]) -> Any:
        value = _follow(self.name, document, path, [])
        if self.single:
            value = [value]
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "biufU":
            raise ModelError(
                f"{self.name!r} answers {_shown(value)} at {_dotted(path)}, expected rows of numbers, as many in each; check answer "
                "(--answer)"
            )
        return array


def _steps(path: str) -> list[str]:
    return [step for step in path.strip().split(".") if step]


def _follow(name: str, value: Any, path: list[str], done: list[str]) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    here = [*done, step]
    if step == "*" and isinstance(value, list):
        return [_follow(name, inner, rest, here) for inner in value]
    if isinstance(value, Mapping) and step in value:
        return _follow(name, value[step], rest, here)
    if isinstance(value, list) and step.lstrip("-").isdigit() and -len(value) <= int(step) < len(value):
        return _follow(name, value[int(step)], rest, here)
    raise ModelError(
        f"{name!r} answers {_shown(value)} at {_dotted(done)}, which has no {step!r}; check answer (--answer)"
    )


def _dotted(path: list[str]) -> str:
    return repr(".".join(path)) if path else "the top"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:6])) or 'nothing'}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _png(name: str, row: Any) -> str:
    from PIL import Image

    if row.ndim == 3 and row.shape[0] in (1, 3, 4):
        row = row[0] if row.shape[0] == 1 else np.moveaxis(row, 0, -1)
    if row.ndim != 2 and not (row.ndim == 3 and row.shape[2] in (3, 4)):
        raise ModelError(f"{name!r} is sent pictures, got examples of shape {row.shape}; use $row or $flat in the body")
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(row)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
