"""What the operators of PyTorch that work value by value become: one row of `VALUES` each, by the name after "aten::"."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from hauberk.layered.aten_call import Call, Wire

__all__ = ["VALUES"]


def _number(call: Call, name: str, default: float) -> float:
    value = call.arguments[name]
    if isinstance(value, Wire | Tensor):
        raise call.fail(f"has a tensor as {name!r}, expected a number; use torch.maximum or torch.minimum")
    return default if value is None else float(value)


def _apply(function: str, *names: str) -> Callable[[Call], int]:
    return lambda call: call.compose.apply(function, call.x, *(float(call[name]) for name in names))


def _same(call: Call) -> int:
    return call.x


def _dropout(call: Call) -> int:
    if call["train"]:
        raise call.fail("drops at random in evaluation mode too; a random network cannot be bounded")
    return call.x


def _cast(call: Call) -> int:
    wanted = call.arguments.get("dtype")
    if wanted not in (None, call.compose.builder.dtype):
        raise call.fail(f"computes in {wanted}; convert the whole module, or give `dtype`")
    return call.x


def _add(call: Call, sign: float = 1.0) -> int:
    a, b, c = call["self"], call["other"], call.compose
    alpha = sign * float(call.arguments.get("alpha", 1))
    if isinstance(b, Wire):
        other = b.place if alpha == 1 else c.scale(b.place, alpha)
        return c.add(a.place, other) if isinstance(a, Wire) else c.scale(other, 1.0, call.example(a))
    return c.scale(a.place, 1.0, alpha * call.example(b))


def _subtract(call: Call) -> int:
    return _add(call, -1.0)


def _reverse_subtract(call: Call) -> int:
    a, b, c = call.x, call["other"], call.compose
    alpha = float(call["alpha"])
    return c.subtract(b.place, c.scale(a, alpha)) if isinstance(b, Wire) else c.scale(a, -alpha, call.example(b))


def _multiply(call: Call) -> int:
    a, b, c = call["self"], call["other"], call.compose
    if isinstance(a, Wire) and isinstance(b, Wire):
        return c.apply("power", a.place, 2.0) if a == b else c.multiply(a.place, b.place)
    wire, factor = (a, b) if isinstance(a, Wire) else (b, a)
    return c.scale(wire.place, call.example(factor))


def _divide(call: Call) -> int:
    a, b, c = call["self"], call["other"], call.compose
    if call.arguments.get("rounding_mode") is not None:
        raise call.fail("rounds, and nothing linear bounds that; leave it out of what is bounded")
    if isinstance(b, Wire):
        if isinstance(a, Wire):
            return c.divide(a.place, b.place)
        return c.scale(c.apply("power", b.place, -1.0), call.example(a))
    return c.scale(a.place, 1 / call.example(b))


def _power(call: Call) -> int:
    base, exponent, c = call["self"], call["exponent"], call.compose
    if isinstance(exponent, Wire):
        if isinstance(base, Wire) or bool((torch.as_tensor(base) <= 0).any()):
            raise call.fail("needs a positive constant under an exponent that depends on the input; it cannot be read")
        log = call.example(base).log() if isinstance(base, Tensor) else math.log(base)
        return c.apply("exp", c.scale(exponent.place, log))
    if isinstance(exponent, Tensor) and exponent.numel() > 1:
        raise call.fail("has a tensor of exponents, expected a number; it cannot be read")
    exponent = float(exponent)
    if exponent == 1:
        return call.x
    return c.apply("sqrt", call.x) if exponent == 0.5 else c.apply("power", call.x, exponent)


def _clamp(call: Call) -> int:
    low = _number(call, "min", -math.inf) if "min" in call.arguments else -math.inf
    high = _number(call, "max", math.inf) if "max" in call.arguments else math.inf
    return call.compose.apply("clamp", call.x, low, high)


def _hardtanh(call: Call) -> int:
    return call.compose.apply("clamp", call.x, float(call["min_val"]), float(call["max_val"]))


def _extreme(largest: bool) -> Callable[[Call], int]:
    def rule(call: Call) -> int:
        c = call.compose
        both = [value.place if isinstance(value, Wire) else None for value in (call["self"], call["other"])]
        if None not in both:
            return (c.maximum if largest else c.minimum)(call.wire("self"), call.wire("other"))
        x, t = (call["self"], call["other"]) if isinstance(call["self"], Wire) else (call["other"], call["self"])
        t, sign = call.example(t), 1.0 if largest else -1.0  # t + relu(x - t), or t - relu(t - x)
        return c.scale(c.relu(c.scale(x.place, sign, -sign * t)), sign, t)

    return rule


def _gelu(call: Call) -> int:
    return call.compose.apply("gelu_tanh" if call["approximate"] == "tanh" else "gelu", call.x)


def _softplus(call: Call) -> int:
    if float(call["threshold"]) != 20:
        raise call.fail(f"has a threshold of {call['threshold']}, expected 20; use the default")
    return call.compose.softplus(call.x, float(call["beta"]))


def _elu(call: Call) -> int:
    return call.compose.elu(call.x, float(call["alpha"]), float(call["scale"]), float(call["input_scale"]))


def _selu(call: Call) -> int:
    return call.compose.elu(call.x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _celu(call: Call) -> int:
    alpha = float(call["alpha"])
    return call.compose.elu(call.x, alpha, 1.0, 1 / alpha)


def _gated(gate: Callable[[Call], int]) -> Callable[[Call], int]:
    return lambda call: call.compose.multiply(call.x, gate(call))


def _log_sigmoid(call: Call) -> int:
    c = call.compose
    return c.scale(c.softplus(c.scale(call.x, -1.0)), -1.0)


def _random_relu(call: Call) -> int:
    if call["training"]:
        raise call.fail("draws its slopes at random in evaluation mode too; a random network cannot be bounded")
    return call.compose.apply("leaky_relu", call.x, (float(call["lower"]) + float(call["upper"])) / 2)


def _mish(call: Call) -> int:
    return call.compose.apply("tanh", call.compose.softplus(call.x))


VALUES: Mapping[str, Callable[[Call], int]] = MappingProxyType(
    {
        **{name: _apply(name) for name in ("abs", "cos", "exp", "relu", "sigmoid", "silu", "sin", "sqrt", "tanh")},
        **dict.fromkeys(("alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy", "positive"), _same),
        **dict.fromkeys(("alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout"), _dropout),
        **dict.fromkeys(("_to_copy", "to", "type_as"), _cast),
        "add": _add,
        "celu": _celu,
        "clamp": _clamp,
        "clamp_max": _clamp,
        "clamp_min": _clamp,
        "clip": _clamp,
        "div": _divide,
        "divide": _divide,
        "elu": _elu,
        "expm1": lambda call: call.compose.scale(call.compose.apply("exp", call.x), 1.0, -1.0),
        "gelu": _gelu,
        "hardsigmoid": lambda call: call.compose.hardsigmoid(call.x),
        "hardswish": _gated(lambda call: call.compose.hardsigmoid(call.x)),
        "hardtanh": _hardtanh,
        "leaky_relu": _apply("leaky_relu", "negative_slope"),
        "log": _apply("log"),
        "log1p": lambda call: call.compose.apply("log", call.compose.scale(call.x, 1.0, 1.0)),
        "log_sigmoid": _log_sigmoid,
        "maximum": _extreme(largest=True),
        "minimum": _extreme(largest=False),
        "mish": _gated(_mish),
        "mul": _multiply,
        "multiply": _multiply,
        "neg": lambda call: call.compose.scale(call.x, -1.0),
        "pow": _power,
        "prelu": lambda call: call.compose.prelu(call.x, call.fixed("weight")),
        "reciprocal": lambda call: call.compose.apply("power", call.x, -1.0),
        "relu6": lambda call: call.compose.apply("clamp", call.x, 0.0, 6.0),
        "rrelu": _random_relu,
        "rsqrt": lambda call: call.compose.apply("power", call.x, -0.5),
        "rsub": _reverse_subtract,
        "selu": _selu,
        "softplus": _softplus,
        "square": lambda call: call.compose.apply("power", call.x, 2.0),
        "sub": _subtract,
        "subtract": _subtract,
    }
)
"""Each gives the position of the result."""
