"""The rows of each table: a name, and the options of `hauberk train` that make the net. {data}, {work} and {nets} are filled in."""

from collections.abc import Sequence
from dataclasses import dataclass

from measure import Columns, clean_and_pgd, radii_of_255, standing_of, under_attack

__all__ = ["TABLES", "Row", "Table"]


@dataclass(frozen=True)
class Row:
    """One net."""

    name: str
    options: str


@dataclass(frozen=True)
class Table:
    """Nets that are trained alike and measured alike, on the first `n` examples of `test`."""

    test: str
    n: int
    columns: Columns
    rows: Sequence[Row]


_MNIST = "--data {data}/mnist_train.npz --batch-size 128 --rate cyclic:peak=0.004,rise=0.3 --average ema:decay=0.99"
_LINF = "--threat linf:0.3"
_INNER = "--inner pgd:steps=7,ramp=0.3"
_ONE = "--inner pgd:steps=1,step_size=0.3,start=clean,ramp=0.3"
_SHORT = f"{_MNIST} --n 20000 --epochs 10 --seed 0"


def _mnist(name: str, objective: str, more: str = "", *, net: str = "zoo:mnist_cnn", inner: bool = True) -> Row:
    chosen = f"{_LINF} --objective {objective}{' ' + _INNER if inner else ''} {more}".strip()
    return Row(name, f"--arch {net} {_SHORT} {chosen}")


