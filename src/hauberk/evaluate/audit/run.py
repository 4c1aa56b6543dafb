"""The audit of a whole run: findings that come free with its counts."""

from collections.abc import Sequence

from hauberk.evaluate.audit.finding import Finding
from hauberk.evaluate.audit.part import SHARE
from hauberk.evaluate.cascade import Tally
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.threat import Access, Norm, ThreatModel

__all__ = ["audit_cascade", "audit_setting"]


def audit_cascade(tallies: Sequence[Sequence[Tally]], correct: int) -> list[Finding]:
    """Findings that come free with a suite, from what each stage did at each radius."""
    findings: list[Finding] = []
    refused = sum(tally.refused for stages in tallies for tally in stages)
    if refused:
        names = sorted({tally.name for stages in tallies for tally in stages if tally.refused})
        findings.append(
            Finding(
                "points-outside-the-region",
                "error",
                f"{', '.join(names)} proposed {refused} points that are not finite or lie outside the region; the judge "
                "counted none of them",
                "the attack does not keep to the threat, so what it might have broken within is unknown: mend or leave it out",
            )
        )
    silent = sum(tally.silent for stages in tallies for tally in stages)
    if silent:
        names = sorted({tally.name for stages in tallies for tally in stages if tally.silent})
        findings.append(
            Finding(
                "silent-success",
                "warning",
                f"{', '.join(names)} passed through adversarial points of {silent} examples and proposed others, which are none; the "
                "points passed through were judged and count",
                "an attack must propose the best point it has seen, not its last: mend it, as other tools will not see what it passed",
            )
        )
    surprises = [tally for stages in tallies for tally in _beyond_gradients(stages)]
    if surprises:
        worst = max(surprises, key=lambda tally: tally.broken / tally.attempted)
        findings.append(
            Finding(
                "black-box-beats-gradients-in-suite",
                "warning",
                f"{worst.name}, which sees no gradient, broke {worst.broken} of the {worst.attempted} examples that the "
                f"gradient attacks had left at radius {worst.radius:g} ({correct} were classified correctly)",
                "the gradients mislead: run square with more steps and pgd from more starts before you trust the number",
                ("smooth", "score-attacks"),
            )
        )
    return findings


def _beyond_gradients(stages: Sequence[Tally]) -> list[Tally]:
    """The stages without gradients that broke much after stages with gradients had given up."""
    climbed, found = False, []
    for tally in stages:
        if tally.backwards:
            climbed = True
        elif climbed and tally.attempted >= 10 and tally.broken >= max(2, SHARE * tally.attempted):
            found.append(tally)
    return found


def audit_setting(
    threat: ThreatModel,
    bounds: tuple[float, float],
    access: Access,
    classes: int | None,
    seen: int,
    n: int,
    right: int,
) -> list[Finding]:
    """Findings about what was evaluated.

    Args:
        access: what the attacks could ask.
        classes: of the model, None where unknown.
        seen: how many of them occur among the labels.
        n, right: examples, and those classified correctly.
    """
    findings: list[Finding] = []
    if access < threat.access:
        findings.append(
            Finding(
                "black-box-only",
                "warning",
                f"the model gives {access} and no {Access.GRADIENTS}, so only attacks for that access ran",
                "a white-box attacker breaks far more: give the model as a PyTorch module, or write the access into the threat "
                f"(@{access}) if that is all your attacker has",
            )
        )
    if classes is not None and n >= 20:
        if seen < classes and n >= 5 * classes and clopper_pearson(0, n, 0.999).high < 1 / classes:
            findings.append(
                Finding(
                    "classes-missing",
                    "warning",
                    f"only {seen} of the {classes} classes occur among the {n} examples",
                    "the data may be sorted by class: shuffle it, or take more examples",
                )
            )
        if right <= 1.5 * n / classes:
            findings.append(
                Finding(
                    "clean-accuracy-near-chance",
                    "warning",
                    f"{right} of {n} clean examples are classified correctly, about what guessing among {classes} classes gives",
                    "look at the labels and their order, the preprocessing (mean, std, bounds) and whether the weights are loaded",
                )
            )
    width = bounds[1] - bounds[0]
    if threat.chart is None and threat.norm is Norm.LINF and not width / 2000 <= threat.radius < width:
        size = "all of" if threat.radius >= width else f"{threat.radius / width:.2%} of"
        findings.append(
            Finding(
                "odd-radius",
                "warning",
                f"the radius {threat.radius:g} is {size} the range [{bounds[0]:g}, {bounds[1]:g}] of the inputs",
                "radii are in the units of the input: 8/255 of data in [0, 1] is 8 of data in [0, 255]",
            )
        )
    return findings
