"""Exact energies of isolated atoms: what the network says of an atom without neighbours counts as zero.

    E_i = scale (x_i - x0) + shift,    x0: the network's number for a lone atom of the species

x0 depends on the weights, so the loss has one more term by them, - sum_i dL/dE_i scale dx0/dw. Both come from
one more atom of each species in the batch, which no edge reaches: its x is x0, and it takes the seeds of all
atoms of its species, negatively. It follows these, so that atom k of a batch is atom k + species[k] of the
longer one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from ase.data import chemical_symbols

from eqpot.config import Config
from eqpot.kernels.cuda import constant
from eqpot.structures.data import Dataset, frame_pairs
from eqpot.structures.graph import Batch, FrameGraph, collate
from eqpot.words import counted

AGREE = 1e-3  # eV, between several energies of one isolated atom


# ---- in a batch; slice by slice, as a CUDA graph can record it


def lone_atoms(n_species: int) -> Batch:
    """One atom of each species, each without neighbours."""
    none = np.empty(0, np.int64)
    return collate([FrameGraph(np.arange(n_species), none, none, np.empty((0, 3)), np.nan)], n_species)


def with_lone_atoms(batch: Batch) -> Batch:
    """The batch with a lone atom of each species for the network; what it does not read stays as it is."""
    ptr = batch.species_ptr
    species = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr) + 1)

    def starts(of_edges: np.ndarray) -> np.ndarray:
        found = np.empty_like(of_edges, shape=(len(species) + 1,))
        for z, a, b in _ranges(ptr):
            found[a + z : b + z + 1] = of_edges[a : b + 1]
        found[-1:] = of_edges[-1:]
        return found

    return replace(
        batch,
        species=constant(species) if batch.backend == "cuda" else species,
        species_ptr=ptr + np.arange(len(ptr)),
        senders=batch.senders + batch.species[batch.senders],
        receivers=batch.receivers + batch.species[batch.receivers],
        receiver_ptr=starts(batch.receiver_ptr),
        sender_ptr=starts(batch.sender_ptr),
        walk=None,
    )


def less_lone(x: np.ndarray, species_ptr: np.ndarray) -> np.ndarray:
    """x[n] of a batch's atoms less that of the lone one, from x[n + Z] of both."""
    found = np.empty_like(x, shape=(int(species_ptr[-1]),))
    for z, a, b in _ranges(species_ptr):
        found[a:b] = x[a + z : b + z] - x[b + z]
    return found


def with_lone_seeds(seed: np.ndarray, species_ptr: np.ndarray) -> np.ndarray:
    """The transpose: from the cotangents [n] of what `less_lone` gives those [n + Z] of what it takes."""
    found = np.empty_like(seed, shape=(len(seed) + len(species_ptr) - 1,))
    for z, a, b in _ranges(species_ptr):
        found[a + z : b + z] = seed[a:b]
        found[b + z] = -seed[a:b].sum()
    return found


def _ranges(species_ptr: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(z, first atom, the one after the last) of every species."""
    return ((z, a, b) for z, (a, b) in enumerate(pairwise(species_ptr.tolist())))


# ---- in a fit


@dataclass(frozen=True)
class Decision:
    """How a fit treats isolated atoms: `model.isolated_atoms`, what the shifts are made from, frames of the
    data that then tell the network nothing, and a line for the user, or none."""

    exact: bool
    shifts: str | Mapping[str, float]
    told: np.ndarray
    note: str = ""


def decide(config: Config, data: Dataset) -> Decision:
    """Whether atoms without neighbours get exactly their shifts, and from where these are.

    Frames of isolated atoms give the shifts where `train.shifts` is left to a fit, if there is one for each
    element of the other frames.
    """
    asked, shifts = config.model.isolated_atoms, config.train.shifts
    none = np.empty(0, np.int64)
    if asked is False or shifts == "parent":
        return Decision(asked is True, shifts, none)
    frames = isolated_frames(data, config.model.cutoff)
    if len(frames) == len(data):
        frames = none
    found, unclear = _energies(data, frames)
    if isinstance(shifts, Mapping):
        note = "an atom without neighbours has exactly its energy in train.shifts"
        if asked == "auto":
            note += "; if those are no energies of isolated atoms: --set model.isolated_atoms=false"
        other = {s: e for s, e in found.items() if s in shifts and abs(e - shifts[s]) > AGREE}
        if other:
            note += f"; isolated atoms of {data.path} have others: {_listed(other)}"
        return Decision(True, shifts, frames, note)
    others = data.subset(np.setdiff1d(np.arange(len(data)), frames)) if len(frames) else data
    needed = [chemical_symbols[z] for z in others.species]
    missing = [s for s in needed if s not in found and s not in unclear]
    if all(s in found for s in needed):
        shifts = {s: found[s] for s in needed}
        note = (
            f"energies of isolated atoms, from {counted(len(frames), 'frame')} not to be trained on: "
            f"{_listed(shifts)}; an atom without neighbours has exactly this energy"
        )
        return Decision(True, shifts, frames, note)
    note = ""
    if len(frames) or asked is True:
        reasons = [f"there is none of {' '.join(missing)}"] if missing else []
        if unclear:
            reasons.append(f"those of {' '.join(unclear)} differ by more than {1e3 * AGREE:g} meV")
        note = f"energies of isolated atoms: {', '.join(reasons)}; the shifts are fitted"
    return Decision(asked is True, shifts, none, note)


def isolated_frames(data: Dataset, cutoff: float) -> np.ndarray:
    """Frames of one atom that has no image within the cutoff (Å), of known energy, in the group IsolatedAtom
    (or isolated_atom, ISOLATEDATOM, ...)."""
    if data.group is None:
        return np.empty(0, np.int64)
    named = np.array([names_isolated(group) for group in data.group])
    frames = np.flatnonzero(named & (data.sizes == 1) & data.known("energy"))
    alone = [len(frame_pairs(data, k, cutoff)[2]) == 0 for k in frames]
    return frames[np.array(alone, bool)]


def names_isolated(group: str) -> bool:
    """Whether a group's name says that its frames are isolated atoms."""
    return str(group).replace("_", "").lower() == "isolatedatom"


def _energies(data: Dataset, frames: np.ndarray) -> tuple[dict[str, float], list[str]]:
    """Energy of each element that isolated atoms agree on, eV, and the elements that they do not."""
    by_element: dict[str, list[float]] = {}
    for k in frames:
        symbol = chemical_symbols[data.numbers[data.atom_ptr[k]]]
        by_element.setdefault(symbol, []).append(float(data.energy[k]))
    agreed = {s: e[0] for s, e in by_element.items() if max(e) - min(e) <= AGREE}
    return agreed, sorted(set(by_element) - set(agreed))


def _listed(energies: Mapping[str, float]) -> str:
    return ", ".join(f"{symbol} {energy:.10g}" for symbol, energy in energies.items()) + " eV"
