"""Any function on numpy arrays as a victim: it answers scores or labels, and has no gradients."""

from collections.abc import Callable
from typing import Any, final

import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import HauberkError, SettingError
from hauberk.threat import Access
from hauberk.victims.answers import Answers, Output
from hauberk.victims.check import layout_hint, probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.preprocess import Normalisation
from hauberk.victims.victim import trouble, unlimited

__all__ = ["ArrayVictim"]


@final
class ArrayVictim:
    """A function from a numpy batch (B, *shape) to scores (B, classes), one score (B,), or whole-number labels (B,).

    Its fingerprint is that of its code, its defaults, and the values and objects it refers to.

    Args:
        function: called with its own copy of each batch.
        bounds, normalisation, output, classes, name: see `hauberk.victims.wrap`.
        dtype: of the arrays it is given.
    """

    forwards_per_query = 1

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        bounds: tuple[float, float],
        normalisation: Normalisation,
        output: Output,
        device: torch.device,
        dtype: torch.dtype,
        classes: int | None,
        name: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        if device.type != "cpu":
            raise SettingError(
                f"a function on numpy arrays is asked on the CPU, got device={str(device)!r}; leave device out"
            )
        self.name, self.bounds, self.device, self.dtype = name, bounds, device, dtype
        self._function, self._normalisation = function, normalisation
        self._answers = Answers(name, output, classes, dtype, device)
        self._notes = (*notes, *normalisation.notes)
        self._digest = digest("array", function, bounds, normalisation.description, output, str(dtype))

    @property
    def access(self) -> Access:
        """Scores, until the function has answered labels."""
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
            "kind": "array",
            "type": f"{self._function.__module__}.{getattr(self._function, '__qualname__', type(self._function).__qualname__)}",
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
            AccessError: the function answers labels only.
            ModelError: the function failed, or answered something else than before.
        """
        return self._answers.logits(self._ask(x), len(x))

    def _ask(self, x: Batch) -> torch.Tensor:
        array = self._normalisation(x.detach()).cpu().numpy().copy()
        try:
            answer = self._answers.pick(self._function(array)).detach()
        except HauberkError:
            raise
        except Exception as error:  # the function is the user's code: whatever it raises becomes one sentence
            raise trouble(self.name, x, error, layout_hint(self, x)) from error
        if not self._answers.settled and len(x):
            self._answers.settle(answer, len(x))
        return answer
