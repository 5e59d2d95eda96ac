"""Molecular dynamics: the integrators do what they say, and a run that was broken off is the unbroken one."""

import dataclasses
import errno
import os
import random
import signal
import subprocess
import sys
import time
from itertools import combinations_with_replacement
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixBondLength
from ase.io import Trajectory
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress
from potentials import cluster_of_nine as cluster
from potentials import narrow_crystal as crystal
from potentials import two_blocks as potential
from toy import MODEL, toy_dataset

from eqpot import plots
from eqpot.config import Config, DynamicsConfig
from eqpot.dynamics import ensembles, limits
from eqpot.dynamics import simulation as md
from eqpot.dynamics.limits import SHORTER
from eqpot.dynamics.restart import RESTART
from eqpot.dynamics.simulation import LOG, TRAJECTORY, Simulation
from eqpot.errors import UserError
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.structures.data import write_dataset
from eqpot.training.trainer import Trainer

SHORT = {"length": "60", "write_every": 4, "log_every": 3, "min_distance": 0.0, "temperature": 200.0}
KINDS = {
    "nve": {"ensemble": "nve"},
    "chain": {"ensemble": "nvt", "thermostat_time": 10.0},
    "langevin": {"ensemble": "nvt", "thermostat": "langevin", "thermostat_time": 10.0},
    "ramp": {"ensemble": "nvt", "thermostat": "langevin", "end_temperature": 20.0, "thermostat_time": 10.0},
    "npt": {"ensemble": "npt", "thermostat_time": 10.0, "barostat_time": 50.0, "pressure": 1e4},
}
over_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two untrained models, a crystal narrower than their cutoff, and a cluster."""
    folder = tmp_path_factory.mktemp("md")
    for seed in (3, 4):
        potential("float32", seed=seed).save(folder / f"model{seed}.h5")
    crystal().write(folder / "crystal.xyz", format="extxyz")
    cluster().write(folder / "cluster.xyz", format="extxyz")
    return folder


def started(folder, run, structure="crystal.xyz", models=(3,), **settings) -> Simulation:
    config = DynamicsConfig(**{**SHORT, **settings})
    return Simulation.start(config, [folder / f"model{k}.h5" for k in models], folder / structure, run)


class StopAt(Watch):
    def __init__(self, step: int):
        self.step = step

    def step_done(self, simulation: Simulation) -> None:
        if simulation.step == self.step:
            simulation.stop()


def same(run, other) -> bool:
    return all((run / name).read_bytes() == (other / name).read_bytes() for name in (TRAJECTORY, LOG))


# ------------------------------------------------------------ physics


@pytest.mark.parametrize("structure", ["crystal.xyz", "cluster.xyz"])
def test_what_is_conserved_without_thermostat(structure, folder, tmp_path):
    run = started(folder, tmp_path, structure, ensemble="nve", timestep=0.25, length="400")
    atoms = run.atoms
    assert run.temperature() == pytest.approx(200)
    assert run.run() and run.step == 400
    scale = np.abs(atoms.get_momenta()).max()
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-11 * scale
    if not atoms.pbc.any():
        # float32 turns a little with the structure
        lever = np.abs(atoms.positions - atoms.get_center_of_mass()).max()
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-4 * scale * lever
    rows = np.genfromtxt(tmp_path / LOG, delimiter=",", names=True)
    assert np.ptp(rows["kinetic_eV"]) > 0.01
    assert np.ptp(rows["conserved_eV"]) < 0.02 * np.ptp(rows["kinetic_eV"])


class Springs(Calculator):
    """Between atoms that are neighbours at the start; energy, forces and stress by the book."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, atoms: Atoms):
        super().__init__()
        self.i, self.j, self.shifts, length = neighbor_list("ijSd", atoms, 3.0)
        self.length = length + 0.02 * np.sin(np.arange(len(length)))  # no two alike

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        vectors = atoms.positions[self.j] + self.shifts @ atoms.cell[:] - atoms.positions[self.i]
        d = np.linalg.norm(vectors, axis=1)
        pulls = 2.0 * ((d - self.length) / d)[:, None] * vectors
        energy = 0.5 * np.sum((d - self.length) ** 2) * 2.0
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, self.i, pulls)
        np.add.at(forces, self.j, -pulls)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(vectors.T @ pulls / atoms.get_volume())


def copper(config: DynamicsConfig, pbc: bool = True):
    """Four atoms on their way."""
    atoms, rng = bulk("Cu", cubic=True), np.random.default_rng(0)
    atoms.pbc = pbc
    atoms.calc = Springs(atoms)
    ensembles.draw_momenta(config, atoms, rng)
    return atoms, ensembles.freedom(config, atoms), ensembles.integrator(config, atoms, rng)


