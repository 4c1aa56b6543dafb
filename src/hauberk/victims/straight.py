"""Straight-through gradients for steps that have none: a mode under which a forward gives the same numbers, and a backward passes.

    forward: f(x)         backward: the derivative of a differentiable g with g(x) ~ f(x), mostly of g(x) = x

`StraightThrough` watches the functions that torch runs in a user's `forward` and gives a derivative to those that drop it:
rounding, signs, comparisons, `argmax`, casts to whole numbers and the arithmetic on them, `detach`, `no_grad`, a way through
numpy and back, and a softmax so sure of itself that its derivative is rounded to 0.

Sources: Bengio, Leonard, Courville 2013, "Estimating or propagating gradients through stochastic neurons", arXiv:1308.3432 (the
identity for a threshold); Athalye, Carlini, Wagner 2018, arXiv:1802.00420, section 4.1 (any differentiable substitute).

A tensor of whole numbers cannot be part of a graph. It carries a *twin*: a floating tensor of the same numbers that is part of
it; what is computed from the whole numbers is computed from the twin once more, for the backward alone.
"""

from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Link", "StraightThrough", "exactly"]

T = TypeVar("T")
_FLAT = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "bernoulli"}
"""Elementwise, floating to floating, with a derivative that is 0 or absent."""
_ABOVE = {"gt", "greater", "ge", "greater_equal", "__gt__", "__ge__"}
_BELOW = {"lt", "less", "le", "less_equal", "__lt__", "__le__"}
_CASTS = {"to", "type", "type_as", "int", "long", "byte", "short", "char", "bool", "bucketize"}
_AS_ANOTHER = {
    "to",
    "type_as",
    "expand_as",
    "view_as",
    "reshape_as",
}  # of their second argument they read the form only
_NOT = {"logical_not", "bitwise_not", "__invert__"}
_DIVIDE = {"floor_divide", "__floordiv__"}
_ESCAPES = {"numpy", "__array__"}
_SQUASH = {"sigmoid", "tanh"}
_MAKERS = {"tensor", "as_tensor", "asarray"}
_DETACH = {"detach", "detach_"}
_RANDOM = {"dropout", "rand_like", "randn_like", "multinomial", "normal", "poisson", "feature_dropout", "alpha_dropout"}
_TWIN, _KNOWN, _LOG = "_hauberk_twin", "_hauberk_known", "_hauberk_log"


