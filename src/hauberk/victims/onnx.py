"""ONNX files as victims: onnxruntime gives scores and labels, the network read from the file gives gradients."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import AccessError, HauberkError, ModelError, SettingError, require
from hauberk.layered.from_onnx import from_onnx
from hauberk.layered.graph import Graph
from hauberk.threat import Access
from hauberk.victims.answers import Answers, Output
from hauberk.victims.check import layout_hint, probe
from hauberk.victims.fingerprint import digest, file_digest
from hauberk.victims.preprocess import Normalisation
from hauberk.victims.victim import first_line, trouble, unlimited

__all__ = ["OnnxVictim"]

_SETTLING = 32
"""How many rows of the first batch the two ways of computing the network are compared on."""
_CLOSE = {"tensor(float)": 1e-4, "tensor(double)": 1e-4, "tensor(float16)": 1e-2}
"""How far their scores may lie apart, in parts of the largest."""
_DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float32}


class _Read(nn.Module):
    """A network that was read from a file, for examples in any shape of as many values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        return self.graph(x.reshape(len(x), *self.graph.input_shape))


@final
class OnnxVictim:
    """An ONNX graph with one input. A batch size that the file fixes is met by looping.

    Labels and scores are onnxruntime's, which is what is deployed and what the judge goes by. Gradients, and the scores that come with
    them, are those of the same network computed by PyTorch (`hauberk.layered`), where its operators are known and both agree
    on the first rows asked; else the access is to scores, and a note says why.

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
        self._path, self._closed = path, ""
        self._net: _Read | None = None
        self._open(None)
        self._digest = digest("onnx", files, bounds, normalisation.description, output, str(self.dtype))

    @property
    def access(self) -> Access:
        """Gradients where the network could be read, until the file has answered labels or otherwise than the network read."""
        if self._answers.kind == "labels":
            return Access.LABELS
        return Access.SCORES if self._closed else Access.GRADIENTS

    @property
    def net(self) -> nn.Module | None:
        """The network as it was read; None where it could not be, or before the first answer of a file with open axes."""
        return self._net

    @property
    def normalisation(self) -> Normalisation:
        return self._normalisation

    @property
    def answers(self) -> Answers:
        return self._answers

    @property
    def classes(self) -> int | None:
        return self._answers.classes

    @property
    def notes(self) -> tuple[str, ...]:
        why = f"The model gives scores only, no gradients: {self._closed}."
        return (*self._notes, *self._answers.notes, *([why] if self.access is Access.SCORES else []))

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

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The scores as the network that was read computes them, detached, and the function from a cotangent (B, classes) to the
        gradient (B, *shape). One forward per row, one backward per row and call.

        Raises:
            AccessError: the file answers labels only, or its network could not be read.
            ModelError: the file cannot be run on these inputs.
        """
        if not self._answers.settled and len(x):
            self._ask(x[:_SETTLING])
        if self.access < Access.GRADIENTS or self._net is None:
            raise AccessError(
                f"{self.name!r} gives {self.access} only, no gradients; its notes say why: {' '.join(self.notes)}"
            )
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self._answers.logits(self._net(self._normalisation(leaf)), len(x))

        def vjp(cotangent: Logits) -> Batch:
            gradients: Any = torch.autograd.grad(logits, leaf, cotangent, retain_graph=True, allow_unused=True)
            return torch.zeros_like(leaf) if gradients[0] is None else gradients[0].contiguous()

        return logits.detach(), vjp

    def _open(self, shape: tuple[int, ...] | None) -> None:
        """Read the network, for examples of this shape where the file leaves axes open."""
        try:
            self._net = _Read(from_onnx(self._path, dtype=self.dtype, shape=shape))
        except ModelError as error:
            if shape is not None or None not in self._shape[1:]:  # else the first examples will tell the shape
                self._closed = str(error)

    def _compare(self, x: Batch, answer: Tensor) -> None:
        """Keep the network that was read only if it answers as onnxruntime does."""
        if self._net is None and not self._closed:
            self._open(tuple(x.shape[1:]))
        if self._net is None or self._answers.kind == "labels":
            return
        try:
            with torch.no_grad():
                own = self._net(self._normalisation(x[:_SETTLING]))
        except RuntimeError as error:
            self._net, self._closed = None, f"the network read from the file cannot be run: {first_line(error)}"
            return
        theirs = answer[:_SETTLING].to(own)
        alike = own.shape == theirs.shape
        off = float((own - theirs).abs().max()) / max(1e-6, float(theirs.abs().max())) if alike else math.inf
        if not off <= _CLOSE[self._input.type]:
            self._net = None
            self._closed = (
                f"the network read from the file answers otherwise than onnxruntime, by {off:.2g} of the largest score"
            )

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
            self._compare(x.detach(), answer)
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