@pytest.mark.slow
@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize("kind", ["chain", "langevin"])
def test_few_atoms_have_the_temperature_asked_for(kind, pbc):
    """With 3 N components for four atoms it would be by 4/3, or 2, too high."""
    config = DynamicsConfig(**KINDS[kind], temperature=150.0, timestep=2.0)
    atoms, free, run = copper(config, pbc)
    assert free == (6 if kind == "chain" and not pbc else 9)
    found = []
    run.attach(lambda: found.append(ensembles.temperature(atoms, free)))
    run.run(1500)
    assert np.mean(found) == pytest.approx(150, rel=0.15)


@pytest.mark.slow
def test_the_barostat_keeps_the_pressure():
    """Mean of V (P - wanted) within a part of kB T, by which a miscounted momentum would change it."""
    config = DynamicsConfig(**KINDS["npt"] | {"pressure": 2e4}, temperature=300.0, timestep=1.0)
    atoms, free, run = copper(config)
    conserved, volumes, work = run.get_conserved_energy(), [], []

    def look():
        volumes.append(atoms.get_volume())
        work.append(volumes[-1] * (ensembles.pressure(atoms, free) - config.pressure) * units.bar)

    run.attach(look)
    run.run(2000)
    assert np.ptp(volumes) > 1
    assert abs(np.mean(work)) < 0.4 * units.kB * 300
    assert run.get_conserved_energy() == pytest.approx(conserved, abs=0.02)


def test_pressure_is_that_of_an_ideal_gas():
    atoms = Atoms("Cu3", 5 * np.eye(3), cell=[10, 10, 10], pbc=True)
    atoms.calc = Springs(atoms)  # none is so long
    config = DynamicsConfig()
    free = ensembles.freedom(config, atoms)
    ensembles.draw_momenta(config, atoms, np.random.default_rng(0))
    assert ensembles.pressure(atoms, free) == pytest.approx(3 * 1.380649e-23 * 300 / 1e-27 * 1e-5)


@pytest.mark.parametrize(
    ("atoms", "settings", "free"),
    [
        (molecule("CO2"), {}, 3),
        (molecule("CO"), {}, 1),
        (molecule("CO"), {"thermostat": "langevin"}, 3),
        (bulk("Cu") * (2, 1, 1), {}, 3),
        (bulk("Cu"), {}, 0),
    ],
)
def test_freedom(atoms, settings, free):
    config = DynamicsConfig(**settings)
    assert ensembles.freedom(config, atoms) == free
    if free:
        ensembles.draw_momenta(config, atoms, np.random.default_rng(0))
        assert ensembles.temperature(atoms, free) == pytest.approx(300)
        assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
        if ensembles.conserves_rotation(config, atoms):
            assert np.abs(atoms.get_angular_momentum()).max() < 1e-12


def test_a_ramp_cools(folder, tmp_path):
    run = started(folder, tmp_path, **KINDS["ramp"], length="400")
    assert [run.config.target(k) for k in (0, 200, 400)] == [200, 110, 20]
    run.run()
    rows = np.genfromtxt(tmp_path / LOG, delimiter=",", names=True)
    assert rows["temperature_K"][-20:].mean() < 0.5 * rows["temperature_K"][:20].mean()
    assert np.abs(run.atoms.get_momenta().sum(axis=0)).max() < 1e-12  # Langevin's noise moves no whole


@pytest.mark.parametrize("settings", [{"ensemble": "nve"}, {"thermostat": "langevin"}])
def test_fixed_atoms_stay(settings, folder, tmp_path):
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0, 3]))
    atoms.write(tmp_path / "fixed.traj")
    run = started(folder, tmp_path / "run", tmp_path / "fixed.traj", **settings)
    assert run.freedom == 18
    run.run(StopAt(30))
    run = Simulation.resume(tmp_path / "run")
    run.run()
    moved = np.linalg.norm(run.atoms.positions - atoms.positions, axis=1)
    assert (moved[[0, 3]] == 0).all() and (np.delete(moved, [0, 3]) > 1e-3).all()


