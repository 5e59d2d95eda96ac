"""Molecular dynamics on ASE's integrators, in a folder from which a stopped run goes on to the last bit.

    trajectory.traj     frames for ASE: positions, cell, momenta, energy, forces and, in a 3D cell, stress;
                        info["time_ps"]
    thermo.csv          a row every few steps: COLUMNS
    thermo.png          its picture, see `Simulation.draw`
    restart.h5          everything that the next step depends on

Energies in eV, lengths in Å, forces in eV/Å, temperatures in K; time in fs in the settings, in ps in the log.
Pressure in bar, positive where the cell is pressed together: N kB T / V - trace(stress) / 3.
"""

import csv
import dataclasses
import operator
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.constraints import FixCom
from ase.io.trajectory import TrajectoryWriter
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from eqpot.calculator import EqpotCalculator
from eqpot.config import DynamicsConfig
from eqpot.dynamics import restart
from eqpot.dynamics.ensembles import (
    check,
    draw_momenta,
    freedom,
    integrator,
    pressure,
    still,
    temperature,
)
from eqpot.dynamics.limits import COMPRESSED, Limits, closest, deviation, doubted
from eqpot.dynamics.restart import RESTART, Sources
from eqpot.errors import UserError
from eqpot.files import named_twice, sha256, shown, sync
from eqpot.potential import Potential
from eqpot.runs import Hold, Watch, beginning, check_hash, check_run, clear_run
from eqpot.structures.trajectory import PREDICTED, read_frame
from eqpot.words import counted

TRAJECTORY, LOG, PICTURE = "trajectory.traj", "thermo.csv", "thermo.png"
FILES = (TRAJECTORY, LOG, PICTURE, RESTART)
COLUMNS = (
    "step",
    "time_ps",
    "temperature_K",
    "potential_eV",
    "kinetic_eV",
    "total_eV",
    "conserved_eV",  # of the extended system; none with langevin
    "volume_A3",  # this and the next in a 3D cell
    "pressure_bar",
    "forces_std_eV_per_A",  # of a committee: on the atom where it is largest
)
MOST_DRIFT = 0.02  # eV/atom, half of the kinetic energy at 300 K
RESTART_SECONDS = 5.0  # at most lost when the process is killed; writing takes some ms


class LimitPassed(UserError):
    """A step went beyond a limit, or to what is not finite."""


