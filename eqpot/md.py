"""Molecular dynamics on ASE's integrators, in a folder from which a stopped run goes on to the last bit.

    trajectory.traj     frames for ASE: positions, cell, momenta, energy, forces and, in a 3D cell, stress;
                        info["time_ps"]
    thermo.csv          a row every few steps: COLUMNS
    thermo.png          its picture, see `Simulation.draw`
    restart.h5          everything that the next step depends on

Energies in eV, lengths in Å, forces in eV/Å, temperatures in K; time in fs in the settings, in ps in the log.
Pressure in bar, positive where the cell is pressed together: N kB T / V - trace(stress) / 3.

Temperature is 2 K / (f kB), f being the number of momenta that are free, see `freedom`. The chains get the
same f: ASE's own count of 3 N would keep a molecule at rest of n atoms hotter by n / (n - 2).
"""

import csv
import dataclasses
import hashlib
import math
import operator
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom
from ase.data import chemical_symbols, covalent_radii
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT, NoseHooverChainThermostat
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from eqpot.calculator import EqpotCalculator
from eqpot.config import DynamicsConfig
from eqpot.errors import UserError
from eqpot.files import sha256, sync
from eqpot.graph import shortest_edges
from eqpot.potential import Potential
from eqpot.runs import Hold, beginning, check_hash, check_run, clear_run, read_checkpoint, write_checkpoint
from eqpot.schema import HASH, RANDOM, TABLE, TEXT, Array, Rule, either, integer, number
from eqpot.trajectory import read_frame
from eqpot.words import counted

TRAJECTORY, LOG, PICTURE, RESTART = "trajectory.traj", "thermo.csv", "thermo.png", "restart.h5"
FILES = (TRAJECTORY, LOG, PICTURE, RESTART)
FORMAT, VERSION = "eqpot-restart", 1
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
# what a resumed run may do differently without being another run
LIMITS = ("max_force", "min_distance", "temperature_band", "max_deviation")
MOST_DRIFT = 0.02  # eV/atom, half of the kinetic energy at 300 K
RESTART_SECONDS = 5.0  # at most lost when the process is killed; writing takes some ms
COMPRESSED = 0.5  # closest approach without training data, in sums of covalent radii
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


class LimitPassed(UserError):
    """A step went beyond a limit, or to what is not finite."""


