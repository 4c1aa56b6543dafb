"""The options of a model over HTTP, added to every command that attacks a MODEL, and what it cost said at the end."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from hauberk.cli.guard import say
from hauberk.errors import BudgetError, SettingError
from hauberk.victims import HttpVictim

__all__ = ["asked_over_http", "fair_share", "over_http", "remember"]

_PANEL = "A model over HTTP"
_KEPT = ".bought.sqlite"
"""Beside what --out names, where --cache names nothing."""


@dataclass
class _Asked:
    """What one command was told of its model, and the victims that it made of it."""

    settings: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(
        default_factory=dict
    )  # which the command has too, and of which a model need not be over HTTP
    victims: list[HttpVictim] = field(default_factory=list)


_ASKED: ContextVar[_Asked | None] = ContextVar("asked over HTTP", default=None)


def _option(kind: Any, name: str, metavar: str | None, text: str) -> Any:
    return Annotated[kind, typer.Option(name, metavar=metavar, rich_help_panel=_PANEL, show_default=False, help=text)]


_OPTIONS: dict[str, Any] = {
    "body": _option(
        str | None,
        "--body",
        "JSON",
        'What a service is sent that does not speak the Open Inference Protocol: JSON, or @FILE, in which "$x" stands for the examples; '
        '"$row", "$flat" or "$png" for one.',
    ),
    "answer": _option(
        str | None, "--answer", "PATH", "Where the scores or labels are in its answer: predictions.*.score."
    ),
    "header": _option(
        list[str] | None,
        "--header",
        "NAME: VALUE",
        "Sent with each request; may be repeated. $NAME is read from the environment: 'Authorization: Bearer $TOKEN'.",
    ),
    "batch": _option(int | None, "--request-rows", "B", "Examples a request, at most; 32 if not given."),
    "concurrency": _option(int | None, "--concurrency", "K", "Requests at a time; 1 if not given."),
    "retries": _option(int | None, "--retries", "K", "Tries after a failed one; 4 if not given."),
    "backoff": _option(
        float | None, "--backoff", "S", "Seconds before the first retry, doubled each time; 0.5 if not given."
    ),
    "timeout": _option(float | None, "--request-timeout", "S", "Seconds for an answer; 30 if not given."),
    "rate": _option(float | None, "--rate", "R", "Requests a second, at most."),
    "budget": _option(
        int | None,
        "--budget",
        "N",
        "The most queries ever bought of this address by all runs that share the cache; hard.",
    ),
    "price": _option(float | None, "--price", "P", "What a query costs; the sum is said at the end."),
    "cache": _option(
        Path | None,
        "--cache",
        "FILE",
        "Keep answers there: no run that names this file buys them again. With --out X, X.bought.sqlite if not given.",
    ),
    "no_cache": _option(
        bool, "--no-cache", None, "Buy the same query anew each time, for models that answer at random."
    ),
    "rounding": _option(int | None, "--round", "DIGITS", "Round the scores, as the interface of an attacker would."),
    "top_k": _option(int | None, "--top-k", "K", "Let only the best K scores through."),
    "class_names": _option(
        str | None, "--class-names", "A,B,...", "What the service calls the classes, or @FILE with one a line."
    ),
}


def over_http(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options added, but for those it has; `asked_over_http` says inside it what was given."""
    own = inspect.signature(command)
    added = [name for name in _OPTIONS if name not in own.parameters]

    @functools.wraps(command)
    def longer(*args: Any, **options: Any) -> None:
        settings = _settings({name: options.pop(name, None) for name in added})
        shared = _settings({name: options[name] for name in _OPTIONS if name not in added})
        if "cache" not in settings and options.get("out") is not None:
            beside = Path(options["out"]).expanduser().absolute()
            shared |= {"cache": beside.with_name(beside.name.removesuffix(".safetensors") + _KEPT)}
        with _told(settings, shared, quiet=bool(options.get("quiet"))):
            command(*args, **options)

    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "no_cache" else None, annotation=kind
        )
        for name, kind in ((name, _OPTIONS[name]) for name in added)
    ]
    longer.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    longer.__annotations__ = {**command.__annotations__, **{name: _OPTIONS[name] for name in added}}
    return longer


def asked_over_http(spec: str) -> dict[str, Any]:
    """The settings for `hauberk.wrap` of this model that were typed."""
    asked = _ASKED.get()
    if asked is None:
        return {}
    return asked.settings | (asked.shared if spec.lower().startswith(("http://", "https://")) else {})


def remember(victim: Any) -> None:
    """Say at the end of the command what this victim has cost, if it is one over HTTP."""
    asked = _ASKED.get()
    if asked is not None and isinstance(victim, HttpVictim):
        asked.victims.append(victim)


def fair_share(
    victim: Any, waiting: int, everyone: int, max_queries: int | None = None, *, besides: int = 0
) -> int | None:
    """The most queries that an attack may ask for each of the examples that wait: of a budget an even share, however many of them are
    worked on together. Less what is asked besides: the example's label and, where no answers are kept, the judge's question;
    and `besides` for all of them.

    Raises:
        BudgetError: the share is none.
    """
    purse = victim.purse if isinstance(victim, HttpVictim) else None
    if purse is None:
        return max_queries
    share = min((victim.budget - besides) // everyone, (purse - besides) // waiting) - (1 if victim.keeps else 2)
    if share < 1:
        raise BudgetError(
            f"of a budget of {victim.budget} queries {purse} are left, too few for {waiting} examples; raise --budget or give fewer "
            "examples with --n"
        )
    return share if max_queries is None else min(share, max_queries)


@contextmanager
def _told(settings: dict[str, Any], shared: dict[str, Any], *, quiet: bool) -> Iterator[None]:
    asked = _Asked(settings, shared)
    token = _ASKED.set(asked)
    try:
        yield
    finally:  # however it ended, money was spent
        _ASKED.reset(token)
        for victim in asked.victims:
            if not quiet:
                say(_account(victim))
            victim.close()


def _account(victim: HttpVictim) -> str:
    now, lost = victim.bought - victim.bought_before, victim.lost
    said = f"bought {now} queries of {victim.name}, {victim.cached} came from the cache"
    said += f"; {victim.bought} in all" if victim.bought_before else ""
    said += f", {lost} of them without a usable answer" if lost else ""
    return said + (f"; spent {victim.spent:g}" if victim.price else "")


def _settings(typed: dict[str, Any]) -> dict[str, Any]:
    made = {name: value for name, value in typed.items() if value is not None and name not in ("header", "no_cache")}
    if "body" in made:
        made["body"] = _text("--body", made["body"])
    if "class_names" in made:
        text = _text("--class-names", made["class_names"])
        words = text.splitlines() if made["class_names"].startswith("@") else text.split(",")
        made["class_names"] = [word.strip() for word in words if word.strip()]
    if typed.get("header"):
        made["headers"] = dict(_header(text) for text in typed["header"])
    if typed.get("no_cache"):
        if "cache" in made:
            raise SettingError("--cache keeps answers and --no-cache does not; give one of them")
        made["cache"] = False
    return made


def _header(text: str) -> tuple[str, str]:
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not name or not value:
        raise SettingError(
            "--header is 'NAME: VALUE', got one without a colon or with an empty side"
        )  # it may be a secret
    return name, value


def _text(option: str, given: str) -> str:
    """The text, or that of the file after an @."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{option} names the file {given[1:]}, which cannot be read: {error}; check the path"
        ) from None
