"""Other verifiers, run as processes of their own on the same files: their verdicts, their witnesses, checked here.

A verifier is told the network, the property and its seconds; it answers as in the VNN-COMP competitions: a file (or its output) that
begins with `unsat`, `sat`, `timeout`, `unknown` or `error`, and after `sat` the witness, `((X_0 0.5) ... (Y_0 1.2) ...)`.
`violated` is believed only with a witness that the caller's own computation of the network confirms; `holds` rests on the other
verifier alone, and only where it ended well.

The command lines are those of the tools' own VNN-COMP scripts: alpha-beta-CROWN (Zhang et al. 2018 and later), NeuralSAT (Duong et
al. 2023, arXiv:2307.10266), Marabou 2 (Wu et al. 2024, arXiv:2401.14461), vibecheck.
"""

import contextlib
import gzip
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hauberk.certify._property import Property, Verdict
from hauberk.errors import DataError, SettingError, UnknownNameError

__all__ = ["VERIFIERS", "Foreign"]

Outputs: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]

VERIFIERS = {
    "alpha-beta-crown": (
        "abcrown.py",
        (
            "--onnx_path {net} --vnnlib_path {property} --results_file {results} --timeout {seconds} "
            "--save_adv_example --cex_path {folder}/witness.txt"
        ),
    ),
    "neuralsat": (
        "neuralsat",
        "--net {net} --spec {property} --timeout {seconds} --result_file {results} --export_cex",
    ),
    "marabou": ("Marabou", "{net} {property} --timeout={seconds}"),
    "vibecheck": (
        "python3 -m vibecheck.main",
        "--net {net} --spec {property} --timeout {seconds} --results-file {results}",
    ),
}
"""What starts each known verifier, unless its variable of the environment says otherwise, and its arguments."""

_COMPETITION = "v1 hauberk {net} {property} {results} {seconds}"  # what the run_instance.sh of every entrant takes
_STATUS = {"unsat": "holds", "holds": "holds", "sat": "violated", "violated": "violated"}
_ANSWER = re.compile(r"\s*(unsat|sat|holds|violated|timeout|unknown|error)(?=[\s,(]|$)", re.IGNORECASE)
_WHOLE = re.compile(r"\s*(unsat|sat|holds|violated|timeout|unknown|error)\s*(,\s*[\d.]+\s*)?", re.IGNORECASE)
_VALUE = re.compile(r"\(\s*X_(\d+)\s+([^\s()]+)\s*\)|^\s*x(\d+)\s*=\s*(\S+)\s*$", re.MULTILINE)
_PLACE = re.compile(r"\{(net|property|results|seconds|folder)\}")


