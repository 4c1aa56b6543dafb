"""What a run leaves behind: its folder, the table of rows, fingerprints and provenance. Append-only, and never half written."""

from hauberk.evidence.fingerprint import array_fingerprint, file_fingerprint, setting_fingerprint, state_fingerprint
from hauberk.evidence.finished import RESULT_SCHEMA, FinishedRun, Run
from hauberk.evidence.manifest import RUN_SCHEMA, Manifest
from hauberk.evidence.memory import MemoryRun
from hauberk.evidence.plain import plain, pretty
from hauberk.evidence.provenance import git_state, package_versions, provenance
from hauberk.evidence.run import RunFolder
from hauberk.evidence.table import ROWS, STATUSES, read_rows, rows_table, write_rows

__all__ = [
    "RESULT_SCHEMA",
    "ROWS",
    "RUN_SCHEMA",
    "STATUSES",
    "FinishedRun",
    "Manifest",
    "MemoryRun",
    "Run",
    "RunFolder",
    "array_fingerprint",
    "file_fingerprint",
    "git_state",
    "package_versions",
    "plain",
    "pretty",
    "provenance",
    "read_rows",
    "rows_table",
    "setting_fingerprint",
    "state_fingerprint",
    "write_rows",
]
