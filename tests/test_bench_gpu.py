"""bench/gpu.py: what it asks a card, in Numba's simulator; parts that fail or hang; its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eqpot.backend import obstacle
from eqpot.errors import UserError
from eqpot.kernels.cuda import SIMULATED

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))
import gpu  # noqa: E402
import gpu_parts  # noqa: E402

SOME = ("card", "operator gate", "neighbours", "forces", "gradients", "recorded calls")
SOME += ("recorded steps", "side by side, 3 atoms", "training, 3 atoms", "by blocks", "kernels")


def script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCH / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "EQPOT_DATA": "/none"})


@pytest.mark.skipif(not SIMULATED, reason="`make test-sim` runs it in the simulator")
def test_all_kinds_of_parts_in_the_simulator(tmp_path):
    """Without published data, too."""
    out = tmp_path / "new" / "out"
    done = script("--minutes", "20", "--out", str(out), "--only", *SOME)
    rows = gpu.rows_of(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in gpu_parts.PARTS if name in {row["part"] for row in rows}] == list(SOME)
    assert len(rows) > 70 and not [row for row in rows if "failed" in row]
    assert all(f"{row['part']}, {row['question']}" in done.stdout for row in rows)
    checked = [
        row for row in rows if row["part"] not in ("card", "side by side, 3 atoms", "training, 3 atoms")
    ]
    assert all("tolerance" in row for row in checked)
    again = script("--out", str(out))
    assert again.returncode == 2 and "expected an empty or new folder" in again.stderr
    kept = script("--table", str(out))
    assert kept.returncode == 2 and kept.stderr.count("\n") == 1
    assert kept.stderr.endswith("expected the answers of a card, found none\n")


@pytest.mark.skipif(not obstacle(), reason="there is a GPU, or the simulator")
def test_without_a_card_it_says_so(tmp_path):
    done = script("--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "error: device: cuda: " in done.stderr and not (tmp_path / "out").exists()


def test_parts_in_order_each_once():
    stages = gpu.stages(list(gpu_parts.PARTS))
    assert sorted(sum(stages, [])) == sorted(gpu_parts.PARTS)
    assert stages[0] == ["card"] and stages[-1] == ["kernels"]
    assert all(len(stage) == 1 for stage in stages if stage and stage[0].startswith(gpu.ALONE))


def test_what_fails_or_hangs_stops_nothing_else(tmp_path, monkeypatch):
    """A part that hangs is ended and says where; one that dies is a row; the next one is asked."""
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    monkeypatch.setattr(gpu, "LEAST", 0.5)
    answers = {
        "operator hangs": "import faulthandler, time; faulthandler.dump_traceback_later(1, exit=True); "
        "time.sleep(60)",
        "operator does not listen": "import time; time.sleep(60)",
        "operator dies": "import os, sys; sys.stderr.write('said'); sys.stderr.flush(); os.abort()",
        "forces": f"import sys; sys.path.insert(0, {str(BENCH)!r}); from pathlib import Path; import gpu; "
        f"gpu.add(Path({str(tmp_path)!r}), {{'part': 'forces', 'question': 'one', 'error': 0.5}})",
    }

    def command(name: str, out: Path, limit: float) -> list[str]:
        return [sys.executable, "-c", answers[name]]

    monkeypatch.setattr(gpu, "SHARES", {"operator": 0.01, "forces": 1.0})
    began = time.monotonic()
    gpu.ask_all(list(answers), tmp_path, 120.0, command)
    assert time.monotonic() - began < 55
    rows = {row["part"]: row for row in gpu.rows_of(tmp_path)}
    assert rows["forces"] == {"part": "forces", "question": "one", "error": 0.5}
    assert rows["operator dies"]["failed"] == "its process ended with -6; see operator_dies.log"
    assert rows["operator hangs"]["failed"].endswith("see operator_hangs.log")
    assert rows["operator does not listen"]["failed"].startswith("not done after 1 s")
    assert "Timeout" in (tmp_path / "operator_hangs.log").read_text()
    assert (tmp_path / "operator_dies.log").read_text() == "said"
    gpu.ask_all(["forces"], tmp_path, 0.1, command)
    assert gpu.rows_of(tmp_path)[-1] == {"part": "forces", "left out": "no time was left"}


def test_a_question_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    def wrong() -> dict:
        raise ValueError("no such\nkernel")

    part = [
        ("one", wrong),
        ("two", lambda: {"error": 1.0}),
        ("three", lambda: gpu_parts.judged({}, {"x": 2.0}, 1.0)),
    ]
    monkeypatch.setitem(gpu.PARTS, "forces", lambda: iter(part))
    gpu.answer("forces", tmp_path)
    rows = gpu.rows_of(tmp_path)
    assert [row.get("failed") for row in rows] == [
        "ValueError: no such kernel",
        None,
        "expected errors up to 1, found 2",
    ]
    said = capsys.readouterr()
    assert said.out.count("\n") == 3 and "Traceback" in said.err and "in wrong" in said.err
    with open(tmp_path / gpu.ROWS, "a") as file:
        file.write('{"part": "cut o')
    assert gpu.rows_of(tmp_path) == rows


def test_structures_are_made_where_data_are_missing(monkeypatch):
    monkeypatch.setattr("gpu_parts.is_here", lambda name: False)
    for n in (15, 52, 83, 192):
        name, atoms = gpu_parts.workload(n)
        assert len(atoms) == n and name.endswith("made")
        assert atoms.pbc.all() == (n >= 83)
        near = atoms.get_all_distances(mic=True)[~np.eye(n, dtype=bool)]
        assert near.min() > 0.9


# ------------------------------------------------------------ the table


def test_readme_has_the_table_of_the_results():
    text = gpu.README.read_text()
    assert gpu.TABLE.search(text)[1] == gpu.table(gpu.kept())
    assert gpu.table([]) == gpu.NO_CARD


def test_table(tmp_path, monkeypatch):
    """Of an invented card."""
    machine = {
        "gpu": "Card of a test",
        "driver": "0.0",
        "cores": 3,
        "cpu": "CPU",
        "eqpot": "0",
        "date": "today",
    }
    side, training = "side by side, 15 atoms", "training, 15 atoms"
    rows = [
        {"part": "card", "question": "machine", **machine},
        {"part": side, "device": "cuda", "structure": "A", "atoms": 15, "calculator_seconds": 0.002},
        {"part": side, "device": "cpu", "structure": "A", "atoms": 15, "calculator_seconds": 0.004},
        {"part": training, "device": "cuda", "structure": "B", "atoms": 15, "batch": 5, "step_seconds": 0.01},
        {"part": training, "question": "cpu", "failed": "expected", "error of forces": float("inf")},
    ]
    for row in rows:
        gpu.add(tmp_path, row)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "README", tmp_path / "README.md")
    monkeypatch.setattr(gpu, "results_path", lambda card: tmp_path / "results" / "gpu_card.json")
    (tmp_path / "results").mkdir()
    gpu.README.write_text("# A\n<!-- table of bench/gpu.py -->\nold\n<!-- end of the table -->\nB\n")
    path = gpu.keep(tmp_path)
    gpu.write_table()
    text = gpu.README.read_text()
    assert json.loads(path.read_text())["rows"][1] == rows[1] and "Infinity" not in path.read_text()
    assert "| force call, A | 15 | 4 | 2 | 2 |\n" in text
    assert "| training step, 5 frames of B | 15 |  | 10 |  |\n" in text
    assert "Of 5 answers 1 failed: training, 15 atoms." in text
    assert text.startswith("# A\n") and text.endswith("<!-- end of the table -->\nB\n") and "old" not in text
    (tmp_path / gpu.ROWS).write_text("")
    with pytest.raises(UserError, match="expected the answers of a card, found none"):
        gpu.keep(tmp_path)
