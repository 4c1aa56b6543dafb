"""Write the report of a run: one HTML file that is complete in itself.

It loads nothing, runs no script and says so to the browser (a Content-Security-Policy without sources), pictures are
`data:` URIs, fonts are the reader's own. Everything a user or a model named is escaped.
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hauberk.errors import InputError
from hauberk.evidence.disk import replace_file, speaking
from hauberk.evidence.finished import FinishedRun
from hauberk.evidence.run import RunFolder
from hauberk.report.page import page
from hauberk.report.words import interval, percent

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["write_html"]


def write_html(run: str | os.PathLike[str] | FinishedRun, path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a finished run and return where it is.

    The file appears whole or not at all, and the same run gives the same bytes.

    Args:
        run: a run folder, or a run that has been read or was kept in memory.
        path: the file to write; `report.html` in the run folder if None.

    Raises:
        RunError: the folder holds no finished run, or the disk refuses.
        InputError: `path` is a folder, or is missing for a run without one.
    """
    finished = run if isinstance(run, FinishedRun) else RunFolder.read(run)
    if path is None:
        if finished.path is None:
            raise InputError("expected a path for the report of a run that has no folder, got none; give path=")
        path = finished.path / "report.html"
    path = Path(path)
    if path.is_dir():
        raise InputError(f"expected a file to write the report to, got the folder {path}; give {path / 'report.html'}")
    shown = page(finished.result, finished.rows, finished.adversarials())
    text = _environment().get_template("report.html.jinja").render(page=shown)
    with speaking(f"write the report {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode("utf-8"))
    return path


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hauberk.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    return environment
