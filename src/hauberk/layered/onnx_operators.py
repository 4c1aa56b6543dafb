"""ONNX operators that compute, on live values: arithmetic, functions of one number, softmax, products of matrices."""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from hauberk.errors import ModelError
from hauberk.layered.onnx_call import Call
from hauberk.layered.onnx_file import Array
from hauberk.layered.onnx_live import ErfValue, Live, Value, Values
from hauberk.layered.ops import Scale, Softmax

__all__ = ["OPERATORS", "Operator", "Result", "add", "multiply"]

Result: TypeAlias = Value | list[Value]
Operator: TypeAlias = Callable[[Call], Result]


# ---- arithmetic


def add(values: Values, a: Array | Live, b: Array | Live) -> Array | Live:
    """a + b, broadcast against each other."""
    if isinstance(a, Live):
        return values.add(a, b) if isinstance(b, Live) else values.scale(a, shift=b)
    return values.scale(b, shift=a) if isinstance(b, Live) else np.add(a, b)


def multiply(values: Values, a: Array | Live, b: Array | Live) -> Array | Live:
    """a * b, broadcast against each other."""
    if isinstance(a, Live):
        return values.product(a, b) if isinstance(b, Live) else values.scale(a, b)
    return values.scale(b, a) if isinstance(b, Live) else np.multiply(a, b)


def _negative(values: Values, a: Array | Live) -> Array | Live:
    return values.scale(a, -1.0) if isinstance(a, Live) else -a


def _sum(call: Call) -> Value:
    """Add and Sum. Where one is 1 + Erf: part of a Gelu."""
    erf = _with_erf(call)
    if erf is not None:
        value, other = erf
        if isinstance(other, np.ndarray) and other.size == 1:
            return ErfValue(value.of, value.factor, value.shift + other.item())
    return functools.reduce(lambda a, b: add(call.values, a, b), call.all())


def _mean(call: Call) -> Value:
    total = functools.reduce(lambda a, b: add(call.values, a, b), call.all())
    return multiply(call.values, total, np.asarray(1 / len(call.args)))


def _difference(call: Call) -> Value:
    return add(call.values, call.arg(0), _negative(call.values, call.arg(1)))


def _times(call: Call) -> Value:
    erf = _with_erf(call)
    if erf is not None:
        value, other = erf
        if isinstance(other, np.ndarray) and other.size == 1:
            return ErfValue(value.of, value.factor * other.item(), value.shift * other.item())
        factor = _multiple(call.values, other, value.of) if isinstance(other, Live) else None
        if factor is not None and math.isclose(value.factor, value.shift, rel_tol=1e-6):
            return call.values.scale(call.values.elementwise(value.of, "gelu"), 2 * value.factor * factor)
    return multiply(call.values, call.arg(0), call.arg(1))


def _with_erf(call: Call) -> tuple[ErfValue, Array | Live] | None:
    first, second = call.args if len(call.args) == 2 else (None, None)
    if isinstance(first, ErfValue) and isinstance(second, Live | np.ndarray):
        return first, second
    if isinstance(second, ErfValue) and isinstance(first, Live | np.ndarray):
        return second, first
    return None


def _multiple(values: Values, x: Live, of: Live) -> float | None:
    """The number c for which x = c * of; None if it is not such."""
    if x.place == of.place:
        return 1.0
    node = values.builder.nodes[x.place]
    if isinstance(node.op, Scale) and node.inputs == (of.place,) and x.shape == of.shape:
        factor, shift = node.op.factor, node.op.shift
        if isinstance(factor, float) and shift == 0:
            return factor
    return None


def _erf(call: Call) -> Value:
    x = call.live()
    node = call.values.builder.nodes[x.place]
    if node.inputs:
        of = Live(node.inputs[0], x.shape, x.batch)
        factor = _multiple(call.values, x, of)
        if factor is not None and math.isclose(factor, math.sqrt(0.5), rel_tol=1e-6):
            return ErfValue(of)
    raise ModelError("an Erf is only covered in x / 2 * (1 + Erf(x / sqrt 2)); export the function as Gelu")


def _over(call: Call) -> Value:
    above, below = call.arg(0), call.arg(1)
    if not isinstance(below, Live):
        if isinstance(above, Live):
            return call.values.scale(above, 1 / below.astype(np.float64))
        return above / below
    if isinstance(above, Live):
        return call.values.quotient(above, below)
    return call.values.scale(call.values.elementwise(below, "power", -1.0), above)


