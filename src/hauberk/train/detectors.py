"""Detectors of the two ways in which adversarial training fails without its training loss telling: on numbers of held-out examples.

**Catastrophic overfitting:** one-step training comes to resist the one step and nothing else; accuracy under FGSM stays or rises, that
under many steps falls to 0 within an epoch, and gradients at near points stop pointing the same way. Source: Wong, Rice, Kolter 2020,
arXiv:2001.03994, section 4.2; Andriushchenko, Flammarion 2020, arXiv:2007.02617: the cosine of the gradients by the input at x and at
x + uniform noise of the radius.

**Robust overfitting:** after some epoch the loss on perturbed examples that are not learnt from rises while the training loss falls.
Source: Rice, Wong, Kolter 2020, arXiv:2002.11569, whose cure is to keep the weights of the best epoch.
"""

from collections.abc import Mapping, Sequence

__all__ = ["collapse", "robust_overfitting"]


_RISING = 0.02
"""A PGD accuracy that is higher by more than at any look before is that of a net that still learns, whatever the gap."""


def collapse(
    held_out: Mapping[str, float], *, gap: float, alignment: float | None, before: float | None = None
) -> str | None:
    """A sentence if these numbers are of a net that one-step attacks deceive themselves on, None if not.

    Args:
        held_out: as a `Monitor` measures it.
        gap: FGSM accuracy minus PGD accuracy beyond which it is one, unless PGD accuracy rises.
        before: the highest PGD accuracy of the looks before, 0 at the first; None: it does not matter.
        alignment: the cosine below which it is one; None: the cosine is only reported.
    """
    apart, cosine = held_out["fgsm"] - held_out["pgd"], held_out["alignment"]
    rises = before is not None and held_out["pgd"] > before + _RISING
    seen = []
    if apart > gap and not rises:
        seen.append(
            f"accuracy is {held_out['fgsm']:.3f} under FGSM and {held_out['pgd']:.3f} under PGD, {apart:.3f} apart where {gap:g} is "
            f"allowed (gradient alignment {cosine:.3f})"
        )
    elif alignment is not None and cosine < alignment:
        seen.append(f"the alignment of gradients is {cosine:.3f}, below {alignment:g}")
    if not seen:
        return None
    return (
        f"catastrophic overfitting: {seen[0]}; add the regulariser grad_align, train with more steps (pgd_at with pgd:steps=7), or "
        "take a smaller step"
    )


def robust_overfitting(
    history: Sequence[tuple[int, float, float]], *, patience: int, margin: float = 0.02
) -> str | None:
    """A sentence if the last `patience` looks all lie above the least held-out loss while the training loss fell, None if not.

    They need not rise from one to the next: each must be more than `margin` above the least, which stands before them.

    Args:
        history: of each look, the epoch, the training loss, and the loss on perturbed held-out examples.
        patience: how many looks.
        margin: by how much, as a share of the least loss, each of them must be above it.
    """
    if len(history) <= patience:
        return None
    best = min(range(len(history)), key=lambda place: history[place][2])
    epoch, train, least = history[best]
    later = history[best + 1 :]
    if len(later) < patience or any(loss <= least * (1 + margin) for _, _, loss in later[-patience:]):
        return None
    last = later[-1]
    if last[1] >= train:
        return None
    return (
        f"robust overfitting since epoch {epoch}: the loss on perturbed held-out examples rose from {least:.3f} to {last[2]:.3f} while "
        f"the training loss fell from {train:.3f} to {last[1]:.3f}; keep the weights of the best epoch, train for fewer epochs, or add awp "
        "or an average of the weights"
    )
