"""Peak memory does not grow with the number of examples (100,000 against 2,000: benchmarks/memory.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs wait4")
def test_ten_times_the_examples_need_about_the_same_memory() -> None:
    command = [sys.executable, str(BENCHMARK), "--many", "20000", "--few", "2000", "--limit", "1.25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
