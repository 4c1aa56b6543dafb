"""`hauberk train`: a robust net of any architecture and data, resumable, with all that made it written beside its weights."""

import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from hauberk import train as training
from hauberk.cli import options as given
from hauberk.cli import teaching
from hauberk.cli import train_folder as folder
from hauberk.cli import train_inputs as inputs
from hauberk.cli.guard import Stop, say
from hauberk.cli.trained import built, probe
from hauberk.data import load as load_data
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evidence import file_fingerprint
from hauberk.evidence.disk import speaking
from hauberk.evidence.lock import FolderLock
from hauberk.threat import ThreatModel
from hauberk.train import Examples, Monitor, Recipe, collect
from hauberk.train.loggers import Logger
from hauberk.train.spelling import objective_named, rate_named, sharpened

__all__ = ["train"]

_LEARN, _LOOK, _WORK = "How it learns", "Looking at it with held-out examples", "The work"
_LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": lambda out: training.TensorBoard(str(out / "tensorboard")),
    "mlflow": lambda out: training.MLflow(out.resolve().name),
}


def train(
    ctx: typer.Context,
    arch: Annotated[
        str,
        typer.Option(
            "--arch",
            metavar="WHERE:FACTORY",
            show_default=False,
            help="What builds the net: path/to/file.py:factory, module:factory, or an architecture of the zoo, as zoo:mnist_cnn. It "
            "takes inputs as the data has them and normalises, if at all, inside.",
        ),
    ],
    data: given.Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            show_default=False,
            help="Weights, manifest, metrics.jsonl and checkpoints. Killed at any instant, the same command finishes the training.",
        ),
    ],
    threat: Annotated[
        str | None,
        typer.Option(
            "--threat",
            "-t",
            metavar="THREAT",
            help="A norm and one radius, as linf:0.3; all but natural objectives need it.",
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="What is minimised, as trades:beta=6; hauberk list objectives has all.",
        ),
    ] = "pgd_at",
    inner: Annotated[
        str | None,
        typer.Option(
            "--inner",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="How the points to learn from are found, as pgd:steps=7,step_size=0.1,start=uniform.",
        ),
    ] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="A regulariser or a wrapper to add, as grad_align:weight=0.2 or awp:gamma=0.005; may be repeated.",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", metavar="E", rich_help_panel=_LEARN, help="Passes over the data.")
    ] = 10,
    batch_size: given.BatchSize = 128,
    optimiser: Annotated[
        str,
        typer.Option(
            "--optimiser",
            "--optimizer",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="adam or sgd:momentum=0.9,weight_decay=5e-4.",
        ),
    ] = "adam",
    rate: Annotated[
        str,
        typer.Option(
            "--rate",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="The learning rate: cyclic, one_cycle, constant or piecewise, as one_cycle:peak=0.1; a number is the peak of cyclic.",
        ),
    ] = "cyclic:peak=0.005",
    average: Annotated[
        str | None,
        typer.Option(
            "--average",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="Of the weights: ema:decay=0.999 or swa:start=0.75.",
        ),
    ] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            "--augment",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="random_crop:padding=4, flip, cutout:size=8; may be repeated.",
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            metavar="NAME[:KEY=VALUE,...]",
            rich_help_panel=_LEARN,
            help="What the weights are brought back to after each step, as clip_weights:limit=0.1; may be repeated.",
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option("--clip", metavar="NORM", rich_help_panel=_LEARN, help="The largest norm of a step's gradient."),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", metavar="K", rich_help_panel=_LEARN, help="Work on each batch in K pieces, to save memory."
        ),
    ] = 1,
    precision: Annotated[
        str, typer.Option("--precision", metavar="P", rich_help_panel=_LEARN, help="float32, bfloat16 or float16.")
    ] = "float32",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            rich_help_panel=_LEARN,
            help="Start from these weights (.safetensors), to fine-tune.",
        ),
    ] = None,
    validate: Annotated[
        str | None,
        typer.Option(
            "--validate",
            metavar="DATA",
            rich_help_panel=_LOOK,
            help="After each epoch, measure accuracy clean, under FGSM and under PGD on this data, and keep the weights of the best epoch.",
        ),
    ] = None,
    hold_out: Annotated[
        int | None,
        typer.Option(
            "--hold-out",
            metavar="N",
            rich_help_panel=_LOOK,
            help="The same on N examples of --data, drawn and not learnt from.",
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            "--every", metavar="E", rich_help_panel=_LOOK, help="Look after every E epochs; each if not given."
        ),
    ] = None,
    on_collapse: Annotated[
        str | None,
        typer.Option(
            "--on-collapse",
            metavar="DO",
            rich_help_panel=_LOOK,
            help="When accuracy under FGSM and under PGD part (catastrophic overfitting): warn, rollback or stop; warn if not given.",
        ),
    ] = None,
    last: Annotated[
        bool,
        typer.Option("--last", rich_help_panel=_LOOK, help="Hand out the weights of the last epoch, not of the best."),
    ] = False,
    teacher: teaching.TeacherFolder = None,
    unlabelled: teaching.Unlabelled = None,
    share: teaching.Share = None,
    bounds: given.Bounds = None,
    n: given.N = None,
    seed: given.Seed = 0,
    device: given.TrainingDevice = None,
    threads: given.Threads = None,
    checkpoint_every: Annotated[
        int,
        typer.Option("--checkpoint-every", metavar="STEPS", rich_help_panel=_WORK, help="Keep a checkpoint so often."),
    ] = 200,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="WHERE",
            rich_help_panel=_WORK,
            help="Also to tensorboard (in DIR) or mlflow; may be repeated.",
        ),
    ] = None,
    quiet: given.Quiet = False,
) -> None:
    """Train a net to withstand THREAT.

    Under torchrun (torchrun --nproc-per-node 2 -m hauberk train ...) the processes share each batch.
    """
    box = given.ModelOptions(bounds=bounds).wrapping().get("bounds", (0.0, 1.0))
    allowed = None if threat is None else ThreatModel.parse(threat)
    if allowed is None:
        inputs.need_threat(objective, extras or ())
    plain = objective_named(objective, threat=allowed, inner=inner, bounds=box)
    looks = inputs.looks(validate, hold_out, threat, every=every, on_collapse=on_collapse, last=last)
    taught = teaching.Teaching.asked(plain, teacher, unlabelled, share)
    loss = sharpened(plain if taught is None else taught.distilled(plain), extras or (), threat=allowed, bounds=box)
    recipe = Recipe(
        epochs,
        batch_size,
        seed,
        training.optimiser_named(optimiser),
        rate_named(rate),
        accumulate,
        clip,
        None if average is None else training.average_named(average),
        tuple(map(training.augmentation_named, augment or ())),
        tuple(map(training.constraint_named, constraint or ())),
        precision,
    )
    for name in log or ():
        if name not in _LOGGERS:
            raise UnknownNameError.of("logger", name, _LOGGERS)
    if checkpoint_every < 1:
        raise SettingError(f"--checkpoint-every is a number of steps >= 1, got {checkpoint_every}")
    out = folder.usable(out)
    given.set_threads(threads)
    place = inputs.device(device)
    source = load_data(data, bounds=box, n=n)
    examples = collect(source)
    held: Examples | None = None
    if validate is not None:
        held = collect(load_data(validate, bounds=box))
    elif hold_out is not None:
        examples, held = inputs.parted(examples, hold_out, seed)
    arch = inputs.absolute(arch)
    net = built(arch, seed)
    started: dict[str, str] | None = None
    if weights is not None:
        weights = weights.expanduser()
        inputs.start_from(net, weights)
        started = {"file": str(weights), "sha256": file_fingerprint(weights)}
    net.to(place)
    classes = probe(net, examples.x, examples.y, arch)
    if held is not None:
        probe(net, held.x, held.y, arch)
    learnt = {
        "name": source.name,
        "source": source.fingerprint(),
        "fingerprint": examples.fingerprint(),
        "n": len(examples),
    }
    others: dict[str, Any] | None = None
    if taught is not None:
        taught.probe(examples, classes, plain)
        examples, others = taught.mixed(examples, classes, box)
    monitor = None
    if looks:
        assert allowed is not None
        assert held is not None
        monitor = Monitor(
            data=held,
            threat=allowed,
            bounds=box,
            every=every or 1,
            keep_best=not last,
            on_collapse=on_collapse or "warn",
        )
    facts: dict[str, Any] = {
        "arch": arch,
        "objective": {
            "objective": objective,
            "threat": None if allowed is None else str(allowed),
            "inner": inner,
            "with": list(extras or ()),
        },
        "bounds": list(box),
        "classes": classes,
        "settings": {
            "objective": repr(loss),
            "recipe": repr(recipe),
            "monitor": None if monitor is None else repr(monitor),
        },
        "data": learnt,
        "held_out": None
        if held is None
        else {"name": validate or source.name, "fingerprint": held.fingerprint(), "n": len(held)},
        "teacher": None if taught is None else taught.facts(),
        "unlabelled": others,
        "started_from": started,
    }
    world = training.join(device)
    if world.device is not None:
        net.to(world.device)
    lead = world.rank == 0
    loggers = [*([] if quiet else [folder.Resumption()]), *(_LOGGERS[name](out) for name in log or ())]
    with ExitStack() as stack:
        if lead:
            with speaking(f"make the folder {out}"):
                out.mkdir(parents=True, exist_ok=True)
            stack.callback(FolderLock(out).release)
        if lead and not quiet and (extra := training.extra_parameters(training.prepare(loss, net))):
            say(f"{extra} parameters of an auxiliary path are trained besides, and dropped at the end")
        try:
            fitted = training.fit(
                net,
                examples,
                loss,
                recipe,
                out=out,
                checkpoint_every=checkpoint_every,
                progress=not quiet and sys.stderr.isatty(),
                monitor=monitor,
                loggers=loggers,
                world=world,
                tell=None if quiet else say,
            )
        except KeyboardInterrupt:
            kept = folder.kept(out)
            said = (
                f"kept all up to step {kept}; the same command goes on from there" if kept else "nothing was kept yet"
            )
            raise Stop.interrupted(said) from None
        if not lead:
            return
        folder.write(out, fitted, facts, world, shlex.join(["hauberk", *(ctx.find_root().obj or ())]))
    if not quiet:
        folder.report(fitted, out, threat)
