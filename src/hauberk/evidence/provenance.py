"""Where a result came from: versions, platform, and the state of the git checkout that the command ran in.

None of this defines an evaluation; it explains one.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["git_state", "package_versions", "provenance"]

_PACKAGES = (
    "hauberk", "torch", "numpy", "scipy", "safetensors", "pyarrow", "pillow",
    "scikit-learn", "skops", "onnxruntime", "mlxtend",
)  # fmt: skip
_GIT_SECONDS = 20


def package_versions() -> dict[str, str]:
    """The versions of the packages that can change a result; those not installed are left out."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(directory: str | os.PathLike[str] | None = None) -> dict[str, Any] | None:
    """`{"revision", "dirty"}` of the checkout around `directory` (the working directory); None where there is no git.

    `dirty` speaks of tracked files: run folders and other new files beside the code do not count.
    """
    where = str(Path.cwd() if directory is None else directory)
    revision = _git(where, "rev-parse", "HEAD")
    changes = _git(where, "status", "--porcelain", "--untracked-files=no")
    if revision is None or changes is None:
        return None
    return {"revision": revision.strip(), "dirty": bool(changes.strip())}


def _git(where: str, *arguments: str) -> str | None:
    # GIT_OPTIONAL_LOCKS: looking must not write to the user's index
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", where, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def provenance(directory: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """`{"python", "platform", "packages", "git"}` as they are now."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": git_state(directory),
    }
