"""Benchmarks without the published data end in one line that tells where they come from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
WATER = "water_pbe0ts/data_0/set.000/coord.npy"


@pytest.mark.parametrize(
    ("script", "options", "missing", "source"),
    [
        ("force_call", ["--only", "water_192"], WATER, "deepmd-kit"),
        ("force_call", ["--only", "lips_83"], "lips/lips_200.npz", "matsciml"),
        ("force_call", ["--only", "formate_cu110_52"], "formate_cu110/deal_0.05_selected.xyz", "DEAL"),
        ("training_step", [], "acac/train_300K.xyz", "BOTNet-datasets"),
        ("operators", [], "acac/train_300K.xyz", "BOTNet-datasets"),
        ("accuracy", ["ethanol", "--time", "1m"], "rmd17/rmd17_ethanol_train_01.npz", "rmd17-npz"),
        ("accuracy", ["mota", "--epochs", "1"], "mota_stress/MoTa_SS.xyz", "materialsvirtuallab/snap"),
        ("against_nequip", [], "acac/train_300K.xyz", "BOTNet-datasets"),
        (
            "data_efficiency",
            ["--again", "--into", "OUT"],
            "water_pbe0ts/data_0/set.000/coord.npy",
            "deepmd-kit",
        ),
    ],
)
def test_missing_data_get_one_line(script, options, missing, source, tmp_path):
    arguments = [str(tmp_path) if option == "OUT" else option for option in options]
    run = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), *arguments],
        env={**os.environ, "EQPOT_DATA": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith(f"error: {tmp_path / 'none' / missing}: expected a published data set")
    assert source in run.stderr and "set EQPOT_DATA to the folder that holds" in run.stderr


def test_a_worker_alone_gets_one_line():
    run = subprocess.run([sys.executable, str(BENCH / "eqpot_worker.py")], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: expected one of check, calls, steps first")
