"""What computes a network apart from our own reading of its file: onnxruntime, on the file itself."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hauberk.errors import MissingExtraError, ModelError, require
from hauberk.layered.graph import Graph

__all__ = ["SecondOpinion"]

_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class SecondOpinion:
    """The outputs of a network, as they are in the file: nothing is taken for scores or probabilities.

    Args:
        path: of the ONNX file.
        graph: our reading of it, which answers where onnxruntime is not installed or cannot run the file; None if there is none.
    """

    def __init__(self, path: Path, graph: Graph | None) -> None:
        self._path, self._graph = path, graph
        self._session: Any = None
        self.name = "onnxruntime"

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(m,) for (n,).

        Raises:
            ModelError: neither onnxruntime nor our own reading can compute the network.
        """
        if self.name == "onnxruntime":
            try:
                return self._run(x)
            except MissingExtraError:
                why = "onnxruntime is not installed"
            except Exception:  # onnxruntime has error classes of its own
                why = "onnxruntime cannot run it"
            if self._graph is None:
                raise ModelError(f"{self._path.name} cannot be computed: hauberk cannot read it and {why}")
            self.name = f"hauberk's own reading of the file, as {why}"
        assert self._graph is not None  # without one, the name is still onnxruntime
        point = torch.from_numpy(x).reshape(1, *self._graph.input_shape)
        with torch.no_grad():
            return self._graph(point).flatten().numpy()

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._session is None:
            ort = require("onnxruntime", "onnx", "checking a witness")
            options = ort.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.inter_op_num_threads = 1
            options.log_severity_level = 4
            self._session = ort.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        (port,) = self._session.get_inputs()
        shape, batch = _shape(port.shape, x.size, None if self._graph is None else self._graph.input_shape)
        point = np.tile(x, batch).reshape(shape).astype(_DTYPES[port.type])
        (answer,) = self._session.run([self._session.get_outputs()[0].name], {port.name: point})
        whole = np.asarray(answer, dtype=np.float32).reshape(-1)
        return whole[: len(whole) // batch]


def _shape(declared: list[Any], size: int, own: tuple[int, ...] | None) -> tuple[list[int], int]:
    """The shape of one example as the file takes it, and how often it must be repeated where the file fixes its batch."""
    fixed = [axis if isinstance(axis, int) and axis > 0 else None for axis in declared]
    if None not in fixed:
        whole = [axis for axis in fixed if axis is not None]
        return whole, max(1, math.prod(whole) // size)
    if own is not None and len(own) == len(fixed):
        return list(own), 1
    if own is not None and len(own) + 1 == len(fixed):
        return [1, *own], 1
    known = math.prod(axis for axis in fixed if axis is not None)
    made = [1 if axis is None else axis for axis in fixed]
    if size != known:  # one open axis besides that of the batch
        made[max(place for place, axis in enumerate(fixed) if axis is None)] = size // known
    return made, 1
