"""A manifest comes back as it was, names every difference, and refuses what it cannot read."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from hauberk.errors import RunError
from hauberk.evidence import RUN_SCHEMA, Manifest


def test_a_manifest_comes_back_as_it_was(changed: Callable[..., Manifest]) -> None:
    manifest = changed(
        attacks=({"name": "apgd", "settings": {"radius": math.inf, "losses": ("ce", "dlr")}},),
        options={"goal": "untargeted"},
        provenance={"git": None, "packages": {"torch": "2"}},
    )
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.fingerprint() == manifest.fingerprint()
    assert manifest.differences(again) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"threat": "linf:0.2"}, "threat was linf:0.2,0.3, is linf:0.2"),
        ({"model_fingerprint": "c" * 64}, "model was net (aaaaaaaaaaaa), is net (cccccccccccc)"),
        ({"model_name": "other"}, "model was net (aaaaaaaaaaaa), is other (aaaaaaaaaaaa)"),
        (
            {"data_name": "mnist", "data_fingerprint": "d" * 64},
            "data was digits (bbbbbbbbbbbb), is mnist (dddddddddddd)",
        ),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"n": 13}, "n was 12, is 13"),
        ({"batch_size": 8}, "batch_size was 4, is 8"),
        ({"dtype": "float64"}, "dtype was float32, is float64"),
        ({"suite": "standard"}, "suite was quick, is standard"),
        ({"attacks": []}, "attacks were fgsm, pgd, are none"),
        ({"options": {"first": 1}}, "first was absent, is 1"),
        ({"schema": "hauberk.run/2"}, "schema was hauberk.run/1, is hauberk.run/2"),
    ],
)
def test_a_difference_is_named(
    change: dict[str, Any], sentence: str, manifest: Manifest, changed: Callable[..., Manifest]
) -> None:
    assert manifest.differences(changed(**change)) == [sentence]
    assert changed(**change).fingerprint() != manifest.fingerprint()


def test_the_setting_of_an_attack_is_named(manifest: Manifest, changed: Callable[..., Manifest]) -> None:
    fgsm, pgd = manifest.attacks
    other = changed(attacks=[fgsm, {"name": "pgd", "settings": {"steps": 40, "restarts": 2}}])
    assert manifest.differences(other) == [
        "pgd steps was 20, is 40",
        "pgd momentum was null, is absent",
        "pgd restarts was absent, is 2",
    ]
    assert other.differences(manifest)[0] == "pgd steps was 40, is 20"
    assert pgd["settings"]["steps"] == 20


def test_the_order_of_attacks_matters(manifest: Manifest, changed: Callable[..., Manifest]) -> None:
    assert manifest.differences(changed(attacks=manifest.attacks[::-1])) == ["attacks were fgsm, pgd, are pgd, fgsm"]


def test_provenance_drifts_but_defines_nothing(changed: Callable[..., Manifest]) -> None:
    old = changed(provenance={"packages": {"torch": "2.6"}, "git": None})
    new = changed(provenance={"packages": {"torch": "2.7"}, "git": {"revision": "f", "dirty": False}})
    assert old.differences(new) == []
    assert old.fingerprint() == new.fingerprint()
    assert old.drift(new) == ["packages torch was 2.6, is 2.7", 'git was null, is {"dirty":false,"revision":"f"}']


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "expected JSON"),
        (lambda text: b"", "expected JSON"),
        (lambda text: b"\xff\xfe\x00", "expected JSON"),
        (lambda text: b"[]", "got other JSON"),
        (lambda text: b"{}", "got other JSON"),
        (lambda text: text.replace(RUN_SCHEMA.encode(), b"hauberk.run/9"), "hauberk.run/9"),
        (lambda text: text.replace(b'"seed"', b'"sead"'), "'seed'"),
        (lambda text: text.replace(b'"seed": 0', b'"seed": "0"'), "'seed'"),
        (lambda text: text.replace(b'"n": 12', b'"n": true'), "'n'"),
        (lambda text: json.dumps(json.loads(text) | {"extra": 1}).encode(), "extra"),
        (lambda text: json.dumps(json.loads(text) | {"attacks": ["pgd"]}).encode(), "to have a name"),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_sentence(
    damage: Callable[[bytes], bytes], message: str, manifest: Manifest
) -> None:
    with pytest.raises(RunError, match=message) as caught:
        Manifest.from_json(damage(manifest.to_json()), "run/manifest.json")
    assert "run/manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)
