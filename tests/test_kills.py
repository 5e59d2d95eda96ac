"""Runs that are killed, or lose their disk or folder, at any moment: resumed, they end on the same bits.

EQPOT_KILLS: how often each kind of run gets each signal; `make kills` asks for 20.
"""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from potentials import narrow_crystal as crystal
from potentials import two_blocks as potential
from runs import arrays, log
from toy import MODEL, toy_dataset

from eqpot.cli import main
from eqpot.structures.data import write_dataset

KILLS = int(os.environ.get("EQPOT_KILLS", 3))
# A run writes its checkpoint as often as it can, so that it gets on however soon it is killed.
CODE = """
import sys
from eqpot.dynamics import simulation as md
from eqpot.cli import main
md.RESTART_SECONDS = 0.01
sys.exit(main(sys.argv[1:]))
"""
DYNAMICS = ["md", "model.h5", "crystal.xyz", "--length=800", "--write-every=4", "--log-every=3"]
DYNAMICS += ["--min-distance=0", "--temperature=60", "--thermostat-time=10"]
FIT = ["fit", "toy.h5", "--max-epochs=40", "--n-valid=3", "--set=train.batch_size=3", "--set=train.ema=0.9"]
RUNS = {
    "fit": [*FIT, *(f"--set=model.{key}={value}" for key, value in MODEL.items())],
    "nhc": DYNAMICS,
    "langevin": [*DYNAMICS, "--thermostat=langevin"],
    "npt": [*DYNAMICS, "--ensemble=npt", "--barostat-time=50", "--pressure=1e4"],
}
NO_MOUNT = "a small file system cannot be mounted here (needs root)"
over_runs = pytest.mark.parametrize("kind", RUNS)


@dataclass
class Unbroken:
    """A run that nothing happened to, the seconds it took to begin, and the bytes of its log at the end."""

    folder: Path
    beginning: float
    size: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    write_dataset(folder / "toy.h5", toy_dataset())
    potential("float32").save(folder / "model.h5")
    crystal().write(folder / "crystal.xyz", format="extxyz")
    return folder


@pytest.fixture(scope="module")
def unbroken(folder) -> Callable[[str], Unbroken]:
    """The unbroken run of a kind, made once, after a short one in which kernels are compiled."""
    made: dict[str, Unbroken] = {}

    def get(kind: str) -> Unbroken:
        if kind not in made:
            short = "--max-epochs=1" if kind == "fit" else "--length=1"
            assert begin(folder, kind, folder / f"{kind}-compiled", short).wait() == 0
            run, began = folder / kind, time.monotonic()
            process = begin(folder, kind, run)
            until(lambda: checkpoint(kind, run).exists(), process)
            beginning = time.monotonic() - began
            assert process.wait() == 0, process.stderr.read()
            made[kind] = Unbroken(run, beginning, logged(kind, run))
        return made[kind]

    return get


def checkpoint(kind: str, run: Path) -> Path:
    return run / ("checkpoint.h5" if kind == "fit" else "restart.h5")


def logged(kind: str, run: Path) -> int:
    """Bytes of the log, which grows as the run goes on."""
    path = run / ("log.csv" if kind == "fit" else "thermo.csv")
    return path.stat().st_size if path.exists() else 0


