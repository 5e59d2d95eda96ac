"""What is taken from the data before training: frames, shifts and scales, weights of elements."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.kernels.edges import shortest_edges
from eqpot.network.zbl import ZBL
from eqpot.structures.data import Dataset, first_alike
from eqpot.structures.frames import Frames
from eqpot.training.validation import predict
from eqpot.words import counted

if TYPE_CHECKING:
    from eqpot.potential import Potential


def choose_frames(
    config: Config, data: Dataset, valid: Dataset | None, left_out: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of `data` to train on, and of `valid` (None: of `data` too) to validate on, drawn by the seed.

    left_out: frames of `data` that are not drawn. In one file the first frame of every element goes to the
    training side, so that no element is met only in validation, and no frame repeats one of the other side,
    even if there are fewer than `n_valid` then. UserError where there are too few frames.
    """
    if len(left_out):
        kept = np.setdiff1d(np.arange(len(data)), left_out)
        train, other = choose_frames(config, data.subset(kept), valid)
        return kept[train], kept[other] if valid is None else other
    random = np.random.default_rng(config.train.seed)
    n_train, n_valid = config.train.n_train, config.train.n_valid
    order = random.permutation(len(data))
    if valid is not None:
        _at_least(n_train, len(data), "train.n_train", data)
        _at_least(n_valid, len(valid), "train.n_valid", valid)
        other = random.permutation(len(valid))
        return np.sort(order[: n_train or len(data)]), np.sort(other[: n_valid or len(valid)])
    n_valid = n_valid or max(1, round(len(data) / 10))
    _at_least(n_train + n_valid, len(data), "train.n_train + train.n_valid", data)
    n_train = n_train or len(data) - n_valid
    if n_train < 1:
        raise UserError(
            f"{data.path}: no frames are left to train on: expected more than train.n_valid = {n_valid}, "
            f"found {len(data)}"
        )
    kind = first_alike(data)
    place = np.zeros(len(data), int)
    place[kind[order[::-1]]] = np.arange(len(data))[::-1]  # of the first of its kind
    order = order[np.argsort(place[kind[order]], kind="stable")]
    held = data.composition()[order] > 0
    brings_an_element = np.zeros(len(data), bool)
    brings_an_element[held.argmax(axis=0)] = True
    order = np.concatenate([order[brings_an_element], order[~brings_an_element]])
    train, rest = np.split(order, [n_train])
    rest = rest[~np.isin(kind[rest], kind[train])]
    if not len(rest):
        raise UserError(
            f"{data.path}: expected frames to validate on besides the {n_train} to train on, found only "
            "repeats of these; give --valid FILE to validate on them all the same"
        )
    return np.sort(train), np.sort(rest[:n_valid])


def _at_least(wanted: int, found: int, key: str, data: Dataset) -> None:
    if wanted > found:
        raise UserError(
            f"{data.path}: {key}: expected at most the {found} frames of the file, found {wanted}"
        )


def energy_shifts(data: Dataset, shifts: str | Mapping[str, float] = "least_squares") -> np.ndarray:
    """Energy of an atom of each element of `data`, eV, float64 [Z].

    By least squares of the total energies over the compositions, the shortest solution where several fit (one
    composition only), or taken from a table by symbol. Zero where no energy is known.
    """
    if shifts != "least_squares":
        symbols = [chemical_symbols[z] for z in data.species]
        missing = [s for s in symbols if s not in shifts]
        if missing:
            raise UserError(
                f"train.shifts: expected an energy for every element, found none for {missing[0]}"
            )
        return np.array([shifts[s] for s in symbols])
    known = data.known("energy")
    if not known.any():
        return np.zeros(len(data.species))
    return np.linalg.lstsq(data.composition()[known], data.energy[known], rcond=None)[0]