def test_frames_and_rows(folder, tmp_path):
    run = started(folder, tmp_path, models=(3, 4), **KINDS["npt"])
    run.run()
    rows = np.genfromtxt(tmp_path / LOG, delimiter=",", names=True)
    assert rows.dtype.names == md.COLUMNS and np.isfinite(rows.tolist()).all()
    assert rows["step"].tolist() == list(range(0, 61, 3))
    assert rows["time_ps"][-1] == pytest.approx(0.03)
    with Trajectory(tmp_path / TRAJECTORY) as frames:
        assert len(frames) == 16
        last = frames[-1]
    assert np.array_equal(last.positions, run.atoms.positions)
    assert np.array_equal(last.get_momenta(), run.atoms.get_momenta())
    calculator = run.atoms.calc
    assert last.get_potential_energy() == calculator.results["energy"] == rows["potential_eV"][-1]
    assert np.array_equal(last.get_forces(), calculator.results["forces"])
    assert np.array_equal(last.get_stress(), calculator.results["stress"])
    spread = np.linalg.norm(calculator.results["forces_std"], axis=1).max()
    assert rows["forces_std_eV_per_A"][-1] == pytest.approx(spread)
    assert last.get_volume() == pytest.approx(rows["volume_A3"][-1])
    assert last.info["time_ps"] == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("kind", "structure", "models", "panels", "curves"),
    [
        ("nve", "cluster.xyz", (3,), ["temperature", "energy change"], ["total, which is conserved"]),
        ("chain", "crystal.xyz", (3,), ["temperature", "energy change", "pressure"], ["total", "conserved"]),
        ("langevin", "cluster.xyz", (3,), ["temperature", "energy change"], ["total"]),
        (
            "npt",
            "crystal.xyz",
            (3, 4),
            ["temperature", "energy change", "volume", "pressure", "deviation of forces"],
            ["total", "conserved"],
        ),
    ],
)
def test_the_picture_shows_what_there_is(
    kind, structure, models, panels, curves, folder, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append((figure, path)))
    run = started(folder, tmp_path, structure, models, **KINDS[kind])
    run.draw()  # of one row
    run.run()
    run.draw()
    (_, _), (figure, path) = drawn
    assert path == tmp_path / "thermo.png"
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert [label.split(", ")[0] for label in labels] == panels
    log, lines = run.log(), {label: axes.lines for label, axes in zip(labels, figure.axes, strict=True)}
    (line,) = lines["temperature, K"]
    assert np.array_equal(line.get_xydata().T, [log["time_ps"], log["temperature_K"]])
    energies = lines["energy change, meV/atom"]
    assert [line.get_label() for line in energies] == curves
    change = (log["total_eV"] - log["total_eV"][0]) / len(run.atoms)
    assert energies[0].get_ydata() == pytest.approx(1000 * change)


def test_velocities_of_the_structure_go_on(folder, tmp_path):
    whole = started(folder, tmp_path / "a", ensemble="nve")
    whole.run()
    half = started(folder, tmp_path / "b", ensemble="nve", length="20")
    half.run()
    last = tmp_path / "b" / TRAJECTORY
    rest = started(folder, tmp_path / "c", last, ensemble="nve", keep_velocities=True, length="40")
    rest.run()
    assert np.allclose(rest.atoms.positions, whole.atoms.positions, atol=1e-8)
    with pytest.raises(UserError, match="crystal.xyz: --keep-velocities: expected velocities, found none"):
        started(folder, tmp_path / "d", keep_velocities=True)


# ------------------------------------------------------------ stopping and going on


@over_kinds
def test_a_resumed_run_is_the_unbroken_one(kind, folder, tmp_path):
    structure = "crystal.xyz" if kind in ("npt", "chain") else "cluster.xyz"
    whole = started(folder, tmp_path / "whole", structure, **KINDS[kind])
    assert whole.run() and whole.finished
    run = tmp_path / "run"
    started(folder, run, structure, **KINDS[kind])
    for stop in (7, 8, 39):
        assert not Simulation.resume(run).run(StopAt(stop))
    for name in (TRAJECTORY, LOG):  # as if killed in the midst of writing
        with open(run / name, "ab") as file:
            file.write(b"1,2,3")
    last = Simulation.resume(run)
    assert last.step == 39 and last.run()
    assert same(run, tmp_path / "whole")
    assert np.array_equal(last.atoms.positions, whole.atoms.positions)
    assert np.array_equal(last.atoms.get_momenta(), whole.atoms.get_momenta())


def test_a_longer_run_is_the_same_run(folder, tmp_path):
    started(folder, tmp_path / "whole").run()
    started(folder, tmp_path / "run", length="21").run()
    longer = Simulation.resume(tmp_path / "run", length="60")
    assert longer.run() and same(tmp_path / "run", tmp_path / "whole")


