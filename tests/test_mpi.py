"""`eqpot fit --mpi`: the same fit on any number of ranks, and one line where something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest
from runs import arrays, log, refused, same_arrays
from tolerances import check_close
from toy import MODEL, toy_dataset

from eqpot.cli import main
from eqpot.launcher import TOLD, launched
from eqpot.stops import answering, held, interrupt
from eqpot.structures.data import concatenate, write_dataset

if sys.platform != "linux":
    pytest.skip("only Linux", allow_module_level=True)
if find_spec("mpi4py") is None:
    pytest.skip("no MPI: pip install 'eqpot[mpi]'", allow_module_level=True)

MPIRUN = Path(sys.prefix, "bin", "mpirun")  # of MPICH
ROUND_OFF = 1e-5  # of Adam's weights after 51 steps; SOAP's first bases depend on the last bit
LIMIT = 240  # s, for a machine that compiles and has other things to do

SMALL = [f"--set=model.{key}={value}" for key, value in MODEL.items()]
SHORT = [*SMALL, "--set=train.batch_size=4", "--n-valid=3", "--set=train.ema=0.9"]
ORDERED = "--set=train.ordered_sums=true"
PLATEAU = [ORDERED, "--set=train.schedule=plateau"]
FITS = {
    "plain": ["fit", "toy.h5", *SHORT, "--set=train.optimizer=adam", "--max-epochs=17"],
    "ordered": ["fit", "toy.h5", *SHORT, ORDERED, "--max-epochs=17"],
    "weighted": [
        *("fit", "mixed.h5", *SHORT, ORDERED, "--max-epochs=3", "--set=loss.kind=huber"),
        *("--set=loss.group_weights={cold = 2.0}", "--set=loss.element_weights=balanced"),
        *("--set=train.optimizer=adam", "--set=loss.errors=per_atom"),
    ],
    "tuned": [
        *("fit", "toy.h5", "--from=one/plain/model.h5", "--replay=mixed.h5", "--freeze=embedding"),
        *("--set=train.batch_size=4", "--n-valid=3", ORDERED, "--max-epochs=2"),
    ],
    "begun": ["fit", "toy.h5", *SHORT, *PLATEAU, "--max-epochs=4"],
    "read by ASE": ["fit", "toy.extxyz", *SHORT, ORDERED, "--max-epochs=2"],
}
ON_FOUR = ("plain", "ordered")
ALONE = ["fit", "toy.h5", *SHORT, *PLATEAU, "--set=train.batch_size=1"]
GO_ON = ["fit", "--resume", "--max-epochs=8"]

# Runs commands on every rank, one after the other, and tells their statuses; at the end of each fit all ranks
# must have had the same weights. Argument: JSON of [words, trouble] for each.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from mpi4py import MPI
from eqpot.cli import main
from eqpot.training import ranks
from eqpot.training.learner import Learner

comm, sums, seen, trouble = MPI.COMM_WORLD, Learner.sums, [], None
Path(f"pid{comm.rank}").write_text(str(os.getpid()))

def watched(learner, mine, chosen):
    if comm.rank or learner.ranks.size > 1:  # not where the first one compiles, alone
        seen.append(learner.weights.tobytes())
        if trouble == "error" and comm.rank == 1:
            raise ZeroDivisionError("nothing left")
        if trouble == "memory" and comm.rank == 0:
            raise MemoryError("a lot")
        if trouble == "stop" and comm.rank == 1 and len(seen) == 5:
            signal.raise_signal(signal.SIGTERM)
    return sums(learner, mine, chosen)

Learner.sums = watched
statuses = []
for words, trouble in json.loads(sys.argv[1]):
    seen.clear()
    statuses.append(comm.bcast(main([*words, "--mpi"])))
    if statuses[-1] == 0:
        all_seen = comm.allgather(seen)
        assert seen and all(other == seen for other in all_seen), "other weights"
if comm.rank == 0:
    Path("statuses").write_text(json.dumps(statuses))
"""


def started(folder: Path, ranks: int, tasks: list) -> subprocess.Popen:
    command = [MPIRUN, "-n", str(ranks), sys.executable, "-c", DRIVER, json.dumps(tasks)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=os.environ | {"NUMBA_NUM_THREADS": "1"}, **pipes)


