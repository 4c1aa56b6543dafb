"""Sphinx: MyST pages, the furo theme, and a reference drawn from the docstrings. Builds without a network.

Docstrings are written to be read in the source: formulas and drawings are indented, names stand in single backticks. Two
hooks below turn that into reStructuredText, so that nobody has to write it.
"""

import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

__all__ = ["setup"]

ROOT = Path(__file__).parents[1]

project = "hauberk"
author = "The hauberk developers"
project_copyright = "2026, the hauberk developers"
release = version = installed_version("hauberk")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = f"hauberk {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True


def _as_restructured_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make paragraphs that are indented after an empty line literal; elsewhere a bar, a star and an underscore mean themselves."""
    out: list[str] = []
    literal = False
    for line in lines:
        if line and not line.startswith("    "):
            literal = False
        elif line and not literal and (not out or not out[-1]):
            before = next((past for past in reversed(out) if past), "")
            literal = not before.startswith((" ", "-"))
            if literal:
                out += ["::", ""]
        out.append(line if literal else re.sub(r"(`[^`]*`|\*\*|>>> .*)|(\||\*|(?<=\w)_(?=\W|$))", _escape, line))
    lines[:] = out


def _escape(match: re.Match[str]) -> str:
    return match[1] or "\\" + match[2]


def _hide_protocol_arguments(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """A protocol is never called to make one: no (*args, **kwargs)."""
    return ("", returns) if getattr(obj, "_is_protocol", False) else None


def _fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Two lines of our own: `files-of:: PACKAGE` documents its public files, so that a new algorithm needs no edit here;
    `from-root:: FILE` brings in a page that stands at the root of the repository, its links turned to where they lead from here.
    """

    def files(match: re.Match[str]) -> str:
        folder = ROOT.joinpath("src", *match[1].split("."))
        stems = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
        return "\n".join(f"{stem}\n{'-' * len(stem)}\n\n.. automodule:: {match[1]}.{stem}\n" for stem in stems)

    def root(match: re.Match[str]) -> str:
        file = ROOT / match[1]
        app.env.note_dependency(str(file))
        text = file.read_text(encoding="utf-8").replace("](docs/", "](")
        return re.sub(r"\]\(([A-Z]+)\.md\)", lambda link: f"]({link[1].lower()}.md)", text)

    source[0] = re.sub(r"^files-of:: (\S+)$", files, source[0], flags=re.MULTILINE)
    source[0] = re.sub(r"^from-root:: (\S+)$", root, source[0], flags=re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Connect the hooks; the first before napoleon, which reads the sections that remain."""
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=400)
    app.connect("autodoc-process-signature", _hide_protocol_arguments)
    app.connect("source-read", _fill_in)