@dataclass(frozen=True)
class Foreign:
    """A verifier that is not ours.

    Args:
        name: for people.
        command: its words, in which {net}, {property}, {results}, {seconds} (whole ones) and {folder}, an empty folder for whatever it
            writes, are filled in.
        grace: seconds past the limit that it is told, after which it and all its processes are killed.
    """

    name: str
    command: tuple[str, ...]
    grace: float = 10.0

    @classmethod
    def of(cls, text: str) -> "Foreign":
        """A known name, or a command. A command without {net} is called as the run_instance.sh of an entrant of VNN-COMP.

        What starts a known verifier is read from the environment where set: HAUBERK_ALPHA_BETA_CROWN, HAUBERK_NEURALSAT, ...

        Raises:
            UnknownNameError: one word that is neither a known name nor a program.
            SettingError: the command cannot be read, or its program is not there.
        """
        if text in VERIFIERS:
            program, arguments = VERIFIERS[text]
            variable = f"HAUBERK_{text.upper().replace('-', '_')}"
            words = _words(os.environ.get(variable) or program)
            cure = f"set {variable} to what starts it, such as '/path/to/python /path/to/main.py'"
            made = cls(text, (*words, *arguments.split()))
        else:
            words = _words(text)
            if len(words) == 1 and os.sep not in text and shutil.which(text) is None:
                raise UnknownNameError.of("verifier", text, VERIFIERS)
            places = {match[1] for word in words for match in _PLACE.finditer(word)}
            if places and not {"net", "property"} <= places:
                raise SettingError(f"a verifier's command names {{net}} and {{property}}, got {text!r}")
            cure = "check its path"
            made = cls(Path(words[0]).name, (*words, *(() if places else _COMPETITION.split())))
        if shutil.which(made.command[0]) is None:
            raise SettingError(f"{text} cannot be run: there is no program {made.command[0]}; {cure}")
        return made

    def __call__(self, net: Path, prop: Path, asked: Property, outputs: Outputs, *, seconds: float) -> Verdict:
        """What it says of the property of this file, where that stands up.

        Args:
            net: in ONNX.
            prop: in VNN-LIB, may be compressed; the verifier gets a plain copy.
            asked: the property of the file.
            outputs: what the network gives for (n,) float32, by which a witness is judged.
            seconds: that it is told, rounded up.

        Raises:
            DataError: a file is not there.
            SettingError: the program cannot be started.
        """
        if not net.is_file():
            raise DataError(f"there is no file {net}; check the path")
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="hauberk-") as place:
            folder = Path(place)
            plain, results = folder / "property.vnnlib", folder / "results.txt"
            plain.write_bytes(_plain(prop))
            values = {"net": str(net.resolve()), "property": str(plain), "results": str(results), "folder": place}
            values["seconds"] = str(max(1, math.ceil(seconds)))
            command = [_PLACE.sub(lambda match: values[match[1]], word) for word in self.command]
            code, said = _run(command, folder / "said.txt", seconds + self.grace)
            told = _read(results)
        spent = time.perf_counter() - began
        status, witness, reason = self._judged(code, told, said, asked, outputs)
        if code is None and status != "violated":
            status, reason = "unknown", f"{self.name} was killed {self.grace:g} s past its {seconds:g} s"
        if status == "violated":
            return Verdict("violated", self.name, witness, spent)
        return Verdict("holds" if status == "holds" else "unknown", self.name, None, spent, reason=reason)

    def _judged(
        self, code: int | None, told: str, said: str, asked: Property, outputs: Outputs
    ) -> tuple[str, NDArray[np.float32] | None, str]:
        """Status, witness and reason."""
        begun = _ANSWER.match(told)
        if begun is None:
            whole = [line for line in said.splitlines() if _WHOLE.fullmatch(line)]
            begun = _ANSWER.match(whole[-1]) if whole else None
            told = said
        ended = "" if code in (0, None) else f" with exit code {code}"
        if begun is None:
            last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
            return "unknown", None, f"{self.name} ended{ended} without a verdict{': ' + last[:200] if last else ''}"
        word = begun[1].lower()
        status = _STATUS.get(word, "unknown")
        if status == "unknown":
            return "unknown", None, f"{self.name} says {word}"
        if status == "holds":
            return (status, None, "") if not ended else ("unknown", None, f"{self.name} says {word}, but ended{ended}")
        try:
            return status, _checked(told, asked, outputs), ""
        except _NoWitness as error:
            return "unknown", None, f"{self.name} says {word}, but {error}"


class _NoWitness(Exception):
    """Why there is none."""


def _checked(told: str, asked: Property, outputs: Outputs) -> NDArray[np.float32]:
    """The witness in what was told."""
    found: dict[int, float] = {}
    for match in _VALUE.finditer(told):
        with contextlib.suppress(ValueError):
            found[int(match[1] or match[3])] = float(match[2] or match[4])
    if not found:
        raise _NoWitness("gives no witness")
    n = asked.inputs
    if sorted(found) != list(range(n)):
        raise _NoWitness(f"its witness has not the inputs X_0 to X_{n - 1}")
    x = np.array([found[i] for i in range(n)], dtype=np.float64).astype(np.float32)
    if not np.isfinite(x).all():
        raise _NoWitness("its witness is not finite")
    if not any(case.contains(x) for case in asked.cases):
        raise _NoWitness("its witness is outside the box of the property")
    y = outputs(x)
    if not asked.violated(x, y):
        raise _NoWitness("its witness does not violate the property when it is checked")
    return x


def _words(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise SettingError(f"{text!r} is no command ({error}); quote it as for a shell") from error
    if not words:
        raise SettingError(f"a verifier is a name ({', '.join(VERIFIERS)}) or a command, got {text!r}")
    return words


def _plain(prop: Path) -> bytes:
    """The property without compression."""
    beside = prop.with_name(prop.name + ".gz")
    try:
        held = (beside if not prop.exists() and beside.exists() else prop).read_bytes()
        return gzip.decompress(held) if held.startswith(b"\x1f\x8b") else held
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{prop} cannot be read ({why}); check the path") from error


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _run(command: list[str], said: Path, seconds: float) -> tuple[int | None, str]:
    """The exit code, None if it had to be killed, and all that was printed. No process of it is left."""
    with said.open("wb") as sink:  # no pipe: a grandchild that holds it open would make us wait
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise SettingError(f"{command[0]} cannot be started ({error.strerror or error}); check its path") from error
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, _read(said)
