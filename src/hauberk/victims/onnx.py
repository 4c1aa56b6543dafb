"""ONNX files as victims, run by onnxruntime: scores and labels."""

import math
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import HauberkError, ModelError, SettingError, require
from hauberk.threat import Access
from hauberk.victims.answers import Answers, Output
from hauberk.victims.check import layout_hint, probe
from hauberk.victims.fingerprint import digest, file_digest
from hauberk.victims.preprocess import Normalisation
from hauberk.victims.victim import first_line, trouble, unlimited

__all__ = ["OnnxVictim"]

_DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float32}


@final
class OnnxVictim:
    """An ONNX graph with one input. A batch size that the file fixes is met by looping.

    Args:
        path: of the file; weights kept beside it (`FILE.data`, `FILE_data`) belong to it.
        bounds, normalisation, output, classes, name: see `hauberk.victims.wrap`; `output` picks an output by name or index.
        dtype: of x; the file's own where None.

    Raises:
        ModelError: the file cannot be read, or has not one input of floats.
        MissingExtraError: onnxruntime is not installed.
    """

    forwards_per_query = 1

    def __init__(
        self,
        path: Path,
        *,
        bounds: tuple[float, float],
        normalisation: Normalisation,
        output: Output,
        device: torch.device,
        dtype: torch.dtype | None,
        classes: int | None,
        name: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        if device.type != "cpu":
            raise SettingError(f"an ONNX file is run on the CPU, got device={str(device)!r}; leave device out")
        self._session = _session(path)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(
                f"{path.name} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}), expected one"
            )
        self._input = inputs[0]
        if self._input.type not in _DTYPES:
            raise ModelError(f"{path.name} takes {self._input.type}, expected an input of floats")
        self.name, self.bounds, self.device = name, bounds, device
        self.dtype = _DTYPES[self._input.type] if dtype is None else dtype
        self._numpy = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}[
            self._input.type
        ]
        self._shape = [size if isinstance(size, int) and size > 0 else None for size in self._input.shape]
        self._fixed = self._shape[0] if self._shape else None
        self.channels = self._shape[1] if len(self._shape) == 4 else None
        self._normalisation, self._outputs = normalisation, [out.name for out in self._session.get_outputs()]
        self._answers = Answers(name, output, classes, self.dtype, device)
        self._notes = [*notes, *normalisation.notes]
        if self._fixed is not None and self._fixed > 1:
            self._notes.append(f"The file fixes the batch size at {self._fixed}: batches are cut and filled up to it.")
        beside = sorted(p for suffix in (".data", "_data", ".weights") for p in path.parent.glob(path.name + suffix))
        files = [file_digest(file) for file in (path, *beside)]
        self._digest = digest("onnx", files, bounds, normalisation.description, output, str(self.dtype))

    @property
    def access(self) -> Access:
        """Scores, until the file has answered labels."""
        return Access.LABELS if self._answers.kind == "labels" else Access.SCORES

    @property
    def classes(self) -> int | None:
        return self._answers.classes

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._answers.notes)

    @property
    def description(self) -> dict[str, Any]:
        output = self._answers.output
        return {
            "kind": "onnx",
            "input": [size if size is None else int(size) for size in self._shape],
            "outputs": list(self._outputs),
            "bounds": list(self.bounds),
            **self._normalisation.description,
            "output": getattr(output, "__qualname__", repr(output)) if callable(output) else output,
            "answers": self._answers.kind,
            "classes": self.classes,
        }

    def fingerprint(self) -> str:
        return self._digest

    def left(self, rows: Rows) -> PerExample:
        return unlimited(rows)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes."""
        return self._answers.labels(self._ask(x), len(x))

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores.

        Raises:
            AccessError: the file answers labels only.
            ModelError: the file cannot be run on these inputs.
        """
        return self._answers.logits(self._ask(x), len(x))

    def _ask(self, x: Batch) -> torch.Tensor:
        array = np.ascontiguousarray(self._normalisation(x.detach()).cpu().numpy(), dtype=self._numpy)
        array = self._shaped(array)
        size = self._fixed or max(len(array), 1)
        answers = []
        try:
            for start in range(0, len(array), size):
                piece = array[start : start + size]
                missing = size - len(piece)
                if missing:
                    piece = np.concatenate((piece, np.repeat(piece[-1:], missing, axis=0)))
                raw = self._session.run(None, {self._input.name: piece})
                answers.append(self._answers.pick(self._named(raw))[: size - missing])
        except HauberkError:
            raise
        except Exception as error:  # onnxruntime has error classes of its own, which all say the same
            raise trouble(self.name, x, error, layout_hint(self, x)) from error
        answer = torch.cat(answers) if answers else torch.zeros(0, self.classes or 1, dtype=self.dtype)
        if not self._answers.settled and len(x):
            self._answers.settle(answer, len(x))
        return answer

    def _named(self, raw: list[Any]) -> Any:
        return raw[0] if len(raw) == 1 else dict(zip(self._outputs, raw, strict=True))

    def _shaped(self, array: Any) -> Any:
        """The array in the shape that the file takes, where that is only another view of the same numbers."""
        wanted = self._shape[1:]
        given = array.shape[1:]
        if len(wanted) == len(given) and all(w in (None, g) for w, g in zip(wanted, given, strict=True)):
            return array
        axes, own = [size for size in wanted if size != 1], [size for size in given if size != 1]
        flat = axes == [math.prod(own)]  # the file takes a vector: images are laid out row by row, as everybody does
        if None in wanted or (axes != own and not flat):
            shown = ", ".join("?" if size is None else str(size) for size in wanted)
            hint = layout_hint(self, torch.empty(1, *given))
            raise ModelError(
                f"{self.name!r} takes examples of shape ({shown}), got {given}{'; ' + hint if hint else ''}"
            )
        if axes != own and not self._answers.settled:
            self._notes.append(
                f"The file takes vectors of {axes[0]}: examples of shape {given} are flattened row by row."
            )
        return array.reshape(len(array), *wanted)  # axes of length 1 come and go; nothing is reordered


def _session(path: Path) -> Any:
    ort = require("onnxruntime", "onnx", "an ONNX model")
    if not path.is_file():
        raise ModelError(f"there is no file {path}; check the path")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has error classes of its own
        raise ModelError(f"{path.name} cannot be read as ONNX: {first_line(error)}") from error
