"""restart.h5 of a run: all that its next step depends on, and what a resumed run must agree with."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryReader
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from eqpot.config import DynamicsConfig
from eqpot.dynamics.ensembles import fixed
from eqpot.errors import UserError
from eqpot.runs import read_checkpoint, write_checkpoint
from eqpot.schema import HASH, RANDOM, TABLE, TEXT, Array, Rule, either, integer, number

RESTART = "restart.h5"
FORMAT, VERSION = "eqpot-restart", 1
# what a resumed run may do differently without being another run
LIMITS = ("max_force", "min_distance", "temperature_band", "max_deviation")
ULM_HEAD = 48  # bytes at the start of a .traj file: how many frames there are and where they are listed
# What ASE's integrators keep beside the atoms: chain positions and momenta, log of the cell's scale.
CHAIN = {name: Array(np.float64, (3,)) for name in ("_thermostat._eta", "_thermostat._p_eta")}
BAROSTAT = {name: Array(np.float64, (3,)) for name in ("_barostat._xi", "_barostat._p_xi")}
STATE = {
    VelocityVerlet: {},
    Langevin: {},
    NoseHooverChainNVT: CHAIN,
    IsotropicMTKNPT: CHAIN | BAROSTAT | {name: Array(np.float64) for name in ("_eps", "_p_eps")},
}
# What the JSON of a restart file holds; the arrays are `_layout`.
CONTENT: Rule = {
    "config": TABLE,
    "sources": {
        "models": [TEXT],
        "model_hashes": [HASH],
        "structure": TEXT,
        "structure_hash": HASH,
        "command": TEXT,
    },
    "step": integer(),
    "random": RANDOM,
    "first_conserved": either(number(), "null", None),
    "trajectory_size": integer(ULM_HEAD),
    "log_size": integer(),
    "system": HASH,
}
LATER = ("system",)


@dataclass(frozen=True)
class Sources:
    """What a run is made from: files and their hashes."""

    models: list[str]
    model_hashes: list[str]
    structure: str
    structure_hash: str
    command: str = ""


def write(folder: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Of a run, into its folder."""
    write_checkpoint(folder / RESTART, FORMAT, VERSION, content, arrays)


def only_stops_differ(config: DynamicsConfig, stored: DynamicsConfig, path: Path) -> None:
    """UserError where a resumed run would be another run."""
    stops = LIMITS if config.end_temperature is not None else ("length", *LIMITS)
    for key, value in config.to_dict().items():
        expected = getattr(stored, key)
        if value != expected and key not in stops:
            raise UserError(
                f"{path}: {config.called(key)}: expected {expected!r} as the run began, found {value!r}; "
                f"a resumed run may change only {', '.join(map(config.called, stops))}"
            )


def restart_of(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and state, and the arrays, of a run's checkpoint; UserError where it breaks a rule."""
    path = folder / RESTART
    content, arrays = read_checkpoint(path, FORMAT, VERSION, CONTENT, _layout, LATER)
    sources = content["sources"]
    if not 0 < len(sources["models"]) == len(sources["model_hashes"]):
        raise UserError(f"{path}: sources.models: expected one for each of model_hashes, found other ones")
    if (content["first_conserved"] is None) != (content["config"]["thermostat"] == "langevin"):
        raise UserError(f"{path}: first_conserved: expected a number without langevin, null with it")
    return content, arrays


def _layout(content: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays of a restart file."""
    config = DynamicsConfig.from_file(content["config"])
    of_nvt = Langevin if config.thermostat == "langevin" else NoseHooverChainNVT
    kind = {"nve": VelocityVerlet, "nvt": of_nvt, "npt": IsotropicMTKNPT}[config.ensemble]
    return {
        "positions": Array(np.float64, ("atoms", 3)),
        "momenta": Array(np.float64, ("atoms", 3)),
        "cell": Array(np.float64, (3, 3)),
        "trajectory_head": Array(np.uint8, (ULM_HEAD,)),
        **STATE[kind],
    }


def first_frame(path: Path) -> Atoms:
    """Where a barostat measures the cell from."""
    try:
        with np.errstate(all="ignore"), TrajectoryReader(path) as reader:
            atoms = reader[0]
        atoms.get_masses()  # fails at what is no element
        return atoms
    except Exception as error:  # ASE's reader raises what it pleases on a broken file
        raise UserError(f"{path}: frame 0: expected the run's, found what cannot be read: {error}") from error


def system(atoms: Atoms) -> str:
    """SHA-256 of what a run takes from its first frame, hexadecimal."""
    parts = (atoms.numbers, atoms.get_masses(), atoms.cell[:], atoms.pbc, fixed(atoms))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def head_of(path: Path) -> bytes:
    """What tells which frames of a trajectory there are."""
    with open(path, "rb") as file:
        return file.read(ULM_HEAD)


def check_head(path: Path, head: np.ndarray, size: int, written: int, checkpoint: Path) -> None:
    """Head: magic word, tag and version, the number of frames, and where the list of them is; UserError where
    it is not that of a trajectory of `size` bytes with at least so many frames."""
    same = head_of(path)[:32] == head[:32].tobytes()
    frames, place = np.frombuffer(head[32:].tobytes(), "<i8")
    listed = same and written <= frames and ULM_HEAD <= place <= size - 8 * frames
    if listed:
        with open(path, "rb") as file:
            file.seek(place)
            starts = np.frombuffer(file.read(8 * frames), "<i8")
            listed = (np.diff(starts) > 0).all() and all(_is_frame(file, k, size) for k in starts[[0, -1]])
    if not listed:
        raise UserError(f"{checkpoint}: trajectory_head: expected that of {path}, found another")


def _is_frame(file: BinaryIO, start: int, size: int) -> bool:
    """Whether one is described there: the length of a JSON text, and the text."""
    if not ULM_HEAD <= start <= size - 8:
        return False
    file.seek(start)
    length = int.from_bytes(file.read(8), "little")
    return 0 < length <= size - start - 8 and file.read(1) == b"{"


def check_size(path: Path, size: int, checkpoint: Path) -> None:
    """UserError where a file is shorter than when the checkpoint was written."""
    found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
    if not path.is_file() or path.stat().st_size < size:
        raise UserError(f"{path}: expected at least the {size} bytes that {checkpoint} knows, found {found}")


def cut(path: Path, size: int, head: bytes = b"") -> None:
    """Back to what a file was when it had `size` bytes and began with `head`."""
    with open(path, "r+b") as file:
        file.truncate(size)
        file.write(head)
