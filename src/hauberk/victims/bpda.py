"""Backward pass differentiable approximation: the forward as it is, another derivative for the parts that have none.

    forward: f(x)          backward: (dg/dx)(x)^T v,   g differentiable, g(x) ~ f(x)

for each part f of the model that has a substitute g; g is the identity wherever f only cleans or rounds its input.

Source: Athalye, Carlini, Wagner 2018, "Obfuscated gradients give a false sense of security: circumventing defenses to
adversarial examples", arXiv:1802.00420, section 4.1.

**Differs from the paper:**

- With "auto" the parts are found, not named. Functions of torch that drop the derivative get one (`straight`; comparisons only
  where the gradient is dead without). Modules that still let none through (`dead`) are replaced by the identity where input and
  output have the same shape, and where the output has more values for each one (an encoding in levels, such as a thermometer)
  by the straight line through each, fitted on the first examples.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows, flat
from hauberk.errors import AccessError, ModelError, SettingError, UnknownNameError
from hauberk.threat import Access
from hauberk.victims.chance import private_chance
from hauberk.victims.check import probe
from hauberk.victims.dead import Part, dead_modules, dead_parts, replaced
from hauberk.victims.fingerprint import digest
from hauberk.victims.straight import StraightThrough, exactly, linked
from hauberk.victims.torch import TorchVictim
from hauberk.victims.wrap import wrap

__all__ = ["BpdaVictim", "Substitute", "bpda", "dead_modules"]

Substitute: TypeAlias = nn.Module | Callable[[Tensor], Tensor] | Literal["identity"]
"""What stands for a module in the backward pass: it is given the module's first input, and gives the shape of its output."""
_LOOKED = 8  # examples that "auto" looks at: as many as a probe asks
_ROUNDS = 3
_LEVELS = ("functions without one", "functions without one, and comparisons,")


