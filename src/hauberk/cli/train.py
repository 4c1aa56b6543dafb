"""`hauberk train`: a robust net of any architecture and data, resumable, with all that made it written beside its weights."""

import json as json_module
import shlex
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hauberk import train as training
from hauberk.cli import options as given
from hauberk.cli import teaching
from hauberk.cli import train_inputs as inputs
from hauberk.cli.guard import Stop, say
from hauberk.cli.trained import MANIFEST, SCHEMA, built, probe
from hauberk.data import load as load_data
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evidence import file_fingerprint, pretty, provenance, state_fingerprint
from hauberk.evidence.disk import replace_file, speaking
from hauberk.evidence.lock import FolderLock
from hauberk.threat import ThreatModel
from hauberk.train import Examples, Fitted, Monitor, Recipe, World, collect
from hauberk.train._checkpoint import write_weights
from hauberk.train.spelling import kinds_of, objective_named, rate_named

__all__ = ["train"]

_LEARN, _LOOK, _WORK = "How it learns", "Looking at it with held-out examples", "The work"
_LOGGERS = ("tensorboard", "mlflow")


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
        int, typer.Option("--every", metavar="E", rich_help_panel=_LOOK, help="Look after every E epochs.")
    ] = 1,
    on_collapse: Annotated[
        str,
        typer.Option(
            "--on-collapse",
            metavar="DO",
            rich_help_panel=_LOOK,
            help="When accuracy under FGSM and under PGD part (catastrophic overfitting): warn, rollback or stop.",
        ),
    ] = "warn",
    last: Annotated[
        bool,
        typer.Option("--last", rich_help_panel=_LOOK, help="Hand out the weights of the last epoch, not of the best."),
    ] = False,
    teacher: teaching.TeacherFolder = None,
    unlabelled: teaching.Unlabelled = None,
    share: teaching.Share = 0.5,
    bounds: given.Bounds = None,
    n: given.N = None,
    seed: given.Seed = 0,
    device: given.Device = None,
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
    kind = kinds_of("objective").get(objective.partition(":")[0].strip())
    if allowed is None and kind is not None and "threat" in getattr(kind, "__dataclass_fields__", {}):
        raise SettingError(
            f"--objective {objective.partition(':')[0]} needs --threat; write for example --threat linf:0.3"
        )
    loss = objective_named(objective, threat=allowed, inner=inner, bounds=box, extras=extras or ())
    loss = teaching.with_teacher(loss, teacher, unlabelled)
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
    if validate is not None and hold_out is not None:
        raise SettingError("--validate names held-out data and --hold-out draws some; give one of them")
    looks = validate is not None or hold_out is not None
    if looks and allowed is None:
        raise SettingError("--validate and --hold-out measure under a threat; give it with --threat, such as linf:0.3")
    for name in log or ():
        if name not in _LOGGERS:
            raise UnknownNameError.of("logger", name, _LOGGERS)
    if checkpoint_every < 1:
        raise SettingError(f"--checkpoint-every is a number of steps >= 1, got {checkpoint_every}")
    if out.exists() and not out.is_dir():
        raise SettingError(f"--out names a folder, got the file {out}; give another name")
    given.set_threads(threads)
    place = inputs.device(device)
    source = load_data(data, bounds=box, n=n)
    examples = collect(source)
    held: Examples | None = None
    if validate is not None:
        held = collect(load_data(validate, bounds=box))
    elif hold_out is not None:
        examples, held = inputs.parted(examples, hold_out, seed)
    examples = teaching.taught(examples, teacher, unlabelled, share, box)
    arch = inputs.absolute(arch)
    net = built(arch, seed)
    if weights is not None:
        inputs.start_from(net, weights)
    net.to(place)
    classes = probe(net, examples.x, examples.y, arch)
    if held is not None:
        probe(net, held.x, held.y, arch)
    monitor = None
    if held is not None:
        assert allowed is not None
        monitor = Monitor(
            data=held, threat=allowed, bounds=box, every=every, keep_best=not last, on_collapse=on_collapse
        )
    world = training.join(device)
    if world.device is not None:
        net.to(world.device)
    lead = world.rank == 0
    loggers = [
        training.TensorBoard(str(out / "tensorboard")) if name == "tensorboard" else training.MLflow(out.name)
        for name in log or ()
    ]
    with ExitStack() as stack:
        if lead:
            with speaking(f"make the folder {out}"):
                out.mkdir(parents=True, exist_ok=True)
            stack.callback(FolderLock(out).release)
        begun = _kept(out)
        if begun and lead and not quiet:
            say(f"resuming after step {begun}")
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
            kept = _kept(out)
            said = (
                f"kept all up to step {kept}; the same command goes on from there" if kept else "nothing was kept yet"
            )
            raise Stop.interrupted(said) from None
        if not lead:
            return
        write_weights(out / "weights.safetensors", fitted.net.state_dict())
        spelled = {
            "objective": objective,
            "threat": None if allowed is None else str(allowed),
            "inner": inner,
            "with": list(extras or ()),
        }
        facts: dict[str, Any] = {
            "arch": arch,
            "objective": spelled,
            "bounds": list(box),
            "classes": classes,
            "settings": {
                "objective": repr(loss),
                "recipe": repr(recipe),
                "monitor": None if monitor is None else repr(monitor),
            },
            "data": {"name": source.name, "fingerprint": source.fingerprint(), "n": len(examples)},
            "held_out": None
            if held is None
            else {"name": validate or source.name, "fingerprint": held.fingerprint(), "n": len(held)},
            "started_from": None if weights is None else {"file": str(weights), "sha256": file_fingerprint(weights)},
        }
        _write_manifest(out, fitted, facts, world, shlex.join(["hauberk", *(ctx.find_root().obj or ())]))
    if not quiet:
        _report(fitted, out, threat)


