"""The audit: signs that the attacks of an evaluation cannot be trusted, each with its evidence and what to do next."""

from hauberk.evaluate.audit.finding import STEPS, AuditEvidence, Finding, Indicator, in_order
from hauberk.evaluate.audit.part import SHARE
from hauberk.evaluate.audit.run import audit_cascade, audit_setting
from hauberk.evaluate.audit.victim import EXAMPLES, POOL, audit_victim

__all__ = [
    "EXAMPLES",
    "POOL",
    "SHARE",
    "STEPS",
    "AuditEvidence",
    "Finding",
    "Indicator",
    "audit_cascade",
    "audit_setting",
    "audit_victim",
    "in_order",
]
