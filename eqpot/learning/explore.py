"""Dynamics of the committee: from every structure at every temperature, until a limit is passed.

A round's runs begin where those of the round before were last certain, with fresh velocities. Each is one of
`eqpot md`, in a folder of its own, and ends where the forces of the models deviate by more than the threshold
or another limit of md is passed. Langevin's thermostat, or npt where a pressure is given and the structure is
periodic in three directions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from eqpot.config import DynamicsConfig
from eqpot.dynamics.restart import RESTART
from eqpot.dynamics.simulation import TRAJECTORY, LimitPassed, Simulation
from eqpot.files import replacing
from eqpot.learning.forecast import Forecast, forecast
from eqpot.learning.frames import unlabelled
from eqpot.learning.settings import LearnConfig
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.structures.data import MIN_DISTANCE, Dataset, shortest_distances
from eqpot.structures.trajectory import read_trajectory

RUNS = 6  # at least, in a round
FRAMES = 50  # of each run, at equal times
SQUEEZED = 0.7  # of the shortest distance in training: a run that comes closer ends


@dataclass(frozen=True)
class Run:
    """One run: from which structure, at which temperature (K), with which seed."""

    structure: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Walk:
    """What a run led through, its first frame included, and whether a limit ended it."""

    frames: list[Atoms]
    ended: bool


@dataclass(frozen=True)
class Seen:
    """All that the runs of a round met.

    data: frames [n] after the first of each run; run [n]: of which run; worst [n]: largest deviation of an
    atom's force, root mean square over its components, eV/Å; beyond [n]: where that passes the limit, or
    another limit ended a run.
    """

    data: Dataset
    run: np.ndarray
    worst: np.ndarray
    beyond: np.ndarray


def runs(config: LearnConfig, structures: int, random: np.random.Generator) -> list[Run]:
    """Those of a round; random: their seeds."""
    kinds = [(k, kelvin) for k in range(structures) for kelvin in config.temperatures]
    kinds *= -(-RUNS // len(kinds))
    seeds = random.integers(2**31, size=len(kinds))
    return [Run(*kind, int(seed)) for kind, seed in zip(kinds, seeds, strict=True)]


def dynamics(config: LearnConfig, run: Run, pbc: np.ndarray, limit: float) -> DynamicsConfig:
    """Settings of a run; limit: of the deviation, as `Seen.worst`."""
    ensemble = {"thermostat": "langevin"}
    if config.pressure is not None and pbc.all():
        ensemble = {"ensemble": "npt", "pressure": config.pressure}
    plain = DynamicsConfig(length=config.length, timestep=config.timestep)
    every = max(1, plain.steps // FRAMES)
    return DynamicsConfig(
        length=config.length,
        timestep=config.timestep,
        temperature=run.temperature,
        seed=run.seed,
        write_every=every,
        log_every=every,
        min_distance=SQUEEZED,
        max_deviation=np.sqrt(3) * limit,  # md takes the norm of three components
        **ensemble,
    )


def walk(
    config: DynamicsConfig, models: Sequence[Path], starts: Path, index: int, folder: Path, watch: Watch
) -> Walk:
    """Run, or go on with what was stopped, from frame `index` of `starts`."""
    if (folder / RESTART).exists():
        simulation = Simulation.resume(folder)
    else:
        config = DynamicsConfig(**{**config.to_dict(), "index": index})
        simulation = Simulation.start(config, models, starts, folder, overwrite=True)
    try:
        simulation.run(watch)
        ended = False
    except LimitPassed:
        ended = True
    return Walk(read_trajectory(folder / TRAJECTORY), ended)


def walks(
    config: LearnConfig,
    planned: Sequence[Run],
    models: Sequence[Path],
    potentials: Sequence[Potential],
    starts: Path,
    limit: float,
    folder: Path,
    watch: Watch,
) -> list[Walk]:
    """All runs, the first from the first frame of `starts`; one whose first frame is beyond the limit has
    that frame alone, twice."""
    frames = read_trajectory(starts)
    data = unlabelled(frames, [""] * len(frames))
    worst = largest_deviation(data, forecast(potentials, data))
    found = []
    for index, run in enumerate(planned):
        if worst[index] > limit:
            found.append(Walk([frames[index], frames[index].copy()], True))
            continue
        settings = dynamics(config, run, frames[index].pbc, limit)
        found.append(walk(settings, models, starts, index, folder / f"md_{index + 1}", watch))
    return found


def seen(
    walks: Sequence[Walk], potentials: Sequence[Potential], limit: float, most_force: float
) -> Seen | None:
    """What runs met, but for frames that no calculation would take: atoms upon each other, forces beyond
    `most_force` (eV/Å). limit: of the deviation. None where nothing is left."""
    frames, run, ended = [], [], []
    for k, found in enumerate(walks):
        for atoms in found.frames[1:]:
            frames.append(atoms)
            run.append(k)
            ended.append(found.ended and atoms is found.frames[-1])
    if not frames:
        return None
    data = unlabelled(frames, [""] * len(frames))
    apart = np.flatnonzero(shortest_distances(data) >= MIN_DISTANCE)
    if not len(apart):
        return None
    data = data.subset(apart)
    expected = forecast(potentials, data)
    largest = np.maximum.reduceat(np.linalg.norm(expected.forces, axis=1), data.atom_ptr[:-1])
    kept = np.flatnonzero(largest <= most_force)  # no NaN
    if not len(kept):
        return None
    worst = largest_deviation(data, expected)[kept]
    beyond = np.array(ended)[apart[kept]] | (worst > limit)
    return Seen(data.subset(kept), np.array(run)[apart[kept]], worst, beyond)


def largest_deviation(data: Dataset, found: Forecast) -> np.ndarray:
    """Of each frame, over its atoms, eV/Å [frames]."""
    return np.maximum.reduceat(found.deviation, data.atom_ptr[:-1])


def next_starts(walks: Sequence[Walk], found: Seen) -> Iterator[Atoms]:
    """Of each run the last frame that was certain, or else the one that it began with."""
    for k, one in enumerate(walks):
        start = one.frames[0].copy()
        certain = np.flatnonzero((found.run == k) & ~found.beyond)
        if len(certain):
            last = found.data.atoms(int(certain[-1]))
            start.set_cell(last.cell)
            start.set_positions(last.positions, apply_constraint=False)
        yield start


def write_starts(path: Path, frames: Sequence[Atoms]) -> None:
    """As a trajectory of ASE, which keeps cells, constraints and every bit."""
    with replacing(path) as temporary:
        ase.io.write(temporary, frames, format="traj")