def _kept(out: Path) -> int:
    """The step that the checkpoint in the folder holds; 0 where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json_module.loads((out / "checkpoint.json").read_text(encoding="utf-8"))["position"]["step"])
    return 0


def _write_manifest(out: Path, fitted: Fitted, facts: dict[str, Any], world: World, command: str) -> None:
    state = fitted.net.state_dict()
    document = {
        "schema": SCHEMA,
        **facts,
        "weights": {
            "file": "weights.safetensors",
            "sha256": file_fingerprint(out / "weights.safetensors"),
            "fingerprint": state_fingerprint(state),
            "parameters": sum(value.numel() for value in fitted.net.parameters()),
        },
        "best_epoch": fitted.best or None,
        "stopped": fitted.stopped or None,
        "findings": list(fitted.findings),
        "last_epoch": asdict(fitted.epochs[-1]) if fitted.epochs else None,
        "seconds": round(fitted.seconds, 3),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "command": command,
        "environment": provenance(),
    }
    with speaking(f"write {out / MANIFEST}"):
        replace_file(out / MANIFEST, pretty(document))


def _report(fitted: Fitted, out: Path, threat: str | None) -> None:
    for epoch in fitted.epochs[-1:]:
        seen = "".join(f", {name} {epoch.held_out[name]:.3f}" for name in ("clean", "fgsm", "pgd") if epoch.held_out)
        print(
            f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, accuracy while learning {epoch.accuracy:.4f}{seen and f'; held out{seen[1:]}'}"
        )
    if fitted.stopped:
        print(f"stopped early: {fitted.stopped}")
    if fitted.best:
        print(f"the weights are those of epoch {fitted.best}, the best on the held-out examples")
    print(f"wrote {out / 'weights.safetensors'} and {out / MANIFEST} after {fitted.seconds:.0f} s of training")
    print(f"how robust is it? hauberk evaluate {shlex.quote(str(out))} --data TEST --threat {threat or 'linf:0.1'}")