def _power(call: Call) -> Value:
    base, exponent = call.arg(0), call.arg(1)
    if isinstance(base, Live) and not isinstance(exponent, Live) and exponent.size == 1:
        power = float(exponent.item())
        return base if power == 1 else call.values.elementwise(base, "power", power)
    if isinstance(exponent, Live) and not isinstance(base, Live) and np.all(base > 0):
        return call.values.elementwise(call.values.scale(exponent, np.log(base.astype(np.float64))), "exp")
    raise ModelError("a power is covered of one constant exponent, or of a positive constant base; write it otherwise")


def _larger(values: Values, a: Array | Live, b: Array | Live) -> Array | Live:
    """The larger of both, as b + relu(a - b)."""
    if not isinstance(a, Live):
        if not isinstance(b, Live):
            return np.maximum(a, b)
        a, b = b, a
    gap = add(values, a, _negative(values, b))
    assert isinstance(gap, Live)
    if not isinstance(b, Live) and not np.any(b):
        return values.elementwise(gap, "relu")
    return add(values, values.elementwise(gap, "relu"), b)


def _max(call: Call) -> Value:
    return functools.reduce(lambda a, b: _larger(call.values, a, b), call.all())


def _min(call: Call) -> Value:
    flipped = [_negative(call.values, arg) for arg in call.all()]
    return _negative(call.values, functools.reduce(lambda a, b: _larger(call.values, a, b), flipped))


def _clip(call: Call) -> Value:
    low, high = call.const(1), call.const(2)
    lower = float(low.item()) if low is not None and low.size else call.number("min", -math.inf)
    upper = float(high.item()) if high is not None and high.size else call.number("max", math.inf)
    x, values = call.arg(0), call.values
    if not isinstance(x, Live):
        return np.clip(x, np.asarray(lower, x.dtype), np.asarray(upper, x.dtype))
    floor, ceiling = lower > -3e38, upper < 3e38
    if floor and ceiling:
        return values.elementwise(x, "clamp", lower, upper)
    if floor:
        return _larger(values, x, np.asarray(lower))
    return _negative(values, _larger(values, values.scale(x, -1.0), np.asarray(-upper))) if ceiling else x


# ---- functions of one number


def _function(name: str, *settings: tuple[str, float]) -> Operator:
    """An operator that is one function; its settings are attributes."""

    def operator(call: Call) -> Value:
        return call.values.elementwise(call.live(), name, *(call.number(key, default) for key, default in settings))

    return operator


def _gelu(call: Call) -> Value:
    return call.values.elementwise(call.live(), "gelu_tanh" if call.text("approximate", "none") == "tanh" else "gelu")


def _prelu(call: Call) -> Value:
    """relu(x) - slope * relu(-x)."""
    x, slope, values = call.live(), call.weight(1), call.values
    if slope.size == 1:
        return values.elementwise(x, "leaky_relu", slope.item())
    below = values.elementwise(values.scale(x, -1.0), "relu")
    return add(values, values.elementwise(x, "relu"), values.scale(below, -slope))


def _selu(call: Call) -> Value:
    alpha, gamma = call.number("alpha", 1.6732632), call.number("gamma", 1.0507010)
    return call.values.scale(call.values.elementwise(call.live(), "elu", alpha), gamma)


def _celu(call: Call) -> Value:
    alpha = call.number("alpha", 1.0)
    return call.values.scale(call.values.elementwise(call.values.scale(call.live(), 1 / alpha), "elu", 1.0), alpha)


def _hard(call: Call) -> Live:
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    return call.values.elementwise(call.values.scale(call.live(), alpha, beta), "clamp", 0.0, 1.0)


def _hard_swish(call: Call) -> Value:
    x = call.live()
    return call.values.product(x, call.values.elementwise(call.values.scale(x, 1 / 6, 0.5), "clamp", 0.0, 1.0))


def _mish(call: Call) -> Value:
    x, values = call.live(), call.values
    return values.product(x, values.elementwise(values.elementwise(x, "softplus"), "tanh"))


def _softsign(call: Call) -> Value:
    x, values = call.live(), call.values
    return values.quotient(x, values.scale(values.elementwise(x, "abs"), 1.0, 1.0))


def _softmax(call: Call) -> Live:
    x, values = call.live(), call.values
    axis = call.whole("axis", 1 if call.opset < 13 else -1)
    if call.opset < 13 and axis % x.ndim != x.ndim - 1:  # over all axes from this one on
        cut = axis % x.ndim
        flat = values.reshape(x, (*x.shape[:cut], math.prod(x.shape[cut:])))
        flat, at = values.axis(flat, -1)
        return values.reshape(values.put(Softmax(at), flat.shape, flat.batch, flat), x.shape)
    x, at = values.axis(x, axis)
    return values.put(Softmax(at), x.shape, x.batch, x)


