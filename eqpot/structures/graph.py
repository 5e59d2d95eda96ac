"""Neighbour lists, and batches of structures as one graph.

Edge e = (i <- j) says that sender j lies within the cutoff of receiver i: edge_vec = r_j - r_i + shift·cell
(Å), shift being whole numbers. Every edge has its reverse; periodic images count as neighbours, an atom's own
images too. Positions may lie outside the cell.

Edges come by receiver, then sender, then shift. Sums over neighbours thus have one order, however the
neighbours were found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import wrap_positions

from eqpot.errors import UserError
from eqpot.kernels.edges import edge_order, edges_here, edges_within, group_by
from eqpot.structures.neighbours import check_cell, search

# Å beyond the reach asked for: the finder rounds distances in its own way, here they decide by ours.
MARGIN = 1e-6
LARGE = 500  # atoms; what the force call keeps of fewer, 36 kB each, fits into a third-level cache


@dataclass(frozen=True)
class FrameGraph:
    """One structure: species[n] index the potential's species; volume in Å^3, NaN without a 3D cell."""

    species: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    edge_vec: np.ndarray  # float64 [E, 3], Å
    volume: float
    walk: np.ndarray | None = None  # [n], see `walk_of`


@dataclass(frozen=True)
class Batch:
    """Structures as one graph, in the order that the kernels walk: atoms by species, edges by receiver, then
    sender, then shift.

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
    walk: np.ndarray | None = None  # [n], see `walk_of`
    backend: str = "cpu"  # where the arrays are, but for what `eqpot.backend.HOST` names

    @property
    def n_frames(self) -> int:
        return len(self.atom_counts)

    @property
    def edge_count(self) -> int:
        return len(self.senders)

    @property
    def has_volume(self) -> bool:
        """Whether any of the structures has, so that there is stress to be asked for."""
        return not np.isnan(self.volume).all()

    @cached_property
    def place(self) -> np.ndarray:
        """Where each atom of the structures is in the batch [n], the inverse of `order`."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        return place


class _Candidates:
    """Pairs of atoms up to `reach` (Å) apart, and room for the edges among them.

    receiver_ptr[n + 1]; arrays for edges, of which the first few are in use: edge_vec float64 [C, 3] (Å),
    senders[C], receivers[C].
    """

    def __init__(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float, name: str):
        n, box = len(positions), np.where(np.asarray(pbc, bool)[:, None], cell, 0.0)
        receivers, senders, shifts = search(positions, cell, pbc, reach + MARGIN, "ijS", name)
        ptr, perm = edge_order(senders, receivers, shifts, n)
        candidates = box, ptr, senders[perm].astype(np.uint32), shifts[perm].astype(np.int32)
        self.edge_vec = np.empty((len(perm), 3))
        self.senders, self.receivers = np.empty((2, len(perm)), np.int64)
        self.receiver_ptr = np.empty(n + 1, np.int64)
        self.lists = *candidates, self.edge_vec, self.senders, self.receivers, self.receiver_ptr

    def edges_within(self, cutoff: float, positions: np.ndarray, name: str) -> int:
        """Fill in the edges shorter than the cutoff (Å) and count them.

        UserError, beginning with `name`, at two atoms in the same place.
        """
        count, least = edges_within(cutoff, positions, *self.lists)
        _check_apart(least, name)
        return count


def _check_apart(least: float, name: str) -> None:
    """UserError, beginning with `name`, at edges as short as `least`, a square (Å^2)."""
    if least < 1e-12:
        raise UserError(
            f"{name}: positions: expected atoms apart from each other, found two at the same place"
        )


def check_structure(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    species: Sequence[int],
    name: str,
) -> tuple[np.ndarray, float]:
    """Indices of the atoms' species, and the volume (Å^3), NaN without a 3D cell; errors of `frame_graph`."""
    if not np.isfinite(positions).all():
        raise UserError(f"{name}: positions: expected finite numbers, found NaN or infinity")
    check_cell(cell, pbc, name)
    index = np.searchsorted(species, numbers)
    known = np.append(species, -1)[index] == numbers
    if not known.all():
        z = int(numbers[np.argmin(known)])
        strange = chemical_symbols[z] if 0 <= z < len(chemical_symbols) else f"number {z}"
        learned = " ".join(chemical_symbols[z] for z in species)
        raise UserError(f"{name}: numbers: expected elements trained on ({learned}), found {strange}")
    volume = abs(np.linalg.det(cell)) if np.all(pbc) else np.nan
    return index.astype(np.int64), volume


