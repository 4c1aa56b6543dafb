"""What stands between the commands and the shell: every end of a command is an exit code and, if bad, one sentence.

0    done
1    below the bar of --fail-under, or the audit says that the number it is held against cannot be trusted
2    bad input: a model, data, a threat, an option
3    a defect of hauberk
130  interrupted (Ctrl-C)
141  whoever read the output has gone away; as the shell has it for SIGPIPE, nothing is said
"""

import codecs
import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import typer
from typer.core import TyperCommand, TyperGroup

from hauberk.errors import HauberkError
from hauberk.report.words import in_ascii, plain

__all__ = ["DEBUG", "Command", "Group", "Stop", "as_typed", "one_line", "say"]

DEBUG = "HAUBERK_DEBUG"
"""The variable of the environment that brings tracebacks back."""

_BELOW, _BAD, _DEFECT, _INTERRUPTED, _PIPE = 1, 2, 3, 130, 141
_PLAINER = "hauberk.plainer"
_LISTS = ("--mean", "--std", "--bounds")  # options that take several numbers
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(,{_NUMBER})*,?")
# typer exports this one error of usage; its root is click's ClickException, or that of typer's own copy of click
_USAGE: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


# What the library spells as Python, the command line spells as options.
_SPELLINGS = tuple(
    (re.compile(python), option)
    for python, option in (
        (r"trust_pickle=True \(--trust-pickle\)", "--trust-pickle"),
        (r"arch='([^']+)' \(--arch\)", r"--arch \1"),
        (r"\bbounds=\(([^,()]+), ([^,()]+)\)", r"--bounds \1 \2"),
        (r"\b(output|device)='([^']+)'", r"--\1 \2"),
        (r"\b(output|mean|std)=(?=[ ,;]|$)", r"--\1"),
        (r"\bhauberk\.evaluate\b", "hauberk evaluate"),
        (r"\bbatch_size=(?=[-\d])", "--batch-size "),
        (r"\b(n|stages)=(?=[-\d])", r"--\1 "),
    )
)


class Stop(Exception):  # no error: an end that was asked for
    """Ends a command with this exit code after saying this sentence on stderr."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code

    @classmethod
    def below(cls, sentence: str) -> "Stop":
        """The model is below the bar."""
        return cls(_BELOW, f"below the bar: {sentence}")

    @classmethod
    def untrusted(cls, sentence: str) -> "Stop":
        """The number that the bar is held against cannot be trusted."""
        return cls(_BELOW, f"not to be trusted: {sentence}")

    @classmethod
    def interrupted(cls, hint: str) -> "Stop":
        """Ctrl-C, and what to do to go on."""
        return cls(_INTERRUPTED, f"interrupted; {hint}")


def one_line(text: object) -> str:
    """The text without line breaks and without characters that a terminal would obey."""
    return plain(" ".join(str(text).split()))


def as_typed(text: object) -> str:
    """A sentence of the library in which options are spelled as on the command line."""
    said = str(text)
    for python, option in _SPELLINGS:
        said = python.sub(option, said)
    return said


def say(text: object) -> None:
    """One line on stderr."""
    print(one_line(text), file=sys.stderr, flush=True)


class Command(TyperCommand):
    """A command that takes several numbers apart or together, `--mean 0.49 0.48` or `--mean 0.49,0.48`, and `--json` without a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _gathered(args))


class Group(TyperGroup):
    """The group of all commands; keeps what was typed, and turns every exception into an exit code and a sentence."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return super().make_context(info_name, args, parent, **{"obj": tuple(args)} | extra)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        codecs.register_error(_PLAINER, _plainer)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # a terminal that cannot show a character shows another one
                stream.reconfigure(errors=_PLAINER)  # type: ignore[union-attr]
        try:
            # typer gives back the code of typer.Exit, and None after a command that simply ended
            code = super().main(args, "hauberk", complete_var, False, windows_expand_args, **extra) or 0
            sys.stdout.flush()
        except BaseException as error:
            code = _ended_by(error)
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as error:  # before typer makes something else of them
            raise _Caught(error) from error


class _Caught(Exception):  # an envelope
    """Carries an exception past typer."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _ended_by(error: BaseException) -> int:
    """Say what there is to say about the exception that ended the program, and give its exit code."""
    error = error.error if isinstance(error, _Caught) else error
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        _mute()
        return _PIPE
    if isinstance(error, SystemExit) and isinstance(error.__context__, OSError):  # rich or typer have met it
        return _ended_by(error.__context__)
    if isinstance(error, SystemExit):  # ours end with typer.Exit
        error = HauberkError(
            f"the model's or the data's own code ended the program, with exit({error.code!r}); keep that call from running at import"
        )
    if isinstance(error, Stop):
        say(error)
        return error.code
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        say("interrupted")
        return _INTERRUPTED
    if isinstance(error, HauberkError):
        say(f"error: {as_typed(error)}")
        return _BAD
    if isinstance(error, _USAGE):
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is its message, unless rich has shown it
            if text := error.format_message():  # type: ignore[attr-defined]
                print(text, file=sys.stderr)
            return _BAD
        say(f"error: {_usage(error)}")
        return _BAD
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        say("error: the memory is used up; give a smaller --batch-size")
        return _BAD
    said = f": {error}".rstrip(": .") if str(error).strip() else ""
    hint = "" if os.environ.get(DEBUG) else f"; {DEBUG}=1 in the environment shows where"
    say(f"error: hauberk failed with {type(error).__name__}{said}; this is a defect of hauberk, please report it{hint}")
    return _DEFECT


def _usage(error: Any) -> str:
    """The sentence for an error of usage, with the command whose help says more."""
    message = one_line(error.format_message()).rstrip(".").replace(". Did you", "; did you")
    path = getattr(getattr(error, "ctx", None), "command_path", "hauberk")
    return f"{message[:1].lower()}{message[1:]}{'' if message.endswith('?') else ';'} try: {path} --help"


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What takes the place of characters that an output cannot show."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def _mute() -> None:
    """Send what is still in the buffers to nowhere, so that Python does not complain about the pipe when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os.dup2(nowhere, sys.stdout.fileno())


def _gathered(args: list[str]) -> list[str]:
    """The arguments with the numbers after an option of several joined by commas, and `-` after a `--json` that names no file."""
    made: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*made, word, *rest]
        made.append(word)
        if word == "--json" and (not rest or (rest[0].startswith("-") and rest[0] != "-")):
            made.append("-")
        option, equals, first = word.partition("=")
        if option not in _LISTS:
            continue
        numbers = [first] if equals else []
        while rest and _NUMBERS.fullmatch(rest[0]):
            numbers.append(rest.pop(0))
        if numbers:
            made[-1:] = [option, ",".join(number.strip(",") for number in numbers)]
    return made
