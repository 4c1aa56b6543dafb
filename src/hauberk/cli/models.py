"""MODEL and DATA of a command line made a victim and a source, with every guess said on stderr."""

from pathlib import Path

from hauberk import zoo
from hauberk.cli.guard import as_typed, say
from hauberk.cli.options import ModelOptions
from hauberk.cli.trained import factory_of_zoo, is_training, open_training
from hauberk.cli.wire import asked_over_http, remember
from hauberk.data import Source
from hauberk.data import load as load_data
from hauberk.errors import DataError, ModelError, SettingError
from hauberk.victims import Victim, check_inputs, wrap
from hauberk.victims import load as load_file

__all__ = ["load_model", "open_both"]

_PROBED = 8  # examples; as many as `probe` looks at


def load_model(spec: str, options: ModelOptions) -> Victim:
    """The victim that MODEL spells: `zoo:NAME`, the folder of a training, or whatever `hauberk.victims.load` reads.

    Raises:
        ModelError, SettingError, UnknownNameError, MissingExtraError: it cannot be had; the message says why.
    """
    wrapping = options.wrapping() | asked_over_http(spec)
    kind, colon, name = spec.partition(":")
    if kind == "zoo" and colon:
        net = zoo.net(name)
        own = {"bounds", "mean", "std", "output", "classes"} & wrapping.keys()
        refused = sorted(f"--{option}" for option in own | ({"arch"} if options.arch is not None else set()))
        if refused:
            raise SettingError(
                f"a net of the zoo brings its own preprocessing and outputs; leave out {', '.join(refused)}"
            )
        return wrap(net, bounds=(0.0, 1.0), output="logits", classes=10, name=name, **wrapping)
    if spec in zoo.names() and not Path(spec).exists():
        raise ModelError(f"there is no model file {spec!r}; the net of the zoo is spelled zoo:{spec}")
    if is_training(spec):
        made, manifest = open_training(spec)
        own = {"bounds", "mean", "std", "output", "classes"} & wrapping.keys()
        refused = sorted(f"--{option}" for option in own | ({"arch"} if options.arch is not None else set()))
        if refused:
            raise SettingError(
                f"the folder of a training says how its net is built and read; leave out {', '.join(refused)}"
            )
        low, high = manifest["bounds"]
        classes, name = manifest["classes"], Path(spec).expanduser().resolve().name
        return wrap(made, bounds=(low, high), output="logits", classes=classes, name=name, **wrapping)
    victim = load_file(spec, arch=_spelled_out(options.arch), trust_pickle=options.trust_pickle, **wrapping)
    remember(victim)
    return victim


def _spelled_out(arch: str | None) -> str | None:
    """`zoo:NAME` as `module:factory`, anything else as it is."""
    kind, _, name = (arch or "").partition(":")
    if kind != "zoo":
        return arch
    make = factory_of_zoo(name)
    return f"{make.__module__}:{make.__name__}"


def open_both(spec: str, options: ModelOptions, data: str, n: int | None, *, quiet: bool) -> tuple[Victim, Source]:
    """The victim and the source, checked against each other on the first examples, so that every guess is made by now.

    Each guess is said on stderr unless `quiet`.

    Raises:
        HauberkError: one of them cannot be had, or they do not go together.
    """
    victim = load_model(spec, options)
    source = load_data(data, bounds=victim.bounds, n=n)
    first = next(iter(source.chunks(_PROBED)), None)
    if first is None:
        raise DataError(f"expected at least one example in {source.name}, got none")
    x, _ = check_inputs(victim, first.x, first.y, ids=first.ids)
    victim.probe(x)
    if not quiet:
        for note in (*victim.notes, *source.notes):
            say(f"note: {as_typed(note)}")
    return victim, source
