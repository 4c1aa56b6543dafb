"""What every test stands on: one thread, one way to print, and hypothesis without a clock or, in CI, without chance."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, so that processes the tests start have it too
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=120)

# No deadline: the first call into torch in a process can take a hundred times as long as the second.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() in {"1", "true"} else "dev")


@pytest.fixture(scope="session")
def script() -> Callable[[Path], ModuleType]:
    """A script that is part of no package, such as one that draws a page, as a module."""

    def load(file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location("_".join(["script", *file.with_suffix("").parts[-3:]]), file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its dataclasses look themselves up there
        spec.loader.exec_module(module)
        return module

    return load