def until(come: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something to come, or for the process to end."""
    while not come() and process.poll() is None:
        time.sleep(0.002)


def begin(folder: Path, kind: str, run: Path, *more: str, **options) -> subprocess.Popen:
    """Start a run in `run`, or go on with it where it can."""
    command = RUNS[kind][0]
    held = checkpoint(kind, run).exists()
    words = [command, "--resume"] if held else [*RUNS[kind], *(["--overwrite"] if run.exists() else [])]
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", CODE, *words, *more, "-o", str(run)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, env=environment, cwd=folder, **quiet, **options)


def same(kind: str, run: Path, other: Path) -> None:
    """Fail unless two runs left the same files, and the same numbers in them."""
    assert {p.name for p in run.iterdir()} == {p.name for p in other.iterdir()}
    for name in ("model.h5", "checkpoint.h5") if kind == "fit" else ("restart.h5",):
        found, expected = arrays(run / name), arrays(other / name)
        assert found.keys() == expected.keys()
        for key in found:
            assert found[key].tobytes() == expected[key].tobytes(), f"{name}: {key}"
    if kind == "fit":
        assert log(run) == log(other)
    else:
        for name in ("trajectory.traj", "thermo.csv"):
            assert (run / name).read_bytes() == (other / name).read_bytes(), name


def times(run: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in run.iterdir()} if run.exists() else {}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@over_runs
def test_the_same_bits_after_signals_at_any_moment(kind, number, folder, unbroken, tmp_path):
    whole, run, draw = unbroken(kind), tmp_path / "run", random.Random(f"{kind} {number}")
    for _ in range(KILLS):
        before = times(run)
        process = begin(folder, kind, run)
        if draw.random() < 0.25:
            time.sleep(draw.uniform(0, whole.beginning))
        else:
            target = logged(kind, run) + draw.uniform(0, 1.6) * whole.size / KILLS
            until(lambda size=target: logged(kind, run) > size, process)
            time.sleep(draw.uniform(0, 0.01))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        if number == signal.SIGKILL:
            assert process.returncode == -number
        elif times(run) != before:  # it had begun
            assert process.returncode == 130, err
            assert "Traceback" not in err and "error" not in err
    process = begin(folder, kind, run)
    assert process.wait(60) == 0, process.stderr.read()
    same(kind, run, whole.folder)


# ------------------------------------------------------------ disks and folders


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip(NO_MOUNT)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is left."""
    ballast = disk / "ballast"
    try:
        with open(ballast, "wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue
        yield
    finally:
        ballast.unlink()


def obeys_permissions() -> None:
    """Root without the capability to disregard them, in what is executed next."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


@contextmanager
def read_only(run: Path) -> Iterator[None]:
    run.chmod(0o555)
    try:
        yield
    finally:
        run.chmod(0o755)


@contextmanager
def gone(run: Path) -> Iterator[None]:
    away = run.with_name("away")
    run.rename(away)
    try:
        yield
    finally:
        away.rename(run)


def interrupted(kind: str, folder: Path, run: Path, whole: Unbroken, trouble, **options) -> None:
    """A run meets trouble half-way, says so in one line, and goes on when it is over."""
    process = begin(folder, kind, run, **options)
    moment = random.Random(kind).uniform(0.2, 0.6) * whole.size
    until(lambda: logged(kind, run) > moment, process)
    with trouble():
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert str(run) in err and "cannot be written" in err
    process = begin(folder, kind, run)
    assert process.wait(60) == 0, process.stderr.read()
    same(kind, run, whole.folder)


@pytest.mark.slow
@over_runs
def test_a_disk_that_fills_up(kind, folder, unbroken, disk):
    interrupted(kind, folder, disk / "run", unbroken(kind), lambda: filled(disk))


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="permissions bind root only without a capability of Linux"
)
@over_runs
def test_a_folder_that_turns_read_only(kind, folder, unbroken, tmp_path):
    run = tmp_path / "run"
    interrupted(kind, folder, run, unbroken(kind), lambda: read_only(run), preexec_fn=obeys_permissions)


@pytest.mark.slow
@over_runs
def test_a_folder_that_goes_away(kind, folder, unbroken, tmp_path):
    run = tmp_path / "run"
    interrupted(kind, folder, run, unbroken(kind), lambda: gone(run))


@pytest.fixture(scope="module")
def fitted(folder) -> Path:
    run = folder / "fitted"
    assert main(["fit", str(folder / "toy.h5"), *RUNS["fit"][2:], "--max-epochs=1", "-o", str(run)]) == 0
    return run / "model.h5"


@pytest.mark.parametrize(
    "words",
    [
        ["data", "convert", "{toy}", "{disk}/out.h5"],
        ["data", "split", "{toy}", "-o", "{disk}/part"],
        ["eval", "{model}", "{toy}", "--json", "{disk}/errors.json"],
        ["eval", "{model}", "{toy}", "--plots", "{disk}/plots"],
        ["relax", "{model}", "{toy}", "--fmax=9", "-o", "{disk}/relaxed.extxyz"],
        ["relax", "{model}", "{toy}", "--fmax=9", "-o", "{disk}/relaxed.traj"],
        ["inspect", "{model}", "{toy}", "-o", "{disk}/report.html"],
        ["analyze", "rdf", "{toy}", "--r-max=3", "-o", "{disk}/rdf"],
        ["fit", "{toy}", *RUNS["fit"][2:], "--max-epochs=1", "-o", "{disk}/run"],
        ["md", "{model}", "{toy}", "--length=3", "-o", "{disk}/md"],
    ],
    ids=lambda words: " ".join(w for w in words[:2] if "{" not in w),
)
def test_nothing_is_written_to_a_full_disk(words, folder, fitted, disk, capsys):
    places = {"toy": folder / "toy.h5", "model": fitted, "disk": disk}
    capsys.readouterr()
    with filled(disk):
        assert main([word.format(**places) for word in words]) == 2
        lines = capsys.readouterr().err.splitlines()
        (told,) = (line for line in lines if not line.startswith("compiling"))
        assert told.startswith("error: ") and "No space left" in told
    left = [p for p in disk.rglob("*") if p.is_file()]
    assert not left, left
