"""One property of one network, decided for `hauberk verify`: read, proven or refuted, checked and spelled."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hauberk.certify._property import Verdict
from hauberk.certify.foreign import Foreign
from hauberk.certify.verify import verify
from hauberk.certify.vnnlib import Instance, read_property
from hauberk.cli.guard import one_line
from hauberk.cli.second_opinion import SecondOpinion
from hauberk.errors import ModelError
from hauberk.layered.from_onnx import from_onnx
from hauberk.layered.graph import Graph

__all__ = ["Answer", "decided"]


@dataclass(frozen=True)
class Answer:
    """A verdict, and what a person and a judge want to see of it.

    Attributes:
        limit: the seconds that there were.
        prepared: the seconds that reading took.
        witness: as VNN-COMP writes it; empty unless violated.
        checked: who stands for it.
    """

    verdict: Verdict
    limit: float
    prepared: float
    witness: str = ""
    checked: str = ""

    @property
    def word(self) -> str:
        """The verdict as VNN-COMP says it: unsat, sat, timeout or unknown."""
        late = "timeout" if self.verdict.seconds >= self.limit else "unknown"
        return {"holds": "unsat", "violated": "sat", "unknown": late}[self.verdict.status]

    @property
    def line(self) -> str:
        """The verdict for people; its first word is the verdict."""
        found = self.verdict
        parts = [found.method, f"{found.domains:,} parts" if found.domains else "", f"{found.seconds:.2f} s"]
        told = ", ".join(part for part in (*parts, self.checked) if part)
        return one_line(f"{found.status} ({told}){': ' + found.reason if found.reason else ''}")


def decided(instance: Instance, seed: int, foreign: Foreign | None = None) -> Answer:
    """What is found within the instance's seconds, by `foreign` if given.

    Raises:
        HauberkError: the network or the property cannot be read, or do not belong together.
    """
    began = time.perf_counter()
    asked = read_property(instance.property)
    graph = _graph(instance, foreign)
    outputs = SecondOpinion(instance.net, graph)
    prepared = time.perf_counter() - began

    def confirm(x: NDArray[np.float32]) -> bool:
        return asked.violated(x, outputs(x))

    checked = ""
    if foreign is not None:
        verdict = foreign(instance.net, instance.property, asked, outputs, seconds=instance.timeout)
        checked = "a proof that hauberk has not checked" if verdict.status == "holds" else ""
    else:
        assert graph is not None  # only other verifiers do without
        verdict = verify(graph, asked, seconds=instance.timeout, seed=seed, confirm=confirm)
    if verdict.witness is None:
        return Answer(verdict, instance.timeout, prepared, "", checked)
    spelled = _spelled(verdict.witness, outputs(verdict.witness))
    return Answer(verdict, instance.timeout, prepared, spelled, f"checked by {outputs.name}")


def _graph(instance: Instance, foreign: Foreign | None) -> Graph | None:
    """Our reading of the network; another verifier may read what we cannot."""
    try:
        return from_onnx(instance.net)
    except ModelError:
        if foreign is None or not instance.net.is_file():
            raise
        return None


def _spelled(x: NDArray[np.float32], y: NDArray[np.float32]) -> str:
    """The witness as VNN-COMP writes it."""
    values = [f"(X_{i} {value:.9g})" for i, value in enumerate(x.flatten().tolist())]
    values += [f"(Y_{i} {value:.9g})" for i, value in enumerate(y.flatten().tolist())]
    return "(" + "\n ".join(values) + ")"