def launch(folder: Path, ranks: int, tasks: list) -> tuple[list[int], str, str]:
    """Statuses of tasks [words, trouble], and what was said."""
    process = started(folder, ranks, tasks)
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, err + out[-2000:]
    return json.loads((folder / "statuses").read_text()), out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data, and all fits on one rank, without --mpi."""
    folder = tmp_path_factory.mktemp("ranks")
    write_dataset(folder / "toy.h5", toy_dataset())
    mixed = concatenate([toy_dataset(9, 1), toy_dataset(4, 2, "HO3")])
    mixed.energy[2], mixed.stress[5] = np.nan, np.nan
    mixed.forces[mixed.atom_ptr[3] : mixed.atom_ptr[4]] = np.nan
    write_dataset(folder / "mixed.h5", mixed)
    toy = toy_dataset()
    ase.io.write(folder / "toy.extxyz", [toy.atoms(k) for k in range(len(toy))])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, words in FITS.items():
            assert main([*words, "-o", f"one/{name}"]) == 0, name
        assert main([*ALONE, "--max-epochs=1", "-o", "one/alone"]) == 0
        for run, taken_up in (("begun", "went on"), ("alone", "idle")):
            shutil.copytree(f"one/{run}", f"one/{taken_up}")
        assert main([*GO_ON, "-o", "one/went on"]) == 0
    return folder


@pytest.fixture(scope="module")
def two(folder) -> str:
    """What was said of all fits on two ranks."""
    tasks = [([*words, "-o", f"two/{k}"], None) for k, words in FITS.items()]
    statuses, out, err = launch(
        folder, 2, [*tasks, (["fit", "--resume", "--max-epochs=2", "-o", "one/idle"], None)]
    )
    assert not any(statuses), err
    return out


@pytest.fixture(scope="module")
def four(folder, two) -> str:
    """On four ranks; the run that was begun on two goes on there, and on one."""
    for name in ("one", "four"):
        shutil.copytree(folder / "two/begun", folder / f"{name}/taken over")
    tasks = [([*FITS[k], "-o", f"four/{k}"], None) for k in ON_FOUR]
    statuses, out, err = launch(folder, 4, [*tasks, ([*GO_ON, "-o", "four/taken over"], None)])
    assert not any(statuses), err
    return out


@pytest.mark.slow
def test_one_rank_speaks(folder, two, four):
    for out, ranks, fits in ((two, 2, len(FITS) + 1), (four, 4, len(ON_FOUR) + 1)):
        assert out.count(f"{ranks} ranks on 1 machine, 1 thread each\n") == fits
        assert out.count("model: ") == fits
    assert two.count("warning: 1 of 2 ranks have nothing to do, since this run takes 1 frame a step\n") == 1
    assert {p.name for p in (folder / "one/plain").iterdir()} == {
        p.name for p in (folder / "four/plain").iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize("ranks, name", [*(("two", k) for k in FITS), *(("four", k) for k in ON_FOUR)])
def test_the_same_fit_on_any_number_of_ranks(folder, two, four, ranks, name):
    """To the last bit with ordered sums."""
    one, other = folder / f"one/{name}", folder / f"{ranks}/{name}"
    if ORDERED in FITS[name]:
        assert same_arrays(one / "model.h5", other / "model.h5")
        assert same_arrays(one / "checkpoint.h5", other / "checkpoint.h5")
        assert log(one) == log(other)
        return
    expected, found = arrays(one / "checkpoint.h5"), arrays(other / "checkpoint.h5")
    for key in ("weights", "average", "best"):
        check_close(found[key], expected[key], ROUND_OFF, what=key)
    for row, wanted in zip(log(other), log(one), strict=True):
        assert row.keys() == wanted.keys()
        for key, value in wanted.items():
            check_close(float(row[key]), float(value), 10 * ROUND_OFF, what=key)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["one", "four"])
def test_a_run_goes_on_with_other_ranks(folder, two, four, ranks, monkeypatch):
    monkeypatch.chdir(folder)
    run = folder / f"{ranks}/taken over"
    if ranks == "one":
        assert main([*GO_ON, "-o", str(run)]) == 0
    assert same_arrays(run / "checkpoint.h5", folder / "one/went on/checkpoint.h5")
    assert log(run) == log(folder / "one/went on")


# ------------------------------------------------------------ ends

WRONG = {
    "no file": (["fit", "none.h5", *SHORT, "-o", "new"], None, 2, "none.h5: expected a data set file"),
    "no option": (["fit", "toy.h5", "--max-epoch=3"], None, 2, "No such option"),
    "no setting": (["fit", "toy.h5", "--set=model.cutof=4"], None, 2, "did you mean 'cutoff'"),
    "small batch": (
        ["fit", "toy.h5", *SHORT, "--set=train.batch_size=1", "-o", "new"],
        *(None, 2, "train.batch_size: expected a frame a step for each of 2 ranks, found 1 frame a step"),
    ),
    "a GPU": (["fit", "toy.h5", *SHORT, "--device=cuda", "-o", "new"], None, 2, "expected cpu with --mpi"),
    "too fast": (
        ["fit", "toy.h5", *SHORT, "--set=train.learning_rate=100", "--max-epochs=900", "-o", "fast"],
        *(None, 2, "training diverged in epoch"),
    ),
    "an error": (["fit", "toy.h5", *SHORT, "-o", "broken"], "error", 2, "rank 1 on "),
    "no memory": (["fit", "toy.h5", *SHORT, "-o", "large"], "memory", 2, "out of memory (a lot)"),
    "a stop": (["fit", "toy.h5", *SHORT, "-o", "stopped"], "stop", 130, ""),
}


@pytest.fixture(scope="module")
def ends(folder) -> dict[str, tuple[int, str]]:
    """Status and line of each of WRONG, in one launch of two ranks."""
    statuses, out, err = launch(folder, 2, [(words, trouble) for words, trouble, *_ in WRONG.values()])
    lines = [line for line in err.splitlines() if line and not line.startswith("compiling")]
    assert len(lines) == sum(status == 2 for *_, status, _ in WRONG.values()), err
    assert "stopped in epoch 2; continue with: eqpot fit --resume -o stopped --mpi" in out
    said = iter(lines)
    pairs = zip(WRONG, statuses, strict=True)
    return {name: (status, next(said) if status == 2 else "") for name, status in pairs}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_one_line_and_all_ranks_go_on(ends, folder, name):
    *_, status, text = WRONG[name]
    found, line = ends[name]
    assert found == status and text in line and line.startswith("error: " * (status == 2))
    assert not (folder / "new").exists()


@contextmanager
def long_fit(folder: Path, run: str) -> Iterator[tuple[subprocess.Popen, Callable[[], list[int]]]]:
    """A fit on two ranks, once its second epoch is over, and those of its processes that are left."""
    words = ["fit", "toy.h5", *SHORT, "--max-epochs=900000", "-o", run]
    process, path = started(folder, 2, [(words, None)]), folder / run / "log.csv"
    pids: list[int] = []

    def left() -> list[int]:
        return [pid for pid in pids if _alive(pid)]

    try:
        end = time.monotonic() + LIMIT
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        pids += [int((folder / f"pid{k}").read_text()) for k in range(2)]
        yield process, left
    finally:
        process.kill()
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    return False


def until_gone(left: Callable[[], list[int]]) -> None:
    end = time.monotonic() + 20
    while left() and time.monotonic() < end:
        time.sleep(0.05)
    assert not left()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_stop_ends_all_ranks(folder, number, monkeypatch):
    """Of mpirun, as a queue's time limit or Ctrl-C does it; what was reached is kept."""
    run = f"at {number.name}"
    with long_fit(folder, run) as (process, left):
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        until_gone(left)
    assert json.loads((folder / "statuses").read_text()) == [130] and "stopped in epoch" in out
    assert "error" not in err and "Traceback" not in err, err
    epochs = len(log(folder / run))
    monkeypatch.chdir(folder)
    assert main(["fit", "--resume", "-o", run, f"--max-epochs={epochs + 1}"]) == 0
    assert len(log(folder / run)) == epochs + 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_end_where_one_is_killed(folder, rank, monkeypatch):
    run = f"killed {rank}"
    with long_fit(folder, run) as (process, left):
        os.kill(left()[rank], signal.SIGKILL)
        process.communicate(timeout=60)
        until_gone(left)
    assert process.returncode != 0
    monkeypatch.chdir(folder)
    assert main(["fit", "--resume", "-o", run, "--max-epochs=1"]) == 0