KILLED = """
import sys
from eqpot import plots
from eqpot.dynamics import simulation as md
from eqpot.cli import main
md.RESTART_SECONDS = 0.01
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@over_kinds
def test_a_killed_run_goes_on_to_the_last_bit(kind, folder, tmp_path):
    draw = random.Random(kind)
    # where these untrained models lead to in 3000 steps hangs on the last bit, and so on the processor
    options = dict(SHORT | KINDS[kind], length="3000", temperature=60.0, max_force=1e6)
    words = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    words += [str(folder / "model3.h5"), str(folder / "crystal.xyz")]
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}

    def begin(run, *more) -> subprocess.Popen:
        command = [sys.executable, "-c", KILLED, "md", "-o", str(run), *more]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    whole, run = tmp_path / "whole", tmp_path / "run"
    began = time.monotonic()
    assert begin(whole, *words).wait() == 0
    seconds = time.monotonic() - began
    process = begin(run, *words)
    while not (run / RESTART).exists():
        time.sleep(0.01)
    for _ in range(2):
        time.sleep(draw.uniform(0.1, 0.3) * seconds)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        with Trajectory(run / TRAJECTORY) as frames:  # what is there can be read
            assert len(frames[-1]) == 8
        process = begin(run, "--resume")
    assert process.wait() == 0
    assert same(run, whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"max_force": 1e-3},
            r"expected no force above 0.001 eV/Å, found \S+ on atom \d \([HCO]\) \(--max-force\)" + SHORTER,
        ),
        (
            {"min_distance": 3.0},
            r"expected C and O at least 3.000 Å apart, found [12]\.\d+ Å \(--min-distance\)" + SHORTER,
        ),
        (
            {"temperature_band": 1.0001},
            r"expected 200 to 200 K, found \S+ K \(--temperature-band\)",
        ),
        (
            {"max_deviation": 1e-6},
            r"forces to deviate by at most 1e-06 eV/Å, found 0\.\d+ \(--max-deviation\); frames like .* more",
        ),
    ],
)
def test_a_limit_ends_the_run_and_keeps_it(change, words, folder, tmp_path):
    """Limits are no part of the run: with others it goes on, as if it had never met them."""
    models = [folder / f"model{k}.h5" for k in (3, 4)]
    for k, path in enumerate(models):
        told = Potential.load(path)
        told.provenance["closest"] = {"C-O": 0.5 + k / 2}
        models[k] = tmp_path / path.name
        told.save(models[k])
    config = DynamicsConfig(**SHORT)
    for name in ("whole", "run"):
        Simulation.start(config, models, folder / "cluster.xyz", tmp_path / name)
    Simulation.resume(tmp_path / "whole").run()
    run = tmp_path / "run"
    Simulation.resume(run).run(StopAt(12))
    with pytest.raises(UserError, match=rf"cluster.xyz: step 13: .*{words}; [^;]*keep what led there"):
        Simulation.resume(run, **change).run()
    assert (run / LOG).read_text().splitlines()[-1].startswith("13,")
    with Trajectory(run / TRAJECTORY) as frames:
        assert len(frames) == 5  # 0, 4, 8, 12 and 13
    assert Simulation.resume(run).run()
    assert same(run, tmp_path / "whole")


def test_what_is_not_finite_ends_the_run(folder, tmp_path, monkeypatch):
    run = started(folder, tmp_path)
    predict = Potential.predict

    def broken(self, *arguments, **options):
        prediction = predict(self, *arguments, **options)
        if run.step == 4:
            prediction.forces[3] = np.nan
        return prediction

    monkeypatch.setattr(Potential, "predict", broken)
    with pytest.raises(UserError, match="step 5: expected finite energy, forces and velocities, found NaN"):
        run.run()


def test_a_full_disk_loses_nothing(folder, tmp_path, monkeypatch):
    started(folder, tmp_path / "whole").run()
    run, write = started(folder, tmp_path / "run"), md.TrajectoryWriter.write

    def full(writer, atoms):
        if run.step == 20:
            writer.backend.fd.write(b"half a frame")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, atoms)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="run: cannot be written: No space left"),
    ):
        patch.setattr(md.TrajectoryWriter, "write", full)
        run.run()
    with Trajectory(tmp_path / "run" / TRAJECTORY) as frames:
        assert len(frames) == 5
    assert Simulation.resume(tmp_path / "run").run()
    assert same(tmp_path / "run", tmp_path / "whole")


def test_a_run_is_not_replaced_by_one_that_begins_with_it(folder, tmp_path):
    started(folder, tmp_path)
    last, models = tmp_path / TRAJECTORY, [folder / "model3.h5"]
    with pytest.raises(UserError, match="trajectory.traj: expected a structure outside the run"):
        Simulation.start(DynamicsConfig(**SHORT), models, last, tmp_path, overwrite=True)


def test_a_start_past_a_limit_writes_nothing(folder, tmp_path):
    with pytest.raises(UserError, match="crystal.xyz: step 0: expected no force above"):
        started(folder, tmp_path / "run", max_force=1e-6)
    assert not (tmp_path / "run").exists()


def test_training_tells_how_close_atoms_came(tmp_path):
    data = toy_dataset()
    write_dataset(tmp_path / "toy.h5", data)
    config = Config.from_dict({"model": MODEL, "train": {"n_train": 8, "n_valid": 4}})
    trainer = Trainer.start(config, tmp_path / "toy.h5", tmp_path / "run")
    model = trainer.potential
    expected = {}
    for k in trainer.sources.train:
        frame = slice(data.atom_ptr[k], data.atom_ptr[k + 1])
        atoms = Atoms(data.numbers[frame], data.positions[frame], cell=data.cell[k], pbc=True)
        for a, b in combinations_with_replacement(range(4), 2):
            pair = "-".join(sorted((atoms[a].symbol, atoms[b].symbol)))
            distance = atoms.get_distance(a, b, mic=True) if a != b else 6.0
            expected[pair] = min(expected.get(pair, 3.5), distance)
    assert limits.closest(model) == pytest.approx(expected)
    least = limits.closest_approach([model, potential()], (1, 6, 8), 0.5)
    assert least[0, 2] == least[2, 0] == pytest.approx(0.5 * expected["H-O"])
    assert least[1, 1] == pytest.approx(0.5 * 1.52)  # no carbon in training: half of C-C, Cordero's 0.76 Å


# ------------------------------------------------------------ mistakes


def test_constraints_that_the_integrators_do_not_take(folder, tmp_path):
    atoms = crystal()
    for constraint, words in (
        (FixAtoms([0]), "expected none with a Nosé-Hoover chain, found FixAtoms"),
        (FixBondLength(0, 1), "expected fixed atoms at most, found FixBondLength"),
    ):
        atoms.set_constraint(constraint)
        atoms.write(tmp_path / "fixed.traj")
        with pytest.raises(UserError, match=f"fixed.traj: constraints: {words}"):
            started(folder, tmp_path / "run", tmp_path / "fixed.traj")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"timestep": 1.0}, {"temperature": 10.0}, {"log_every": 1}, {"index": 0}]
)
def test_a_resumed_run_changes_only_its_stops(change, folder, tmp_path):
    started(folder, tmp_path, **KINDS["ramp"])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for changes in (change, {"length": "90"}):
        called = DynamicsConfig.called(*changes)
        with pytest.raises(UserError, match=f"restart.h5: {called}: expected .* as the run"):
            Simulation.resume(tmp_path, **changes)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_resumed_run_wants_its_own_files(folder, tmp_path):
    run = tmp_path / "run"
    started(folder, run)
    other, models = folder / "cluster.xyz", [folder / "model3.h5"]
    with pytest.raises(UserError, match="model4.h5: expected the file that .*restart.h5 was made from"):
        Simulation.resume(run, [folder / "model4.h5"])
    with pytest.raises(UserError, match="restart.h5: expected 1 model, found 2"):
        Simulation.resume(run, models * 2)
    with pytest.raises(UserError, match="cluster.xyz: expected the file that .*restart.h5 was made from"):
        Simulation.resume(run, models, other)
    (run / LOG).write_text("")
    with pytest.raises(UserError, match="thermo.csv: expected at least the .* bytes that .*, found 0 bytes"):
        Simulation.resume(run)
    (run / TRAJECTORY).unlink()
    with pytest.raises(UserError, match="trajectory.traj: expected at least .*, found no such file"):
        Simulation.resume(run)


def test_settings_survive_json():
    config = DynamicsConfig(**KINDS["ramp"])
    assert DynamicsConfig.from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(("drift", "told"), [(None, False), (0.01, False), (-0.03, True), (11.6, True)])
def test_energy_that_is_lost_is_told(drift, told):
    """Also where it came back before the end."""
    start = None if drift is None else -5.0
    log = {"conserved_eV": -5.0 + 2 * np.array([0, drift or 0, 0.005])}
    run = SimpleNamespace(first_conserved=start, atoms=[0, 1], log=lambda: log, drift=lambda: 0.005)
    said = Simulation.lost_energy(run)
    assert (f"{1000 * drift:.4g} meV/atom" in said) if told else said == ""