class Link(torch.autograd.Function):
    """The first argument, with the derivative of the second, which has the same shape."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, smooth: Tensor) -> Tensor:  # noqa: ARG004  # torch fixes the signature
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ARG004  # as above
        return None, grads[0]


def linked(exact: Tensor, smooth: Tensor) -> Tensor:
    """`exact` with the derivative of `smooth`, in the dtype of `smooth` where `exact` is not floating."""
    exact = exact.detach()
    if not exact.is_floating_point():
        exact = exact.to(smooth.dtype)
    if smooth.dtype != exact.dtype:
        smooth = smooth.to(exact.dtype)
    return Link.apply(exact, smooth)  # type: ignore[no-any-return]


class StraightThrough(TorchFunctionMode):
    """While it is entered, once, torch functions that drop the derivative keep it; see the module.

    The numbers do not change, and neither do the draws of random functions.

    Args:
        known: the constants of the model, which did not come from numpy in its forward.
        comparisons: False leaves x > t without a derivative, as it is where it only chooses between ways that have one.

    Attributes:
        used: some function was given a derivative.
    """

    def __init__(self, known: Iterable[Tensor] = (), *, comparisons: bool = True) -> None:
        super().__init__()
        self.comparisons, self.used = comparisons, False
        self.paused = 0
        self._escaped: list[Tensor] = []
        _mark(list(known))

    def __enter__(self) -> Self:
        # a Function of the user's own is run by torch's C++, out of sight of this mode: only its `apply` can be watched
        self._apply = vars(torch.autograd.Function)["apply"]
        torch.autograd.Function.apply = classmethod(self._applied)  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:  # noqa: PYI036  # torch leaves these untyped
        torch.autograd.Function.apply = self._apply
        super().__exit__(*raised)

    def _applied(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """What a Function of the user's own gives, joined to its input where its backward gives nothing."""
        result = self._apply.__func__(function, *args, **kwargs)
        given = next(filter(_live, args), None)
        if self.paused or function is Link or given is None or not isinstance(result, Tensor):
            return result
        if result.shape != given.shape or not result.is_floating_point() or not _is_dead(result, given):
            return result
        self.used = True
        return linked(result, given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.paused or name == "_set_grad_enabled":
            return func(*args, **kwargs)
        if name == "__get__":  # an attribute: only `data` is a tensor that should have a derivative
            data = getattr(func, "__self__", None) is Tensor.data
            self.used |= data and _live(args[0])
            return args[0].clone() if data and _live(args[0]) else func(*args, **kwargs)
        self.used |= not torch.is_grad_enabled() and any(map(_live, _tensors(args)))
        with torch.enable_grad():
            args, kwargs = self._adopted(args), {key: self._adopted(value) for key, value in kwargs.items()}
            if name in _ESCAPES:
                return self._escape(func, args, kwargs)
            result = self._run(func, name, args, kwargs)
            self.used |= isinstance(result, Tensor) and type(result.grad_fn).__name__ == "LinkBackward"
            made_of_arrays = name in _MAKERS and not _tensors(args)
            return result if made_of_arrays and self._escaped else _mark(result)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name in _DETACH and first is not None and _source(first) is not None:
            twin = getattr(first, _TWIN, None)
            self.used = True
            return _with_twin(func(*args, **kwargs), twin) if twin is not None else first.clone()
        result = func(*args, **kwargs)
        if isinstance(result, tuple | list) and first is not None and hasattr(first, _TWIN):
            twins = func(getattr(first, _TWIN), *args[1:], **kwargs)  # unbind, split, chunk, max along an axis
            pairs = zip(result, twins, strict=True)
            return type(result)(_joined(a, b) if _live(b) else a for a, b in pairs) if len(twins) else result
        if not isinstance(result, Tensor) or name in _RANDOM:
            return result
        source = None if first is None else _source(first)
        if name.rstrip("_") in _FLAT and source is not None and result.shape == source.shape:
            if name.endswith("_"):
                return result  # in place: the graph of its own input is gone, and what it holds is what was asked
            return _joined(result, source)
        if name in _CASTS and not result.is_floating_point():
            found = source if source is not None else _cast_source(name, args)
            return result if found is None or found.shape != result.shape else _joined(result, found)
        if name in _ABOVE | _BELOW and len(args) > 1:
            if not self.comparisons:
                return result
            return self._compared(result, args, 1 if name in _ABOVE else -1)
        if source is not None and name in _NOT and result.dtype == torch.bool:
            return _joined(result, 1 - source)
        if name == "argmax" and source is not None:
            return _argmax(result, source, args, kwargs)
        if name == "one_hot" and first is not None:
            return _one_hot(result, first)
        if name in _DIVIDE or (name in {"div", "divide"} and kwargs.get("rounding_mode")):
            left, right = (_carrier(value) for value in args[:2])
            return _joined(result, left / right) if _live(left) or _live(right) else result
        if name in {"__rshift__", "bitwise_right_shift"} and source is not None and not isinstance(args[1], Tensor):
            return _joined(result, source / 2 ** args[1])
        if name in {"__lshift__", "bitwise_left_shift"} and source is not None and not isinstance(args[1], Tensor):
            return _joined(result, source * 2 ** args[1])
        if name in {"__and__", "bitwise_and"} and source is not None and not isinstance(args[1], Tensor):
            return _joined(result, source)
        if name == "where" and len(args) == 3 and isinstance(args[0], Tensor):
            return _where(result, *args)
        if name == "softmax" and source is not None and result.ndim == 2:
            return _soft(result, source, args, kwargs)
        if name in {"clamp_min", "clamp", "log"} and hasattr(first, _LOG):
            return _logged(result, name, getattr(first, _LOG))
        if name in _SQUASH and source is not None and _stuck(result, low=0.0 if name == "sigmoid" else -1.0):
            return _joined(result, source)
        return self._again(result, func, args, kwargs, result_like_first=name in _AS_ANOTHER)

    def _compared(self, result: Tensor, args: Any, sign: int) -> Tensor:
        left, right = (_carrier(value) for value in args[:2])
        return _joined(result, sign * (left - right)) if _live(left) or _live(right) else result

    def _again(self, result: Tensor, func: Any, args: Any, kwargs: Any, *, result_like_first: bool = False) -> Tensor:
        """The result with the derivative through the twins of its whole-number arguments, where nothing else carries one."""
        flat = _tensors(args[0] if result_like_first else (args, kwargs))
        if not any(hasattr(value, _TWIN) for value in flat) or any(value.requires_grad for value in flat):
            return result
        try:
            smooth = func(*_map(_or_twin, args), **_map(_or_twin, kwargs))
        except (RuntimeError, TypeError, IndexError, NotImplementedError):  # a function of whole numbers only
            return result
        if not isinstance(smooth, Tensor) or not _live(smooth) or smooth.shape != result.shape:
            return result
        return _joined(result, smooth)

    def _escape(self, func: Any, args: Any, kwargs: Any) -> Any:
        """To numpy: remember where from, for the tensor that will come back."""
        source = _source(args[0])
        if source is not None:
            self._escaped.append(source)
        return func(args[0].detach(), *args[1:], **kwargs)

    def _adopted(self, value: Any) -> Any:
        """The arguments, with tensors that came from numpy joined to what went there before, in the same order."""
        if not self._escaped:
            return value
        if isinstance(value, Tensor):
            return value if not _foreign(value) else self._returned(value)
        if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
            adopted = [self._adopted(part) for part in value]
            return type(value)(*adopted) if hasattr(value, "_fields") else type(value)(adopted)
        return tuple(self._adopted(part) for part in value) if isinstance(value, tuple) else value

    def _returned(self, value: Tensor) -> Tensor:
        for place, source in enumerate(self._escaped):
            smooth = _laid_out(source, value)
            if smooth is not None:
                del self._escaped[place]
                self.used = True
                result = linked(value, smooth) if value.is_floating_point() else value
                return _mark(result if value.is_floating_point() else _with_twin(result, linked(value, smooth)))
        return value


def exactly(mode: StraightThrough | None, function: Callable[[], T]) -> T:
    """What a function gives without gradients, and without the mode's interference."""
    if mode is None:
        with torch.no_grad():
            return function()
    mode.paused += 1
    try:
        with torch.no_grad():
            return function()
    finally:
        mode.paused -= 1


def _live(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_dead(result: Tensor, given: Tensor) -> bool:
    """A vector-Jacobian product of this step alone is absent, or zero or not finite for half of the examples or more."""
    if not result.requires_grad:
        return True
    cotangent = (torch.arange(result.numel(), device=result.device) % 7 - 2.5).to(result.dtype).reshape(result.shape)
    try:
        gradients: Any = torch.autograd.grad(result, given, cotangent, retain_graph=True, allow_unused=True)
    except RuntimeError:  # a backward that fails, or is not there
        return True
    found = gradients[0]
    if found is None:
        return True
    rows = found.reshape(len(found), -1) if found.ndim else found.reshape(1, 1)
    lost = (rows == 0).all(dim=1) | ~rows.isfinite().all(dim=1)
    return bool(len(rows)) and float(lost.double().mean()) >= 0.5


def _source(value: Tensor) -> Tensor | None:
    """What carries the derivative of a tensor: itself, its twin, or nothing."""
    return value if value.requires_grad else getattr(value, _TWIN, None)


def _or_twin(value: Any) -> Any:
    return getattr(value, _TWIN, value) if isinstance(value, Tensor) else value


def _carrier(value: Any) -> Any:
    """What carries the derivative of an operand, or the operand where nothing does."""
    found = _source(value) if isinstance(value, Tensor) else None
    return value if found is None else found


def _with_twin(value: Tensor, twin: Tensor) -> Tensor:
    setattr(value, _TWIN, twin)
    return value


def _joined(result: Tensor, smooth: Tensor) -> Tensor:
    """The result with the derivative of `smooth`: in itself where it is floating, in its twin where it is not."""
    if smooth.shape != result.shape:
        smooth = smooth.expand(result.shape)
    return linked(result, smooth) if result.is_floating_point() else _with_twin(result, linked(result, smooth))


def _cast_source(name: str, args: Any) -> Tensor | None:
    """`bucketize` names the input first; a cast of something without a source has none."""
    return _source(args[0]) if name == "bucketize" and isinstance(args[0], Tensor) else None


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_map(change, part) for part in value)
    return change(value)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _mark(value: Any) -> Any:
    """Note that a tensor was made under the mode, so that one from numpy can be told."""
    for tensor in _tensors(value):
        setattr(tensor, _KNOWN, True)
    return value


def _foreign(value: Tensor) -> bool:
    """Neither made under the mode, nor part of the model or of a graph."""
    return not (value.requires_grad or hasattr(value, _KNOWN) or isinstance(value, torch.nn.Parameter))


def _laid_out(source: Tensor, value: Tensor) -> Tensor | None:
    """The source in the shape of the value: as it is, without axes of length 1, or with the channels moved."""
    if source.shape == value.shape:
        return source
    if [n for n in source.shape if n != 1] == [n for n in value.shape if n != 1]:
        return source.reshape(value.shape)
    for move in ((-3, -1), (-1, -3)):
        if source.ndim == value.ndim >= 3 and source.movedim(*move).shape == value.shape:
            return source.movedim(*move)
    return None


def _argmax(result: Tensor, source: Tensor, args: Any, kwargs: Any) -> Tensor:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    if not isinstance(dim, int):
        return result
    chances = source.softmax(dim)
    index = torch.arange(source.shape[dim], device=source.device, dtype=source.dtype)
    mean = (chances.movedim(dim, -1) * index).sum(-1)
    twin = linked(result, mean.unsqueeze(dim) if keep else mean)
    if not keep:
        twin._hauberk_chances = chances.movedim(dim, -1)  # type: ignore[attr-defined]  # what `one_hot` makes of it
    return _with_twin(result, twin)


def _one_hot(result: Tensor, index: Tensor) -> Tensor:
    twin = getattr(index, _TWIN, None)
    if twin is None:
        return result
    chances = getattr(twin, "_hauberk_chances", None)
    if chances is None or chances.shape != result.shape:
        places = torch.arange(result.shape[-1], device=twin.device, dtype=twin.dtype)
        chances = (-((twin.unsqueeze(-1) - places) ** 2)).softmax(-1)
    return _joined(result, chances)


def _where(result: Tensor, condition: Tensor, a: Any, b: Any) -> Tensor:
    """Where both branches are constant, the condition carries the derivative, times the step between them."""
    twin = getattr(condition, _TWIN, None)
    if twin is None or _live(a) or _live(b) or not result.is_floating_point():
        return result
    return linked(result, (twin * (a - b)).expand(result.shape).to(result.dtype))


def _stuck(result: Tensor, low: float) -> bool:
    """Half of the values or more are so near the ends that the derivative is rounded to 0."""
    values = result.detach()
    return values.numel() > 0 and float(((values == low) | (values == 1)).double().mean()) >= 0.5


def _soft(result: Tensor, source: Tensor, args: Any, kwargs: Any) -> Tensor:
    """A softmax over classes remembers its logarithm, which does not round to anything."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else 1)
    if dim not in (1, -1):
        return result
    log = source.log_softmax(1)
    if float((result.detach().amax(1) >= 1 - 1e-6).double().mean()) >= 0.5:
        result = linked(result, log)  # taken as it is, it would have no derivative
    setattr(result, _LOG, log)
    return result


def _logged(result: Tensor, name: str, log: Tensor) -> Tensor:
    if name == "log":
        return linked(result, log.to(result.dtype))
    setattr(result, _LOG, log)
    return result
