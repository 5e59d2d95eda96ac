"""Neighbour lists, and batches of structures as one graph.

Edge e = (i <- j) says that sender j lies within the cutoff of receiver i: edge_vec = r_j + shift·cell - r_i
(Å). Every edge has its reverse; periodic images count as neighbours, an atom's own images too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numba import njit
from vesin import NeighborList

from eqpot.data import Dataset
from eqpot.errors import UserError


@dataclass(frozen=True)
class FrameGraph:
    """One structure: species[n] index the potential's species; volume in Å^3, NaN without a 3D cell."""

    species: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    edge_vec: np.ndarray  # float64 [E, 3], Å
    volume: float


@dataclass(frozen=True)
class Batch:
    """Structures as one graph, in the order that the kernels walk: atoms by species, edges by receiver.

    Atom k of the batch is atom order[k] of the structures written one after the other.
    """

    order: np.ndarray  # [n]
    frame: np.ndarray  # [n], the structure an atom belongs to
    species: np.ndarray  # [n], rising
    species_ptr: np.ndarray  # [Z + 1]
    atom_counts: np.ndarray  # [f]
    volume: np.ndarray  # [f], Å^3, NaN without a 3D cell
    edge_vec: np.ndarray  # float64 [E, 3], Å
    senders: np.ndarray  # [E]
    receivers: np.ndarray  # [E], rising
    receiver_ptr: np.ndarray  # [n + 1]
    sender_perm: np.ndarray  # [E], edges by sender
    sender_ptr: np.ndarray  # [n + 1]

    @property
    def n_frames(self) -> int:
        return len(self.atom_counts)

    @property
    def edge_count(self) -> int:
        return len(self.senders)


def neighbours(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All edges of a structure: senders[E], receivers[E], edge_vec[E, 3] (Å). Lengths and cell in Å."""
    pbc = np.asarray(pbc, bool)
    box = np.where(pbc[:, None], cell, 0.0)
    finder = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    i, j, vec = finder.compute(np.ascontiguousarray(positions, np.float64), box, pbc, "ijD")
    return j.astype(np.int64), i.astype(np.int64), vec.reshape(-1, 3)


def frame_graph(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    species: Sequence[int],
    cutoff: float,
    name: str = "structure",
) -> FrameGraph:
    """Graph of one structure.

    UserError, beginning with `name`, at an element not among `species`, and at two atoms in the same place.
    """
    index = np.searchsorted(species, numbers)
    known = np.append(species, -1)[index] == numbers
    if not known.all():
        strange = chemical_symbols[numbers[np.argmin(known)]]
        learned = " ".join(chemical_symbols[z] for z in species)
        raise UserError(
            f"{name}: numbers: expected elements that the model has seen ({learned}), found {strange}"
        )
    senders, receivers, edge_vec = neighbours(positions, cell, pbc, cutoff)
    if len(edge_vec) and np.einsum("ex,ex->e", edge_vec, edge_vec).min() < 1e-12:
        raise UserError(
            f"{name}: positions: expected atoms apart from each other, found two at the same place"
        )
    volume = abs(np.linalg.det(cell)) if np.all(pbc) else np.nan
    return FrameGraph(index.astype(np.int64), senders, receivers, edge_vec, volume)


def frame_graphs(dataset: Dataset, species: Sequence[int], cutoff: float) -> list[FrameGraph]:
    """Graphs of all frames of a data set."""
    ptr, path = dataset.atom_ptr, dataset.path or "data"
    return [
        frame_graph(
            dataset.numbers[ptr[k] : ptr[k + 1]],
            dataset.positions[ptr[k] : ptr[k + 1]],
            dataset.cell[k],
            dataset.pbc[k],
            species,
            cutoff,
            f"{path}: frame {k}",
        )
        for k in range(len(dataset))
    ]


@njit(cache=True, nogil=True)
def group_by(index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """ptr[n + 1], perm: the places where index == i are perm[ptr[i] : ptr[i + 1]], in rising order."""
    ptr = np.zeros(n + 1, np.int64)
    for i in index:
        ptr[i + 1] += 1
    for i in range(n):
        ptr[i + 1] += ptr[i]
    perm, place = np.empty(index.size, np.int64), ptr[:-1].copy()
    for k in range(index.size):
        perm[place[index[k]]] = k
        place[index[k]] += 1
    return ptr, perm


def collate(frames: Sequence[FrameGraph], n_species: int) -> Batch:
    """One batch of several structures."""
    counts = np.array([len(f.species) for f in frames])
    starts = np.cumsum(counts) - counts
    species = np.concatenate([f.species for f in frames])
    species_ptr, order = group_by(species, n_species)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    receivers = place[np.concatenate([f.receivers + start for f, start in zip(frames, starts, strict=True)])]
    senders = place[np.concatenate([f.senders + start for f, start in zip(frames, starts, strict=True)])]
    receiver_ptr, by_receiver = group_by(receivers, len(species))
    senders, receivers = senders[by_receiver], receivers[by_receiver]
    sender_ptr, sender_perm = group_by(senders, len(species))
    return Batch(
        order=order,
        frame=np.repeat(np.arange(len(frames)), counts)[order],
        species=species[order],
        species_ptr=species_ptr,
        atom_counts=counts,
        volume=np.array([f.volume for f in frames]),
        edge_vec=np.concatenate([f.edge_vec for f in frames])[by_receiver],
        senders=senders,
        receivers=receivers,
        receiver_ptr=receiver_ptr,
        sender_perm=sender_perm,
        sender_ptr=sender_ptr,
    )
