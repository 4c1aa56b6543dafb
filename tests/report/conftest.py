"""A finished run to report on: a ridge classifier of scikit-learn's digits, attacked by steps whose outcome is known."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hauberk.evaluate.statistics import clopper_pearson
from hauberk.evidence.finished import FinishedRun
from hauberk.evidence.manifest import Manifest
from hauberk.evidence.memory import MemoryRun
from hauberk.evidence.run import RunFolder
from hauberk.evidence.table import rows_table
from hauberk.report import write_html
from hauberk.threat import Norm

RADII = (0.025, 0.05, 0.1)
CHUNK = 80

Rebuild = Callable[..., FinishedRun]


def _share(successes: int, n: int) -> dict[str, float | int]:
    return clopper_pearson(successes, n).to_json()


def _digits(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """n digits, their labels, and the (64, 10) weights of a classifier fitted on the others."""
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    x, y = torch.tensor(data / 16.0), torch.tensor(target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    x, y = x[order], y[order].long()
    fit, want = x[n:], torch.nn.functional.one_hot(y[n:], 10).double()
    weights = torch.linalg.solve(fit.T @ fit + 20.0 * torch.eye(64, dtype=torch.float64), fit.T @ want)
    return x[:n], y[:n], 12.0 * weights


def _build(
    n: int, radii: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[dict[str, list[Any]], list[dict[str, Tensor]], dict[str, Any]]:
    """Columns, chunks of tensors, and the result of a run in which `sign-noise` precedes `fgsm`."""
    x, y, weights = _digits(n)
    logits = x @ weights
    predicted = logits.argmax(1)
    names = [
        "example",
        "label",
        "predicted",
        "status",
        "method",
        "radius",
        "linf",
        "l2",
        "l1",
        "l0",
        "adversarial_label",
    ]
    columns: dict[str, list[Any]] = {
        name: [] for name in [*names, "confidence", "clean_confidence", "forwards", "backwards", "queries"]
    }
    found: list[tuple[int, float, Tensor]] = []
    tried = {"sign-noise": [0, 0], "fgsm": [0, 0]}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 2, x.shape, generator=generator).double() * 2 - 1
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    for i in range(n):
        # What a smaller radius broke stays broken by the same point, stored once, as `hauberk.evaluate` has it.
        status, method, adversarial = "undecided", None, None
        for radius in radii:
            if predicted[i] != y[i]:
                status = "misclassified"
            elif status != "broken":
                steps = {"sign-noise": noise[i], "fgsm": (weights[:, rival[i]] - weights[:, y[i]]).sign()}
                for name, step in steps.items():
                    candidate = (x[i] + radius * step).clamp(0, 1)
                    tried[name][0] += 1
                    if (candidate @ weights).argmax() != y[i]:
                        status, method, adversarial = "broken", name, candidate
                        tried[name][1] += 1
                        found.append((i, radius, candidate))
                        break
            row: dict[str, Any] = {
                "example": i, "label": int(y[i]), "predicted": int(predicted[i]), "status": status, "method": method,
                "radius": radius, "clean_confidence": float(logits[i].softmax(0)[predicted[i]]),
                "forwards": 1 if status == "misclassified" else 22, "backwards": 0 if status == "misclassified" else 10,
                "queries": 0 if status == "misclassified" else 32,
            }  # fmt: skip
            if adversarial is not None:
                scores = (adversarial @ weights).softmax(0)
                row |= {norm.value: norm.size((adversarial - x[i])[None]).item() for norm in Norm}
                row |= {
                    "l0": int(row["l0"]),
                    "adversarial_label": int(scores.argmax()),
                    "confidence": scores.max().item(),
                }
            for name in columns:
                columns[name].append(row.get(name))
    chunks = []
    for start in range(0, n, CHUNK):
        part = [entry for entry in found if start <= entry[0] < start + CHUNK]
        chunks.append(
            {
                "example": torch.tensor([i for i, _, _ in part], dtype=torch.int64),
                "radius": torch.tensor([radius for _, radius, _ in part], dtype=torch.float64),
                "adversarials": torch.stack([a for _, _, a in part]).float().reshape(-1, *shape),
                "originals": torch.stack([x[i] for i, _, _ in part]).float().reshape(-1, *shape),
            }
        )
    return columns, chunks, _result(columns, tried, n, radii, shape, y)


def _result(
    columns: dict[str, list[Any]],
    tried: dict[str, list[int]],
    n: int,
    radii: tuple[float, ...],
    shape: tuple[int, ...],
    y: Tensor,
) -> dict[str, Any]:
    levels = []
    for place, radius in enumerate(radii):
        at = columns["status"][place :: len(radii)]
        tally = {status: at.count(status) for status in ("misclassified", "broken", "undecided", "proven")}
        robust = {"upper": _share(tally["undecided"] + tally["proven"], n), "lower": None}
        levels.append({"radius": radius, "robust_accuracy": robust, **tally})
    last, classes = columns["status"][len(radii) - 1 :: len(radii)], []
    for label in range(10):
        own = [status for status, true in zip(last, y.tolist(), strict=True) if true == label]
        clean, robust = len(own) - own.count("misclassified"), own.count("undecided")
        upper = {"upper": _share(robust, len(own)), "lower": None}
        entry = {"class": label, "name": str(label), "count": len(own), "clean_accuracy": _share(clean, len(own))}
        classes.append(entry | {"robust_accuracy": upper})
    settings = {
        "sign-noise": {"draws": 1},
        "fgsm": {"steps": 1, "loss": "margin", "restarts": 1, "start": "clean", "momentum": 0.75},
    }
    attacks = []
    for (name, (attempted, broken)), spent in zip(tried.items(), ((12, 0), (9, 10)), strict=True):
        counts = {"attempted": attempted, "broken": broken, "forwards": spent[0] * attempted}
        counts |= {"backwards": spent[1] * attempted, "queries": sum(spent) * attempted}
        attacks.append({"name": name, "settings": settings[name], **counts, "seconds": 0.4 + spent[1] * 0.3})
    threat = "linf:" + ",".join(f"{radius:g}" for radius in radii)
    return {
        "schema": "hauberk.evaluation/1",
        "hauberk": "0.1.0",
        "model": {
            "name": "digits-ridge",
            "fingerprint": "3f" * 32,
            "description": {
                "kind": "torch",
                "parameters": 640,
                "bounds": [0.0, 1.0],
                "mean": None,
                "std": None,
                "output": None,
            },
            "notes": ["no mean and std were given, so the model is taken to normalise its own input"],
        },
        "data": {
            "name": "digits",
            "fingerprint": "a7" * 32,
            "shape": list(shape),
            "notes": ["pixel values 0 to 16 were scaled to [0, 1]"],
            "class_names": [str(label) for label in range(10)],
        },
        "threat": threat,
        "threat_statement": "Every value of the input may change by at most the radius and stays within [0, 1]. The attacker "
        "knows the model and its gradients, and wants any class but the true one.",
        "suite": "standard",
        "seed": 0,
        "n": n,
        "batch_size": CHUNK,
        "clean_accuracy": _share(n - last.count("misclassified"), n),
        "robust_accuracy": levels[-1]["robust_accuracy"],
        "attacks": attacks,
        "cost": {
            "forwards_per_example": sum(columns["forwards"]) / n,
            "backwards_per_example": sum(columns["backwards"]) / n,
            "queries_per_example": sum(columns["queries"]) / n,
            "seconds": 4.23,
        },
        "radii": levels,
        "per_class": classes,
        "audit_checks": ["random-output", "loss-still-rising", "one-step-beats-iterated"],
        "audit": [
            {
                "id": "loss-still-rising",
                "severity": "warning",
                "evidence": "On 31 of 108 undecided images the loss of fgsm still rose at its last step.",
                "next": "Give it more steps (--suite standard runs 100), and compare.",
            },
            {
                "id": "one-step-beats-iterated",
                "severity": "info",
                "evidence": "No iterated attack was in the suite, so this check had nothing to compare.",
                "next": "Run the standard suite.",
            },
        ],
        "rows": "rows.parquet",
        "environment": {
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "packages": {"torch": "2.13.0+cpu", "numpy": "2.4.6", "pyarrow": "26.0.1", "scipy": "1.17.1"},
            "git": {"revision": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "command": f"hauberk evaluate zoo:digits-ridge --data digits --threat {threat} --n {n} --seed 0 --out runs/digits",
            "started": "2026-03-01T09:00:00+00:00",
            "finished": "2026-03-01T09:00:05+00:00",
        },
    }


def _manifest(result: dict[str, Any]) -> Manifest:
    attacks = [{"name": attack["name"], "settings": attack["settings"]} for attack in result["attacks"]]
    return Manifest(
        result["model"]["name"], result["model"]["fingerprint"], result["data"]["name"], result["data"]["fingerprint"],
        result["threat"], result["suite"], attacks, result["seed"], result["n"], result["batch_size"], "float32",
    )  # fmt: skip


@pytest.fixture(scope="session")
def rebuild() -> Rebuild:
    """Make a run: `rebuild(n=, radii=, shape=, folder=, change=)`; `change` edits the result before it is kept."""
    built: dict[Any, Any] = {}

    def make(
        *,
        n: int = 200,
        radii: tuple[float, ...] = RADII,
        shape: tuple[int, ...] = (1, 8, 8),
        folder: Path | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> FinishedRun:
        key = n, radii, shape
        if key not in built:
            built[key] = _build(n, radii, shape)
        columns, chunks, result = built[key]
        result = copy.deepcopy(result)
        if change is not None:
            change(result)
        per_chunk = CHUNK * len(radii)
        run = MemoryRun(_manifest(result)) if folder is None else RunFolder.open(folder, _manifest(result))
        with run:
            for index, tensors in enumerate(chunks):
                part = slice(index * per_chunk, (index + 1) * per_chunk)
                rows = rows_table({name: values[part] for name, values in columns.items()})
                run.write_chunk(index, rows, tensors, {"examples": CHUNK, "attacks": []})
            run.finish(result)
            return run.finished()

    return make


@pytest.fixture(scope="session")
def digits_run(rebuild: Rebuild, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run folder of 200 digits at three radii."""
    return rebuild(folder=tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="session")
def digits_page(digits_run: FinishedRun) -> Path:
    """Its report."""
    return write_html(digits_run)
