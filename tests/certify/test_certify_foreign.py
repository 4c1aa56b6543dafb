import gzip
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hauberk.certify._property import Case, Property, Verdict
from hauberk.certify.foreign import VERIFIERS, Foreign
from hauberk.certify.vnnlib import to_vnnlib
from hauberk.errors import DataError, SettingError, UnknownNameError

Write = Callable[[str], Foreign]

ASKED = Property((Case(np.zeros(2), np.ones(2), np.array([[-1.0]]), np.array([1.5])),))  # y >= 1.5
GOOD = "((X_0 1.0)\\n (X_1 0.75)\\n (Y_0 1.75))"


def total(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network: the sum."""
    return x.sum(keepdims=True)


@pytest.fixture
def fake(tmp_path: Path) -> Write:
    """A verifier that runs this Python, in which `results` is its file and `argv` its arguments."""
    (tmp_path / "net.onnx").write_bytes(b"a network")
    to_vnnlib(ASKED, tmp_path / "asked.vnnlib")

    def write(body: str) -> Foreign:
        script = tmp_path / "fake.py"
        start = "import os, subprocess, sys, time\nargv = sys.argv[1:]\nresults = open(argv[2], 'w')\n"
        script.write_text(start + body + "\n")
        words = (sys.executable, "-S", str(script), "{net}", "{property}", "{results}", "{seconds}", "{folder}")
        return Foreign("fake", words, grace=0.5)

    return write


def run(foreign: Foreign, folder: Path, seconds: float = 60.0, asked: Property = ASKED) -> Verdict:
    return foreign(folder / "net.onnx", folder / "asked.vnnlib", asked, total, seconds=seconds)


def test_a_proof_is_handed_on(fake: Write, tmp_path: Path) -> None:
    found = run(fake("results.write('unsat\\n')"), tmp_path)
    assert (found.status, found.method, found.witness, found.reason) == ("holds", "fake", None, "")
    assert 0 < found.seconds < 60


def test_a_witness_is_checked_and_handed_on(fake: Write, tmp_path: Path) -> None:
    for between in ("\\n", " "):  # some tools put both on one line
        found = run(fake(f"results.write('sat{between}{GOOD}')"), tmp_path)
        assert found.status == "violated"
        assert found.witness is not None
        assert found.witness.dtype == np.float32
        assert found.witness.tolist() == [1.0, 0.75]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("sat", "gives no witness"),
        ("sat\\n((X_0 0.5) (X_1 0.5) (Y_0 9.0))", "does not violate"),
        ("sat\\n((X_0 1.0) (X_1 1.1))", "outside the box"),
        ("sat\\n((X_0 1.0) (Y_0 1.75))", "has not the inputs X_0 to X_1"),
        ("sat\\n((X_0 1.0) (X_1 much))", "has not the inputs X_0 to X_1"),
        ("sat\\n((X_0 1.0) (X_1 nan))", "not finite"),
        ("timeout", "says timeout"),
        ("unknown", "says unknown"),
        ("error", "says error"),
        ("satisfied", "without a verdict"),
        ("", "without a verdict"),
    ],
)
def test_what_does_not_stand_up_is_unknown_with_its_reason(fake: Write, tmp_path: Path, told: str, reason: str) -> None:
    found = run(fake(f"results.write('{told}')"), tmp_path)
    assert (found.status, found.witness) == ("unknown", None)
    assert reason in found.reason
    assert found.reason.startswith("fake ")


def test_the_networks_own_output_decides_and_not_what_the_witness_says_it_is(fake: Write, tmp_path: Path) -> None:
    found = run(fake("results.write('sat\\n((X_0 1.0) (X_1 0.75) (Y_0 -7))')"), tmp_path)
    assert found.status == "violated"


def test_a_proof_of_a_verifier_that_ended_badly_does_not_count(fake: Write, tmp_path: Path) -> None:
    found = run(fake("results.write('unsat'); results.close(); sys.exit(3)"), tmp_path)
    assert found.status == "unknown"
    assert found.reason == "fake says unsat, but ended with exit code 3"


def test_a_verifier_that_fails_is_quoted(fake: Write, tmp_path: Path) -> None:
    found = run(fake("raise ValueError('no such operator')"), tmp_path)
    assert found.reason == "fake ended with exit code 1 without a verdict: ValueError: no such operator"


def test_what_is_printed_is_read_where_no_file_is_written(fake: Write, tmp_path: Path) -> None:
    """As Marabou does it."""
    text = "Network: sat.onnx\nsat\nInput assignment:\n\tx0 = 1.000000\n\tx1 = 0.750000\n\nOutput:\n\ty0 = 1.75\n"
    found = run(fake(f"print({text!r})"), tmp_path)
    assert found.status == "violated"
    assert run(fake("print('Property: x\\n\\nunsat\\n')"), tmp_path).status == "holds"
    assert run(fake("print('unsat so far, 3 to do')"), tmp_path).status == "unknown"
    assert run(fake("print('unsat,0.0312')"), tmp_path).status == "holds"  # as NeuralSAT does


def test_the_verifier_gets_the_files_the_seconds_and_a_folder(fake: Write, tmp_path: Path) -> None:
    plain = tmp_path / "asked.vnnlib"
    with gzip.open(tmp_path / "asked.vnnlib.gz", "wb") as file:
        file.write(plain.read_bytes())
    wanted = plain.read_text()
    plain.unlink()
    body = f"assert open(argv[1]).read() == {wanted!r} and argv[1].endswith('.vnnlib')\n"
    body += f"assert argv[0] == {str(tmp_path / 'net.onnx')!r} and argv[3] == '60' and os.path.isdir(argv[4])\n"
    body += "print(argv[4]); results.write('unsat')"
    assert run(fake(body), tmp_path, seconds=59.5).status == "holds"


def test_a_late_verifier_is_killed_with_all_its_processes(fake: Write, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    body = f"""
child = os.fork()
if not child:
    time.sleep(60)
open({str(mark)!r}, 'w').write(str(child))
"""
    began = time.monotonic()
    found = run(fake(body + "time.sleep(60)"), tmp_path, seconds=3.0)
    assert time.monotonic() - began < 40
    assert found.status == "unknown"
    assert found.reason == "fake was killed 0.5 s past its 3 s"
    assert gone(int(mark.read_text()))
    mark.unlink()
    found = run(fake(body + "results.write('unsat')"), tmp_path)  # it ends, its child does not
    assert found.status == "holds"
    assert gone(int(mark.read_text()))


def gone(process: int) -> bool:
    """Dead, or dead and not yet collected by init."""
    for _ in range(200):
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_a_proof_of_a_verifier_that_had_to_be_killed_does_not_count(fake: Write, tmp_path: Path) -> None:
    late = "results.flush(); time.sleep(60)"
    assert run(fake(f"results.write('unsat'); {late}"), tmp_path, seconds=3.0).status == "unknown"
    assert run(fake(f"results.write('sat\\n{GOOD}'); {late}"), tmp_path, seconds=3.0).status == "violated"


def test_known_verifiers_are_started_by_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VERIFIERS:
        monkeypatch.setenv(f"HAUBERK_{name.upper().replace('-', '_')}", f"{sys.executable} '/a b/main.py'")
        made = Foreign.of(name)
        assert made.name == name
        assert made.command[:2] == (sys.executable, "/a b/main.py")
        assert any("{net}" in word for word in made.command)
        assert any("{property}" in word for word in made.command)


def test_a_command_without_places_is_called_as_an_entrant_of_the_competition() -> None:
    made = Foreign.of(f"{sys.executable} run_instance.sh")
    assert made.command[2:] == ("v1", "hauberk", "{net}", "{property}", "{results}", "{seconds}")
    own = Foreign.of(f"{sys.executable} x.py --n={{net}} {{property}}")
    assert own.command == (sys.executable, "x.py", "--n={net}", "{property}")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("marabu", UnknownNameError, "did you mean marabou"),
        ("/nowhere/tool {net} {property}", SettingError, "no program /nowhere/tool"),
        (f"{sys.executable} {{net}}", SettingError, "names {net} and {property}"),
        ("tool 'x", SettingError, "is no command"),
        ("  ", SettingError, "a verifier is a name"),
    ],
)
def test_a_verifier_that_is_not_there_is_refused(text: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        Foreign.of(text)


def test_a_known_verifier_that_is_not_installed_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("HAUBERK_MARABOU", raising=False)
    with pytest.raises(SettingError, match="HAUBERK_MARABOU"):
        Foreign.of("marabou")


def test_files_that_are_not_there_are_refused(fake: Write, tmp_path: Path) -> None:
    foreign = fake("results.write('unsat')")
    with pytest.raises(DataError, match="absent"):
        foreign(tmp_path / "absent.onnx", tmp_path / "asked.vnnlib", ASKED, total, seconds=1.0)
    with pytest.raises(DataError, match="absent"):
        foreign(tmp_path / "net.onnx", tmp_path / "absent.vnnlib", ASKED, total, seconds=1.0)
