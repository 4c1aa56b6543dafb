"""What a person reads: the HTML report of a run, and the summary and the comparison in a terminal."""

from hauberk.report.audit import audit_page
from hauberk.report.html import write_html
from hauberk.report.terminal import comparison, summary

__all__ = ["audit_page", "comparison", "summary", "write_html"]
