"""`hauberk evaluate`: what it prints, writes and exits with."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hauberk.evaluate import evaluate as run_evaluation

Run = Callable[..., Any]
EVALUATE = ("evaluate", "py:nets.py:tiny", "--data", "good.npz", "--suite", "quick", "--threat", "linf:0.05,0.1")


def check(document: dict[str, Any]) -> dict[str, Any]:
    schema = json.loads(resources.files("hauberk.evaluate").joinpath("evaluation.schema.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    return document


def test_evaluate_prints_the_summary_and_says_every_guess(hauberk: Run) -> None:
    done = hauberk(*EVALUATE)
    assert done.exit_code == 0, done.output
    assert "Of 12 test images the model keeps at most" in " ".join(done.stdout.replace("│", " ").split())
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())
    assert "'images' of good.npz are 1x4x4" in done.stderr
    assert "was called without arguments to build the model" in done.stderr


def test_guesses_name_options_as_the_command_line_spells_them(hauberk: Run) -> None:
    done = hauberk(*EVALUATE, "--stages", "1", "--no-audit")
    assert done.exit_code == 0
    probabilities = hauberk("evaluate", "py:nets.py:probabilities", *EVALUATE[2:], "--stages", "1", "--no-audit")
    assert "The outputs look like probabilities" in probabilities.stderr
    assert "--output logits" in probabilities.stderr


def test_json_on_standard_output_is_alone_there_and_keeps_the_contract(hauberk: Run) -> None:
    done = hauberk(*EVALUATE, "--json", "-")
    document = check(json.loads(done.stdout))
    assert document["n"] == 12
    assert document["rows"] is None
    assert document["environment"]["command"] == f"hauberk {' '.join([*EVALUATE, '--json', '-'])}"
    assert hauberk(*EVALUATE, "--json").stdout.startswith('{\n  "schema"')


def test_a_run_folder_holds_everything_and_is_finished_by_the_same_command(hauberk: Run, tmp_path: Path) -> None:
    out, place = tmp_path / "run", tmp_path / "elsewhere"
    place.mkdir()
    command = (*EVALUATE, "--out", str(out), "--json", str(place / "result.json"), "--html", str(place / "page.html"))
    first = hauberk(*command)
    assert first.exit_code == 0, first.output
    assert {"manifest.json", "result.json", "rows.parquet", "report.html"} <= {path.name for path in out.iterdir()}
    assert (place / "page.html").read_bytes() == (out / "report.html").read_bytes()
    assert check(json.loads((out / "result.json").read_text()))["rows"] == "rows.parquet"
    assert check(json.loads((place / "result.json").read_text()))["rows"] == "../run/rows.parquet"
    rows = (out / "rows.parquet").read_bytes()
    assert hauberk(*command).exit_code == 0
    assert (out / "rows.parquet").read_bytes() == rows
    assert str(out / "report.html") in first.stderr


def test_a_report_without_a_run_folder_still_has_its_gallery(hauberk: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert hauberk(*EVALUATE, "--html", str(page)).exit_code == 0
    assert "data:image/" in page.read_text("utf-8")


def test_the_gate_exits_with_1_below_the_bar_and_0_at_it(hauberk: Run) -> None:
    value = json.loads(hauberk(*EVALUATE, "--json", "-").stdout)["robust_accuracy"]["upper"]["value"]
    assert 0 < value < 1
    assert hauberk(*EVALUATE, "--fail-under", str(value)).exit_code == 0
    below = hauberk(*EVALUATE, "--fail-under", str(value + 0.01), "--quiet")
    assert below.exit_code == 1
    assert not below.stdout
    (sentence,) = below.stderr.splitlines()
    assert sentence.startswith("below the bar: at most ")
    assert "of 12 examples withstand linf:0.1 (95 % interval" in sentence


@pytest.fixture
def doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation has a warning and two errors of the audit."""

    def evaluate(*args: Any, **options: Any) -> Any:
        evaluation = run_evaluation(*args, **options)
        found = [("random-output", "error"), ("loss-still-rising", "warning"), ("dead-gradients", "error")]
        evaluation.result["audit"][:] = [
            {"id": name, "severity": severity, "evidence": "seen", "next": "look"} for name, severity in found
        ]
        return evaluation

    monkeypatch.setattr(hauberk_evaluate(), "run_evaluation", evaluate)


