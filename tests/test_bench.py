"""Every benchmark starts: what it imports and asks for is there."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
SCRIPTS = [path for path in sorted(BENCH.glob("*.py")) if "__main__" in path.read_text()]
WORKERS = ("eqpot_worker", "nequip_worker")  # parts of a benchmark, which end with a line that says so


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script: Path):
    if script.stem == "nequip_worker" and find_spec("lightning") is None:
        pytest.skip("no NequIP in this environment")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=100)
    if script.stem in WORKERS:
        assert done.returncode == 2 and "which calls it" in done.stderr
    else:
        assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr
