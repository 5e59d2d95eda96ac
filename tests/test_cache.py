"""Compiled kernels on the disk: whatever is wrong with them, or with their folder, costs a line and time."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

# A module of two small kernels, and what imports it.
KERNELS = """
from numba import prange

from eqpot.kernels.compile import exact, kernel


@kernel
def double(y, x):
    for k in prange(x.size):
        y[k] = 2 * x[k]


@exact
def successor(x):
    return x + 1
"""
PROGRAM = """
import numpy as np
from small import double, successor

for kind in (np.float32, np.float64):
    x = np.arange(5, dtype=kind)
    y = np.zeros_like(x)
    double(y, x)
    assert y.tolist() == [0, 2, 4, 6, 8] and y.dtype == kind and successor(1) == 2
print(sum(double.stats.cache_hits.values()) + sum(successor.stats.cache_hits.values()), "of 3")
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "small.py").write_text(KERNELS)
    return tmp_path


def start(folder: Path, limit=None, **environment: str) -> subprocess.Popen:
    """A process whose home, and nothing else, says where its cache is, but for the environment given."""
    env = {
        name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    env |= {"HOME": str(folder), "PYTHONPATH": str(folder), "PYTHONWARNINGS": "error"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=env,
        cwd=folder,
        preexec_fn=limit,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(process: subprocess.Popen) -> tuple[str, str]:
    """How many kernels were found compiled, and what was said."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip(), err


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"]


FOUND, MISSED = "3 of 3", "0 of 3"


def test_kept_and_found(folder):
    assert ran(start(folder)) == (MISSED, "")
    assert {path.suffix for path in files(folder / ".cache/eqpot")} == {".nbc"}
    assert len(files(folder / ".cache/eqpot")) == 3
    assert (folder / ".cache/eqpot").stat().st_mode & 0o777 == 0o700
    assert ran(start(folder)) == (FOUND, "")


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\x80\x05garbage" * 500,
    "a bit of machine code": lambda content: content[:-900] + bytes([content[-900] ^ 1]) + content[-899:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_kernels_are_compiled_anew(folder, damage):
    ran(start(folder))
    for path in files(folder / ".cache"):
        path.write_bytes(damage(path.read_bytes()))
    found, said = ran(start(folder))
    assert found == MISSED
    assert said.startswith(f"note: {folder}/.cache/eqpot/") and said.count("\n") == 1
    assert said.endswith(": compiled kernels cannot be read (damaged): compiling them again\n")
    assert ran(start(folder)) == (FOUND, "")


def test_a_file_that_cannot_be_read(folder):
    ran(start(folder))
    for path in files(folder / ".cache"):
        path.unlink()
        path.mkdir()
    found, said = ran(start(folder))
    assert found == MISSED and "cannot be read (Is a directory): compiling them again\n" in said


def only_small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_no_room(folder):
    """As on a full disk; nothing half-written stays."""
    found, said = ran(start(folder, only_small_files))
    assert found == MISSED and said.count("\n") == 1
    assert said.endswith("cannot be kept (File too large): each process compiles its own\n")
    assert files(folder / ".cache/eqpot") == []


def test_read_only_but_complete(folder):
    """Kernels that an administrator compiled are used."""
    ran(start(folder))
    for path in (folder / ".cache/eqpot").rglob("*"):
        if path.is_dir():
            path.chmod(0o500)
    try:
        assert ran(start(folder)) == (FOUND, "")
    finally:
        for path in (folder / ".cache/eqpot").rglob("*"):
            if path.is_dir():
                path.chmod(0o700)


NOWHERE = {
    "a file in the way": {"XDG_CACHE_HOME": "{folder}/small.py"},
    "below a file": {"XDG_CACHE_HOME": "{folder}/small.py/cache"},
    "no folder can be made": {"XDG_CACHE_HOME": "/proc/nothing"},
    "no home": {"HOME": "/proc/nothing"},
    "Numba's setting": {"NUMBA_CACHE_DIR": "/proc/nothing"},
}


@pytest.mark.parametrize("environment", NOWHERE.values(), ids=NOWHERE)
def test_nowhere_to_keep_them(folder, environment):
    found, said = ran(start(folder, **{k: v.format(folder=folder) for k, v in environment.items()}))
    assert found == MISSED and said.count("\n") == 1
    assert said.startswith("note: compiled kernels cannot be kept (")
    assert said.endswith("): each process compiles its own\n")


@pytest.mark.parametrize("base", ["", "relative/folder"])
def test_paths_that_count_for_none(folder, base):
    assert ran(start(folder, XDG_CACHE_HOME=base)) == (MISSED, "")
    assert len(files(folder / ".cache/eqpot")) == 3 and not (folder / "relative").exists()


@pytest.mark.parametrize("level", ["eqpot", "eqpot/*"])
def test_others_cannot_put_code_there(folder, level):
    ran(start(folder))
    (open_,) = (folder / ".cache").glob(level)
    open_.chmod(0o777)
    found, said = ran(start(folder))
    assert (found, said) == (
        MISSED,
        f"note: compiled kernels cannot be kept ({open_} can be written by anybody): each process compiles "
        "its own\n",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder(folder):
    ran(start(folder))
    os.chown(folder / ".cache/eqpot", 1234, -1)
    found, said = ran(start(folder))
    assert found == MISSED and "eqpot belongs to another user (uid 1234)): each process" in said


def test_two_processes_at_once(folder):
    for process in [start(folder) for _ in range(3)]:
        assert ran(process)[1] == ""
    assert ran(start(folder)) == (FOUND, "")


def test_who_compiles_computes_the_same_bits_as_who_loads(tmp_path):
    """Numba has copies of a parallel loop that differ in the last bit: which one runs must not matter."""
    code = (
        "import hashlib, numpy as np\n"
        "from eqpot.kernels.radial_basis import radial_basis_fwd_cpu as fwd\n"
        "basis = np.zeros((200, 8))\n"
        "fwd(basis, np.linspace(0.9, 4.9, 200), np.pi * np.arange(1, 9.0), 5.0, 6)\n"
        "print(hashlib.sha256(basis.tobytes()).hexdigest(), *fwd.stats.cache_hits.values())\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert told[1].split() == [*told[0].split(), "1"]
