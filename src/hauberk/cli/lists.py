"""`hauberk list`: what there is to name."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hauberk import data, zoo
from hauberk.attacks import name_of
from hauberk.cli.known import attacks_by_name, defaults_of
from hauberk.errors import AccessError, HauberkError, UnknownNameError
from hauberk.evaluate import SUITES
from hauberk.report.words import percent
from hauberk.threat import Access, Norm
from hauberk.threat.charts import CHARTS, EXAMPLES
from hauberk.threat.spatial import PADDINGS
from hauberk.train.spelling import kinds_of
from hauberk.train.standing import standings

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["show"]

_GIVEN = ("threat", "inner", "bounds", "objective")  # what options of their own say


def show(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            show_default=False,
            help="models, data, threats, attacks, suites, objectives or defenses; all if left out.",
        ),
    ] = None,
) -> None:
    """The models, data sets, threats, attacks, suites, training objectives and defenses that come with hauberk."""
    from rich.console import Console

    tables: dict[str, tuple[Callable[[], Table], ...]] = {
        "models": (_models, _own_models),
        "data": (_data,),
        "threats": (_threats,),
        "attacks": (_attacks,),
        "suites": (_suites,),
        "objectives": (_objectives, _parts),
        "defenses": (_defenses,),
    }
    if what is not None and what not in tables:
        raise UnknownNameError.of("list", what, tables)
    console = Console()
    for name in tables if what is None else (what,):
        for table in tables[name]:
            console.print(table())


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", title_style="bold"
    )
    for place, column in enumerate(columns):
        table.add_column(column, no_wrap=place == 0)
    return table


def _row(table: "Table", *cells: str) -> None:
    from rich.text import Text

    table.add_row(*map(Text, cells))


def _models() -> "Table":
    table = _table("Models", "MODEL", "what it is", "clean", "robust at most")
    for name, summary in zoo.names().items():
        try:
            measured: dict[str, Any] | None = zoo.card(name).get("measured")
        except HauberkError:  # a damaged card is no reason not to list the others
            measured = None
        clean = robust = "not measured"
        if measured is not None:
            clean = percent(measured["clean_accuracy"]["value"])
            last = measured["radii"][-1]
            robust = f"{percent(last['robust_accuracy']['upper']['value'])} at {measured['norm']}:{last['radius']:g}"
        _row(table, f"zoo:{name}", summary, clean, robust)
    return table


def _own_models() -> "Table":
    table = _table("Models of your own", "MODEL", "what it is")
    for spelling, meaning in (
        ("FILE.safetensors", "weights, with --arch module:factory or path/to/file.py:factory"),
        ("FILE.pt2", "a program of torch.export"),
        ("FILE.pt", "TorchScript; with --trust-pickle also a pickled module or weights"),
        ("FILE.onnx", "ONNX, by onnxruntime: scores and labels, no gradients"),
        ("sklearn:FILE.skops", "a fitted scikit-learn classifier; with --trust-pickle also .joblib and .pkl"),
        ("py:module:object", "a model or what builds one, of a module or of a file: py:path/to/file.py:object"),
    ):
        _row(table, spelling, meaning)
    return table


def _data() -> "Table":
    table = _table("Data", "DATA", "what it is")
    for name, description in data.names().items():
        _row(table, name, description)
    for spelling, meaning in (
        ("FILE.npz", "arrays images (or x, data, ...) and labels (or y, targets, ...); uint8 or float, NCHW or NHWC"),
        ("FILE.parquet", "a column of pictures, as Hugging Face stores them, or of numbers, and one of labels"),
        ("FOLDER", "one subfolder of pictures per class"),
        ("py:module:object", "a pair (x, y), a mapping, a map-style data set, or what returns one"),
    ):
        _row(table, spelling, meaning)
    return table


def _threats() -> "Table":
    table = _table("Threats", "THREAT", "what the attacker may do")
    for spelling, meaning in (
        (
            "linf:8/255",
            "change every value by at most 8/255; also l2, l1 and l0; several radii make a curve, none seeks the smallest",
        ),
        ("linf:8/255@grid255", "the same on the values that 8-bit files have"),
        ("linf:0.3@scale=0.7@shift=0.1", "the same, after multiplying every value by 0.7 and adding 0.1"),
        *((EXAMPLES[name], f"{name} within limits of {', '.join(kind.widest)}") for name, kind in CHARTS.items()),
        ("spatial:...@padding=reflect", f"what comes in from outside: {' (if not said) or '.join(PADDINGS)}"),
        ("spatial:...@curve=0.5,1", "a curve: all limits times 0.5, then as they are; also colour"),
        ("spatial:...@smallest", "the smallest share of all limits is sought; also colour"),
        *(
            (f"{name}:{most:g}", f"{name} alone, here at its widest")
            for kind in CHARTS.values()
            for name, most in kind.widest.items()
        ),
        ("rotation:10,20,30", "one of these as a curve; rotation seeks the smallest"),
        ("...@target=3", "only class 3 counts; also @least-likely, and @top5: out of the five likeliest"),
        ("...@scores", "the attacker sees scores; also @labels; gradients if not said"),
    ):
        _row(table, spelling, meaning)
    return table


def _attacks() -> "Table":
    table = _table("Attacks", "NAME", "needs", "norms", "what it does, and its settings")
    for name, kind in attacks_by_name().items():
        norms = [norm.value for norm in Norm if norm in kind.norms]
        settings = ", ".join(f"{key}={_value(default)}" for key, default in defaults_of(kind).items())
        first = (kind.__doc__ or "").strip().splitlines()[0].partition(" Cost: ")[0]
        _row(table, name, str(kind.access), " ".join(norms), f"{first}\n{settings}")
    return table


def _objectives() -> "Table":
    table = _table("Objectives of hauberk train", "NAME", "as a defense", "what it does, and its settings")
    for what in ("objective", "wrapper", "regulariser"):
        for name, kind in kinds_of(what).items():
            note = "" if what == "objective" else "--with: "
            settings = ", ".join(
                f"{key}={_value(default)}" for key, default in defaults_of(kind).items() if key not in _GIVEN
            )
            _row(table, name, str(getattr(kind, "status", "not said")), f"{note}{_first_sentence(kind)}\n{settings}")
    return table


def _defenses() -> "Table":
    table = _table("Defenses, and where each stands", "NAME", "status", "what it is")
    for row in standings():
        by = f"\n{row.status.by}" if row.status.by else ""
        _row(table, row.name, row.status.kind, f"{row.part}: {row.what}{by}")
    return table


def _parts() -> "Table":
    table = _table("Other parts of a training", "NAME", "for", "what it does, and its settings")
    for what, option in (
        ("inner maximiser", "--inner"),
        ("optimiser", "--optimiser"),
        ("rate", "--rate"),
        ("average", "--average"),
        ("augmentation", "--augment"),
        ("constraint", "--constraint"),
    ):
        for name, kind in kinds_of(what).items():
            settings = ", ".join(f"{key}={_value(default)}" for key, default in defaults_of(kind).items())
            _row(table, name, option, f"{_first_sentence(kind)}\n{settings}")
    return table


def _first_sentence(kind: type[Any]) -> str:
    """What a class is: the first paragraph of its file where it has one of its own, else of the class."""
    own = hasattr(kind, "status")
    text = (sys.modules[kind.__module__] if own else kind).__doc__ or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _value(default: Any) -> str:
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _suites() -> "Table":
    table = _table("Suites", "SUITE", "for", "attacks for linf, in order")
    for name, (purpose, by_access) in SUITES.items():
        for access in sorted(by_access, reverse=True):
            try:
                attacks = by_access[Access(access)](Norm.LINF)
            except AccessError:  # the suite needs more
                continue
            _row(
                table,
                name if access is max(by_access) else "",
                f"{purpose}; {access}" if access is max(by_access) else str(access),
                ", ".join(_short(attack) for attack in attacks),
            )
    return table


def _short(attack: Any) -> str:
    """The name of an attack and the settings in which it departs from its defaults."""
    changed = [
        f"{key}={_value(getattr(attack, key))}"
        for key, default in defaults_of(type(attack)).items()
        if getattr(attack, key) != default
    ]
    return f"{name_of(attack)}({', '.join(changed)})" if changed else name_of(attack)
