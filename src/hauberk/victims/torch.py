"""PyTorch modules as victims: a private copy in eval mode, frozen, with batch norm folded; gradients of the input only.

What folding and channels-last strides bring, measured interleaved on ResNet-20 (batch 128, forward and input gradient, one
thread of a loaded CPU, median CPU milliseconds of 9): neither 401, channels-last 350, folded 294, both 232; at batch 16 they
are 48, 40, 26 and 24. With one input channel channels-last gains nothing (8.9 against 8.8 for the MNIST net), so it is used
from two channels on.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import AccessError, HauberkError, ModelError
from hauberk.threat import Access
from hauberk.victims.answers import Answers, Output, looks_like_probabilities
from hauberk.victims.chance import private_chance
from hauberk.victims.check import layout_hint, probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.fold import Folding, final_squash, fold_batch_norms
from hauberk.victims.preprocess import Normalisation
from hauberk.victims.victim import first_line, trouble, unlimited

__all__ = ["FixedBatch", "TorchVictim"]

_SETTLING = 32
"""How many rows of the first batch the checks look at."""


class FixedBatch(nn.Module):
    """Runs a net that takes batches of one size only: in pieces, the last filled up by repeating its last row."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size, self.training = net, size, net.training

    def forward(self, x: Tensor) -> Tensor:
        """The answers of `net`, which must be one tensor with a row per example."""
        pieces = []
        for piece in x.split(self.size):
            missing = self.size - len(piece)
            full = torch.cat((piece, piece[-1:].expand(missing, *piece.shape[1:]))) if missing else piece
            pieces.append(self.net(full)[: len(piece)])
        return torch.cat(pieces)


