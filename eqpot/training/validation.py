"""Errors of a potential against the labels of a data set."""

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from eqpot.errors import UserError
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames, Labels
from eqpot.training.proportions import Proportions

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


class Errors:
    """Errors of frames that come in parts; sums are all that it keeps."""

    def __init__(self) -> None:
        self._all, self._groups, self._proportions = _Sums(), {}, Proportions()
        self._elements: dict[int, np.ndarray] = {}  # number, |error| and its square, of components of forces

    def add(self, dataset: Dataset, prediction: Labels) -> None:
        """Some frames more; labels that are missing are None or NaN."""
        self._all.add(dataset, prediction)
        self._proportions.add(dataset, prediction)
        difference = _difference(prediction.forces, dataset.forces)
        for z in np.unique(dataset.numbers).tolist():
            atoms = dataset.numbers == z
            found = _sums(None if difference is None else difference[atoms])
            self._elements[z] = self._elements.get(z, 0) + found
        if dataset.group is None:
            return
        for name in set(dataset.group):
            frames = np.flatnonzero(dataset.group == name)
            rows = np.isin(dataset.frame_of_atom, frames)
            stress = None if prediction.stress is None else prediction.stress[frames]
            part = Labels(prediction.energy[frames], prediction.forces[rows], stress)
            self._groups.setdefault(name, _Sums()).add(dataset.subset(frames), part)

    def report(self) -> dict[str, Any]:
        """What the function `report` returns."""
        per_element = {
            chemical_symbols[z]: {**_mae_rmse("forces", found), "atoms": int(found[0]) // 3}
            for z, found in sorted(self._elements.items())
        }
        per_group = {str(name) or "(none)": self._groups[name].report() for name in sorted(self._groups)}
        doubts = self._proportions.doubts()
        return {**self._all.report(), "per_element": per_element, "per_group": per_group, "doubts": doubts}


class _Sums:
    """Of one set of frames."""

    def __init__(self) -> None:
        self._frames, self._sums = 0, dict.fromkeys(("energy", "energy_per_atom", "forces", "stress"), 0)

    def add(self, dataset: Dataset, prediction: Labels) -> None:
        energy = _difference(prediction.energy, dataset.energy)
        differences = (
            energy,
            None if energy is None else energy / dataset.sizes,
            _difference(prediction.forces, dataset.forces),
            _difference(prediction.stress, dataset.stress),
        )
        for name, difference in zip(self._sums, differences, strict=True):
            self._sums[name] = self._sums[name] + _sums(difference)
        self._frames += len(dataset)

    def report(self) -> dict[str, float | int | None]:
        found = {key: x for name, sums in self._sums.items() for key, x in _mae_rmse(name, sums).items()}
        return {**found, "frames": self._frames}


def errors(dataset: Dataset, prediction: Labels) -> dict[str, float | int | None]:
    """MAE and RMSE of energy (eV), energy per atom, force components (eV/Å) and stress components (eV/Å^3).

    None where nothing is labelled. All nine stress components count.
    """
    sums = _Sums()
    sums.add(dataset, prediction)
    return sums.report()


def _difference(value: np.ndarray | None, label: np.ndarray | None) -> np.ndarray | None:
    """NaN where no label is known, infinite where a value is no number."""
    if value is None or label is None:
        return None
    difference = np.where(np.isfinite(value), value - label, np.inf)
    return np.where(np.isnan(label), np.nan, difference)


def _sums(difference: np.ndarray | None) -> np.ndarray:
    """How many are known, and the sums of their sizes and of their squares."""
    known = np.array([]) if difference is None else difference[~np.isnan(difference)]
    return np.array([len(known), np.abs(known).sum(), (known**2).sum()])


def _mae_rmse(name: str, sums: np.ndarray) -> dict[str, float | None]:
    count, absolute, squares = sums
    if not count:
        return {f"{name}_mae": None, f"{name}_rmse": None}
    return {f"{name}_mae": float(absolute / count), f"{name}_rmse": float(np.sqrt(squares / count))}


def report(dataset: Dataset, prediction: Labels) -> dict[str, Any]:
    """`errors` of all frames, with `per_element` (forces), `per_group` (everything), and `doubts`, lines on
    labels that may have another sign or unit."""
    found = Errors()
    found.add(dataset, prediction)
    return found.report()


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