def frame_graph(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    species: Sequence[int],
    cutoff: float,
    name: str = "structure",
) -> FrameGraph:
    """Graph of one structure; lengths in Å.

    UserError, beginning with `name`, at an element not among `species`, a position that is not finite, two
    atoms in the same place, and a periodic cell without volume.
    """
    index, volume = check_structure(numbers, positions, cell, pbc, species, name)
    positions = np.ascontiguousarray(positions, np.float64)
    found = _Candidates(positions, cell, pbc, cutoff, name)
    count = found.edges_within(cutoff, positions, name)
    edges = found.senders[:count], found.receivers[:count], found.edge_vec[:count]
    return FrameGraph(index, *edges, volume, walk_of(index, positions, cell, pbc))


def walk_of(
    species: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> np.ndarray | None:
    """The atoms of a large structure so that those near each other come soon after each other, species by
    species; None for a structure that fits into the cache as a whole.

    What an atom's neighbours send is then often in the cache already. A k-d tree halves space again and
    again, and keeps the points of each half together.
    """
    if len(species) < LARGE:
        return None
    from scipy.spatial import KDTree  # takes as long to import as the rest of eqpot

    order = KDTree(wrap_positions(positions, cell, pbc), leafsize=8).indices
    return order[np.argsort(species[order], kind="stable")]


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
    _, by_sender = group_by(senders, len(species))
    receiver_ptr, by_receiver = group_by(receivers[by_sender], len(species))
    by_receiver = by_sender[by_receiver]
    senders, receivers = senders[by_receiver], receivers[by_receiver]
    sender_ptr, sender_perm = group_by(senders, len(species))
    walk = None
    if any(f.walk is not None for f in frames):
        walks = [np.arange(len(f.species)) if f.walk is None else f.walk for f in frames]
        walk = np.concatenate([w + start for w, start in zip(walks, starts, strict=True)])
        walk = place[walk[np.argsort(species[walk], kind="stable")]]
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
        walk=walk,
    )


class VerletList:
    """The neighbours of one structure from call to call, found anew only where they may have changed.

    species: the potential's atomic numbers, rising. Pairs up to cutoff + skin (Å) are kept until an atom has
    moved by more than half the skin, or numbers, cell or pbc are others; `builds` counts how often they were
    found. Each batch takes those within the cutoff, so that it is the same to the last bit for any skin;
    `latest` is that of the last call.

    Takes 64 bytes for each pair. Copies and pickles start without neighbours.
    """

    def __init__(self, species: Sequence[int], cutoff: float, skin: float):
        self.species, self.cutoff, self.skin = tuple(species), cutoff, skin
        self.builds = 0
        self.latest: Batch | None = None
        self._built_for: tuple | None = None

    def __getstate__(self) -> tuple:
        return self.species, self.cutoff, self.skin

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def batch(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Batch:
        """What `collate` makes of this one structure; it holds until the next call.

        numbers int [n], positions [n, 3] and cell [3, 3] in Å, pbc bool [3]. UserError as in `frame_graph`.
        """
        positions = np.ascontiguousarray(positions, np.float64)
        structure = len(numbers), numbers.tobytes(), cell.tobytes(), pbc.tobytes()
        count = self._find_edges(positions) if structure == self._built_for else -1
        if count < 0:
            self._build(numbers, positions, cell, pbc)
            self._built_for = structure
            count = self._find_edges(positions)
        if self.latest is None or count != self.latest.edge_count:
            found = self._candidates
            self.latest = Batch(
                order=self._order,
                frame=self._frame,
                species=self._species,
                species_ptr=self._species_ptr,
                atom_counts=self._atom_counts,
                volume=self._volume,
                edge_vec=found.edge_vec[:count],
                senders=found.senders[:count],
                receivers=found.receivers[:count],
                receiver_ptr=found.receiver_ptr,
                sender_perm=self._sender_perm[:count],
                sender_ptr=self._sender_ptr,
                walk=self._walk,
            )
        return self.latest

    def _find_edges(self, positions: np.ndarray) -> int:
        """Fill in the edges and count them; -1 where the neighbours do not hold."""
        count, least = edges_here(
            *(positions, self._order, self._origin, self.skin / 2, self._here),
            *(self._sender_perm, self._sender_ptr, self.cutoff, *self._candidates.lists),
        )
        _check_apart(least, "structure")
        return count

    def _build(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        self._built_for = None  # should a check fail
        species, volume = check_structure(numbers, positions, cell, pbc, self.species, "structure")
        n = len(species)
        self._species_ptr, self._order = group_by(species, len(self.species))
        self._species = species[self._order]
        self._frame, self._atom_counts = np.zeros(n, np.int64), np.array([n])
        self._volume = np.array([volume])
        self._origin = positions[self._order]
        self._here = self._origin.copy()
        self._walk = walk_of(self._species, self._origin, cell, pbc)
        self._candidates = _Candidates(self._origin, cell, pbc, self.cutoff + self.skin, "structure")
        self._sender_perm = np.empty_like(self._candidates.senders)
        self._sender_ptr = np.empty(n + 1, np.int64)
        self.latest = None
        self.builds += 1
