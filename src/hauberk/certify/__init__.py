"""Proofs, estimates and statistical certificates: what no attack within a threat can do. One method a file."""

from hauberk.certify._certificate import Certificates
from hauberk.certify.clever import Clever, CleverScores
from hauberk.certify.sandwich import certify
from hauberk.certify.smoothing import CertifiedAccuracy, SmoothedCertificates, Smoothing, certified_accuracy

__all__ = [
    "Certificates",
    "CertifiedAccuracy",
    "Clever",
    "CleverScores",
    "SmoothedCertificates",
    "Smoothing",
    "certified_accuracy",
    "certify",
]
