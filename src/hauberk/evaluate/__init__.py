"""How robust is it really? Suites, the cascade, the audit, statistics, and `evaluate` that joins them."""

from hauberk.blocks.judge import Verdict, judge
from hauberk.evaluate.auditing import Audit, audit
from hauberk.evaluate.compare import compare
from hauberk.evaluate.evaluation import Evaluation, evaluate
from hauberk.evaluate.proving import CERTIFY, SANDWICHED
from hauberk.evaluate.statistics import Proportion, clopper_pearson, mcnemar, smallest_detectable_difference, wilson
from hauberk.evaluate.suites import SUITES, Suite, suite_for

__all__ = [
    "CERTIFY",
    "SANDWICHED",
    "SUITES",
    "Audit",
    "Evaluation",
    "Proportion",
    "Suite",
    "Verdict",
    "audit",
    "clopper_pearson",
    "compare",
    "evaluate",
    "judge",
    "mcnemar",
    "smallest_detectable_difference",
    "suite_for",
    "wilson",
]
