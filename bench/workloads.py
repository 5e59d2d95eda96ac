"""Structures that the benchmarks measure on, and how a call is timed; needs NumPy and ASE only.

The published data are looked for in EQPOT_DATA or ../shared/data.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EQPOT_DATA") or HERE.parent.parent / "shared" / "data")

# folder of DATA -> what is read of it, and where it is published
PUBLISHED = {
    "3bpa": ("train_300K.xyz", "https://github.com/davkovacs/BOTNet-datasets, dataset_3BPA"),
    "acac": ("train_300K.xyz", "https://github.com/davkovacs/BOTNet-datasets, dataset_acac"),
    "ethanol_ccsdt": (
        "ethanol_ccsd_t-train.npz",
        "https://github.com/learningmatter-mit/NeuralForceField, its sGDML ethanol as npz",
    ),
    "formate_cu110": ("deal_0.05_selected.xyz", "https://github.com/sperego98/DEAL"),
    "lips": ("lips_200.npz", "https://github.com/IntelLabs/matsciml, its LiPS devset as npz"),
    "mota_stress": (
        "MoTa_SS.xyz",
        "https://github.com/materialsvirtuallab/snap, its Mo-Ta frames with stress as extxyz",
    ),
    "rmd17": ("rmd17_ethanol_train_01.npz", "https://github.com/andersx/rmd17-npz"),
    "water_pbe0ts": (
        "data_0/set.000/coord.npy",
        "https://github.com/deepmodeling/deepmd-kit, examples/water/data",
    ),
}

# name -> repeats of a water frame of 192 atoms
WATER = {
    "water_192": (1, 1, 1),
    "water_1536": (2, 2, 2),
    "water_12288": (4, 4, 4),
    "water_24576": (4, 4, 8),
}
ON_GPU = {"water_98304": (8, 8, 8)}  # too large for the CPU's benchmarks
NAMES = ("acac_15", "formate_cu110_52", "lips_83", *WATER)


def published(folder: str) -> Path:
    """A folder of PUBLISHED. Where it is not there the script ends, with a line that says what is missing."""
    file, source = PUBLISHED[folder]
    if not (DATA / folder / file).exists():
        print(
            f"error: {DATA / folder / file}: expected a published data set, found no such file; "
            f"it comes from {source}; set EQPOT_DATA to the folder that holds {folder}",
            file=sys.stderr,
        )
        sys.exit(2)
    return DATA / folder


def run_part(*parts: Callable[..., None]) -> None:
    """Call the one of `parts` that the first argument of a worker names, with the others."""
    names = {part.__name__: part for part in parts}
    if sys.argv[1:2] and sys.argv[1] in names:
        names[sys.argv[1]](*sys.argv[2:])
        return
    print(
        f"error: expected one of {', '.join(names)} first: this is a part of bench/against_nequip.py, "
        "which calls it",
        file=sys.stderr,
    )
    sys.exit(2)


def folder_of(name: str) -> str:
    """The one of PUBLISHED that a workload comes from."""
    return "water_pbe0ts" if name.startswith("water") else name.rpartition("_")[0]


def need(*names: str) -> None:
    """End as `published` does, before anything is measured, where the data of a workload are missing."""
    for name in names:
        published(folder_of(name))


def is_here(name: str) -> bool:
    """Whether the data of a workload are."""
    folder = folder_of(name)
    return (DATA / folder / PUBLISHED[folder][0]).exists()


def acac() -> Path:
    """Frames of acetylacetone."""
    return published("acac") / PUBLISHED["acac"][0]


def structure(name: str) -> Atoms:
    """The first frame of a published data set, repeated where the name says so; lengths in Å."""
    if name == "acac_15":
        return ase.io.read(acac(), 0)
    if name == "formate_cu110_52":
        return ase.io.read(published("formate_cu110") / PUBLISHED["formate_cu110"][0], 0)
    if name == "lips_83":
        frames = np.load(published("lips") / PUBLISHED["lips"][0])
        return Atoms(frames["atomic_numbers"], frames["pos"][0], cell=frames["cell"], pbc=frames["pbc"])
    folder = published("water_pbe0ts") / "data_0"
    elements = np.array((folder / "type_map.raw").read_text().split())
    types = np.loadtxt(folder / "type.raw", dtype=int)
    positions, cell = (np.load(folder / "set.000" / f"{key}.npy")[0] for key in ("coord", "box"))
    atoms = Atoms(elements[types], positions.reshape(-1, 3), cell=cell.reshape(3, 3), pbc=True)
    return atoms.repeat((WATER | ON_GPU)[name])


def time_calls(calculator: Calculator, atoms: Atoms, seconds: float) -> tuple[float, list[float]]:
    """Seconds of the first force call, and of each further one: three at least, more while time is left.

    All atoms move by about 0.003 Å before a call, as in molecular dynamics, so that no result is at hand.
    """
    random = np.random.default_rng(0)
    start, times = atoms.positions.copy(), []
    atoms.calc = calculator
    while len(times) < 4 or sum(times[1:]) < seconds:
        atoms.positions = start + random.normal(scale=0.003, size=start.shape)
        began = time.perf_counter()
        atoms.get_forces()
        times.append(time.perf_counter() - began)
    return times[0], times[1:]
