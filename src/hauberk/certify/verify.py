"""Complete verification of one property of one network: the cheap methods first, then branch and bound.

1. Projected gradient descent looks for a counterexample.
2. Few inputs: the box of inputs is cut (`input_split`).
3. Many inputs: CROWN for all rows of all cases, optimised slopes for those that are open, a longer search for counterexamples, ranges
   tightened value by value, and branch and bound over the signs of ReLUs (`branch_and_bound`), case by case, the one nearest to
   a proof first.

A verdict `holds` rests on bounds that are widened by what rounding can do (see `hauberk.bounds`); `violated` comes with a float32
input that violates the property as the network computes it in float32, and as `confirm` does.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from hauberk.bounds import Inputs, lower_bounds, ranges_of, require_bounds
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.certify._falsify import Witness, falsify
from hauberk.certify._open_relus import down
from hauberk.certify._property import Property, Stacked, Verdict
from hauberk.certify.branch_and_bound import BranchAndBound
from hauberk.certify.input_split import InputSplit
from hauberk.certify.split_ranges import can_split, split_ranges
from hauberk.errors import DataError
from hauberk.layered.fold import folded
from hauberk.layered.graph import Graph
from hauberk.layered.lower import lowered

__all__ = ["FEW_INPUTS", "verify"]

FEW_INPUTS = 12
"""Networks of at most so many inputs are decided by cutting the inputs."""


def verify(
    graph: Graph,
    asked: Property,
    *,
    seconds: float = 300.0,
    seed: int = 0,
    confirm: Callable[[NDArray[np.float32]], bool] | None = None,
) -> Verdict:
    """Whether the property holds.

    Args:
        graph: the network.
        asked: the property, over flattened inputs and outputs.
        seconds: after which the answer is `unknown`; a batch that is under way is finished.
        seed: of the search for counterexamples.
        confirm: whether an input, (n,) float32, violates the property by another opinion, such as that of onnxruntime.

    Raises:
        ModelError: a node of the network cannot be bounded.
        DataError: the property is about another number of inputs or outputs.
    """
    began = time.perf_counter()
    inputs, outputs = math.prod(graph.input_shape), math.prod(graph.output_shape)
    if (asked.inputs, asked.outputs) != (inputs, outputs):
        raise DataError(
            f"the property is about {asked.inputs} inputs and {asked.outputs} outputs, the network has {inputs} and {outputs}; "
            "check that they belong together"
        )
    single = graph.detach().to(dtype=torch.float32)
    double = lowered(folded(single.to(dtype=torch.float64)))  # folding in float32 would change the network
    require_bounds(double)
    plain = double.to(dtype=torch.float32)
    witness = Witness(single, asked, confirm)

    def late() -> bool:
        return time.perf_counter() - began > seconds

    def finished(verdict: Verdict) -> Verdict:
        spent = time.perf_counter() - began
        return Verdict(verdict.status, verdict.method, verdict.witness, spent, verdict.domains, verdict.bound)

    found = falsify(witness, double, seed=seed, points=32, steps=30, late=late)
    if found is not None:
        return finished(Verdict("violated", "pgd", found))
    if inputs <= FEW_INPUTS:
        return finished(InputSplit()(double, asked, witness, late=late))
    domains, bound, method = 0, math.inf, "crown"
    for stacked in asked.by_box():
        verdict = _in_box(plain, double, stacked, witness, seed, late)
        if verdict.status != "holds":
            return finished(verdict)
        domains, bound = domains + verdict.domains, min(bound, verdict.bound)
        method = verdict.method
    return finished(Verdict("holds", method, None, 0.0, domains, bound))


_STAGES = ((0, 32), (3, 2_000), (5, 20_000), (7, None))
"""Rounds of `split_ranges`, and domains of branch and bound before the next: many properties need few domains once ranges are tight."""


def _in_box(
    plain: Graph, double: Graph, stacked: Stacked, witness: Witness, seed: int, late: Callable[[], bool]
) -> Verdict:
    """All cases of one box of many inputs."""
    if not torch.equal(stacked.C.float().double(), stacked.C):
        plain = double  # rows that float32 cannot hold
    kind = torch.float64 if plain is double else torch.float32
    low, high = (side.to(kind).reshape(1, *plain.input_shape) for side in (stacked.lower, stacked.upper))
    low, high = (
        torch.nextafter(low, torch.full_like(low, -torch.inf)),
        torch.nextafter(high, torch.full_like(high, torch.inf)),
    )  # float32 may have rounded inward
    ranges = ranges_of(plain, Inputs(low, high))
    spec, offset = stacked.C.to(kind).reshape(1, -1, *plain.output_shape), down(stacked.d, kind)[None]
    least = lower_bounds(plain, ranges, spec, offset)
    if not bool((stacked.worst(least) <= 0).any()):
        return Verdict("holds", "crown", domains=1, bound=float(stacked.worst(least).min()))
    rows = (stacked.worst(least) <= 0)[0, stacked.case].nonzero()[:, 0]
    better = optimised(
        plain, ranges.take(torch.zeros_like(rows)), spec[0, rows], offset=offset[0, rows], steps=40, enough=0.0
    )
    least[0, rows] = torch.maximum(least[0, rows], better.lower)
    worst = stacked.worst(least)[0]
    if not bool((worst <= 0).any()):
        return Verdict("holds", "alpha_crown", domains=1, bound=float(worst.min()))
    found = witness.among(stacked, better.least.flatten(1))
    if found is None:
        cases = (worst <= 0).nonzero()[:, 0].tolist()
        found = falsify(
            witness, plain, seed=seed + 1, points=256, steps=100, drawn=256, among=(stacked, cases), late=late
        )
    if found is not None:
        return Verdict("violated", "pgd", found)
    ranges = refined(plain, ranges, late=late)
    domains, proven, verdict = 1, set[int](), Verdict("unknown", "branch_and_bound")
    stages, graph = (_STAGES, double) if can_split(plain, ranges) else (((0, None),), plain)
    for rounds, most in stages:
        if rounds:
            ranges = split_ranges(graph, ranges, rounds=rounds, late=late)
        least = torch.maximum(least, lower_bounds(plain, ranges, spec, offset))
        worst = stacked.worst(least)[0]
        proven |= set((worst > 0).nonzero()[:, 0].tolist())
        for case in sorted(set(range(stacked.count)) - proven, key=lambda case: -float(worst[case])):
            own = (stacked.case == case).nonzero()[:, 0]
            row = int(own[least[0, own].argmax()])
            search = BranchAndBound(domains=most)
            verdict = search(graph, ranges, spec[0, row].flatten(), float(offset[0, row]), stacked, witness, late=late)
            domains += verdict.domains
            if verdict.status == "violated":
                return replace(verdict, domains=domains)
            if verdict.status != "holds":
                break
            proven.add(case)
        else:
            return Verdict("holds", "branch_and_bound", None, 0.0, domains, max(0.0, float(worst.min())))
        if late():
            break
    return replace(verdict, domains=domains)