def test_a_stop_waits_for_what_ranks_do_in_step():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    done = []
    try:
        with pytest.raises(KeyboardInterrupt), answering(interrupt), held() as outer:
            with held() as inner:
                assert not inner.asked
                signal.raise_signal(signal.SIGINT)
                assert inner.asked
                done.append("inner")
            done.append("outer")
            assert outer.asked
        with answering(interrupt), held() as later:
            assert not later.asked
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["inner", "outer"]


# ------------------------------------------------------------ launchers


def test_several_tasks_without_mpi(tmp_path):
    command = [MPIRUN, "-n", "3", sys.executable, "-m", "eqpot", "fit", "toy.h5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: expected one process, found 3 of a launcher: give --mpi")
    assert done.stderr.count("\n") == 1


def test_ranks_that_do_not_find_each_other(tmp_path):
    """As of a launcher of another MPI: only its first task tells."""
    command = [sys.executable, "-m", "eqpot", "fit", "toy.h5", "--mpi"]
    said = []
    for rank in range(2):
        told = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)}
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == 2 and not done.stdout
        said.append(done.stderr)
    assert "expected the 2 ranks that were started" in said[0] and "srun --mpi=pmi2" in said[0]
    assert said[0].count("\n") == 1 and said[1] == ""


def test_no_mpi(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert "pip install 'eqpot[mpi]'" in refused(["fit", "toy.h5", "--mpi"], capsys)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, (0, 1)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, (3, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (1, 2)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_NTASKS": "16"}, (5, 8)),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, (0, 1)),  # a job script
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, (0, 1)),
        ({"PMI_SIZE": "4", "PMI_RANK": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, (1, 4)),
        ({"PMI_SIZE": "", "PMI_RANK": "x"}, (0, 1)),
    ],
)
def test_what_launchers_tell(environment, expected, monkeypatch):
    for name in (name for pair in TOLD for name in pair):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected
