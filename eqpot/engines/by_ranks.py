"""A force call whose atoms are shared among processes (ranks): each computes its own atoms and hears of the
others, block by block, what crosses the border.

A rank has rows for its own atoms, by species, then for copies of others' atoms (ghosts), and knows all edges
(i <- j) into its own atoms i, from senders j of either kind, no others. Images of an atom may share a row.
With E the energy of all ranks' atoms, M_i = dE/dm_i and the notation of `eqpot.kernels.walks`, per block

    forward   m_i = sum over edges (i <- j) of message(w, u_j, Y)             needs u_j of ghosts
    back      du_i = sum over edges (i <- j) of to_sender(w, M_j, -Y)         needs M_j of ghosts
              q = to_weights(u_j, M_i, Y),  dE/dY = to_unit(w, u_j, M_i)      needs u_j, its own M_i

since u_i reaches others by the reverses of the edges into i, which have the same r and the opposite Y. So no
rank needs an edge into a ghost, nor anything that a ghost's other neighbours do, and dE/d edge_vec of its
edges is complete as it is: a term of an edge lies at its receiver alone. All that is said between ranks is

    u of block k, 0 < k < K, after stage k; of block 0 it follows from the species
    M of block k, K > k > 0, after stage 2 K - 1 - k; of block 0 nobody asks for the embedding's gradient

2 (K - 1) exchanges, each a copy of rows from owners to ghosts: 4 C numbers of u, 11 C of M, 2 C of the last
block's, which gives scalars alone. Summing what ghosts gather in du back to their owners would be 4 C each
time: more for K = 2 (8 C in all, not 6 C), less for K = 4 (24 C, not 36 C) and K = 6 (40 C, not 66 C), and
needs a second kind of walk over the edges.

Forces: F_i = sum over edges into i of d - sum over edges out of i of d, d = dE/d edge_vec (`kernels.forces`).
Edges out of i into others' atoms are known to these, which hand their share to i's owner. The virial of atom
i is summed over the edges into i.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from eqpot.engines.fitted import Fitted
from eqpot.engines.force_call import ForceCall, in_parts
from eqpot.kernels.walks import Graph
from eqpot.network.isolated import lone_atoms

NONE = np.empty(0, np.int64)
Steps = Generator[np.ndarray, None, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Share:
    """Atoms of one rank: n of its own, by species, then ghosts; edges into its own, by receiver."""

    species: np.ndarray  # [n + ghosts]
    species_ptr: np.ndarray  # [Z + 1], of its own
    senders: np.ndarray  # [E]
    receiver_ptr: np.ndarray  # [n + ghosts + 1]: E from n on
    edge_vec: np.ndarray  # float64 [E, 3], Å
    backend: str = "cpu"

    @property
    def own(self) -> int:
        return int(self.species_ptr[-1])

    @property
    def edge_count(self) -> int:
        return len(self.senders)


def steps(f: Fitted, share: Share) -> Steps:
    """Energies [n] (eV) and dE/d edge_vec [E, 3] (eV/Å) of a rank's atoms and edges.

    Yields arrays [n + ghosts, numbers], 2 (K - 1) of them on every rank: before it goes on, each row of a
    ghost must hold what its owner has in that atom's. What is returned holds until the next call.
    """
    x, d = yield from f.engine(SharedCall).steps(share)
    species = share.species[: share.own]
    energies = f.scale[species] * x + f.shift[species]
    if f.zbl is not None:
        pairs, _, zbl_d = f.zbl.repulsion(share)
        energies, d = energies + pairs[: share.own], d + zbl_d
    return energies, d


class SharedCall(ForceCall):
    """The compiled force call, which stops where ranks must exchange."""

    def __init__(self, f: Fitted):
        super().__init__(f)
        species = f.model.n_species
        self.compute(lone_atoms(species), forces=False)
        self._first = self._work.u[0, :species].copy()  # u of block 0, by species

    def steps(self, share: Share) -> Steps:
        """As the function of this name, but the network's numbers x [n] in the place of energies."""
        n, rows, K = share.own, len(share.species), self.model.config.blocks
        edges = share.senders, share.receiver_ptr, share.edge_vec, NONE, NONE
        graph = in_parts(Graph(share.species, share.species_ptr, *edges, np.array([0, n])), n)
        work = self._buffers(n, share.edge_count, len(graph.parts) - 1, rows)
        self._run(graph, work, 0, 1)
        work.u[0, n:rows] = self._first[share.species[n:]]
        for stage in range(1, 2 * K + 1):
            self._run(graph, work, stage, stage + 1)
            k = stage if stage < K else 2 * K - 1 - stage
            if k > 0:
                of_atoms = work.u[k] if stage < K else work.dm[k % 2]
                numbers = self.width(k, stage >= K) // self.dtype.itemsize
                yield of_atoms.reshape(len(of_atoms), -1)[:rows, :numbers]
        x = work.energies[:n]
        if self._alone is not None:
            x = x - self._alone[share.species[:n]]
        return x, work.dedge_vec[: share.edge_count]

    def width(self, k: int, back: bool) -> int:
        """Bytes of a row of u of block k, or of M, that neighbours read: the leading ones."""
        with_v, want_v = self._layout.with_v[k], self._layout.want_v[k]
        if not back:
            rows = 4 if with_v else 1
        elif want_v:
            rows = self._rows
        else:
            rows = 2 if with_v else 1
        return rows * self._channels * self.dtype.itemsize