@dataclass(frozen=True)
class Sources:
    """What a run is made from: files and their hashes."""

    models: list[str]
    model_hashes: list[str]
    structure: str
    structure_hash: str
    command: str = ""


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
        _check(config, atoms, sources.structure)
        if config.max_deviation and len(potentials) == 1:
            raise UserError("--max-deviation: expected more than one model, found one")
        atoms.info.clear()
        atoms.set_constraint([c for c in atoms.constraints if not isinstance(c, FixCom)])
        atoms.calc = EqpotCalculator(list(potentials) if len(potentials) > 1 else potentials[0])
        self.freedom = freedom(config, atoms)
        self.random = np.random.default_rng(config.seed)
        self.dynamics: MolecularDynamics | None = None
        self.first_conserved: float | None = None  # eV
        self.stopping = False
        self.hold = Hold(folder)
        self._system = _system(atoms)
        self._species = potentials[0].species
        self._closest = closest_approach(potentials, self._species, config.min_distance)
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
            potentials = [Potential.load(model, device) for model in models]
            atoms = read_frame(structure, config.index)
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
            if fault := self.fault():
                raise UserError(f"{structure}: step 0: {fault}")
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

        `changes` are settings; but for LIMITS and, without a ramp of temperature, the length, they must be
        those of the run. `models` and `structure` may lie elsewhere than they did, but must be the same
        files.
        """
        folder = Path(folder)
        with Hold(folder) as hold:
            stored, arrays = _restart_of(folder)
            config = DynamicsConfig.from_dict(stored["config"] | changes)
            _only_stops_differ(config, DynamicsConfig.from_file(stored["config"]), folder / RESTART)
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
            _check_size(frames, stored["trajectory_size"], folder / RESTART)
            _check_size(log, stored["log_size"], folder / RESTART)
            atoms = _first_frame(frames)  # where the barostat measures the cell from
            written = stored["step"] // config.write_every + 1
            head, size = arrays["trajectory_head"], stored["trajectory_size"]
            _check_head(frames, head, size, written, folder / RESTART)
            found = _system(atoms)
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
            for name in STATE[type(self.dynamics)]:
                owner, _, attribute = f"dynamics.{name}".rpartition(".")
                value = arrays[name]
                setattr(operator.attrgetter(owner)(self), attribute, value if value.ndim else float(value))
            atoms.set_cell(arrays["cell"])
            for potential in potentials:
                potential.check(atoms, str(folder / RESTART))
            with self._told():
                _cut(frames, stored["trajectory_size"], arrays["trajectory_head"].tobytes())
                _cut(log, stored["log_size"])
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

    def run(self, watch: "Watch | None" = None) -> bool:
        """Go on to the end, or until `stop()`; returns whether the end was reached.

        LimitPassed where one is passed or something is not finite: the step that did so is the last one in
        trajectory and log, and the checkpoint is one before it.
        """
        with closing(self.hold.take()):
            return self._run(watch or Watch())

    def _run(self, watch: "Watch") -> bool:
        due = time.monotonic() + RESTART_SECONDS
        with self._outputs() as (frames, rows):
            while not (self.finished or self.stopping):
                fault = self._advance()
                self._write(frames, rows, bool(fault))
                if fault:
                    raise LimitPassed(
                        f"{self.sources.structure}: step {self.step}: {fault}; "
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
        drift = self.drift()
        if drift is None or abs(drift) <= MOST_DRIFT:
            return ""
        return (
            f"warning: the conserved energy changed by {1000 * drift:.4g} meV/atom: the time step is too "
            "long, or the model fails where the run led; look at the trajectory before you use it"
        )

    def deviation(self) -> float | None:
        """Standard deviation of a committee's force, on the atom where it is largest, eV/Å; else None."""
        calculator = self.atoms.calc
        return _longest(calculator.results["forces_std"]) if calculator.is_committee else None

    def fault(self) -> str:
        """What is wrong with the present step, as "expected ..., found ..."; empty where nothing is.

        Takes what the calculator has: each of ASE's questions to it would first compare all positions.
        """
        atoms, config, results = self.atoms, self.config, self.atoms.calc.results
        forces, kelvin = results["forces"], self.temperature()
        longest = _longest(forces)
        if not math.isfinite(results["energy"] + kelvin + longest):
            return "expected finite energy, forces and velocities, found NaN or infinity"
        if longest > config.max_force:
            k = int(np.argmax(np.linalg.norm(forces, axis=1)))
            return (
                f"expected no force above {config.max_force:g} eV/Å, found {longest:.4g} on atom {k} "
                f"({chemical_symbols[atoms.numbers[k]]})"
            )
        if config.min_distance:
            species, graph = self._species, atoms.calc.graph()
            edges = graph.edge_vec, graph.senders, graph.receivers
            found = shortest_edges(*edges, graph.species, len(species))
            if (found < self._closest).any():
                a, b = np.unravel_index(np.argmin(found / self._closest), found.shape)
                pair = " and ".join(chemical_symbols[species[k]] for k in (a, b))
                return (
                    f"expected {pair} at least {self._closest[a, b]:.3f} Å apart, found {found[a, b]:.3f} Å"
                )
        band, target = config.temperature_band, config.target(self.step)
        if band and not target / band <= kelvin <= target * band:
            return f"expected {target / band:.4g} to {target * band:.4g} K, found {kelvin:.4g} K"
        if config.max_deviation and self.deviation() > config.max_deviation:
            return (
                f"expected the models' forces to deviate by at most {config.max_deviation:g} eV/Å, "
                f"found {self.deviation():.4g}"
            )
        return ""

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
        if not self.config.min_distance:
            return []
        return [
            f"{path}: does not tell how close atoms came in training; they may come as close as "
            f"{COMPRESSED:g} of the sum of their covalent radii"
            for path in self._unknown
        ]

    def checkpoint(self) -> None:
        """Everything that the next step depends on, in one HDF5 file."""
        frames, log = self.folder / TRAJECTORY, self.folder / LOG
        with self._told():
            for path in (frames, log):  # on the disk before the checkpoint that counts on them
                sync(path)
            head = _head(frames)
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
            **{name: operator.attrgetter(name)(self.dynamics) for name in STATE[type(self.dynamics)]},
        }
        write_checkpoint(self.folder / RESTART, FORMAT, VERSION, content, arrays)

    def _advance(self) -> str:
        """One step; what is wrong with it."""
        if self.config.end_temperature is not None:
            self.dynamics.set_temperature(temperature_K=self.config.target(self.step))
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told
                self.dynamics.step()
                self.dynamics.nsteps += 1
                return self.fault()
        except UserError as e:
            raise UserError(f"{self.sources.structure}: after step {self.step}: {e}") from e

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
            self.deviation(),
        )
        return dict(zip(COLUMNS, values, strict=True))

    def _write(self, frames: TrajectoryWriter, rows: Any, in_any_case: bool = False) -> None:
        """A frame, a row of the log, where it is time for them."""
        if in_any_case or self.step % self.config.write_every == 0:
            self.atoms.info["time_ps"] = self.time
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