def _log_softmax(call: Call) -> Value:
    return call.values.elementwise(_softmax(call), "log")


# ---- products of matrices


def _product(values: Values, a: Array | Live, b: Array | Live) -> Array | Live:
    if not isinstance(b, Live):
        if not isinstance(a, Live):
            return np.matmul(a, b)
        if b.ndim == 1:
            found = values.contract(a, -1, b[None])
            return values.reshape(found, found.shape[:-1])
        if math.prod(b.shape[:-2]) == 1:
            found = values.contract(a, -1, b.reshape(b.shape[-2:]).T)
            return values.reshape(found, (1,) * (b.ndim - found.ndim - (a.ndim == 1)) + found.shape)
        return _batched(values, a, b)
    if not isinstance(a, Live):
        if a.ndim == 1:
            if b.ndim == 1:
                return values.reshape(values.contract(b, -1, a[None]), ())
            found = values.contract(b, -2, a[None])
            return values.reshape(found, (*found.shape[:-2], found.shape[-1]))
        if math.prod(a.shape[:-2]) == 1:
            found = values.contract(b, -1 if b.ndim == 1 else -2, a.reshape(a.shape[-2:]))
            return values.reshape(found, (1,) * (a.ndim - found.ndim - (b.ndim == 1)) + found.shape)
        flipped = _product(values, _swap(values, b), np.swapaxes(a, -1, -2))
        return _swap(values, flipped)
    if min(a.ndim, b.ndim) < 2:
        raise ModelError(
            "two vectors that both depend on the input cannot be multiplied as matrices; use Mul and ReduceSum"
        )
    left = values.reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    flipped = _swap(values, b)
    right = values.reshape(flipped, (*flipped.shape[:-2], 1, *flipped.shape[-2:]))
    return values.reduce(values.product(left, right), (-1,), keep=False, total=True)


def _swap(values: Values, x: Any) -> Any:
    if not isinstance(x, Live):
        return np.swapaxes(x, -1, -2)
    return values.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _batched(values: Values, a: Live, b: Array) -> Live:
    """A product by several matrices: each of their entries is a factor, and the sum is over a repeated axis."""
    left = values.reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    right = np.swapaxes(b, -1, -2)
    found = values.scale(left, right.reshape(*right.shape[:-2], 1, *right.shape[-2:]))
    return values.reduce(found, (-1,), keep=False, total=True)


def _matmul(call: Call) -> Value:
    return _product(call.values, call.arg(0), call.arg(1))


def _gemm(call: Call) -> Value:
    a, b = call.arg(0), call.arg(1)
    a = _swap(call.values, a) if call.whole("transA", 0) else a
    b = _swap(call.values, b) if call.whole("transB", 0) else b
    alpha = np.asarray(call.number("alpha", 1.0))
    if not isinstance(b, Live):
        b = b if alpha == 1 else b * alpha
    else:
        a = multiply(call.values, a, alpha)
    found = _product(call.values, a, b)
    if len(call.args) < 3 or call.args[2] is None:
        return found
    beta = np.asarray(call.number("beta", 1.0))
    shift = call.arg(2)
    return add(call.values, found, shift if beta == 1 else multiply(call.values, shift, beta))


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "Abs": _function("abs"),
        "Add": _sum,
        "Celu": _celu,
        "Clip": _clip,
        "Cos": _function("cos"),
        "Div": _over,
        "Elu": _function("elu", ("alpha", 1.0)),
        "Erf": _erf,
        "Exp": _function("exp"),
        "Gelu": _gelu,
        "Gemm": _gemm,
        "HardSigmoid": _hard,
        "HardSwish": _hard_swish,
        "LeakyRelu": _function("leaky_relu", ("alpha", 0.01)),
        "Log": _function("log"),
        "LogSoftmax": _log_softmax,
        "MatMul": _matmul,
        "Max": _max,
        "Mean": _mean,
        "Min": _min,
        "Mish": _mish,
        "Mul": _times,
        "Neg": lambda call: _negative(call.values, call.arg(0)),
        "PRelu": _prelu,
        "Pow": _power,
        "Reciprocal": lambda call: call.values.elementwise(call.live(), "power", -1.0),
        "Relu": _function("relu"),
        "Selu": _selu,
        "Sigmoid": _function("sigmoid"),
        "Sin": _function("sin"),
        "Softmax": _softmax,
        "Softplus": _function("softplus"),
        "Softsign": _softsign,
        "Sqrt": _function("sqrt"),
        "Sub": _difference,
        "Sum": _sum,
        "Tanh": _function("tanh"),
    }
)
"""By the name of the operator."""