class Simulation:
    """One run in one folder: `Simulation.start(...)` or `Simulation.resume(...)`, then `run()`."""

    def __init__(
        self,
        config: DynamicsConfig,
        folder: Path,
        sources: Sources,
        potentials: Sequence[Potential],
        atoms: Atoms,
    ):
        """UserError at a structure that the settings do not suit. The atoms get a calculator."""
        self.config, self.folder, self.sources, self.atoms = config, folder, sources, atoms
        check(config, atoms, shown(sources.structure))
        self.limits, self._first = Limits(config, potentials), potentials[0]
        atoms.info.clear()
        atoms.set_constraint([c for c in atoms.constraints if not isinstance(c, FixCom)])
        atoms.calc = EqpotCalculator(list(potentials) if len(potentials) > 1 else potentials[0])
        self.freedom = freedom(config, atoms)
        self.random = np.random.default_rng(config.seed)
        self.dynamics: MolecularDynamics | None = None
        self.first_conserved: float | None = None  # eV
        self.stopping = False
        self.hold = Hold(folder)
        self._system = restart.system(atoms)
        self._unknown = [p for p, m in zip(sources.models, potentials, strict=True) if not closest(m)]

    @classmethod
    def start(
        cls,
        config: DynamicsConfig,
        models: Sequence[str | Path],
        structure: str | Path,
        folder: str | Path,
        overwrite: bool = False,
        command: str = "",
        device: str = "cpu",
    ) -> Self:
        """A new run, standing at step 0; several models are a committee.

        Nothing is written before models, structure and its first forces are found good.
        """
        folder = Path(folder)
        with Hold(folder) as hold:
            held = check_run(folder, FILES, overwrite)
            if Path(structure).resolve() in [(folder / name).resolve() for name in held]:
                raise UserError(f"{structure}: expected a structure outside the run that is replaced")
            # first: a word too many is taken for the structure, and the structure for a model
            atoms = read_frame(structure, config.index)
            potentials = [Potential.load(model, device) for model in models]
            for potential in potentials:
                potential.check(atoms, str(structure))
            sources = Sources(
                [os.path.abspath(model) for model in models],
                [sha256(model) for model in models],
                os.path.abspath(structure),
                sha256(structure),
                command,
            )
            self = cls(config, folder, sources, potentials, atoms)
            if config.keep_velocities:
                if not atoms.has("momenta"):
                    raise UserError(f"{structure}: --keep-velocities: expected velocities, found none")
                still(config, atoms)
            else:
                draw_momenta(config, atoms, self.random)
            self.dynamics = integrator(config, atoms, self.random)
            atoms.get_forces()
            if found := self.fault():
                raise UserError(f"{structure}: step 0: {found}")
            self.first_conserved = self.conserved()
            self.hold = hold
            clear_run(hold, FILES, overwrite)
            with beginning(hold, FILES):
                with self._outputs() as (frames, rows):
                    rows.writerow(COLUMNS)
                    self._write(frames, rows)
                self.checkpoint()
        return self

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        models: Sequence[str | Path] = (),
        structure: str | Path | None = None,
        device: str = "cpu",
        **changes: Any,
    ) -> Self:
        """The run of `folder` taken up at its checkpoint; what was written behind that is dropped.

        `changes` are settings; but for `restart.LIMITS` and, without a ramp of temperature, the length, they
        must be those of the run. `models` and `structure` may lie elsewhere than they did, but must be the
        same files.
        """
        folder = Path(folder)
        with Hold(folder) as hold:
            stored, arrays = restart.restart_of(folder)
            config = DynamicsConfig.from_dict(stored["config"] | changes)
            restart.only_stops_differ(config, DynamicsConfig.from_file(stored["config"]), folder / RESTART)
            sources = Sources(**stored["sources"])
            models = models or sources.models
            if len(models) != len(sources.models):
                expected = counted(len(sources.models), "model")
                raise UserError(f"{folder / RESTART}: expected {expected}, found {len(models)}")
            potentials = [Potential.load(path, device) for path in models]
            for path, expected in zip(models, sources.model_hashes, strict=True):
                check_hash(path, sha256(path), expected, folder / RESTART)
            if structure is not None:
                check_hash(structure, sha256(structure), sources.structure_hash, folder / RESTART)
            frames, log = folder / TRAJECTORY, folder / LOG
            restart.check_size(frames, stored["trajectory_size"], folder / RESTART)
            restart.check_size(log, stored["log_size"], folder / RESTART)
            atoms = restart.first_frame(frames)  # where the barostat measures the cell from
            written = stored["step"] // config.write_every + 1
            head, size = arrays["trajectory_head"], stored["trajectory_size"]
            restart.check_head(frames, head, size, written, folder / RESTART)
            found = restart.system(atoms)
            if len(atoms) != len(arrays["positions"]) or stored.get("system", found) != found:
                raise UserError(f"{frames}: frame 0: expected the atoms of {folder / RESTART}, found others")
            atoms.positions[:] = arrays["positions"]
            atoms.set_momenta(arrays["momenta"], apply_constraint=False)
            self = cls(config, folder, sources, potentials, atoms)
            self.hold = hold
            self.random.bit_generator.state = stored["random"]
            self.dynamics = integrator(config, atoms, self.random)
            self.dynamics.nsteps = stored["step"]
            self.first_conserved = stored["first_conserved"]
            for name in restart.STATE[type(self.dynamics)]:
                owner, _, attribute = f"dynamics.{name}".rpartition(".")
                value = arrays[name]
                setattr(operator.attrgetter(owner)(self), attribute, value if value.ndim else float(value))
            atoms.set_cell(arrays["cell"])
            for potential in potentials:
                potential.check(atoms, str(folder / RESTART))
            with self._told():
                restart.cut(frames, stored["trajectory_size"], arrays["trajectory_head"].tobytes())
                restart.cut(log, stored["log_size"])
        return self

    @property
    def step(self) -> int:
        """Steps done, those before a resume included."""
        return self.dynamics.nsteps

    @property
    def time(self) -> float:
        """ps."""
        return self.step * self.config.timestep / 1000

    @property
    def finished(self) -> bool:
        """Whether the length is reached."""
        return self.step >= self.config.steps

    def run(self, watch: Watch | None = None) -> bool:
        """Go on to the end, or until `stop()`; returns whether the end was reached.

        LimitPassed where one is passed or something is not finite: the step that did so is the last one in
        trajectory and log, and the checkpoint is one before it.
        """
        with closing(self.hold.take()):
            return self._run(watch or Watch())

    def _run(self, watch: Watch) -> bool:
        due = time.monotonic() + RESTART_SECONDS
        with self._outputs() as (frames, rows):
            while not (self.finished or self.stopping):
                fault = self._advance()
                self._write(frames, rows, bool(fault))
                if fault:
                    raise LimitPassed(
                        f"{shown(self.sources.structure)}: step {self.step}: {fault}; "
                        f"{frames.filename} and {self.folder / LOG} keep what led there"
                    )
                watch.step_done(self)
                if time.monotonic() >= due:
                    self.checkpoint()
                    due = time.monotonic() + RESTART_SECONDS
        self.stopping = False
        self.checkpoint()
        return self.finished

    def stop(self) -> None:
        """Have `run` end after the present step."""
        self.stopping = True

    def temperature(self) -> float:
        """K."""
        return temperature(self.atoms, self.freedom)

    def conserved(self) -> float | None:
        """The energy of atoms, chains and barostat that the integrator conserves, eV; Langevin's has none."""
        if isinstance(self.dynamics, Langevin):
            return None
        if isinstance(self.dynamics, VelocityVerlet):
            return self.atoms.get_total_energy()
        return self.dynamics.get_conserved_energy()

    def drift(self) -> float | None:
        """Change of the conserved energy since step 0, eV per atom."""
        now = self.conserved()
        return None if now is None else (now - self.first_conserved) / len(self.atoms)

    def lost_energy(self) -> str:
        """A warning where the conserved energy was not, else empty."""
        if self.first_conserved is None:
            return ""
        logged = (self.log()["conserved_eV"] - self.first_conserved) / len(self.atoms)
        drift = max(*logged, self.drift(), key=abs)
        if abs(drift) <= MOST_DRIFT:
            return ""
        return (
            f"warning: the conserved energy changed by {1000 * drift:.4g} meV/atom: the time step is too "
            "long, or the model fails where the run led; look at the trajectory before you use it"
        )

    def fault(self) -> str:
        """What is wrong with the present step; empty where nothing is."""
        return self.limits.fault(self.atoms, self.temperature(), self.step)

    def log(self) -> dict[str, np.ndarray]:
        """COLUMNS of the log, each [rows], NaN where there is nothing."""
        path = self.folder / LOG
        try:
            with open(path, newline="") as file:
                rows = [[float(cell or "nan") for cell in row] for row in list(csv.reader(file))[1:]]
            return dict(zip(COLUMNS, np.transpose(rows), strict=True))
        except (OSError, ValueError, csv.Error) as e:
            raise UserError(f"{path}: expected the log of the run, found what cannot be read: {e}") from e

    def draw(self) -> None:
        """Write the picture of the log."""
        from eqpot.plots import thermo

        thermo(self.log(), len(self.atoms), self.folder / PICTURE)

    def warnings(self) -> list[str]:
        """What is legal but perhaps not meant."""
        lines = named_twice(self.sources.models)
        if self.step == 0 and (line := doubted(self._first, self.atoms, shown(self.sources.structure))):
            lines.append(line)
        if not self.config.min_distance:
            return lines
        return lines + [
            f"{shown(path)}: does not tell how close atoms came in training; they may come as close as "
            f"{COMPRESSED:g} of the sum of their covalent radii"
            for path in self._unknown
        ]

    def checkpoint(self) -> None:
        """Everything that the next step depends on, in one HDF5 file."""
        frames, log = self.folder / TRAJECTORY, self.folder / LOG
        with self._told():
            for path in (frames, log):  # on the disk before the checkpoint that counts on them
                sync(path)
            head = restart.head_of(frames)
            sizes = [path.stat().st_size for path in (frames, log)]
        content = {
            "config": self.config.to_dict(),
            "sources": dataclasses.asdict(self.sources),
            "step": self.step,
            "random": self.random.bit_generator.state,
            "first_conserved": self.first_conserved,
            "trajectory_size": sizes[0],
            "log_size": sizes[1],
            "system": self._system,
        }
        arrays = {
            "positions": self.atoms.positions,
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell[:],
            "trajectory_head": np.frombuffer(head, np.uint8),
            **{name: operator.attrgetter(name)(self.dynamics) for name in restart.STATE[type(self.dynamics)]},
        }
        restart.write(self.folder, content, arrays)

    def _advance(self) -> str:
        """One step; what is wrong with it."""
        if self.config.end_temperature is not None:
            self.dynamics.set_temperature(temperature_K=self.config.target(self.step))
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told
                self.dynamics.step()
                self.dynamics.nsteps += 1
                return self.fault()
        except (UserError, OverflowError) as e:
            told = e if isinstance(e, UserError) else "expected finite numbers, found some out of range"
            raise LimitPassed(f"{shown(self.sources.structure)}: after step {self.step}: {told}") from e

    def _row(self) -> dict[str, float | None]:
        atoms = self.atoms
        solid = bool(atoms.pbc.all())
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        values = (
            self.step,
            self.time,
            self.temperature(),
            potential,
            kinetic,
            potential + kinetic,
            self.conserved(),
            atoms.get_volume() if solid else None,
            pressure(atoms, self.freedom) if solid else None,
            deviation(atoms),
        )
        return dict(zip(COLUMNS, values, strict=True))

    def _write(self, frames: TrajectoryWriter, rows: Any, in_any_case: bool = False) -> None:
        """A frame, a row of the log, where it is time for them."""
        if in_any_case or self.step % self.config.write_every == 0:
            self.atoms.info |= {"time_ps": self.time, PREDICTED: "eqpot md"}
            frames.write(self.atoms)
        if in_any_case or self.step % self.config.log_every == 0:
            rows.writerow(self._row().values())

    @contextmanager
    def _outputs(self) -> Iterator[tuple[TrajectoryWriter, Any]]:
        """Trajectory and log, to append to."""
        properties = ["energy", "forces", *(["stress"] if self.atoms.pbc.all() else [])]
        with (
            self._told(),
            TrajectoryWriter(self.folder / TRAJECTORY, "a", properties=properties) as frames,
            open(self.folder / LOG, "a", newline="", buffering=1) as log,
        ):
            yield frames, csv.writer(log)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """UserError naming the folder where its files cannot be read or written."""
        try:
            yield
        except OSError as e:
            raise UserError(f"{self.folder}: cannot be written: {e.strerror or e}") from e