class Watch:
    """What looks on while a Simulation runs; this one does nothing."""

    def step_done(self, simulation: Simulation) -> None:
        """After a step."""


def integrator(config: DynamicsConfig, atoms: Atoms, random: np.random.Generator) -> MolecularDynamics:
    """ASE's, for atoms with momenta; the noise of Langevin's is from `random`.

    Noise would push the whole, which is held; the other integrators conserve its momentum.
    """
    step, kelvin, damping = config.timestep * units.fs, config.temperature, config.thermostat_time * units.fs
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, step)
    if config.thermostat == "langevin":
        if not atoms.constraints:
            atoms.set_constraint(FixCom())
        return Langevin(atoms, step, temperature_K=kelvin, friction=1 / damping, fixcm=False, rng=random)
    free = freedom(config, atoms)
    if config.ensemble == "nvt":
        run = NoseHooverChainNVT(atoms, step, kelvin, damping)
    else:
        barostat = config.barostat_time * units.fs
        run = IsotropicMTKNPT(atoms, step, kelvin, config.pressure * units.bar, damping, barostat)
        run._num_atoms_global = free / 3  # N_f / d of Martyna, Tobias and Klein, J. Chem. Phys. 101, 4177
    run._thermostat = NoseHooverChainThermostat(free / 3, run.masses, kelvin, damping)
    return run


def conserves_rotation(config: DynamicsConfig, atoms: Atoms) -> bool:
    """Whether the angular momentum that the run begins with stays as it is, or in proportion."""
    return not (atoms.pbc.any() or _fixed(atoms).size or config.thermostat == "langevin")


def freedom(config: DynamicsConfig, atoms: Atoms) -> int:
    """Components of the momenta that are free: not those of fixed atoms, nor, where the whole is at rest for
    good, its momentum and its angular momentum (two components for two atoms)."""
    count = 3 * _mobile(atoms)
    if not _fixed(atoms).size:
        count -= 3
    if conserves_rotation(config, atoms):
        count -= 3 if len(atoms) > 2 else 2
    return max(count, 0)


def temperature(atoms: Atoms, free: int) -> float:
    """K, of `free` components of the momenta."""
    return 2 * atoms.get_kinetic_energy() / (free * units.kB)


def pressure(atoms: Atoms, free: int) -> float:
    """Bar; an atom has kB T / V, so that the momentum of the whole, which is none, counts with its mean."""
    ideal = _mobile(atoms) * units.kB * temperature(atoms, free) / atoms.get_volume()
    return (ideal - atoms.get_stress()[:3].mean()) / units.bar


def draw_momenta(config: DynamicsConfig, atoms: Atoms, random: np.random.Generator) -> None:
    """Maxwell's velocities, the whole at rest, scaled to the temperature."""
    width = np.sqrt(atoms.get_masses() * units.kB * config.temperature)
    atoms.set_momenta(width[:, None] * random.normal(size=(len(atoms), 3)))
    still(config, atoms)
    found = temperature(atoms, freedom(config, atoms))
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(config.temperature / found))


def still(config: DynamicsConfig, atoms: Atoms) -> None:
    """Take away the momentum and the angular momentum of the whole, as far as they would last."""
    if not _fixed(atoms).size:
        Stationary(atoms, preserve_temperature=False)
    if conserves_rotation(config, atoms):
        with np.errstate(divide="ignore", invalid="ignore"):  # atoms on a line
            ZeroRotation(atoms, preserve_temperature=False)


