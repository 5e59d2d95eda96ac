"""The force call: a potential's weights laid out for `eqpot.kernels.force_call`, and its buffers."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numba import get_num_threads

from eqpot.engines.layout import (
    dense_piece,
    graph_of,
    last_layers,
    message_rows,
    of_order_2,
    padded,
    product_rows,
)
from eqpot.engines.observables import Prediction, prediction
from eqpot.kernels.compile import announce
from eqpot.kernels.force_call import ATOMS, EDGES, Net, Second, Third, Work, force_call_cpu, walked_cpu
from eqpot.kernels.simd import aligned, lanes, whole
from eqpot.kernels.walks import Graph, Layout
from eqpot.network.isolated import lone_atoms
from eqpot.network.params import Params
from eqpot.structures.graph import Batch
from eqpot.threads import on_threads

if TYPE_CHECKING:
    from eqpot.engines.fitted import Fitted

# With less than this a second thread costs more than it brings.
EDGES_PER_THREAD, ATOMS_PER_THREAD = 60, 6


def takes(f: Fitted, *_: object) -> bool:
    """The compiled call knows one nonlinearity."""
    return f.backend == "cpu" and f.model.config.nonlinearity == "gate"


def predict(f: Fitted, batch: Batch, forces: bool, stress: bool) -> Prediction:
    """Energies, and forces and stress where asked for."""
    compiled = f.engine(ForceCall)
    if f.params.flat.flags.writeable and not compiled.holds(f.params, f.scale):
        compiled = f.engine(ForceCall, anew=True)
    x, found, d = compiled.compute(batch, forces, by_edge=stress)
    return prediction(f, batch, x, None if found is None else found.copy(), d)


class ForceCall:
    """Energies of atoms, and dE / d edge_vec, by compiled code that keeps its buffers between calls.

    It holds a copy of the weights.
    """

    def __init__(self, f: Fitted):
        model, params, scale = f.model, f.params, f.scale
        self.model = model
        self.dtype = params.flat.dtype
        self._weights, self._scale = params.flat.copy(), scale.copy()
        self._lanes = lanes(self.dtype)
        self._net, self._layout = self._pack(params, scale)
        self._radial2, self._radial3, self._second, self._third = None, None, None, None
        if not model.config.of_papers:
            self._radial2 = last_layers(model, params, self._channels, self._lanes, 5, 2)
        if model.config.filter_order == 3:
            self._radial3 = last_layers(model, params, self._channels, self._lanes, 7, 1)
        self._work: Work | None = None
        self._room = (0, 0, 0, 0)
        self._places: np.ndarray | None = None  # of edges in the order of a walk
        announce(force_call_cpu)
        self._alone: np.ndarray | None = None  # x [Z] of lone atoms, where the others are less that
        if model.config.isolated_atoms:
            self._alone = self.compute(lone_atoms(model.n_species), forces=False)[0].copy()

    def holds(self, params: Params, scale: np.ndarray) -> bool:
        """Whether these are the numbers that it was made from."""
        return np.array_equal(self._weights, params.flat) and np.array_equal(self._scale, scale)

    def compute(
        self, batch: Batch, forces: bool = True, by_edge: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """x [n], energies less shifts in units of the species' scale; forces [n, 3] and dE/d edge_vec [E, 3]
        (eV/Å) where they are wanted, the latter with forces only.

        They may be views of buffers that the next call overwrites.
        """
        n, E, K = len(batch.species), batch.edge_count, self.model.config.blocks
        graph = graph_of(batch, np.array([0, n]))
        if batch.walk is not None:
            back = np.empty(n, np.int64)
            back[batch.walk] = np.arange(n)
            graph = self._walked(graph, batch.walk, back)
        graph = in_parts(graph, n)
        work = self._buffers(n, E, len(graph.parts) - 1)
        self._run(graph, work, 0, 2 + 2 * K if forces else 1 + K)
        found = [work.energies[:n], work.forces[:n] if forces else None]
        d = work.dedge_vec[:E] if forces and by_edge else None
        if batch.walk is not None:
            found = [None if a is None else a[back] for a in found]
            d = None if d is None else d[self._places[:E]]
        if self._alone is not None:
            found[0] = found[0] - self._alone[batch.species]
        return *found, d

    def _run(self, graph: Graph, work: Work, start: int, stop: int) -> None:
        """Stages start to stop - 1, each part of the graph's atoms on a thread of its own."""
        parts = len(graph.parts) - 1
        with on_threads(None if parts == get_num_threads() else parts):
            force_call_cpu(self._net, self._layout, graph, work, self._second, self._third, start, stop)

    def _walked(self, old: Graph, walk: np.ndarray, back: np.ndarray) -> Graph:
        """The graph with its atoms in the order of a walk, whose inverse is `back`."""
        E = len(old.senders)
        if self._places is None or len(self._places) < E:
            room = E + E // 16
            self._places, self._senders, self._perm = (np.empty(room, np.int64) for _ in range(3))
            self._edge_vec = np.empty((room, 3))
        new = old._replace(
            senders=self._senders[:E],
            edge_vec=self._edge_vec[:E],
            sender_perm=self._perm[:E],
            receiver_ptr=_starts(old.receiver_ptr, walk),
            sender_ptr=_starts(old.sender_ptr, walk),
        )
        walked_cpu(new, self._places, old, walk, back)
        return new

    def _buffers(self, n: int, E: int, threads: int, rows: int = 0) -> Work:
        """rows: of u and dm, where more atoms than the n are read, as among ranks."""
        wanted = n, E, threads, max(n, rows)
        if self._work is None or any(new > old for new, old in zip(wanted, self._room, strict=True)):
            # Numbers of edges vary from step to step, those of a rank's atoms as well: some room to spare.
            spare = n // 16 if rows else 0
            wanted = (n + spare, E + E // 16 + 64, threads, max(n, rows + rows // 16))
            n, E, threads, rows = (max(pair) for pair in zip(wanted, self._room, strict=True))
            K, C = self.model.config.blocks, self._channels
            H, R = self._net.radial.shape[2], self._net.readout.size

            def take(*shape, dtype=self.dtype):
                return aligned(shape, dtype)

            self._work = self._second = self._third = None
            M = self._rows
            self._work = Work(
                r=take(E),
                unit=take(E, 3),
                h=take(K, E, 2, H),
                u=take(K, rows, 4, C),
                p=take(K, n, 5, C),
                x=take(n, 4, C),
                dm=take(2, rows, M, C),
                dy=take(E, 4),
                rows=take(threads, ATOMS, M, C),
                sweep=take(threads, 7, max(3, *self._net.widths), EDGES),
                readout=take(threads, 2, ATOMS, 1, R),
                energies=take(n),
                dedge_vec=take(E, 3, dtype=np.float64),
                forces=take(n, 3, dtype=np.float64),
            )
            self._room = (n, E, threads, rows)
            if not self.model.config.of_papers:
                self._second = self._with_second(n, threads)
            if self._radial3 is not None:
                self._third = Third(self._radial3, aligned((E, 7), self.dtype))
        return self._work

    def _with_second(self, n: int, threads: int) -> Second:
        """Weights and buffers of filters of order 2 and of products on atoms."""
        config, dtype = self.model.config, self.dtype
        K, D = config.blocks, whole(self.model.product_width, self._lanes)
        with_v, with_t, with_o = config.l_max == 1, config.filter_order >= 2, config.filter_order == 3
        factors, products = product_rows(self.model, D)
        return Second(
            filters=of_order_2(self.model),
            products=config.node_products,
            radial=self._radial2,
            vectors=2 * D * with_v,
            tensors=2 * D * with_t,
            thirds=2 * D * with_o,
            a=aligned((K, n, *factors), dtype),
            b=aligned((threads, ATOMS, *products), dtype),
            da=aligned((threads, ATOMS, *factors), dtype),
        )

    # ---- weights

    @cached_property
    def _channels(self) -> int:
        """Features, rounded up to whole vectors."""
        return whole(self.model.config.features, self._lanes)

    @property
    def _rows(self) -> int:
        """Of an atom's messages."""
        return message_rows(self.model)

    def _pack(self, params: Params, scale: np.ndarray) -> tuple[Net, Layout]:
        model, config, dtype = self.model, self.model.config, self.dtype
        C, K, L = self._channels, config.blocks, self._lanes
        depth, W = config.radial_depth, config.radial_width
        width = max(config.basis_size, W)
        hidden = np.zeros((K, depth, width, width), dtype)
        for d, matrix in enumerate(model.radial):
            for k in range(K):
                weights = dense_piece(params, matrix, 0 if d == 0 else k)
                weights = weights[:, k * W : (k + 1) * W] if d == 0 else weights
                hidden[k, d, : weights.shape[1], : weights.shape[0]] = weights.T
        embedding = np.zeros((model.n_species, C), dtype)
        embedding[:, : config.features] = params["embedding"]
        output = dense_piece(params, model.output[1])[:, 0]
        readout = np.zeros(whole(len(output), L), dtype)
        readout[: len(output)] = output
        layout, weights, turned = padded(model, params, L)
        net = Net(
            cutoff=config.cutoff,
            envelope_p=config.envelope_p,
            frequencies=params["frequencies"].copy(),
            hidden=hidden,
            widths=np.array([config.basis_size] + [W] * depth),
            radial=last_layers(model, params, C, L),
            weights=weights,
            turned=turned,
            embedding=embedding,
            readout=readout,
            species_scale=scale.astype(dtype),
        )
        return net, layout


def in_parts(graph: Graph, n: int) -> Graph:
    """The graph's first n atoms, given as one part, in one for each thread that pays, of as many edges."""
    E = len(graph.senders)
    threads = min(get_num_threads(), E // EDGES_PER_THREAD, n // ATOMS_PER_THREAD)
    if threads <= 1:
        return graph
    inside = np.searchsorted(graph.receiver_ptr, [E * t // threads for t in range(1, threads)])
    return graph._replace(parts=np.array([0, *inside, n]))


def _starts(ptr: np.ndarray, order: np.ndarray) -> np.ndarray:
    """ptr of the segments ptr[k] : ptr[k + 1] in another order."""
    return np.concatenate([[0], np.cumsum(np.diff(ptr)[order])])
