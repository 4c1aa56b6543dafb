"""Every objective and regulariser says where it stands."""

import dataclasses

import pytest

import hauberk.train as train
from hauberk.errors import SettingError
from hauberk.train import Adversarial, Regularised, Status


def _defenses() -> list[type]:
    """The classes of `hauberk.train` that turn a net and a batch into a loss."""
    found = [
        value
        for name in train.__all__
        if isinstance(value := getattr(train, name), type)
        and dataclasses.is_dataclass(value)
        and value is not Adversarial
        and "net" in getattr(value.__call__, "__annotations__", {})
    ]
    assert len(found) >= 14
    return found


def test_every_objective_and_regulariser_has_a_status_of_a_known_kind() -> None:
    for kind in _defenses():
        assert isinstance(kind.status, Status), kind.__name__  # type: ignore[attr-defined]


def test_the_docstring_of_a_defense_tells_the_same_status_as_the_class() -> None:
    import sys

    for kind in _defenses():
        if kind is Regularised:  # has that of its parts
            continue
        text = sys.modules[kind.__module__].__doc__ or ""
        _, _, told = text.partition("**Status:** ")
        assert told.split()[0].strip(":;,.") == kind.status.kind, kind.__name__  # type: ignore[attr-defined]


def test_what_is_broken_names_who_broke_it() -> None:
    assert str(Status("broken", "Somebody 2020, arXiv:2001.00001")) == "broken (Somebody 2020, arXiv:2001.00001)"
    assert str(Status("holds")) == "holds"
    for kind in ("broken", "partial"):
        with pytest.raises(SettingError, match="needs by="):
            Status(kind)
    with pytest.raises(SettingError, match="is one of"):
        Status("unbreakable")