def closest(potential: Potential) -> dict[str, float]:
    """Å, by pair of elements ("H-O", atomic numbers rising): the closest in training; empty where untold."""
    return potential.provenance.get("closest", {})


def closest_approach(potentials: Sequence[Potential], species: Sequence[int], fraction: float) -> np.ndarray:
    """Å, [Z, Z]: `fraction` of the closest in training, the largest among the models.

    COMPRESSED of the sum of covalent radii for elements that no model tells of.
    """
    limits = np.empty((len(species), len(species)))
    for a, first in enumerate(species):
        for b, second in enumerate(species):
            pair = "-".join(chemical_symbols[z] for z in sorted((first, second)))
            told = [closest(p)[pair] for p in potentials if pair in closest(p)]
            bond = covalent_radii[first] + covalent_radii[second]
            limits[a, b] = fraction * max(told) if told else COMPRESSED * bond
    return limits


def _check(config: DynamicsConfig, atoms: Atoms, name: str) -> None:
    if config.ensemble == "npt" and not atoms.pbc.all():
        raise UserError(
            f"{name}: --ensemble: expected a structure periodic in all three directions for npt, "
            f"found pbc {atoms.pbc.tolist()}"
        )
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if not isinstance(constraint, FixAtoms | FixCom):
            raise UserError(f"{name}: constraints: expected fixed atoms at most, found {kind}")
        if isinstance(constraint, FixAtoms) and config.ensemble != "nve" and config.thermostat != "langevin":
            raise UserError(
                f"{name}: constraints: expected none with a Nosé-Hoover chain, found {kind}; "
                "ensemble nve and thermostat langevin take fixed atoms"
            )
    if freedom(config, atoms) == 0:
        raise UserError(f"{name}: expected atoms that can move against each other, found {len(atoms)}")


def _only_stops_differ(config: DynamicsConfig, stored: DynamicsConfig, path: Path) -> None:
    stops = LIMITS if config.end_temperature is not None else ("length", *LIMITS)
    for key, value in config.to_dict().items():
        expected = getattr(stored, key)
        if value != expected and key not in stops:
            raise UserError(
                f"{path}: {config.called(key)}: expected {expected!r} as the run began, found {value!r}; "
                f"a resumed run may change only {', '.join(map(config.called, stops))}"
            )


def _restart_of(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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


def _first_frame(path: Path) -> Atoms:
    try:
        with np.errstate(all="ignore"), TrajectoryReader(path) as reader:
            atoms = reader[0]
        atoms.get_masses()  # fails at what is no element
        return atoms
    except Exception as error:  # ASE's reader raises what it pleases on a broken file
        raise UserError(f"{path}: frame 0: expected the run's, found what cannot be read: {error}") from error


def _system(atoms: Atoms) -> str:
    """SHA-256 of what a run takes from its first frame, hexadecimal."""
    parts = (atoms.numbers, atoms.get_masses(), atoms.cell[:], atoms.pbc, _fixed(atoms))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(ULM_HEAD)


def _check_head(path: Path, head: np.ndarray, size: int, written: int, checkpoint: Path) -> None:
    """Head: magic word, tag and version, the number of frames, and where the list of them is."""
    same = _head(path)[:32] == head[:32].tobytes()
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


def _check_size(path: Path, size: int, checkpoint: Path) -> None:
    found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
    if not path.is_file() or path.stat().st_size < size:
        raise UserError(f"{path}: expected at least the {size} bytes that {checkpoint} knows, found {found}")


def _cut(path: Path, size: int, head: bytes = b"") -> None:
    """Back to what a file was when it had `size` bytes and began with `head`."""
    with open(path, "r+b") as file:
        file.truncate(size)
        file.write(head)


def _fixed(atoms: Atoms) -> np.ndarray:
    """Indices of fixed atoms."""
    fixed = [c.index for c in atoms.constraints if isinstance(c, FixAtoms)]
    return np.unique(np.concatenate(fixed)) if fixed else np.empty(0, np.int64)


def _mobile(atoms: Atoms) -> int:
    return len(atoms) - _fixed(atoms).size


def _longest(vectors: np.ndarray) -> float:
    return math.sqrt(np.einsum("ij,ij->i", vectors, vectors).max())
