"""Neighbours of one large structure, found and kept on the GPU; on the CPU: `graph.VerletList`."""

import math

import numpy as np
from ase.geometry import complete_cell

from eqpot.backend import array_module, to_device
from eqpot.errors import UserError
from eqpot.kernels.edges import group_by
from eqpot.kernels.neighbours import bins_cuda, edges_cuda, moved_cuda, pairs_cuda, reverse_cuda
from eqpot.structures.graph import Batch, VerletList, check_structure
from eqpot.structures.neighbours import check_search

ATOMS_A_BIN = 4  # on average, where the reach would have more
MOST_BINS = 1 << 23  # where a structure is so much longer than it is wide that it would have more


class GpuVerletList(VerletList):
    """Same interface, same edges to round-off; positions go to the GPU, and nothing but counts comes back.

    Takes 16 bytes for each pair, and UserError where they do not fit.
    """

    def batch(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Batch:
        """The structure's graph on the GPU; arguments and errors of `VerletList.batch`."""
        structure = len(numbers), numbers.tobytes(), cell.tobytes(), pbc.tobytes()
        try:
            here = self._sorted(positions) if structure == self._built_for else None
            if here is None or not self._holds(here):
                here = self._build(numbers, positions, cell, pbc)
                self._built_for = structure
            self.latest = self._edges(here)
            return self.latest
        except MemoryError as e:
            raise UserError(
                f"structure: {len(numbers)} atoms: expected neighbours to fit into the free GPU memory, "
                f"found them too many ({e})"
            ) from e

    def _sorted(self, positions: np.ndarray):
        return to_device(np.ascontiguousarray(positions, np.float64), "cuda")[self._order_there]

    def _holds(self, here) -> bool:
        far = np.empty_like(here, shape=(len(here),))
        moved_cuda(far, here, self._origin)
        return len(here) == 0 or bool(far.max() <= (self.skin / 2) ** 2)  # which NaN is not

    def _build(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray):
        """Find the pairs; returns the positions as they are on the GPU."""
        self._built_for = self._pairs = self._shifts = None  # should a check fail; and room for new ones
        species, volume = check_structure(numbers, positions, cell, pbc, self.species, "structure")
        xp, n, reach, pbc = array_module("cuda"), len(species), self.cutoff + self.skin, np.asarray(pbc, bool)
        check_search(positions, cell, pbc, reach, "structure")
        self._species_ptr, self._order = group_by(species, len(self.species))
        self._order_there = to_device(self._order, "cuda")
        self._species = to_device(species[self._order], "cuda")
        self._frame, self._volume = self._species * 0, to_device(np.array([volume]), "cuda")
        self._atom_counts = to_device(np.array([n]), "cuda")
        self._box = to_device(np.where(pbc[:, None], cell, 0.0), "cuda")
        self._origin = here = self._sorted(positions)

        origin, spanned = _spanned(positions, cell, pbc)
        inverse = np.linalg.inv(spanned)
        heights = 1 / np.linalg.norm(inverse, axis=0)
        finest = np.maximum(heights * (max(n / ATOMS_A_BIN, 1) / np.prod(heights)) ** (1 / 3), 1)
        bins = np.maximum(np.minimum(heights / (reach / 2), finest).astype(np.int64), 1)
        while math.prod(bins.tolist()) > MOST_BINS:
            bins[bins.argmax()] //= 2
        around = np.ceil(reach / (heights / bins)).astype(np.int64)
        bins_there, around_there, pbc_there = (to_device(x, "cuda") for x in (bins, around, pbc))

        index, wraps = xp.empty(n, np.int64), xp.empty((n, 3), np.int64)
        places = (to_device(x, "cuda") for x in (origin, inverse))
        bins_cuda(index, wraps, here, *places, bins_there, pbc_there)
        by_bin = xp.argsort(index * n + xp.arange(n))  # no two keys are equal: one order
        bin_ptr = xp.searchsorted(index[by_bin], xp.arange(int(np.prod(bins)) + 1))

        found = here, self._box, index, wraps, bin_ptr, by_bin, bins_there, around_there, pbc_there, reach
        counts, none = xp.empty(n, np.int64), xp.empty((0, 3), np.int32)
        pairs_cuda(counts, none[:, 0].copy(), none, counts, *found, False)
        self._ptr, count = _starts(counts)
        self._pairs, self._shifts = xp.empty(count, np.int32), xp.empty((count, 3), np.int32)
        pairs_cuda(counts, self._pairs, self._shifts, self._ptr, *found, True)
        self.builds += 1
        return here

    def _edges(self, here) -> Batch:
        xp, n = array_module("cuda"), len(here)
        counts, least = xp.empty(n, np.int64), xp.empty(n)
        pairs = here, self._box, self._ptr, self._pairs, self._shifts, self.cutoff
        nothing = xp.empty((0, 3)), *(xp.empty(0, np.int64) for _ in range(2)), xp.empty((0, 3), np.int32)
        edges_cuda(counts, least, *nothing, counts, *pairs, False)
        if n and float(least.min()) < 1e-12:
            raise UserError(
                "structure: positions: expected atoms apart from each other, found two at the same place"
            )
        ptr, E = _starts(counts)
        edge_vec, shifts = xp.empty((E, 3)), xp.empty((E, 3), np.int32)
        senders, receivers, reverse = (xp.empty(E, np.int64) for _ in range(3))
        edges_cuda(counts, least, edge_vec, senders, receivers, shifts, ptr, *pairs, True)
        reverse_cuda(reverse, senders, receivers, shifts, ptr)
        return Batch(
            order=self._order,
            frame=self._frame,
            species=self._species,
            species_ptr=self._species_ptr,
            atom_counts=self._atom_counts,
            volume=self._volume,
            edge_vec=edge_vec,
            senders=senders,
            receivers=receivers,
            receiver_ptr=ptr,
            sender_perm=reverse,
            sender_ptr=ptr,
            backend="cuda",
        )


def _spanned(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin and cell (Å) that hold all atoms; where not periodic, just as far as they reach."""
    full = complete_cell(np.where(np.asarray(pbc)[:, None], cell, 0.0))
    origin = np.zeros(3)
    if np.all(pbc) or not len(positions):
        return origin, full
    fractions = positions @ np.linalg.inv(full)
    for d in np.flatnonzero(~np.asarray(pbc)):
        low, high = fractions[:, d].min(), fractions[:, d].max()
        origin = origin + low * full[d]
        full[d] *= max(high - low, 1e-3) * (1 + 1e-9)
    return origin, full


def _starts(counts) -> tuple[np.ndarray, int]:
    """ptr[n + 1] of segments of these lengths, and how much they hold together."""
    xp = array_module("cuda")
    ptr = xp.concatenate([xp.zeros(1, np.int64), counts.cumsum()])
    return ptr, int(ptr[-1])
