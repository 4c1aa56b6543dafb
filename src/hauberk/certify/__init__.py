"""Proofs, estimates and statistical certificates: what no attack within a threat can do. One method a file."""

from hauberk.certify._certificate import Certificates
from hauberk.certify.sandwich import certify

__all__ = ["Certificates", "certify"]