@final
class TorchVictim:
    """An `nn.Module` (also TorchScript, or the module of a `torch.export` program) that can be attacked with gradients.

    The module given is copied and left as it is. Of the first batch at most 32 rows are asked up to three times more, uncounted,
    to check the folding, to recognise probabilities and to see that gradients flow.

    Args:
        module: answers a batch (B, *shape) with scores.
        bounds, normalisation, output, classes, name: see `hauberk.victims.wrap`.
        device, dtype: where the copy is moved, and its precision.
        fold: fold batch norms.
        compile: True, or the name of a backend, to run the copy through `torch.compile`; batches are then filled up to powers
            of two, so that few sizes are compiled.

    Raises:
        ModelError: the module cannot be copied.
    """

    forwards_per_query = 1

    def __init__(
        self,
        module: nn.Module,
        *,
        bounds: tuple[float, float],
        normalisation: Normalisation,
        output: Output,
        device: torch.device,
        dtype: torch.dtype,
        classes: int | None,
        name: str,
        fold: bool = True,
        compile: bool | str = False,  # noqa: A002  # the word torch users know
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.bounds, self.device, self.dtype = name, bounds, device, dtype
        self._normalisation, self._compile = normalisation, compile
        self._answers = Answers(name, output, classes, dtype, device)
        self._notes = [*notes, *normalisation.notes]
        if module.training:
            self._notes.append("The model was in training mode: its private copy is evaluated in eval mode.")
        self._net = _private_copy(module, device, dtype)
        self._digest = digest("torch", self._net, bounds, normalisation.description, output, str(dtype))
        self._size = sum(parameter.numel() for parameter in self._net.parameters())
        self._plain = not isinstance(self._net, torch.jit.ScriptModule | torch.fx.GraphModule | FixedBatch)
        self._folding = fold_batch_norms(self._net) if fold and self._plain else Folding()
        self._notes += self._folding.notes
        self._kind = f"{type(module).__module__}.{type(module).__qualname__}"
        self.channels = _input_channels(self._net)
        self._channels_last = self._plain and dtype == torch.float32 and (self.channels or 1) > 1
        if self._channels_last:
            self._net = self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled: Callable[[Tensor], Any] | None = None
        self._fitted: tuple[torch.Size, Tensor, Tensor] | None = None
        self._access, self._settled, self._clone = Access.GRADIENTS, False, False

    @property
    def access(self) -> Access:
        return Access.LABELS if self._answers.kind == "labels" else self._access

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
            "kind": "torch",
            "type": self._kind,
            "parameters": self._size,
            "bounds": list(self.bounds),
            **self._normalisation.description,
            "output": getattr(output, "__qualname__", repr(output)) if callable(output) else output,
            "answers": self._answers.kind,
            "classes": self.classes,
            "folded": list(self._folding.names),
            "channels_last": self._channels_last,
            "compile": self._compile,
        }

    @property
    def net(self) -> nn.Module:
        """The private copy: read it, do not change it."""
        return self._net

    @property
    def normalisation(self) -> Normalisation:
        return self._normalisation

    @property
    def answers(self) -> Answers:
        return self._answers

    def __repr__(self) -> str:
        low, high = self.bounds
        classes = "" if self.classes is None else f", {self.classes} classes"
        precision, size = str(self.dtype).removeprefix("torch."), f"{self._size:,} parameters"
        return f"TorchVictim({self.name!r}, {size}{classes}, bounds ({low:g}, {high:g}), {precision} on {self.device})"

    def fingerprint(self) -> str:
        return self._digest

    def left(self, rows: Rows) -> PerExample:
        return unlimited(rows)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes. One forward per row."""
        self._ready(x)
        with torch.no_grad():
            return self._answers.labels(self._ask(x), len(x))

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores. One forward per row.

        Raises:
            AccessError: the model answers labels only.
            ModelError: the model failed, or answered something else than before.
        """
        self._ready(x)
        with torch.no_grad():
            return self._answers.logits(self._ask(x), len(x))

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The scores, detached, and the function from a cotangent (B, classes) to the gradient (B, *shape).

        The function can be called any number of times; the memory of the forward is held as long as it is. One forward per
        row, one backward per row and call.

        Raises:
            AccessError: the model answers labels only, or its answers do not depend on the input differentiably.
            ModelError: the model failed, or answered something else than before.
        """
        return self.pulled(*self.attached(x))

    def attached(self, x: Batch) -> tuple[Batch, Logits]:
        """A leaf with the values of x, and the scores as part of its graph. One forward per row.

        Raises:
            AccessError, ModelError: as `pullback`.
        """
        self._ready(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return leaf, self._answers.logits(self._ask(leaf), len(x))

    def pulled(self, leaf: Batch, logits: Logits) -> tuple[Logits, Callable[[Logits], Batch]]:
        """What `pullback` gives, from what `attached` gave."""
        if not logits.requires_grad:
            raise AccessError(
                f"the answers of {self.name!r} carry no gradient back to its input (a detach, no_grad or a step that has "
                "none); use an attack that needs scores only, or a threat with @scores"
            )

        def vjp(cotangent: Logits) -> Batch:
            try:
                gradients: Any = torch.autograd.grad(logits, leaf, cotangent, retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                raise trouble(
                    self.name, leaf, error, "its gradient cannot be computed; use a threat with @scores"
                ) from error
            return torch.zeros_like(leaf) if gradients[0] is None else gradients[0].contiguous()

        return logits.detach(), vjp

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the submodules, as in the module given; "" is the model itself."""
        return tuple(name for name, _ in self._net.named_modules(remove_duplicate=False))

    @contextlib.contextmanager
    def opened(self, x: Batch) -> Iterator[nn.Module]:
        """The private copy, not compiled, for a change of its forward that is taken back at the end; `x` are examples.

        Its parts have the names that they have in the module given.
        """
        self._ready(x)
        compiled, self._compiled = self._compiled, None
        try:
            yield self._net
        finally:
            self._compiled = compiled

    def _ask(self, x: Tensor) -> Tensor:
        """The part of the answer that holds the scores, still part of the graph of x."""
        if not self._normalisation.absent:
            mean, std = self._statistics(x)
            x = (x - mean) / std
        elif self._clone:
            x = x.clone()
        try:
            return self._answers.pick(self._net(x)) if self._compiled is None else self._ask_compiled(x)
        except HauberkError:
            raise
        except Exception as error:  # the model is the user's code: whatever it raises becomes one sentence
            raise trouble(self.name, x, error, layout_hint(self, x)) from error

    def _ask_compiled(self, x: Tensor) -> Tensor:
        assert self._compiled is not None
        n = len(x)
        missing = (1 << (n - 1).bit_length()) - n
        if missing:
            x = torch.cat((x, x[-1:].expand(missing, *x.shape[1:])))
        # donated buffers would forbid a second backward through one forward; the warning is about torch's own guards
        with functorch_config.patch(donated_buffer=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            return self._answers.pick(self._compiled(x))[:n]

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._fitted is None or self._fitted[0] != x.shape[1:]:
            self._fitted = (x.shape[1:], *self._normalisation.fit(x))
        return self._fitted[1], self._fitted[2]

    def _ready(self, x: Tensor) -> None:
        if not self._settled and len(x):
            self._settle(x[:_SETTLING].detach())

    def _settle(self, x: Tensor) -> None:
        """Find out what only a first answer can tell: does the folding hold, what do the answers mean, do gradients flow."""
        with torch.no_grad():
            given = x.clone()
            self._clone = False
            answer = self._replay(given)
            self._clone = not torch.equal(given, x)  # the model's first step works in place
            if self._folding.swaps:
                self._folding.undo()
                whole = self._replay(x)
                if _agree(whole, answer):
                    self._folding.do()
                else:
                    self._notes.append("Batch norms are not folded: the folded model would answer differently.")
                    self._folding, answer = Folding(), whole
                self._folding.swaps.clear()  # the unfolded layers are not needed any more
            self._answers.settle(self._unsquashed(x, answer), len(x))
        if self._answers.kind != "labels" and not self._gradients_flow(x[:2]):
            self._access = Access.SCORES
            self._notes.append("No gradient flows from the answers back to the input: the model gives scores only.")
        if self._compile:
            backend = self._compile if isinstance(self._compile, str) else "inductor"
            self._compiled = torch.compile(self._net, backend=backend, dynamic=False)
        self._settled = True

    def _replay(self, x: Tensor) -> Tensor:
        """An answer with the same random numbers at every call, the global random states put back."""
        with private_chance("settling", device=self.device):
            return self._ask(x)

    def _unsquashed(self, x: Tensor, answer: Tensor) -> Tensor:
        """The answer; where a last softmax or sigmoid module can be replaced by one that loses no precision, that one's."""
        if self._answers.kind not in (None, "probabilities") or not self._plain:
            return answer
        if answer.ndim not in (1, 2) or not looks_like_probabilities(answer):
            return answer
        swap = final_squash(self._net)
        if swap is None:
            return answer
        swap.do()
        scores = self._replay(x)
        back = scores.exp() if isinstance(swap.old, nn.Softmax) else scores.sigmoid()
        if not _agree(answer, back):
            swap.undo()
            return answer
        self._answers.kind = "logits"
        used = "log-probabilities" if isinstance(swap.old, nn.Softmax) else "logits"
        self._notes.append(
            f"The model ends in a {type(swap.old).__name__.lower()}, so its outputs are probabilities: its {used} are used as "
            "scores, which keeps every decision and the gradients; say output='logits' to attack the probabilities as they are."
        )
        return scores

    def _gradients_flow(self, x: Tensor) -> bool:
        with torch.enable_grad(), private_chance("settling", device=self.device):
            leaf = x.clone().requires_grad_()
            try:
                logits = self._answers.logits(self._ask(leaf), len(x))
                torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
            except (RuntimeError, ModelError):  # raised where the graph is cut, or has a step without a derivative
                return False
        return True


def _agree(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and torch.equal(a, b)
    slack = 1e-9 if a.dtype == torch.float64 else 1e-4
    size = max(1.0, float(a.abs().nan_to_num().max())) if a.numel() else 1.0
    return bool(torch.allclose(a, b, rtol=0.0, atol=slack * size, equal_nan=True))


def _private_copy(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A frozen copy in eval mode that shares nothing with the module."""
    if any(isinstance(tensor, nn.UninitializedParameter) for tensor in module.parameters()):
        raise ModelError(
            f"{type(module).__name__} has lazy layers without weights yet; call it once on an example before"
        )
    memo: dict[int, Any] = {}
    for part in module.modules() if not isinstance(module, torch.jit.ScriptModule) else ():
        for value in vars(part).values():  # a result kept as an attribute, as weight_norm does, is refused by deepcopy
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
        ):  # with gradients, the copies of TorchScript weights are no leaves
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, from copying an exported program
            net = copy.deepcopy(module, memo)
    except Exception as error:  # a user's __deepcopy__ or an attribute that cannot be copied
        raise ModelError(
            f"{type(module).__name__} cannot be copied: {type(error).__name__}: {first_line(error)}; "
            "remove the attribute that cannot be copied, or load the model from a file"
        ) from error
    with contextlib.suppress(NotImplementedError):  # the module of an exported program, whose mode was fixed at export
        net.eval()
    for parameter in net.parameters():  # one by one: TorchScript modules have no requires_grad_
        parameter.requires_grad_(False)
        parameter.grad = None
    return net.to(device=device, dtype=dtype)


def _input_channels(net: nn.Module) -> int | None:
    """What the first convolution or linear layer reads; None where another layer with weights comes first."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv3d | nn.Embedding):
            return None
    return None
