"""What several test modules hold a potential to."""

from functools import partial

import numpy as np
from ase import Atoms
from potentials import transformed, with_positions
from tolerances import (
    DIFFERENCE,
    LOSS_GRADIENT,
    MODEL,
    check_close,
    derivative,
)

from eqpot import Potential
from eqpot.backend import to_host
from eqpot.config import LossConfig
from eqpot.engines import taped
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames, Labels
from eqpot.structures.graph import Batch
from eqpot.training.loss import loss_and_gradient


def loss_of(graph):
    """Energies, forces and stress against random labels."""
    random, n, frames = np.random.default_rng(0), len(graph.species), graph.n_frames
    open_ = np.isnan(to_host(graph.volume))[:, None, None]
    stress = np.where(open_, np.nan, random.normal(size=(frames, 3, 3)))
    labels = Labels(random.normal(size=frames), random.normal(size=(n, 3)), stress).on(graph.backend)
    return lambda p: loss_and_gradient(LossConfig(), p, labels, graph.atom_counts, volumes=graph.volume)


def gradient(model, graph, compiled=True) -> tuple[float, np.ndarray]:
    compute = model.loss_gradient if compiled else partial(taped.gradient, model.fitted)
    (value, *_), found = compute(graph, loss_of(graph), stress=True)
    return value, found.copy()


def check_tape(model, graph: Batch) -> None:
    one_by_one = taped.predict(model.fitted, graph, True, True)
    compiled = model.predict(graph, forces=True, stress=True)
    tolerance = MODEL[model.dtype]
    check_close(compiled.energies, one_by_one.energies, tolerance, what="energies")
    check_close(compiled.forces, one_by_one.forces, tolerance, what="forces")
    periodic = ~np.isnan(graph.volume)
    check_close(compiled.stress[periodic], one_by_one.stress[periodic], tolerance, what="stress")


def check_forces_and_stress(model: Potential, atoms: Atoms):
    result = model.evaluate(atoms)
    f = result.forces
    rng = np.random.default_rng(2)

    def energy(displacement):
        return model.evaluate(with_positions(atoms, atoms.positions + displacement)).energy

    direction = rng.normal(size=f.shape)
    slope = -derivative(lambda h: energy(h * direction), 1e-3)
    check_close(np.sum(f * direction), slope, DIFFERENCE, scale=np.linalg.norm(f), what="all forces")
    for atom, axis in zip(rng.choice(len(atoms), 4, replace=False), [0, 1, 2, 0], strict=True):
        unit = np.zeros(f.shape)
        unit[atom, axis] = 1
        slope = -derivative(lambda h, unit=unit: energy(h * unit), 1e-3)
        check_close(f[atom, axis], slope, DIFFERENCE, scale=np.abs(f).max(), what=f"force {atom} {axis}")

    if result.stress is None:
        return
    volume, slopes = atoms.get_volume(), np.empty((3, 3))
    for a in range(3):
        for b in range(a, 3):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5

            def strained(h, strain=strain):
                return model.evaluate(transformed(atoms, np.eye(3) + h * strain)).energy

            slopes[a, b] = slopes[b, a] = derivative(strained, 1e-3) / volume
    check_close(result.stress, slopes, DIFFERENCE, what="stress")


class LossOf:
    """The full loss of some frames, as a function of the potential's parameters."""

    def __init__(self, model: Potential, frames: list[Atoms]):
        rng = np.random.default_rng(4)
        n = [len(atoms) for atoms in frames]
        periodic = np.array([atoms.pbc.all() for atoms in frames])
        stress = rng.normal(0, 0.1, (len(n), 3, 3))
        stress = stress + stress.swapaxes(1, 2)
        stress[~periodic] = np.nan
        dataset = Dataset(
            atom_ptr=np.concatenate([[0], np.cumsum(n)]),
            numbers=np.concatenate([atoms.numbers for atoms in frames]),
            positions=np.concatenate([atoms.positions for atoms in frames]),
            cell=np.array([atoms.cell[:] for atoms in frames]),
            pbc=np.array([atoms.pbc for atoms in frames]),
            energy=rng.normal(size=len(n)),
            forces=rng.normal(size=(sum(n), 3)),
            stress=stress,
        )
        data = Frames(dataset, model.species, model.config.cutoff)
        everything = np.arange(len(n))
        self.batch, rows = data.batch(everything)
        self.labels = data.labels(everything, rows)
        self.weights = rng.uniform(0.5, 2.0, sum(n))
        self.model, self.has_stress = model, bool(periodic.any())
        self.config = LossConfig(energy=2.0, forces=0.5, stress=30.0)

    def terms(self, prediction: Labels):
        counts, volumes = self.batch.atom_counts, self.batch.volume
        return loss_and_gradient(self.config, prediction, self.labels, counts, self.weights, volumes)

    def value(self) -> float:
        return self.terms(self.model.predict(self.batch, forces=True, stress=self.has_stress))[0]

    def gradient(self):
        (value, *_), gradient = self.model.loss_gradient(self.batch, self.terms, stress=self.has_stress)
        check_close(value, self.value(), MODEL["float64"], what="loss")
        return gradient.copy()


def check_loss_gradient(model: Potential, frames: list[Atoms]):
    """Along a random direction in each parameter array, which moves no other array."""
    loss = LossOf(model, frames)
    gradient = loss.gradient()
    flat = model.params.flat
    start = flat.copy()
    flat[:] = np.arange(len(flat))  # each number's place, so that the views tell where they lie
    position = {name: view.ravel().astype(int) for name, view in model.params.items()}
    flat[:] = start
    assert sorted(np.concatenate(list(position.values()))) == list(range(len(flat)))
    rng = np.random.default_rng(6)
    for name, columns in position.items():
        direction = rng.normal(size=len(columns))

        def value(h, columns=columns, direction=direction):
            flat[columns] = start[columns] + h * direction
            result = loss.value()
            flat[:] = start
            return result

        got, step = gradient[columns] @ direction, 1e-4
        expected = (value(step) - value(-step)) / (2 * step)
        scale = np.linalg.norm(gradient[columns])
        check_close(got, expected, LOSS_GRADIENT, scale=scale, what=name)
