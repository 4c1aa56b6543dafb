"""What a model answers, read as logits or labels: by what the user declared, or by what the first answer looks like.

Probabilities become log-probabilities: the same decisions, and margins and gradients that do not flatten as the softmax does.
A single logit z per example becomes the two logits [0, z], whose softmax is (1 - sigmoid(z), sigmoid(z)) exactly.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hauberk._shapes import Labels, Logits
from hauberk.errors import AccessError, HauberkError, ModelError, SettingError
from hauberk.victims.victim import first_line

__all__ = ["Answers", "Kind", "Output", "as_tensor", "looks_like_probabilities"]

Kind: TypeAlias = Literal["logits", "probabilities", "labels"]
Output: TypeAlias = str | int | Callable[[Any], Any] | None
"""Which part of the answer holds the scores (key, index or function), or what kind of answer it is."""

_KINDS: tuple[Kind, ...] = ("logits", "probabilities", "labels")


class Answers:
    """Reads the raw answers of one model.

    Args:
        name: of the model, for messages.
        output: see `Output`; "logits", "probabilities" and "labels" declare the kind, and pick the part of that name.
        classes: declared number of classes, or None.
        dtype, device: of the logits given back.

    Attributes:
        kind: None until it is declared or the first answer has settled it.
        single: the model answers one score per example.
        classes: None until known.
        notes: the guesses made.
    """

    def __init__(
        self, name: str, output: Output, classes: int | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        if isinstance(output, bool) or not (output is None or isinstance(output, str | int) or callable(output)):
            raise SettingError(f"output is a key, an index, a function or one of {', '.join(_KINDS)}, got {output!r}")
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
            raise SettingError(f"classes is a whole number of at least 2, got {classes!r}")
        self.name, self.output, self.classes, self.dtype, self.device = name, output, classes, dtype, device
        self.kind: Kind | None = next((kind for kind in _KINDS if kind == output), None)
        self.single, self.settled = False, False
        self.notes: list[str] = []

    def pick(self, raw: Any) -> Tensor:
        """The part of the answer that `output` names, as a tensor.

        Raises:
            ModelError: there is no such part, or there are parts and `output` names none.
        """
        if isinstance(raw, Tensor) and (self.output is None or self.kind is not None):
            return raw
        chosen = self._part(raw)
        if isinstance(chosen, Tensor):
            return chosen
        if isinstance(chosen, list) and chosen and isinstance(chosen[0], Mapping):  # a ZipMap of scikit-learn in ONNX
            chosen = [list(row.values()) for row in chosen]
        try:
            return as_tensor(chosen)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{self.name!r} answers {_kind_of(chosen)}, expected an array of scores (B, classes); "
                "choose the scores with output= (a key, an index or a function)"
            ) from error

    def _part(self, raw: Any) -> Any:
        output = self.output
        if callable(output):
            try:
                return output(raw)
            except HauberkError:
                raise
            except Exception as error:
                raise ModelError(
                    f"the output function failed on the answer of {self.name!r}: {first_line(error)}"
                ) from error
        parts = _parts(raw)
        if parts is None:
            if output is None or self.kind is not None:
                return raw
            raise ModelError(
                f"output={output!r} names a part of the answer, but {self.name!r} answers {_kind_of(raw)}; leave output out"
            )
        for key, value in parts.items():
            if output is not None and (key == output or str(key) == str(output)):
                return value
        if isinstance(output, int) and -len(parts) <= output < len(parts):
            return list(parts.values())[output]
        held = ", ".join(f"{key!r} {_kind_of(value)}" for key, value in parts.items())
        asked = f"has no part {output!r}" if output is not None else "answers several parts"
        example = next(
            (key for key, value in parts.items() if getattr(value, "ndim", 0) == 2), next(iter(parts), "logits")
        )
        raise ModelError(
            f"{self.name!r} {asked}: it holds {held}; name the one with the scores, for example output={example!r}"
        )

    def settle(self, value: Tensor, examples: int) -> None:
        """Decide, by a first answer, the kind and the number of classes.

        Raises:
            ModelError: it is not a classifier's answer, or it can be read in two ways.
        """
        self._check(value, examples)
        self.single = value.ndim == 1 or value.shape[1] == 1
        if self.kind is None:
            self.kind = self._recognise(value)
        if self.kind == "labels":
            if not self.single:
                raise ModelError(f"{self.name!r} was declared to answer labels (B,), got shape {tuple(value.shape)}")
            self._whole(value)
            self.settled = True
            return
        if self.kind == "probabilities" and not looks_like_probabilities(value):
            raise ModelError(
                f"{self.name!r} was declared to answer probabilities, but its rows "
                f"{'leave [0, 1]' if _outside(value) else 'do not sum to 1'}; say output='logits'"
            )
        found = 2 if self.single else value.shape[1]
        if self.classes is not None and self.classes != found:
            raise ModelError(f"{self.name!r} was declared to have {self.classes} classes, but answers {found}")
        self.classes = found
        if self.single and self.kind == "logits":
            self.notes.append(
                "The model answers one score per example: it is read as the logit of class 1 against class 0."
            )
        self.settled = True

    def _recognise(self, value: Tensor) -> Kind:
        if self.single and not value.is_floating_point():
            self.notes.append("The model answers whole numbers, one per example: they are read as class labels.")
            return "labels"
        if not looks_like_probabilities(value):
            return "logits"
        if self.single:
            raise ModelError(
                f"{self.name!r} answers one number per example, all in [0, 1], which may be probabilities or logits; "
                "say which with output='probabilities' or output='logits'"
            )
        self.notes.append(
            "The outputs look like probabilities (every row sums to 1): their logarithms are used as scores, which keeps every "
            "decision; where the softmax saturates its gradients vanish, so give a model that answers logits if you can, or say "
            "output='logits' to attack the numbers as they are."
        )
        return "probabilities"

    def _check(self, value: Tensor, examples: int) -> None:
        if value.ndim not in (1, 2) or value.shape[0] != examples or (value.ndim == 2 and value.shape[1] == 0):
            raise ModelError(
                f"{self.name!r} answers shape {tuple(value.shape)} to {examples} example{'s' * (examples != 1)}, expected one "
                f"row of scores for each, ({examples}, classes); choose the scores with output= if they are a part of the answer"
            )
        if value.is_complex():
            raise ModelError(f"{self.name!r} answers complex numbers, expected real scores")

    def logits(self, value: Tensor, examples: int) -> Logits:
        """(examples, classes) scores from a picked answer; differentiable.

        Raises:
            AccessError: the model answers labels only.
            ModelError: the answer changed its shape.
        """
        if self.kind == "labels":
            raise AccessError(f"{self.name!r} answers labels only, not scores; use a label-only attack")
        if value.ndim != 2 or value.shape[0] != examples:
            self._check(value, examples)
        if value.dtype != self.dtype or value.device != self.device:
            value = value.to(device=self.device, dtype=self.dtype)
        if not self.single:
            if value.ndim != 2 or value.shape[1] != self.classes:
                raise ModelError(
                    f"{self.name!r} answered {self.classes} classes before, and now shape {tuple(value.shape)}"
                )
            return value if self.kind == "logits" else _log(value)
        value = value.reshape(-1, 1)
        if len(value) != examples:
            raise ModelError(
                f"{self.name!r} answered one score per example before, and now {len(value)} for {examples}"
            )
        if self.kind == "logits":
            return torch.cat((torch.zeros_like(value), value), dim=1)
        return _log(torch.cat((1 - value, value), dim=1))

    def labels(self, value: Tensor, examples: int) -> Labels:
        """(examples,) int64 classes from a picked answer; -1 where scores are not finite."""
        if self.kind != "labels":
            scores = self.logits(value, examples)
            return torch.where(scores.isfinite().all(dim=1), scores.argmax(dim=1), -1)
        self._check(value, examples)
        return self._whole(value)

    def _whole(self, value: Tensor) -> Labels:
        labels = value.reshape(-1).to(device=self.device)
        whole = labels.to(torch.int64)
        if labels.is_floating_point() and not bool((labels == whole).all()):
            raise ModelError(
                f"{self.name!r} was declared to answer labels, got fractions such as {labels[labels != whole][0]:g}"
            )
        if len(whole) and int(whole.min()) < 0:
            raise ModelError(f"{self.name!r} answers the label {int(whole.min())}; labels are 0, 1, ...")
        return whole


def as_tensor(value: Any) -> Tensor:
    """A tensor of an array or nested list of numbers; it may share memory with an array.

    Raises:
        TypeError: no rectangular array of numbers.
    """
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))  # a copy that torch can share
    return torch.as_tensor(array)


def looks_like_probabilities(value: Tensor) -> bool:
    """Every number in [0, 1] and, where a row has several, every row sums to 1 as near as its dtype can."""
    if not value.is_floating_point() or value.numel() == 0 or _outside(value):
        return False
    if value.ndim == 1 or value.shape[1] == 1:
        return True
    slack = 1e-2 if value.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return bool(((value.double().sum(dim=1) - 1).abs() < slack).all())


def _outside(value: Tensor) -> bool:
    return not bool(((value >= 0) & (value <= 1 + 1e-6)).all())


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _parts(raw: Any) -> dict[Any, Any] | None:
    if isinstance(raw, Mapping):
        return dict(raw)
    if isinstance(raw, tuple):
        fields = getattr(raw, "_fields", range(len(raw)))
        return dict(zip(fields, raw, strict=True))
    if isinstance(raw, list) and any(getattr(part, "ndim", 0) > 1 for part in raw):
        return dict(enumerate(raw))
    if not isinstance(raw, Tensor | np.ndarray | list | int | float | None | str) and hasattr(raw, "__dict__"):
        return {key: part for key, part in vars(raw).items() if hasattr(part, "shape")} or None
    return None


def _kind_of(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"({', '.join(map(str, shape))})" if shape is not None else type(value).__name__
