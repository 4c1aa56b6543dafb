"""The schema of result.json accepts a good result and refuses broken ones."""

import copy
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hauberk.evaluate.statistics import clopper_pearson
from hauberk.evidence import RESULT_SCHEMA

SCHEMA = json.loads((resources.files("hauberk") / "evaluate" / "evaluation.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def share(k: int, n: int) -> dict[str, Any]:
    return clopper_pearson(k, n).to_json()


def good() -> dict[str, Any]:
    bounds = {"upper": share(7, 8), "lower": None}
    return {
        "schema": RESULT_SCHEMA,
        "hauberk": "0.1.0",
        "model": {
            "name": "net",
            "fingerprint": "0" * 64,
            "description": {"kind": "torch"},
            "notes": ["looks like logits"],
        },
        "data": {
            "name": "digits",
            "fingerprint": "f" * 64,
            "shape": [1, 8, 8],
            "notes": [],
            "class_names": ["zero", "one"],
        },
        "threat": "linf:0.3@grid255",
        "threat_statement": "Every value may change by at most 0.3.",
        "suite": "standard",
        "seed": 0,
        "n": 8,
        "batch_size": 128,
        "clean_accuracy": share(8, 8),
        "robust_accuracy": bounds,
        "attacks": [
            {
                "name": "pgd",
                "settings": {"radius": "inf", "steps": 20},
                "attempted": 8,
                "broken": 1,
                "forwards": 160,
                "backwards": 160,
                "queries": 160,
                "seconds": 0.25,
            }
        ],
        "cost": {
            "forwards_per_example": 20.5,
            "backwards_per_example": 20.0,
            "queries_per_example": 20.5,
            "seconds": 0.5,
        },
        "radii": [
            {"radius": 0.3, "robust_accuracy": bounds, "misclassified": 0, "broken": 1, "undecided": 7, "proven": 0},
        ],
        "per_class": [
            {"class": 0, "name": "zero", "count": 8, "clean_accuracy": share(8, 8), "robust_accuracy": bounds},
        ],
        "audit": [{"id": "zero-gradient", "severity": "warning", "evidence": "3 of 8", "next": "try square"}],
        "audit_checks": ["zero-gradient", "random-output"],
        "rows": "rows.parquet",
        "environment": {
            "python": "3.11.9",
            "platform": "Linux",
            "packages": {"torch": "2.6"},
            "git": {"revision": "a" * 40, "dirty": True},
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "command": "hauberk evaluate",
            "started": "2026-01-02T03:04:05.123456+00:00",
            "finished": "2026-01-02T03:04:06Z",
        },
    }


def walk(schema: dict[str, Any], path: str = "") -> list[str]:
    """Paths of the subschemas that say nothing of themselves, or objects that leave open what they hold without saying so."""
    found = [] if "description" in schema else [path]
    if schema.get("type") == "object" and "properties" in schema and schema.get("additionalProperties") is not False:
        found.append(f"{path} is open")
    for name, inner in [*schema.get("properties", {}).items(), *schema.get("$defs", {}).items()]:
        found += walk(inner, f"{path}/{name}")
    return found


def test_the_schema_is_valid_names_its_version_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema"]["const"] == RESULT_SCHEMA
    assert SCHEMA["additionalProperties"] is False
    assert walk(SCHEMA) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda r: None,
        lambda r: r["robust_accuracy"].update(lower=share(3, 8)),
        lambda r: r["environment"].update(git=None, command=None),
        lambda r: r["data"].update(class_names=None),
        lambda r: r["per_class"][0].update(name=None),
        lambda r: r["radii"][0].update(radius=None),
        lambda r: r.update(attacks=[], per_class=[], audit=[], rows=None, seed=-1),
    ],
)
def test_a_good_result_is_accepted(change: Callable[[dict[str, Any]], None]) -> None:
    result = copy.deepcopy(good())
    change(result)
    VALIDATOR.validate(result)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of every named field, but for those inside objects that may hold anything."""
    if isinstance(value, list):
        return [leaf for key, item in enumerate(value) for leaf in leaves(item, (*path, key))]
    if not isinstance(value, dict) or path[-1:] in (("description",), ("settings",), ("packages",)):
        return []
    return [leaf for key, item in value.items() for leaf in [*leaves(item, (*path, key)), (*path, key)]]


@pytest.mark.parametrize("path", leaves(good()), ids=lambda path: ".".join(map(str, path)))
def test_every_field_is_required_and_has_a_kind(path: tuple[str | int, ...]) -> None:
    for damage in ("missing", "misspelt", "wrong kind"):
        result = copy.deepcopy(good())
        place: Any = result
        for key in path[:-1]:
            place = place[key]
        value = place.pop(path[-1])
        if damage == "misspelt":
            place[f"{path[-1]}_"] = value
        elif damage == "wrong kind":
            place[path[-1]] = [[]]
        assert not VALIDATOR.is_valid(result), damage


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(schema="hauberk.evaluation/2"),
        lambda r: r.update(surplus=1),
        lambda r: r.update(n=0),
        lambda r: r.update(n=1.5),
        lambda r: r.update(batch_size=0),
        lambda r: r.update(radii=[]),
        lambda r: r.update(threat_statement=""),
        lambda r: r["clean_accuracy"].update(value=1.01),
        lambda r: r["clean_accuracy"].update(low=-0.01),
        lambda r: r["clean_accuracy"].update(count=0),
        lambda r: r["clean_accuracy"].update(extra=0),
        lambda r: r["robust_accuracy"].update(lower=0.5),
        lambda r: r["robust_accuracy"].update(upper=None),
        lambda r: r["attacks"][0].update(broken=-1),
        lambda r: r["attacks"][0].update(seconds=-0.1),
        lambda r: r["attacks"][0].update(forwards=1.5),
        lambda r: r["radii"][0].update(radius=0),
        lambda r: r["radii"][0].update(radius="inf"),
        lambda r: r["model"].update(fingerprint="xyz"),
        lambda r: r["model"].update(notes="one"),
        lambda r: r["data"].update(shape=[0]),
        lambda r: r["audit"][0].update(severity="fatal"),
        lambda r: r["audit"][0].update(id="Zero Gradient"),
        lambda r: r["environment"].update(started="yesterday"),
        lambda r: r["environment"].update(started="2026-01-02T03:04:05"),
        lambda r: r["environment"]["git"].update(revision="main"),
        lambda r: r["environment"].update(threads=0),
    ],
)
def test_a_broken_result_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    result = copy.deepcopy(good())
    change(result)
    assert not VALIDATOR.is_valid(result)