def test_the_gate_does_not_trust_a_number_that_the_audit_found_errors_in(hauberk: Run, doubted: None) -> None:
    gate = (*EVALUATE, "--stages", "1", "--quiet", "--fail-under")
    done = hauberk(*gate, "0")
    assert (done.exit_code, done.stdout) == (1, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("not to be trusted: the audit found errors (random-output, dead-gradients), ")
    assert hauberk(*gate, "0", "--allow-audit-errors").exit_code == 0
    below = hauberk(*gate, "1")
    assert below.exit_code == 1
    assert below.stderr.startswith("below the bar: at most ")
    assert below.stderr.endswith("; besides, the audit found errors (random-output, dead-gradients)\n")
    assert "audit" not in hauberk(*gate, "1", "--allow-audit-errors").stderr
    assert hauberk(*gate[:-1]).exit_code == 0


def test_the_gate_lets_warnings_pass(hauberk: Run) -> None:
    document = json.loads(hauberk(*EVALUATE, "--json", "-").stdout)
    assert {finding["severity"] for finding in document["audit"]} <= {"info", "warning"}
    assert hauberk(*EVALUATE, "--quiet", "--fail-under", "0").exit_code == 0


def test_quiet_says_nothing(hauberk: Run) -> None:
    done = hauberk(*EVALUATE, "--quiet", "--stages", "1", "--no-audit")
    assert (done.exit_code, done.output) == (0, "")


def test_weights_with_an_architecture_give_the_model_and_options_reach_it(hauberk: Run) -> None:
    weights = ("evaluate", "tiny.safetensors", "--arch", "nets.py:tiny", *EVALUATE[2:], "--stages", "1", "--no-audit")
    more = (
        "--mean",
        "0.25",
        "--std",
        "0.5",
        "--bounds",
        "0",
        "1",
        "--classes",
        "3",
        "--dtype",
        "float64",
        "--json",
        "-",
    )
    done = hauberk(*weights, "--device", "cpu", "--seed", "3", "--n", "8", "--batch-size", "5", *more)
    assert done.exit_code == 0, done.output
    document = check(json.loads(done.stdout))
    assert (document["n"], document["seed"], document["batch_size"]) == (8, 3, 5)
    assert document["environment"]["dtype"] == "float64"
    assert document["suite"] == "quick[:1]"
    assert not document["audit_checks"]
    assert (document["model"]["description"]["mean"], document["model"]["description"]["std"]) == (0.25, 0.5)


@pytest.mark.parametrize(
    "spelling",
    [
        ["--mean", "0.1", "0.2", "0.3", "--std", "1", "2", "3"],
        ["--mean", "0.1,0.2,0.3", "--std=1,2,3"],
        ["--mean", "0.1, 0.2, 0.3", "--std", "1 2 3"],
        ["--mean=0.1", "0.2", "0.3", "--std", "1", "--std", "2", "--std", "3"],
        ["--mean", "0.1,", "0.2,", "0.3", "--std", "1", "2,3"],
    ],
    ids=" ".join,
)
def test_numbers_of_an_option_may_be_spelled_in_many_ways(
    hauberk: Run, monkeypatch: pytest.MonkeyPatch, spelling: list[str]
) -> None:
    seen: list[dict[str, Any]] = []

    def look(model: str, options: Any, *rest: Any, **more: Any) -> Any:
        seen.append(options.wrapping() | {"model": model})
        raise KeyboardInterrupt

    monkeypatch.setattr(hauberk_evaluate(), "open_both", look)
    hauberk("evaluate", *spelling, "net.onnx", "--bounds", "-1", "1", *EVALUATE[2:])
    assert seen == [{"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "bounds": (-1.0, 1.0), "model": "net.onnx"}]


def hauberk_evaluate() -> Any:
    """The module, which the function of its name hides."""
    return sys.modules["hauberk.cli.evaluating"]


@pytest.mark.parametrize(
    ("out", "hint"),
    [([], "no --out DIR"), (["--out", "new"], "nothing was kept yet: a chunk is --batch-size examples, 12 here")],
)
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    hauberk: Run, monkeypatch: pytest.MonkeyPatch, out: list[str], hint: str
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hauberk_evaluate(), "run_evaluation", stop)
    done = hauberk(*EVALUATE, *out)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith("interrupted; ")
    assert hint in done.stderr
    assert "Traceback" not in done.output


def test_ctrl_c_before_the_work_begins_is_no_defect(hauberk: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hauberk_evaluate(), "open_both", stop)
    done = hauberk(*EVALUATE)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ZeroDivisionError("x"), 3, "hauberk failed with ZeroDivisionError: x; this is a defect"),
        (MemoryError(), 2, "smaller --batch-size"),
        (OSError("the disk\nis gone"), 3, "OSError: the disk is gone"),
    ],
    ids=["defect", "memory", "disk"],
)
def test_what_nobody_foresaw_is_one_sentence_too(
    hauberk: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(hauberk_evaluate(), "run_evaluation", fail)
    done = hauberk(*EVALUATE, "--quiet")
    assert done.exit_code == code
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    monkeypatch.setenv("HAUBERK_DEBUG", "1")
    assert "Traceback" in hauberk(*EVALUATE, "--quiet").stderr


def test_a_terminal_is_safe_from_the_names_of_a_model(hauberk: Run, bench: Path, tmp_path: Path) -> None:
    name = str(tmp_path / "\x1b[31mred\u202e.npz")
    done = hauberk("evaluate", "py:nets.py:tiny", "--data", name, "--threat", "linf:0.1")
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


HEARS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to Ctrl-C, and so its children
"""


def test_ctrl_c_in_the_middle_of_a_run_can_be_resumed(bench: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    place = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = HEARS + "from hauberk.cli import main; main()"
    start = [sys.executable, "-c", code, *EVALUATE, "--batch-size", "1", "--no-audit", "--out", str(out), "-q"]
    with subprocess.Popen(start, cwd=bench, env=place, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (out / "chunks" / "00000").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(2)
        _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130
    kept = re.fullmatch(r"interrupted; kept (\d+) of 12; the same command goes on from there\n", said)
    assert kept is not None
    done = subprocess.run(start[:-1], cwd=bench, env=place, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"resuming at {kept[1]} of 12\n" in done.stderr
    assert (out / "report.html").is_file()


def test_a_run_that_goes_on_or_was_finished_says_so(hauberk: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = (*EVALUATE, "--batch-size", "5", "--no-audit", "--out", str(out))

    def said(*more: str) -> list[str]:
        done = hauberk(*command, *more)
        assert done.exit_code == 0, done.output
        return [line for line in done.stderr.splitlines() if line.startswith(("resuming", "already"))]

    assert said() == []
    assert said() == ["already finished; nothing was computed"]
    assert said("--quiet") == []
    (out / "result.json").unlink()
    assert said() == ["resuming at 12 of 12"]
    (out / "result.json").unlink()
    shutil.rmtree(out / "chunks" / "00002")
    assert said() == ["resuming at 10 of 12"]
    other = hauberk(*command, "--seed", "7")
    assert (other.exit_code, "resuming" in other.stderr) == (2, False)


def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(bench: Path) -> None:
    code = f"""{HEARS}
import importlib.abc, os, signal, sys
from hauberk.cli import main

class Impatient(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "hauberk.cli.commands":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
sys.argv = ["hauberk", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=bench, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_after_its_imports_the_command_line_hears_ctrl_c_as_python_does(bench: Path) -> None:
    code = f"""{HEARS}
import atexit, signal, sys
from hauberk.cli import main
atexit.register(lambda: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler))
sys.argv = ["hauberk", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=bench, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_that_is_not_utf8_gets_plain_characters(bench: Path, encoding: str) -> None:
    place = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": encoding, "COLUMNS": "120"}
    run = [sys.executable, "-m", "hauberk", *EVALUATE, "--fail-under", "1"]
    done = subprocess.run(run, cwd=bench, env=place, capture_output=True, check=False)
    assert done.returncode == 1
    shown = done.stdout.decode("ascii")
    assert "keeps at most" in shown
    assert "?" not in shown
    assert re.search(r"at most \d+\.\d.% of 12", done.stderr.decode(encoding))


def test_a_broken_pipe_is_silent(bench: Path) -> None:
    place = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "hauberk", "list"]
    with subprocess.Popen(run, cwd=bench, env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