@final
class BpdaVictim:
    """A PyTorch victim whose backward pass goes through substitutes; see `bpda`.

    Attributes:
        inner: the victim whose answers these are.
    """

    forwards_per_query = 1

    def __init__(self, inner: TorchVictim, substitutes: Mapping[str, Substitute] | None) -> None:
        self.inner, self.automatic = inner, substitutes is None
        self.name, self.bounds, self.device, self.dtype = inner.name, inner.bounds, inner.device, inner.dtype
        self.channels = inner.channels
        self._given: dict[str, Substitute] = dict(substitutes or {})
        self._substitutes: dict[str, Callable[[Tensor], Tensor]] = {
            name: _callable(name, value, inner) for name, value in self._given.items()
        }
        self._words = {name: _word(value) for name, value in self._given.items()}
        self._straight: str | None = None
        self._settled = not self.automatic
        self._notes: list[str] = []

    @property
    def access(self) -> Access:
        if self.inner.access < Access.SCORES:
            return Access.LABELS
        return Access.SCORES if self._settled and self._blind else Access.GRADIENTS

    @property
    def classes(self) -> int | None:
        return self.inner.classes

    @property
    def substitutes(self) -> dict[str, str]:
        """What stands for which module in the backward pass, in words; of "auto", once an example was seen."""
        return dict(self._words)

    @property
    def notes(self) -> tuple[str, ...]:
        stand = ", ".join(f"{word} for {name or 'the model itself'}" for name, word in self._words.items())
        steps = f"{self._straight} pass the derivative straight through" if self._straight else ""
        what = "; ".join(part for part in (steps, stand) if part)
        mine = (f"Gradients are those of substitutes, answers are the model's own: {what}.",) if what else ()
        return (*self.inner.notes, *mine, *self._notes)

    @property
    def description(self) -> dict[str, Any]:
        return {
            **self.inner.description,
            "bpda": {
                "substitutes": self.substitutes,
                "straight_through": self._straight is not None,
                "comparisons": self._straight == _LEVELS[-1],
            },
        }

    def __repr__(self) -> str:
        return f"BpdaVictim({self.inner!r}, {'auto' if self.automatic else self.substitutes})"

    def fingerprint(self) -> str:
        return digest("bpda", self.inner.fingerprint(), self.automatic, self._given)

    def left(self, rows: Rows) -> PerExample:
        return self.inner.left(rows)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes, the model's own. One forward per row."""
        self._ready(x)
        return self.inner.labels(x, rows)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores, the model's own. One forward per row."""
        self._ready(x)
        return self.inner.logits(x, rows)

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The model's own scores, and the function from a cotangent to the gradient through the substitutes.

        One forward per row, one backward per row and call; the substitutes' own work is not counted.

        Raises:
            AccessError: no gradient comes back all the same.
            ModelError: a substitute gives another shape than the module it stands for.
        """
        self._ready(x)
        with self._opened(x):
            leaf, logits = self.inner.attached(x)
        return self.inner.pulled(leaf, logits)

    @property
    def _blind(self) -> bool:
        return any(note.startswith("No gradient") for note in self._notes)

    @contextmanager
    def _opened(self, x: Batch) -> Iterator[StraightThrough | None]:
        with self.inner.opened(x) as net:
            mode = self._mode(net)
            with _installed(net, self._substitutes, mode), mode or nullcontext():
                yield mode

    def _ready(self, x: Batch) -> None:
        if self._settled or not len(x):
            return
        x = x[:_LOOKED].detach()
        rows = torch.arange(len(x), device=x.device)
        with private_chance("bpda", device=self.device):
            self.inner.labels(x[:1], rows[:1])  # settles what it answers
            self._settled = True
            if self.inner.access >= Access.SCORES:
                self._look(x, rows)

    def _look(self, x: Batch, rows: Rows) -> None:
        """Do as little as is needed: nothing; straight-through functions; comparisons too; substitutes, from the inside out."""
        with private_chance("bpda", device=self.device):
            plain = self.inner.logits(x, rows)
        dead = {part.name for part in self._dead(x)}
        for level in _LEVELS:
            before, self._straight = self._straight, level
            answered, used = self._tried(x, rows)
            if answered is not None and not torch.allclose(answered, plain, rtol=1e-4, atol=1e-5, equal_nan=True):
                self._straight = before
                self._notes.append("Some functions have no derivative still: with one, the model answered differently.")
                break
            found = {part.name for part in self._dead(x)}
            if not used or (found and found == dead):
                self._straight = before  # nothing was gained
                continue
            dead = found
            if not dead:
                break
        for _ in range(_ROUNDS):
            fresh = [part for part in self._dead(x) if part.name not in self._substitutes]
            chosen = {part.name: choice for part in fresh if (choice := _choose(part)) is not None}
            if not chosen:
                break
            for name, (word, function) in chosen.items():
                self._words[name], self._substitutes[name] = word, function
        if self._tried(x, rows)[0] is None:
            self._notes.append("No gradient flows back to the input, substitutes or not: the model gives scores only.")

    def _dead(self, x: Batch) -> list[Part]:
        return dead_parts(self.inner, x, self._mode, lambda net, own: _installed(net, self._substitutes, own))

    def _mode(self, net: nn.Module) -> StraightThrough | None:
        if self._straight is None:
            return None
        return StraightThrough(net.buffers(), comparisons=self._straight == _LEVELS[-1])

    def _tried(self, x: Batch, rows: Rows) -> tuple[Logits | None, bool]:
        """The scores as a pullback gives them, or None where no gradient comes back; and whether functions were changed."""
        mode: StraightThrough | None = None
        try:
            with private_chance("bpda", device=self.device), self._opened(x) as mode:
                leaf, attached = self.inner.attached(x)
            logits, vjp = self.inner.pulled(leaf, attached)
            spread = (torch.arange(logits.shape[1], device=x.device) - 0.37).to(logits).expand_as(logits)
            gradient = flat(vjp(spread)).nan_to_num(0.0)
        except (AccessError, ModelError):
            return None, mode is not None and mode.used
        return (logits if bool((gradient != 0).any()) else None), mode is not None and mode.used


def bpda(model: Any, substitutes: Mapping[str, Substitute] | Literal["auto"] = "auto") -> BpdaVictim:
    """A victim that answers exactly as `model` does, with gradients through substitutes for parts that have none of their own.

    To average over chance as well, wrap it once more: `eot(bpda(model))`.

    Args:
        model: a `TorchVictim`, or an `nn.Module` that `hauberk.wrap` takes with its defaults.
        substitutes: names of submodules, as `model.named_modules()` has them, and what stands for each in the backward pass:
            "identity", an `nn.Module` (copied), or a function of the submodule's first input. Or "auto": find them; see the
            module's docstring. `victim.substitutes` says what was found.

    Raises:
        AccessError: `model` is no PyTorch module, so that there is nothing to substitute in.
        UnknownNameError: it has no submodule of that name.
        SettingError: a substitute that is none of these.
    """
    victim = wrap(model)
    if not isinstance(victim, TorchVictim):
        raise AccessError(
            f"bpda needs a PyTorch module, got {type(victim).__name__} {victim.name!r}; wrap the bare module first, then "
            "average (eot(bpda(model))), or use an attack that needs scores only"
        )
    if substitutes == "auto":
        return BpdaVictim(victim, None)
    if not isinstance(substitutes, Mapping) or not substitutes:
        raise SettingError(f"substitutes is 'auto' or maps names of submodules to substitutes, got {substitutes!r}")
    known = victim.parts
    for name in substitutes:
        if name not in known:
            raise UnknownNameError.of("submodule", str(name), known)
    return BpdaVictim(victim, substitutes)


@contextmanager
def _installed(
    net: nn.Module, substitutes: Mapping[str, Callable[[Tensor], Tensor]], mode: StraightThrough | None
) -> Iterator[None]:
    """The net with other backwards for some of its parts."""
    parts = dict(net.named_modules(remove_duplicate=False))
    with ExitStack() as stack:
        for name, function in substitutes.items():
            part = parts[name]
            stack.enter_context(replaced(part, _around(name, part.forward, function, mode)))
        yield


def _around(
    name: str, own: Callable[..., Any], function: Callable[[Tensor], Tensor], mode: StraightThrough | None
) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        exact = exactly(mode, lambda: own(*args, **kwargs))
        if not torch.is_grad_enabled() or not (isinstance(args[0], Tensor) and args[0].requires_grad):
            return exact
        smooth = function(args[0])
        if not isinstance(exact, Tensor) or not isinstance(smooth, Tensor) or exact.shape != smooth.shape:
            shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in (exact, smooth)]
            raise ModelError(
                f"the substitute for {name!r} must give what it stands for, {shapes[0]}, got {shapes[1]}; mend the function"
            )
        return linked(exact, smooth)

    return forward


def _callable(name: str, value: Any, victim: TorchVictim) -> Callable[[Tensor], Tensor]:
    if isinstance(value, nn.Module):
        net = copy.deepcopy(value).eval().to(device=victim.device, dtype=victim.dtype)
        return net.requires_grad_(False)
    if isinstance(value, str) and value == "identity":
        return _same
    if callable(value) and not isinstance(value, type):
        function: Any = value
        return function
    raise SettingError(f"the substitute for {name!r} is 'identity', a module or a function, got {value!r}")


def _word(value: Substitute) -> str:
    if isinstance(value, str):
        return value
    return type(value).__name__ if isinstance(value, nn.Module) else getattr(value, "__qualname__", repr(value))


def _same(x: Tensor) -> Tensor:
    return x


def _choose(part: Part) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """A substitute for a dead part that was not named; None where nothing stated fits."""
    x, answered = part.given, part.answered
    if answered.shape == x.shape:
        return "identity", _same
    levels = answered[0].numel() // max(1, x[0].numel()) if len(x) else 0
    if levels < 2 or levels * x[0].numel() != answered[0].numel():
        return None
    best: tuple[float, Callable[[Tensor], Tensor]] | None = None
    for axis in range(1, x.ndim + 1):
        fitted, error = _line(x, answered, axis, levels)
        if best is None or error < best[0]:
            best = error, fitted
    return None if best is None else ("a straight line for each level", best[1])


def _line(x: Tensor, answered: Tensor, axis: int, levels: int) -> tuple[Callable[[Tensor], Tensor], float]:
    """out[..., l, ...] ~ slope_l x + offset_l with the levels on a new axis, by least squares; and its squared error."""
    shape = (*x.shape[:axis], levels, *x.shape[axis:])
    target = answered.to(x.dtype).reshape(shape).movedim(axis, 0).reshape(levels, -1)
    values = x.reshape(1, -1)
    centred = values - values.mean()
    slope = (target * centred).sum(dim=1) / (centred**2).sum().clamp_min(torch.finfo(x.dtype).tiny)
    offset = target.mean(dim=1) - slope * values.mean()
    error = float(((slope[:, None] * values + offset[:, None] - target) ** 2).sum())
    wide = (levels, *(1,) * (x.ndim - axis))

    def line(given: Tensor) -> Tensor:
        out = given.unsqueeze(axis) * slope.reshape(wide) + offset.reshape(wide)
        return out.reshape(len(given), *answered.shape[1:])

    return line, error
