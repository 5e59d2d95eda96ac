"""Errors of a potential against the labels of a data set."""

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from eqpot.errors import UserError
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames, Labels

if TYPE_CHECKING:
    from eqpot.potential import Potential


def predict(
    potential: "Potential",
    frames: Frames,
    max_edges: int = 20_000,
    forces: bool = True,
    part: slice = slice(None),
) -> Labels:
    """Energies, and with `forces` these and (where any frame has a label of it) stress, in the order of the
    data set, float64.

    Frames are taken together up to `max_edges` edges, which bounds the memory. part: frames whose predictions
    are made; those of others are not.
    """
    stress = forces and frames.has_stress
    count, atoms = len(frames), len(frames.dataset.numbers)
    result = Labels(
        np.empty(count),
        np.empty((atoms, 3)) if forces else None,
        np.empty((count, 3, 3)) if stress else None,
    )
    wanted = np.arange(count)[part]
    group = (np.cumsum(frames.edges[wanted]) - 1) // max_edges
    for k in np.unique(group):
        chosen = wanted[group == k]
        batch, rows = frames.batch(chosen)
        prediction = potential.predict(batch, forces=forces, stress=stress)
        result.energy[chosen] = prediction.energy
        if forces:
            result.forces[rows] = prediction.forces
        if stress:
            result.stress[chosen] = prediction.stress
    return result


def errors(dataset: Dataset, prediction: Labels) -> dict[str, float | int | None]:
    """MAE and RMSE of energy (eV), energy per atom, force components (eV/Å) and stress components (eV/Å^3).

    None where nothing is labelled. All nine stress components count.
    """
    energy = _difference(prediction.energy, dataset.energy)
    per_atom = None if energy is None else energy / dataset.sizes
    found = {
        "energy": energy,
        "energy_per_atom": per_atom,
        "forces": _difference(prediction.forces, dataset.forces),
        "stress": _difference(prediction.stress, dataset.stress),
    }
    report = {key: value for name, x in found.items() for key, value in _mae_rmse(name, x).items()}
    return {**report, "frames": len(dataset)}


def _difference(value: np.ndarray | None, label: np.ndarray | None) -> np.ndarray | None:
    """NaN where no label is known, infinite where a value is no number."""
    if value is None or label is None:
        return None
    difference = np.where(np.isfinite(value), value - label, np.inf)
    return np.where(np.isnan(label), np.nan, difference)


def _mae_rmse(name: str, difference: np.ndarray | None) -> dict[str, float | None]:
    known = np.array([]) if difference is None else difference[~np.isnan(difference)]
    if not len(known):
        return {f"{name}_mae": None, f"{name}_rmse": None}
    return {f"{name}_mae": float(np.abs(known).mean()), f"{name}_rmse": float(np.sqrt((known**2).mean()))}


def report(dataset: Dataset, prediction: Labels) -> dict[str, Any]:
    """`errors` of all frames, with `per_element` (forces) and `per_group` (everything)."""
    difference = _difference(prediction.forces, dataset.forces)
    per_element = {}
    for z in np.unique(dataset.numbers):
        atoms = dataset.numbers == z
        found = _mae_rmse("forces", None if difference is None else difference[atoms])
        per_element[chemical_symbols[z]] = {**found, "atoms": int(atoms.sum())}
    per_group = {}
    if dataset.group is not None:
        for name in sorted(set(dataset.group)):
            frames = np.flatnonzero(dataset.group == name)
            rows = np.isin(dataset.frame_of_atom, frames)
            stress = None if prediction.stress is None else prediction.stress[frames]
            part = Labels(prediction.energy[frames], prediction.forces[rows], stress)
            per_group[str(name) or "(none)"] = errors(dataset.subset(frames), part)
    return {**errors(dataset, prediction), "per_element": per_element, "per_group": per_group}


def compare(potential: "Potential", dataset: Dataset) -> tuple[dict[str, Any], Labels, str | None]:
    """Report, predictions, and a warning if any.

    UserError where nothing is labelled, an element is unknown to the potential, a prediction is not finite.
    """
    name = dataset.path or "data"
    if not any(dataset.known(label).any() for label in ("energy", "forces", "stress")):
        raise UserError(f"{name}: expected energy, forces or stress to compare with, found no labels")
    frames = Frames(dataset, potential.species, potential.config.cutoff)
    prediction = predict(potential, frames)
    bad = dataset.frame_of_atom[~np.isfinite(prediction.forces).all(axis=1)]
    bad = np.union1d(bad, np.flatnonzero(~np.isfinite(prediction.energy)))
    if prediction.stress is not None and dataset.stress is not None:
        lost = ~np.isfinite(prediction.stress) & ~np.isnan(frames.dataset.stress)
        bad = np.union1d(bad, np.flatnonzero(lost.any(axis=(1, 2))))
    if len(bad):
        raise UserError(
            f"{name}: frame {bad[0]}: expected finite predictions of the model, found NaN or infinity"
        )
    return report(frames.dataset, prediction), prediction, frames.warning()