def shifts_left(
    potential: "Potential",
    frames: Frames,
    elements: Sequence[int],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """What the shifts of `elements` lack to give the energies of `frames`, eV, float64 [elements].

    By least squares of the errors over the compositions, each error by sqrt(N) as in the loss, the shortest
    solution where several fit. Zero where no energy is known.

    weights: of the frames, by which the squares count.
    """
    data = frames.dataset
    known = data.known("energy")
    if not (known.any() and len(elements)):
        return np.zeros(len(elements))
    rest = (data.energy - predict(potential, frames, forces=False).energy)[known]
    rows = np.sqrt((1.0 if weights is None else weights[known]) / data.sizes[known])
    compositions = data.composition(tuple(elements))[known]
    return np.linalg.lstsq(rows[:, None] * compositions, rows * rest, rcond=None)[0]


def element_weights(data: Dataset, balanced: bool) -> np.ndarray:
    """Weight of the force errors by atomic number, float64 [119]; 1 on average over the known forces."""
    weights = np.ones(len(chemical_symbols))
    if balanced:
        numbers = data.numbers[np.isfinite(data.forces).all(axis=1)]
        found, count = np.unique(numbers, return_counts=True)
        weights[found] = len(numbers) / (len(found) * count)
    return weights


def frame_weights(data: Dataset, groups: str | Mapping[str, float] = "none") -> np.ndarray | None:
    """Weight of each frame's errors, float64 [frames]: its own times its group's; None where all are 1."""
    weights = np.ones(len(data)) if data.weight is None else data.weight.copy()
    if groups != "none" and data.group is not None:
        weights *= [groups.get(str(group), 1.0) for group in data.group]
    return None if (weights == 1).all() else weights


def check_groups(data: Dataset, groups: str | Mapping[str, float]) -> None:
    """UserError at the weight of a group that no frame is in."""
    there = [] if data.group is None else sorted({str(group) for group in data.group})
    for group in () if groups == "none" else groups:
        if group not in there:
            found = ", ".join(repr(name) for name in there[:20]) or "none"
            raise UserError(
                f"{data.path}: loss.group_weights: expected groups of the data, found {group!r}; "
                f"those of the data: {found}"
            )


def require_forces(data: Dataset, role: str) -> None:
    """UserError where no frame has forces."""
    if not data.known("forces").any():
        raise UserError(f"{data.path}: forces: expected forces in the {role} frames, found none")


def energy_units(
    frames: Frames, zbl: ZBL | None, shifts: str | Mapping[str, float], scale: str | float
) -> tuple[np.ndarray, float]:
    """Shift of each element and the scale of all, eV, by the frames' energies and forces less those of ZBL.

    shifts: see `energy_shifts`; scale: eV, or "force_rms".
    """
    train = _for_network(zbl, frames)
    if scale == "force_rms":
        known = train.forces[np.isfinite(train.forces)]
        scale = float(np.sqrt(np.mean(known**2))) or 1.0
    return energy_shifts(train, shifts), scale


def mean_neighbours(frames: Frames) -> float:
    """Edges per atom, at least one."""
    return max(float(frames.edges.sum() / len(frames.dataset.numbers)), 1.0)


def _for_network(zbl: ZBL | None, frames: Frames) -> Dataset:
    """The frames, their energies and forces less those of ZBL."""
    data = frames.dataset
    if zbl is None:
        return data
    energy = None if data.energy is None else data.energy.copy()
    forces = data.forces.copy()
    for k in range(len(data)):
        batch, rows = frames.batch([k])
        energies, zbl_forces, _ = zbl.repulsion(batch)
        forces[rows] -= zbl_forces
        if energy is not None:
            energy[k] -= energies.sum()
    return dataclasses.replace(data, energy=energy, forces=forces)


def closest(frames: Frames, species: Sequence[int]) -> dict[str, float]:
    """The shortest distance between atoms of each two elements within the cutoff of each other, Å."""
    symbols = [chemical_symbols[z] for z in species]
    graphs, count = frames.graphs, len(symbols)
    least = np.min(
        [shortest_edges(g.edge_vec, g.senders, g.receivers, g.species, count) for g in graphs], axis=0
    )
    return {
        f"{symbols[a]}-{symbols[b]}": float(least[a, b])
        for a, b in combinations_with_replacement(range(count), 2)
        if math.isfinite(least[a, b])
    }


def left_open(data: Dataset, shifts: str | Mapping[str, float], parent: str = "") -> str:
    """What shifts fitted to these frames are good for, where that is not everything; else empty.

    parent: whose shifts they change.
    """
    known = data.known("energy")
    if not known.any():
        return "the training frames have no energies: those that the model gives mean nothing"
    if shifts != "least_squares":
        return ""
    compositions = data.composition()[known]
    elements, independent = compositions.shape[1], np.linalg.matrix_rank(compositions)
    if independent == elements:
        return ""
    found = f"{counted(int(independent), 'independent composition')} of {elements} elements"
    if parent:
        return (
            f"the training frames have {found}, which leaves open by how much the energy of each element "
            f"differs from that in {parent}: energies of other compositions have its errors as well"
        )
    return (
        f"the training frames have {found}, which leaves the energy of each element open: energies of other "
        "compositions mean nothing, unless train.shifts gives those of isolated atoms"
    )
