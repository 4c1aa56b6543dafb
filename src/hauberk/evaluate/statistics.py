"""How sure a count makes us: intervals for a proportion and the paired comparison of two models, exact where exact exists.

- `clopper_pearson`: Clopper, Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
  binomial": covers with probability >= level, whatever the true proportion.
- `wilson`: Wilson 1927, "Probable inference, the law of succession, and statistical inference": narrower, covers level on
  average; for plots.
- `mcnemar`: McNemar 1947, "Note on the sampling error of the difference between correlated proportions", in its exact
  binomial form.
- `smallest_detectable_difference`: the power of that exact test, summed over every possible number of discordant
  examples, solved for the difference.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hauberk.errors import InputError, SettingError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Proportion", "clopper_pearson", "mcnemar", "smallest_detectable_difference", "wilson"]


@dataclass(frozen=True)
class Proportion:
    """A measured proportion.

    Args:
        value: the proportion seen, in [0, 1].
        low, high: the ends of its interval, low <= value <= high.
        count: how many examples it was measured on.
    """

    value: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, float | int]:
        """`{"value", "low", "high", "count"}`, as the JSON contract has it."""
        return asdict(self)


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Proportion:
    """The proportion `successes / n` with its exact binomial interval.

    The interval covers the true proportion with probability >= level over the drawing of the n examples.

    Raises:
        InputError: n < 1, or successes outside [0, n].
        SettingError: level outside (0, 1).
    """
    from scipy.special import betaincinv

    successes, n, tail = _checked(successes, n, level)
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    # the upper end is one minus the lower end for the failures: exact for 0 and near it, where 1 - tail would round
    high = 1.0 - float(betaincinv(n - successes, successes + 1, tail)) if successes < n else 1.0
    return Proportion(successes / n, low, high, n)


def wilson(successes: int, n: int, level: float = 0.95) -> Proportion:
    """The proportion `successes / n` with its score interval, which covers about `level`.

    Raises:
        InputError: n < 1, or successes outside [0, n].
        SettingError: level outside (0, 1).
    """
    from scipy.special import ndtri

    successes, n, tail = _checked(successes, n, level)
    z2 = float(ndtri(tail)) ** 2
    value = successes / n
    centre = (successes + z2 / 2) / (n + z2)
    half = (z2 * (n * value * (1 - value) + z2 / 4)) ** 0.5 / (n + z2)
    low = 0.0 if successes == 0 else min(value, centre - half)
    high = 1.0 if successes == n else max(value, centre + half)
    return Proportion(value, low, high, n)


def mcnemar(b: int, c: int) -> float:
    """The exact two-sided p-value for two models measured on the same examples.

    Under the hypothesis that both are equally often right, each of the b + c discordant examples favours either with
    probability 1/2. With no discordant example it is 1.

    Args:
        b: examples that only the first model gets right.
        c: examples that only the second gets right.

    Raises:
        InputError: a negative count.
    """
    if b < 0 or c < 0:
        raise InputError(f"counts of discordant examples are >= 0, got {b} and {c}")
    return min(1.0, 2 * float(_binomial_cdf(min(b, c), b + c, 0.5)))


def smallest_detectable_difference(
    n: int, discordant_rate: float, level: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference between two models that n shared examples show with probability `power`.

    "Show" means that `mcnemar` falls to `level` or below. With a share `discordant_rate` of examples on which exactly one
    of the models is right and a difference d of their accuracies, a discordant example favours the better model with
    probability (1 + d / discordant_rate) / 2; the number of discordant examples is binomial. The power of the exact test
    is the sum over that number, and rises with d, so d is found by bisection. No normal approximation enters.

    Args:
        n: examples both models were measured on.
        discordant_rate: share of examples that exactly one model gets right, in [0, 1]; (b + c) / n as a rule.
        level: of the test, in (0, 1).
        power: wanted, in (0, 1).

    Returns:
        A difference in (0, discordant_rate], to 1e-9; None where not even the largest possible difference, all
        discordant examples favouring one model, would be shown.

    Raises:
        InputError: n < 1.
        SettingError: a rate outside [0, 1]; level or power outside (0, 1).
    """
    import numpy as np

    if n < 1:
        raise InputError(f"a comparison needs at least one example, got {n}")
    if not 0 <= discordant_rate <= 1:
        raise SettingError(f"a discordant rate lies in [0, 1], got {discordant_rate:g}")
    if not 0 < level < 1 or not 0 < power < 1:
        raise SettingError(f"level and power lie in (0, 1), got {level:g} and {power:g}")
    if discordant_rate == 0:
        return None
    discordant, weight = _likely_counts(n, discordant_rate)
    critical = _critical(discordant, level)

    def power_at(share: float) -> float:
        favour = (1 + share) / 2
        tails = _binomial_cdf(critical, discordant, favour) + _binomial_cdf(critical, discordant, 1 - favour)
        return float(np.sum(weight * tails))

    if power_at(1.0) < power:
        return None
    low, high = 0.0, 1.0
    while (high - low) * discordant_rate > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if power_at(middle) >= power else (middle, high)
    return high * discordant_rate


def _checked(successes: int, n: int, level: float) -> tuple[int, int, float]:
    if n < 1:
        raise InputError(f"a proportion needs at least one example, got {n}")
    if not 0 <= successes <= n:
        raise InputError(f"expected between 0 and {n} successes among {n} examples, got {successes}")
    if not 0 < level < 1:
        raise SettingError(f"a confidence level lies in (0, 1), got {level:g}")
    return int(successes), int(n), (1 - level) / 2


def _binomial_cdf(k: "int | np.ndarray", n: "int | np.ndarray", p: float) -> "np.ndarray":
    """P(Binomial(n, p) <= k) for -1 <= k <= n."""
    import numpy as np
    from scipy.special import betainc

    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    inner = (k >= 0) & (k < n)
    inside = betainc(np.where(inner, n - k, 1), np.where(inner, k + 1, 1), 1 - p)
    return np.where(inner, inside, np.where(k < 0, 0.0, 1.0))


def _likely_counts(n: int, rate: float) -> "tuple[np.ndarray, np.ndarray]":
    """The numbers of discordant examples that can come up, and their probabilities (all but 1e-15 of the mass)."""
    import numpy as np
    from scipy.special import gammaln, xlog1py, xlogy

    # Bernstein: P(|count - mean| > t) <= 2 exp(-t^2 / (2 (variance + t / 3))); 36 is -log(1e-15 / 2)
    spread = 12 + (12**2 + 2 * 36 * n * rate * (1 - rate)) ** 0.5
    counts = np.arange(max(0, int(n * rate - spread)), min(n, int(n * rate + spread) + 1) + 1)
    log = (
        gammaln(n + 1)
        - gammaln(counts + 1)
        - gammaln(n - counts + 1)
        + xlogy(counts, rate)
        + xlog1py(n - counts, -rate)
    )
    weight = np.exp(log)
    return counts, weight / weight.sum()


def _critical(counts: "np.ndarray", level: float) -> "np.ndarray":
    """For each number of discordant examples the largest smaller count that the exact test rejects; -1 where none."""
    import numpy as np

    low, high = np.full(counts.shape, -1), counts // 2 + 1  # rejected at low, not at high
    while np.any(high - low > 1):
        middle = (low + high) // 2
        rejected = 2 * _binomial_cdf(middle, counts, 0.5) <= level
        open_ = high - low > 1
        low, high = np.where(open_ & rejected, middle, low), np.where(open_ & ~rejected, middle, high)
    return low
