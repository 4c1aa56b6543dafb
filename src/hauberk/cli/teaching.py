"""The options of `hauberk train` about a teacher: whose probabilities are distilled, and who labels examples without labels."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hauberk.cli.trained import is_training, open_training, probe
from hauberk.data import load
from hauberk.errors import ModelError, SettingError
from hauberk.train import Distillation, Examples, Objective, SelfTraining, Teacher

__all__ = ["Share", "TeacherFolder", "Teaching", "Unlabelled"]

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
    float | None,
    typer.Option(
        "--share",
        metavar="S",
        rich_help_panel=_PANEL,
        help="Of each batch, how much is drawn from --unlabelled; 0.5 if not given.",
    ),
]


@dataclass(frozen=True)
class Teaching:
    """The net that teaches, and what it is asked for.

    Args:
        folder: where it lies.
        teacher: the net.
        labels: the data that it labels.
        training: how these are mixed with the others.
    """

    folder: Path
    teacher: Teacher
    labels: str | None
    training: SelfTraining

    @classmethod
    def asked(
        cls, objective: Objective, folder: Path | None, unlabelled: str | None, share: float | None
    ) -> "Teaching | None":
        """What the options ask for, the folder opened; None where no teacher is named.

        Args:
            objective: without regularisers and wrappers.

        Raises:
            SettingError: a teacher that nothing is learnt from, examples without anybody to label them, a share of nothing, or no
                folder of a training.
            ModelError: the folder is damaged.
        """
        if unlabelled is None and share is not None:
            raise SettingError("--share is of what --unlabelled adds to each batch; add --unlabelled DATA")
        training = SelfTraining() if share is None else SelfTraining(share=share)
        if folder is None:
            if unlabelled is not None:
                raise SettingError("--unlabelled needs somebody to label the examples; give --teacher DIR")
            return None
        folder = folder.expanduser()
        if not is_training(folder):
            raise SettingError(f"--teacher names the folder of a finished hauberk train, got {folder}")
        if unlabelled is None and not isinstance(objective, Distillation):
            raise SettingError("--teacher is for --objective distillation or for --unlabelled; give one of them")
        return cls(folder, Teacher(open_training(folder)[0]), unlabelled, training)

    def distilled(self, objective: Objective) -> Objective:
        """The objective, with the teacher in it where it distills one."""
        return replace(objective, teacher=self.teacher) if isinstance(objective, Distillation) else objective

    def probe(self, examples: Examples, classes: int, objective: Objective) -> None:
        """Ask the teacher about a few examples.

        Args:
            examples: the labelled ones.
            classes: how many the learner tells apart.
            objective: without regularisers and wrappers.

        Raises:
            ModelError: it does not answer as a classifier of them, or its probabilities are of another number of classes.
        """
        found = probe(self.teacher.net, examples.x, examples.y, f"--teacher {self.folder}")
        if isinstance(objective, Distillation) and found != classes:
            raise ModelError(
                f"expected --teacher {self.folder} to tell {classes} classes apart as the net that learns from it does, got {found}; "
                "train a teacher of the same classes"
            )

    def mixed(
        self, examples: Examples, classes: int, bounds: tuple[float, float]
    ) -> tuple[Examples, dict[str, Any] | None]:
        """The examples, after them those that the teacher labels, and what the manifest says of these.

        Raises:
            DataError: they have another shape.
            ModelError: the teacher gives a label that the net that learns does not know.
        """
        if self.labels is None:
            return examples, None
        source = load(self.labels, bounds=bounds)
        facts = {
            "name": source.name,
            "fingerprint": source.fingerprint(),
            "n": len(source),
            "share": self.training.share,
        }
        mixed = self.training(self.teacher, examples, source)
        if (label := int(mixed.y.max())) >= classes:
            raise ModelError(
                f"--teacher {self.folder} gives the label {label}, and the net that learns tells {classes} classes apart; "
                "train a teacher of the same classes"
            )
        return mixed, facts

    def facts(self) -> dict[str, str]:
        """What the manifest says of the teacher."""
        return {"folder": str(self.folder), "fingerprint": self.teacher.fingerprint}