_OBJECTIVES = (
    Row("natural", f"--arch zoo:mnist_cnn {_SHORT} --objective natural"),
    _mnist("pgd_at", "pgd_at"),
    _mnist("pgd_at, 10 steps", "pgd_at", "--inner pgd:steps=10,ramp=0.3", inner=False),
    _mnist("trades", "trades:beta=6"),
    _mnist("mart", "mart:beta=5"),
    Row("mma", f"--arch zoo:mnist_cnn {_SHORT} --threat linf:0.45 --objective mma"),  # d_max, as in its paper
    _mnist("alp", "alp"),
    _mnist("clp", "clp", inner=False),
    _mnist("hypersphere on at", "hypersphere"),
    _mnist("hypersphere on alp", "hypersphere:on=alp"),
    _mnist("hypersphere on trades", "hypersphere:on=trades"),
    _mnist("free", "free:replays=8", inner=False),
    _mnist("fast", "fast", inner=False),
    _mnist("fast, ramp", "fast:ramp=0.3", inner=False),
    _mnist("fast, clean start", "fast:start=clean", "--hold-out 500 --last", inner=False),
    _mnist("one step, clean start, ramp", "pgd_at", f"{_ONE} --hold-out 500 --last", inner=False),
    _mnist(
        "one step, clean start, ramp, grad_align",
        "pgd_at",
        f"{_ONE} --with grad_align:weight=0.2 --hold-out 500 --last",
        inner=False,
    ),
    _mnist("yopo", "yopo", inner=False),
    _mnist("dynamic", "dynamic", inner=False),
    _mnist("dynamic, c_max 0.1", "dynamic:c_max=0.1", inner=False),
    _mnist("dynamic, ramp", "dynamic:ramp=0.3", inner=False),
    _mnist("dynamic, ramp, c_max 0.1", "dynamic:ramp=0.3,c_max=0.1", inner=False),
    _mnist("curriculum", "curriculum", inner=False),
    _mnist("distributional", "distributional", inner=False),
    _mnist("mixed, least likely", "mixed", inner=False),
    _mnist("mixed, random class", "mixed:target=random", inner=False),
    _mnist("adv_prop", "adv_prop", net="{nets}:mnist_cnn_norms"),
    _mnist(
        "self_training",
        "pgd_at",
        "--n 10000 --unlabelled {data}/mnist_train.npz --teacher {work}/natural",
    ),
    _mnist("pgd_at then natural", "pgd_at", "--with stages:at=0.8"),
    _mnist("pgd_at, awp", "pgd_at", "--with awp:gamma=0.005"),
    Row("wrm", f"--arch zoo:mnist_cnn {_SHORT} --objective wrm:gamma=0.4"),
    Row(
        "distillation",
        f"--arch zoo:mnist_cnn {_SHORT} --objective distillation:temperature=20 --teacher {{work}}/natural",
    ),
    *(
        Row(f"label_smoothing, {kind}", f"--arch zoo:mnist_cnn {_SHORT} --objective label_smoothing:kind={kind}")
        for kind in ("standard", "adversarial", "boltzmann", "second-best")
    ),
    Row("gradient_penalty", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --with gradient_penalty:weight=10"),
    Row("jacobian", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --with jacobian:weight=0.1"),
    Row("spectral_norm", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --with spectral_norm"),
    Row("clip_weights", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --constraint clip_weights:limit=0.1"),
    Row("parseval", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --constraint parseval:beta=0.001"),
    Row("maxout", f"--arch {{nets}}:mnist_cnn_maxout {_SHORT} --objective natural"),
    Row("prune, 90 %", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --constraint prune:sparsity=0.9"),
    Row("quantise, 8 bits", f"--arch zoo:mnist_cnn {_SHORT} --objective natural --constraint quantise:bits=8"),
)

_CIFAR = "--arch {nets}:small_resnet --data {data}/cifar10_train.parquet --batch-size 128 --augment random_crop:padding=4 --augment flip"
_CIFAR_SHORT = f"{_CIFAR} --n 10000 --rate one_cycle:peak=0.01"

TABLES = {
    "objectives": Table("mnist_test.npz", 1000, under_attack("linf:0.3"), _OBJECTIVES),
    "one_step": Table(
        "mnist_test.npz",
        1000,
        under_attack("linf:0.2"),
        tuple(
            Row(
                name,
                f"--arch zoo:mnist_cnn {_SHORT} --threat linf:0.2 --objective pgd_at --inner pgd:{inner},ramp=0.3 --hold-out 500 --last"
                + more,
            )
            for name, inner, more in (
                ("one step, clean start", "steps=1,step_size=0.2,start=clean", ""),
                (
                    "one step, clean start, grad_align",
                    "steps=1,step_size=0.2,start=clean",
                    " --with grad_align:weight=1",
                ),
                ("one step, uniform start", "steps=1,step_size=0.25,start=uniform", ""),
                ("seven steps", "steps=7", ""),
            )
        ),
    ),
    "least_likely": Table(
        "cifar10_test.parquet",
        2000,
        radii_of_255(),
        tuple(
            Row(f"{name}, seed {seed}", f"{_CIFAR_SHORT} --epochs 12 --seed {seed} {options}")
            for seed in (0,)
            for name, options in (
                ("natural", "--objective natural"),
                ("mixed, least likely", "--threat linf:16/255 --objective mixed"),
                ("mixed, random class", "--threat linf:16/255 --objective mixed:target=random"),
                ("fast", "--threat linf:8/255 --objective fast"),
            )
        ),
    ),
    "adv_prop": Table(
        "cifar10_test.parquet",
        10000,
        clean_and_pgd("linf:4/255", attacked=1000),
        tuple(
            Row(f"{name}, seed {seed}", f"{_CIFAR_SHORT} --epochs 12 --seed {seed} {options}")
            for seed in (0, 1)
            for name, options in (
                ("vanilla", "--objective natural"),
                ("adversarial training", "--threat linf:4/255 --objective pgd_at --inner pgd:steps=3"),
                (
                    "adversarial training, then clean",
                    "--threat linf:4/255 --objective pgd_at --inner pgd:steps=3 --with stages:at=0.8",
                ),
                ("AdvProp", "--threat linf:4/255 --objective adv_prop --inner pgd:steps=3"),
                ("AdvProp at 1/255", "--threat linf:1/255 --objective adv_prop --inner pgd:steps=1"),
            )
        ),
    ),
    "label_smoothing": Table(
        "mnist_test.npz",
        1000,
        under_attack("linf:0.1"),
        tuple(
            Row(
                f"alpha {alpha}, seed {seed}",
                f"--arch zoo:mnist_cnn {_MNIST} --n 20000 --epochs 10 --seed {seed} --objective "
                + (f"label_smoothing:alpha={alpha}" if alpha else "natural"),
            )
            for alpha in (0, 0.1, 0.5, 0.9)
            for seed in (0, 1, 2)
        ),
    ),
    "overfitting": Table(
        "mnist_test.npz",
        1000,
        standing_of("linf:0.3"),
        tuple(
            Row(
                f"{name}, seed {seed}",
                f"--arch zoo:mnist_cnn {_MNIST} --n 3000 --hold-out 1000 --epochs 60 --seed {seed} {_LINF} --objective {objective} "
                f"--inner pgd:steps=7,ramp=0.1 --last",
            )
            for name, objective in (("pgd_at", "pgd_at"), ("pgd_at, crops", "pgd_at --augment random_crop:padding=1"))
            for seed in (0,)
        ),
    ),
    "size": Table(
        "mnist_test.npz",
        1000,
        standing_of("linf:0.3"),
        tuple(
            Row(
                f"width {width}, {n} examples",
                f"--arch {net} {_MNIST} --n {n} --epochs {100_000 // n} --seed 0 {_LINF} --objective pgd_at {_INNER}",
            )
            for width, net in (
                ("1/4", "{nets}:mnist_cnn_quarter"),
                ("1/2", "{nets}:mnist_cnn_half"),
                ("1", "zoo:mnist_cnn"),
                ("2", "{nets}:mnist_cnn_double"),
            )
            for n in (2500, 10000, 50000)
            if width == "1" or n == 10000
        ),
    ),
}
