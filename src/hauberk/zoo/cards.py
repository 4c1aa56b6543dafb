"""Model cards: what a net of the zoo is, how it was made and what hauberk measured, as JSON beside the weights and as Markdown."""

import hashlib
import json
from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from torch import nn

from hauberk.errors import ModelError
from hauberk.evidence.fingerprint import state_fingerprint
from hauberk.evidence.provenance import provenance
from hauberk.train import Fitted, initialise
from hauberk.zoo.recipes import recipe_of

__all__ = ["SCHEMA", "document", "markdown", "new_card", "read_card", "read_weights", "shipped", "write_card"]

SCHEMA = "hauberk.card/1"
"""Of `card.schema.json`, which says what each field means."""


def shipped() -> Traversable:
    """The folder of weights and cards inside the package."""
    return resources.files("hauberk.zoo").joinpath("weights")


def read_card(name: str, folder: Traversable | None = None) -> dict[str, Any]:
    """The card of `name` in a folder, by default the shipped one.

    Raises:
        UnknownNameError: the zoo has no such net.
        ModelError: the card is absent or damaged.
    """
    recipe_of(name)
    file = (folder or shipped()).joinpath(f"{name}.json")
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the model card {file} is missing or damaged; install hauberk again, or train the net"
        ) from error
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        raise ModelError(f"expected a model card of schema {SCHEMA} at {file}; it is of another version of hauberk")
    return card


def read_weights(name: str, folder: Traversable | None = None) -> nn.Module:
    """The net `name` with its weights, in evaluation mode, checked against its card.

    Raises:
        UnknownNameError: the zoo has no such net.
        ModelError: card or weights are absent, or the weights are not those of the card.
    """
    card = read_card(name, folder)
    file = (folder or shipped()).joinpath(f"{name}.safetensors")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"the weights {file} are missing; install hauberk again, or train the net") from error
    if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
        raise ModelError(
            f"the weights {file} are not those of the card beside them; install hauberk again, or train the net"
        )
    net = initialise(
        recipe_of(name).make, seed=0
    )  # what it draws is overwritten, but would come from the global generator
    net.load_state_dict(load_tensors(content))
    return net.eval()


def new_card(
    name: str, fitted: Fitted, weights: bytes, account: dict[str, Any], *, seed: int, threads: int, device: str
) -> dict[str, Any]:
    """The card of a net that was just trained; what is measured stays null until `hauberk.zoo.measure`."""
    entry = recipe_of(name)
    last = fitted.epochs[-1]
    return {
        "schema": SCHEMA,
        "name": name,
        "summary": entry.summary,
        "architecture": {
            "name": entry.make.__name__,
            "parameters": sum(value.numel() for value in fitted.net.parameters()),
            "input": list(entry.shape),
            "classes": 10,
            "bounds": [0.0, 1.0],
        },
        "weights": {
            "file": f"{name}.safetensors",
            "sha256": hashlib.sha256(weights).hexdigest(),
            "fingerprint": state_fingerprint(fitted.net.state_dict()),
            "bytes": len(weights),
        },
        "data": account,
        "recipe": {
            "objective": repr(entry.objective),
            "optimiser": repr(entry.recipe.optimiser),
            "rate": repr(entry.recipe.rate),
            "epochs": entry.recipe.epochs,
            "batch_size": entry.recipe.batch_size,
            "seed": seed,
            "besides": [
                *([] if entry.recipe.clip is None else [f"clip={entry.recipe.clip}"]),
                *(
                    repr(part)
                    for part in (entry.recipe.average, *entry.recipe.augment, *entry.recipe.constraints)
                    if part
                ),
            ],
        },
        "training": {
            "command": f"python -m hauberk.zoo.train {name} --seed {seed} --threads {threads} --device {device}",
            "seconds": round(fitted.seconds, 1),
            "threads": threads,
            "device": device,
            "last_epoch": {key: value for key, value in asdict(last).items() if key in ("loss", "accuracy")},
            "environment": {
                key: value for key, value in provenance().items() if key in ("python", "platform", "packages")
            },
        },
        "measured": None,
        "limits": entry.limits,
        "licence": "Apache-2.0",
    }


def write_card(card: dict[str, Any], folder: Path) -> Path:
    """Write a card into a folder, replacing the one there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card['name']}.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _percent(proportion: dict[str, Any]) -> str:
    value, low, high = (100 * proportion[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f}; {proportion['count']:,} pictures)"


def markdown(card: dict[str, Any]) -> str:
    """One card as a section of Markdown."""
    kind, made, source, trained = card["architecture"], card["recipe"], card["data"], card["training"]
    lines = [
        f"## {card['name']}",
        "",
        f"{card['summary'][0].upper()}{card['summary'][1:]}.",
        "",
        (
            f"- **Net:** `{kind['name']}`, {kind['parameters']:,} parameters, input {'x'.join(map(str, kind['input']))} "
            f"in [{kind['bounds'][0]:g}, {kind['bounds'][1]:g}], {kind['classes']} classes."
        ),
        (
            f"- **Data:** {source['name']}: {source['used']:,} of {source['available']:,} used, {source['removed']:,} removed. "
            f"Never seen in training: {source['held_out']}."
        ),
        (
            f"- **Recipe:** `{made['objective']}`, `{made['optimiser']}`, `{made['rate']}`, {made['epochs']} epochs of batches of "
            f"{made['batch_size']}, seed {made['seed']}{''.join(f', `{part}`' for part in made['besides'])}."
        ),
        (
            f"- **Made by:** `{trained['command']}` (and `--data-root`, `--out`) in {trained['seconds']:.0f} s of wall time; the "
            "same bits again on the same machine with the same packages."
        ),
        f"- **Weights:** `{card['weights']['file']}`, SHA-256 `{card['weights']['sha256'][:16]}...`",
    ]
    measured = card["measured"]
    if measured is None:
        lines.append("- **Measured:** not yet; `python -m hauberk.zoo.measure` fills this in.")
    else:
        lines.append(f"- **Clean accuracy:** {_percent(measured['clean_accuracy'])}, on {measured['data']}.")
        lines += [
            f"- **Robust accuracy at most, `{measured['norm']}` radius {row['radius']:g}:** {_percent(row['robust_accuracy']['upper'])}."
            for row in measured["radii"]
        ]
        proven = [row for row in measured["radii"] if row["robust_accuracy"]["lower"] is not None]
        lines += [
            f"- **Proven at least, `{measured['norm']}` radius {row['radius']:g}:** {_percent(row['robust_accuracy']['lower'])}."
            for row in proven
        ]
        kinds = "upper and lower bounds" if proven else "upper bounds"
        lines.append(
            f"- **Measured by:** `hauberk.evaluate`, suite `{measured['suite']}`, the first {measured['n']:,} of {measured['data']}, "
            f"seed {measured['seed']}; {kinds}, with exact 95 % intervals over the choice of pictures."
        )
    lines += [f"- **Limits:** {card['limits']}", f"- **Licence:** {card['licence']}.", ""]
    return "\n".join(lines)


def document(cards: list[dict[str, Any]]) -> str:
    """All cards as one page of Markdown."""
    opening = (
        "# The zoo's model cards\n\nSmall reference nets with weights trained by this repository. Written from the JSON cards by "
        "`hauberk.zoo.cards.document`; change those, not this page.\n\n"
    )
    return opening + "\n".join(map(markdown, cards))
