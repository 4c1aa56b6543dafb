"""The options of `hauberk train` about a teacher: whose probabilities are distilled, and who labels examples without labels."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hauberk.cli.trained import is_training, open_training
from hauberk.data import load
from hauberk.errors import SettingError
from hauberk.train import Distillation, Examples, Objective, SelfTraining, Teacher

__all__ = ["Share", "TeacherFolder", "Unlabelled", "taught", "with_teacher"]

_PANEL = "A teacher"

TeacherFolder = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        metavar="DIR",
        rich_help_panel=_PANEL,
        help="The folder of a finished hauberk train, for --objective distillation or --unlabelled.",
    ),
]
Unlabelled = Annotated[
    str | None,
    typer.Option(
        "--unlabelled",
        metavar="DATA",
        rich_help_panel=_PANEL,
        help="Learn from these examples too, with the labels that the teacher gives them (robust self-training); their own are not read.",
    ),
]
Share = Annotated[
    float,
    typer.Option(
        "--share", metavar="S", rich_help_panel=_PANEL, help="Of each batch, how much is drawn from --unlabelled."
    ),
]


def with_teacher(objective: Objective, teacher: Path | None, unlabelled: str | None) -> Objective:
    """The objective, with the teacher in it where it distills one.

    Raises:
        SettingError: a teacher that nothing is learnt from, examples without anybody to label them, or no folder of a training.
    """
    if teacher is None:
        if unlabelled is not None:
            raise SettingError("--unlabelled needs somebody to label the examples; give --teacher DIR")
        return objective
    if not is_training(teacher):
        raise SettingError(f"--teacher names the folder of a finished hauberk train, got {teacher}")
    if isinstance(objective, Distillation):
        return replace(objective, teacher=Teacher(open_training(teacher)[0]))
    if unlabelled is None:
        raise SettingError("--teacher is for --objective distillation or for --unlabelled; give one of them")
    return objective


def taught(
    examples: Examples, teacher: Path | None, unlabelled: str | None, share: float, bounds: tuple[float, float]
) -> Examples:
    """The examples, and after them those that the teacher labels."""
    if teacher is None or unlabelled is None:
        return examples
    return SelfTraining(share=share)(open_training(teacher)[0], examples, load(unlabelled, bounds=bounds))
