"""Energies, forces and stress from what the network gives: numbers x of the atoms, and d = dE/d edge_vec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eqpot.kernels import forces as kernels
from eqpot.kernels.compile import exact
from eqpot.kernels.cuda import constant
from eqpot.structures.frames import Labels
from eqpot.structures.graph import Batch

if TYPE_CHECKING:
    from eqpot.engines.fitted import Fitted

FROM_VOIGT = np.array([0, 5, 4, 5, 1, 3, 4, 3, 2])  # the nine components among xx yy zz yz xz xy
NO_PAIRS = np.empty(0)


@dataclass
class Prediction(Labels):
    """Predictions for a batch, atoms in the batch's order; stress is NaN for structures without a 3D cell."""

    energies: np.ndarray | None = None


def prediction(
    f: Fitted, batch: Batch, x: np.ndarray, forces: np.ndarray | None, d: np.ndarray | None
) -> Prediction:
    """From the network's numbers x [n] and forces [n, 3], and d [E, 3] where stress is wanted; with ZBL."""
    pairs = NO_PAIRS
    if f.zbl is not None:
        pairs, zbl_forces, zbl_d = f.zbl.repulsion(batch)
        forces = None if forces is None else forces + zbl_forces
        d = None if d is None else d + zbl_d
    if f.backend == "cuda":
        energies = of_species(f.scale, batch) * x + of_species(f.shift, batch)
        if f.zbl is not None:
            energies += pairs
        energy = _frame_sums(energies[:, None], batch)[:, 0]
    else:
        energies, energy = np.empty(len(x)), np.empty(batch.n_frames)
        _energies(energies, energy, x, f.scale, f.shift, pairs, batch.species, batch.frame)
    return Prediction(energy, forces, None if d is None else stress(batch, d), energies)


def of_species(numbers: np.ndarray, batch: Batch) -> np.ndarray:
    """numbers[Z] for each atom."""
    return (constant(numbers) if batch.backend == "cuda" else numbers)[batch.species]


def stress(batch: Batch, d: np.ndarray) -> np.ndarray:
    """(1/V) sum over edges of the symmetric part of edge_vec d^T, [f, 3, 3], eV/Å^3."""
    if batch.backend == "cuda":
        virials = np.empty_like(batch.edge_vec, shape=(len(batch.species), 6))
        kernels.virials_cuda(virials, batch.edge_vec, d, batch.receiver_ptr)
        virial = _frame_sums(virials, batch)[:, constant(FROM_VOIGT)].reshape(-1, 3, 3)
        return virial / batch.volume[:, None, None]
    frame = batch.frame[batch.receivers]
    virial = np.empty((batch.n_frames, 3, 3))
    for a in range(3):
        for b in range(a + 1):
            product = 0.5 * (batch.edge_vec[:, a] * d[:, b] + batch.edge_vec[:, b] * d[:, a])
            virial[:, a, b] = virial[:, b, a] = np.bincount(frame, product, minlength=batch.n_frames)
    return virial / batch.volume[:, None, None]


def edge_tangent(batch: Batch, grad_forces: np.ndarray, grad_stress: np.ndarray | None) -> np.ndarray:
    """dL/d(dE/d edge_vec) [E, 3]: the transpose of how forces and stress follow from dE/d edge_vec."""
    t = grad_forces[batch.receivers] - grad_forces[batch.senders]
    if grad_stress is not None:
        volume = batch.volume[:, None, None]
        symmetric = np.where(np.isnan(volume), 0.0, 0.5 * (grad_stress + grad_stress.swapaxes(1, 2)) / volume)
        # No einsum: it ends in cuBLAS, which cannot be recorded.
        t += (symmetric[batch.frame[batch.receivers]] * batch.edge_vec[:, None, :]).sum(axis=2)
    return t


@exact
def _energies(
    energies: np.ndarray,
    energy: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    pairs: np.ndarray,
    species: np.ndarray,
    frame: np.ndarray,
) -> None:
    """Fill in energies of atoms [n] and of frames [f], eV; pairs [n]: added to those of atoms, or empty."""
    energy[:] = 0
    for k in range(len(x)):
        z = species[k]
        energies[k] = scale[z] * x[k] + shift[z]
        if len(pairs):
            energies[k] += pairs[k]
        energy[frame[k]] += energies[k]


def _frame_sums(values: np.ndarray, batch: Batch) -> np.ndarray:
    """Sums of values [n, K] over the atoms of each frame [f, K], on the GPU, in one order from run to run."""
    if batch.n_frames == 1:
        return values.sum(axis=0, keepdims=True)
    sums = np.empty_like(values, shape=(batch.n_frames, values.shape[1]))
    kernels.frame_sums_cuda(sums, values, batch.frame)
    return sums
