"""The folder that `hauberk train` writes, opened again: architecture, objective and weights come from its manifest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hauberk.errors import ModelError, UnknownNameError
from hauberk.evidence import file_fingerprint
from hauberk.train import initialise
from hauberk.train._objective import finish, prepare
from hauberk.train.spelling import objective_named
from hauberk.victims.reading import load_object, load_state
from hauberk.zoo import architectures
from hauberk.zoo.recipes import RECIPES

__all__ = ["MANIFEST", "SCHEMA", "built", "factory_of_zoo", "is_training", "open_training", "probe"]

MANIFEST, SCHEMA = "training.json", "hauberk.training/1"


def is_training(path: str | Path) -> bool:
    """The path is a folder that a finished training left."""
    return (Path(path).expanduser() / MANIFEST).is_file()


def factory_of_zoo(name: str) -> Callable[[], nn.Module]:
    """What builds an architecture of the zoo, `mnist_cnn`, or that of one of its nets, `digits-mlp`.

    Raises:
        UnknownNameError: there is no such architecture.
    """
    makes: dict[str, Any] = {each: getattr(architectures, each) for each in architectures.__all__}
    makes |= {each: recipe.make for each, recipe in RECIPES.items()}
    if name not in makes:
        raise UnknownNameError.of("architecture of the zoo", name, makes)
    return makes[name]


def built(arch: str, seed: int) -> nn.Module:
    """A net with initial weights; `arch` is `module:factory`, `path/to/file.py:factory` or `zoo:mnist_cnn`.

    Raises:
        ModelError, UnknownNameError: there is no such factory, or what it makes is no net.
    """
    zoo, _, name = arch.rpartition(":")
    if zoo in ("", "zoo"):
        make = factory_of_zoo(name)
    else:
        make = load_object(arch, "an architecture")
    try:
        net = initialise(make, seed=seed)
    except (Exception, SystemExit) as error:  # the user's code
        text = str(error).strip().splitlines() or [""]
        raise ModelError(f"building {arch} without arguments failed with {type(error).__name__}: {text[0]}") from error
    if not isinstance(net, nn.Module):
        raise ModelError(f"expected {arch} to build a torch.nn.Module, got {type(net).__name__}")
    if not any(value.requires_grad for value in net.parameters()):
        raise ModelError(f"expected {arch} to build a net with weights to train, got none")
    return net


def open_training(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The net of a finished training with its weights, in evaluation mode, and the manifest.

    Raises:
        ModelError: the folder is damaged, or the architecture is no longer that of the weights.
    """
    folder = Path(folder).expanduser()
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise ModelError(
                f"expected a training of schema {SCHEMA} in {folder}, got {manifest['schema']}; open it with the hauberk that wrote "
                "it, or train anew in another folder"
            )
        file, digest = folder / Path(manifest["weights"]["file"]).name, manifest["weights"]["sha256"]
        arch, spelled = manifest["arch"], manifest["objective"]
        text, threat, inner, extras = (spelled[key] for key in ("objective", "threat", "inner", "with"))
        if missing := {"bounds", "classes"} - manifest.keys():
            raise KeyError(*missing)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"the manifest {folder / MANIFEST} cannot be read; give the same hauberk train command again to write it anew"
        ) from error
    if not file.is_file() or file_fingerprint(file) != digest:
        raise ModelError(f"the weights {file} are missing or altered; give the same hauberk train command again")
    objective = objective_named(text, threat=threat, inner=inner, extras=extras)
    net = finish(objective, prepare(objective, built(arch, 0)))
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights {file} cannot be read; give the same hauberk train command again") from error
    net.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    load_state(net, state, file.name)
    return net.eval(), manifest


def probe(net: nn.Module, x: torch.Tensor, y: torch.Tensor, arch: str) -> int:
    """How many classes the net tells apart, asked with a few examples.

    Raises:
        ModelError: it does not answer as a classifier of these labels.
    """
    reference = next(net.parameters())
    mode = net.training
    net.eval()
    try:
        with torch.no_grad():
            scores = net(x[:2].to(reference.device, reference.dtype))
    except Exception as error:  # the user's code
        text = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"the net of {arch} cannot be given examples of shape {tuple(x.shape[1:])}: {type(error).__name__}: {text[0]}"
        ) from error
    finally:
        net.train(mode)
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or len(scores) != len(x[:2]):
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ModelError(
            f"expected scores of shape (examples, classes) from {arch}, got {got} for {len(x[:2])} examples"
        )
    if int(y.max()) >= scores.shape[1]:
        raise ModelError(f"the net of {arch} tells {scores.shape[1]} classes apart, got a label {int(y.max())}")
    return scores.shape[1]
