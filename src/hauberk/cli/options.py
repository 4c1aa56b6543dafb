"""The options that several commands share, declared once, and what is made of their text."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hauberk.errors import SettingError

__all__ = [
    "Arch",
    "BatchSize",
    "Bounds",
    "Certify",
    "CertifySeconds",
    "Classes",
    "Data",
    "Device",
    "Dtype",
    "FailUnderProven",
    "Html",
    "Json",
    "MaxQueries",
    "Mean",
    "Model",
    "ModelOptions",
    "N",
    "Out",
    "Output",
    "Price",
    "Quiet",
    "Sandwich",
    "Seed",
    "Seen",
    "Std",
    "Threads",
    "Threat",
    "TrainingDevice",
    "TrustPickle",
    "set_threads",
    "writable",
]

_MODEL, _RUN, _PROOFS, _OUT = "The model", "The work", "Proofs", "What is written"
_BLACK_BOX = "A black box"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="zoo:NAME, FILE.safetensors (with --arch), FILE.pt2, FILE.pt (TorchScript), FILE.onnx, sklearn:FILE.skops, "
        "py:module:object, http://HOST:PORT/v2/models/NAME, or the folder that hauberk train wrote.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        metavar="DATA",
        show_default=False,
        help="digits, mnist5k, FILE.npz, FILE.parquet, a folder with one subfolder of pictures per class, or py:module:object.",
    ),
]
Threat = Annotated[
    str,
    typer.Option(
        "--threat",
        "-t",
        metavar="THREAT",
        show_default=False,
        help="What the attacker may do: linf:8/255, l2:0.5, l1:12, l0:24; several radii make a curve, linf:0.1,0.2,0.3; "
        "see also @grid255, @target=3, @scores, @labels. Other ways to change a picture: spatial:rotation=30, see hauberk list threats.",
    ),
]
Certify = Annotated[
    str,
    typer.Option(
        "--certify",
        metavar="METHOD",
        rich_help_panel=_PROOFS,
        help="auto, or how far to go: crown_ibp, crown, alpha_crown, branch_and_bound; off seeks no proofs. Cheap ones come first, "
        "so that no attack is spent on what is proven.",
    ),
]
CertifySeconds = Annotated[
    float,
    typer.Option(
        "--certify-seconds",
        metavar="S",
        rich_help_panel=_PROOFS,
        help="Seconds of branch and bound, as a mean over the examples.",
    ),
]
Seen = Annotated[
    str | None,
    typer.Option(
        "--access",
        metavar="ACCESS",
        rich_help_panel=_BLACK_BOX,
        show_default=False,
        help="What the attacker sees: scores or labels. The attacks are chosen for that; the same as @scores or @labels in the threat.",
    ),
]
MaxQueries = Annotated[
    int | None,
    typer.Option(
        "--max-queries",
        metavar="N",
        rich_help_panel=_BLACK_BOX,
        show_default=False,
        help="The most queries that any one example may cost; hard.",
    ),
]
Price = Annotated[
    float | None,
    typer.Option(
        "--price",
        metavar="P",
        rich_help_panel=_BLACK_BOX,
        show_default=False,
        help="What a query costs; the report then says what it came to.",
    ),
]
Sandwich = Annotated[
    int,
    typer.Option(
        "--sandwich",
        metavar="K",
        rich_help_panel=_PROOFS,
        help="For the first K examples also the largest radius that is proven, CLEVER's estimate and the smallest change found.",
    ),
]
FailUnderProven = Annotated[
    float | None,
    typer.Option(
        "--fail-under-proven",
        metavar="SHARE",
        rich_help_panel=_PROOFS,
        help="Exit with 1 if less than this share is proven, such as 0.8.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        rich_help_panel=_OUT,
        help="The run folder: rows, adversarial examples, result.json and report.html. Killed at any instant, the same "
        "command finishes the run.",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        rich_help_panel=_OUT,
        help="The result as JSON; - for standard output and nothing else there.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", rich_help_panel=_OUT, help="The report as one HTML file."),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="WHERE:FACTORY",
        rich_help_panel=_MODEL,
        help="For files that hold weights only: what builds the net, as module:factory, path/to/file.py:factory or zoo:mnist_cnn.",
    ),
]
Bounds = Annotated[
    list[str] | None,
    typer.Option(
        "--bounds",
        metavar="LOW HIGH",
        rich_help_panel=_MODEL,
        help="Smallest and largest value of an input, before normalisation; 0 1 if not given.",
    ),
]
Mean = Annotated[
    list[str] | None,
    typer.Option(
        "--mean",
        metavar="NUMBERS",
        rich_help_panel=_MODEL,
        help="The model is given (x - mean) / std: one number, or one per channel, as 0.49 0.48 0.45 or 0.49,0.48,0.45.",
    ),
]
Std = Annotated[list[str] | None, typer.Option("--std", metavar="NUMBERS", rich_help_panel=_MODEL, help="See --mean.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="KEY",
        rich_help_panel=_MODEL,
        help="Where the scores are in the answer (a key or an index), or what they are: logits, probabilities or labels.",
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        "--classes",
        metavar="K",
        rich_help_panel=_MODEL,
        help="How many classes there are, checked against the answers.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="D", rich_help_panel=_MODEL, help="cpu, cuda, mps; where the weights are if not given."
    ),
]
TrainingDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="D",
        rich_help_panel=_RUN,
        help="cpu, cuda (cuda:1) or mps; if not given cpu, and under torchrun cuda where there is one.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", metavar="DTYPE", rich_help_panel=_MODEL, help="float32 or float64; as the weights are if not given."
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        rich_help_panel=_MODEL,
        help="Load pickles, which can run any code: only if you trust whoever made the file.",
    ),
]
N = Annotated[
    int | None, typer.Option("--n", "-n", metavar="N", rich_help_panel=_RUN, help="Only the first N examples.")
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="S", rich_help_panel=_RUN, help="The same seed repeats the same draws.")
]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", metavar="B", rich_help_panel=_RUN, help="Examples that are worked on together."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="K",
        rich_help_panel=_RUN,
        help="CPU threads; what torch chooses if not given. 1 is safer on a machine that others use too.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel=_RUN, help="No progress, no notes and no summary; errors are still said."
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """How to read and wrap a model, as typed; None where nothing was."""

    arch: str | None = None
    bounds: list[str] | None = None
    mean: list[str] | None = None
    std: list[str] | None = None
    output: str | None = None
    classes: int | None = None
    device: str | None = None
    dtype: str | None = None
    trust_pickle: bool = False

    def wrapping(self) -> dict[str, Any]:
        """The options for `hauberk.wrap` that were given.

        Raises:
            SettingError: no numbers where numbers belong.
        """
        made: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "classes": self.classes}
        if self.output is not None:
            made["output"] = int(self.output) if re.fullmatch(r"-?\d+", self.output) else self.output
        if self.bounds:
            bounds = _numbers("--bounds", self.bounds)
            if len(bounds) != 2:
                raise SettingError(
                    f"--bounds takes two numbers, the smallest and the largest value of an input, got {_list(bounds)}; "
                    "write for example --bounds 0 1"
                )
            made["bounds"] = (bounds[0], bounds[1])
        for name, texts in (("mean", self.mean), ("std", self.std)):
            if texts:
                numbers = _numbers(f"--{name}", texts)
                made[name] = numbers[0] if len(numbers) == 1 else numbers
        return {name: value for name, value in made.items() if value is not None}


def _numbers(option: str, texts: list[str]) -> list[float]:
    words = [word for text in texts for word in re.split(r"[\s,]+", text.strip()) if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise SettingError(f"{option} takes finite numbers, got {' '.join(texts)!r}")
    return numbers


def _list(numbers: list[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def set_threads(threads: int | None) -> None:
    """Tell torch how many CPU threads to use.

    Raises:
        SettingError: fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise SettingError(f"--threads is at least 1, got {threads}")
    torch.set_num_threads(threads)


def writable(option: str, path: Path | None, suffix: str = "", *, make: bool = False) -> Path | None:
    """The path of a file to be written later, refused now rather than after the work is done.

    Where `make`, whoever writes the file makes its folder.

    Raises:
        SettingError: it is a folder, ends wrongly, or its folder is not there.
    """
    if path is None:
        return None
    path = path.expanduser()
    if path.is_dir():
        raise SettingError(f"{option} names a file to write, got the folder {path}; give a file in it")
    if suffix and path.suffix != suffix:
        raise SettingError(f"{option} names a {suffix} file, got {path}; write {path.with_suffix(suffix)}")
    if not make and not path.parent.is_dir():
        raise SettingError(
            f"{option} names a file in a folder that does not exist, {path.parent}; make the folder first"
        )
    return path
