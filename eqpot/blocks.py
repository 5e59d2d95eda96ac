"""The interaction blocks and the readout as one operator on the tape: layout of the weights, and memory.

See `eqpot.kernels.blocks` for the walks.
"""

import numpy as np

from eqpot.graph import Batch
from eqpot.kernels.blocks import (
    BACK,
    KEEP,
    OUT,
    SELF,
    TD,
    D,
    Layout,
    Memory,
    T,
    V,
    blocks_walk_cpu,
)
from eqpot.kernels.compile import announce
from eqpot.kernels.products import PATH_FACTORS
from eqpot.kernels.simd import lanes, whole
from eqpot.kernels.walks import Graph
from eqpot.model import Dense, Model
from eqpot.ops import Operator
from eqpot.pool import Pool

ATOMS_PER_PART = 12
PARTS = 32  # at most
EDGES_PER_ATOM = 12  # an atom's matrices take the time of about so many edges
TILE = 32  # rows of a matrix whose gradient is one task


class Blocks:
    """energies[n, 1] from unit[E, 3], h[E, .] and the flat weights[1, S], for `Tape.run`.

    The weights must not move: their tangent is None. Tangents must be those of positions, the same for an
    edge and its reverse but for the sign of `unit`'s. Each tape takes its own memory from the pool; an
    instance serves one tape at a time.
    """

    def __init__(self, model: Model, starts: dict[str, int], pool: Pool):
        """`starts` tells where each parameter array begins in the flat weights."""
        self.model, self.pool, self.dtype = model, pool, pool.dtype
        self.lanes = lanes(pool.dtype)
        self.channels = whole(model.config.features, self.lanes)
        self.layout, self._turned = _Matrices(model, starts, self.channels, self.dtype).layout()
        self.memory: Memory | None = None
        self.graph: Graph | None = None
        self.operator = Operator("blocks", self.fwd, self.bwd, self.fwd_tan, self.bwd_tan)
        announce(blocks_walk_cpu, "about two minutes")
        self._no_gradient = np.empty((1, 0), pool.dtype)

    @staticmethod
    def supports(model: Model) -> bool:
        """Whether the compiled walks know the model's nonlinearity."""
        return model.config.nonlinearity == "gate"

    def fwd(self, energies, unit, h, weights, batch: Batch) -> None:
        self.memory, self.graph = self._memory(batch), graph_in_parts(batch)
        self._walk(V, energies, unit, h, weights)

    def bwd(self, dunit, dh, dweights, denergies, unit, h, weights, batch: Batch) -> None:
        if dweights is not None:
            raise NotImplementedError("the weights' gradient comes with its tangent, from bwd_tan")
        self._walk(D, denergies, dunit, dh, weights)

    def fwd_tan(self, tenergies, tunit, th, tweights, unit, h, weights, batch: Batch) -> None:
        if tweights is not None:
            raise NotImplementedError("the weights of the blocks cannot move")
        self._walk(T, tenergies, tunit, th, weights)

    def bwd_tan(self, tdunit, tdh, tdweights, tdenergies, *rest) -> None:
        tunit, th, tweights, denergies, unit, h, weights, batch = rest
        if tdunit is not None:
            raise NotImplementedError("the blocks have no second derivative by the directions")
        if tdweights is None:
            raise NotImplementedError("the blocks' fourth walk is for the gradient of the weights")
        self._walk(TD, tdenergies, unit, tdh, weights, tdweights)

    def _walk(self, slot: int, energies, unit, h, weights, gradient=None) -> None:
        gradient = self._no_gradient if gradient is None else gradient
        rest = (self.layout, self.graph, self.memory)
        blocks_walk_cpu(slot, energies, unit, h, gradient[0], weights[0], *rest)

    def _memory(self, batch: Batch) -> Memory:
        n, E, K, C = len(batch.species), batch.edge_count, self.model.config.blocks, self.channels
        H = int(np.diff(self.layout.radial_columns).max())
        R = whole(self.layout.features // 2, self.lanes)
        parts, packed = n_parts(n), (K, C // self.lanes, H, 5 * self.lanes)
        take = self.pool.take
        return Memory(
            h=take((K, E, 2, H)),
            dh=take((K, E, 2, H)),
            unit=take((2, E, 3)),
            x=take((4, K + 1, n, 4, C)),
            u=take((4, K, n, 4, C)),
            m=take((4, K, n, 11, C)),
            p=take((4, K, n, 5, C)),
            y=take((4, n, 1, R)),
            energies=take((4, n)),
            W=take(packed),
            tdW=take((parts, *packed)),
            turned=take((self._turned,)),
            held=take((parts, 4 + H, C)),
        )


def n_parts(n: int) -> int:
    """How many parts the atoms of a batch are cut into; threads share them."""
    return max(1, min(PARTS, n // ATOMS_PER_PART))


def graph_in_parts(batch: Batch) -> Graph:
    """The batch as the kernels take it, its atoms in parts of about as much work."""
    n, parts = len(batch.species), n_parts(len(batch.species))
    work = batch.receiver_ptr + EDGES_PER_ATOM * np.arange(n + 1)
    cuts = np.searchsorted(work, [work[-1] * t // parts for t in range(1, parts)])
    return Graph(
        *(batch.species, batch.species_ptr, batch.senders, batch.receiver_ptr, batch.edge_vec),
        *(batch.sender_perm, batch.sender_ptr, np.array([0, *cuts, n])),
    )


class _Matrices:
    """Collects the layout, matrix by matrix."""

    def __init__(self, model: Model, starts: dict[str, int], channels: int, dtype: np.dtype):
        self.model, self.starts, self.channels, self.dtype = model, starts, channels, dtype
        self.pieces: list[tuple[int, ...]] = []
        self.factors: list[float] = []
        self.turns: list[tuple[int, ...]] = []
        self.tiles: list[tuple[int, ...]] = []
        self.turned = 0
        self.matrices = np.zeros((model.config.blocks + 1, 2 * BACK, 2), np.int64)

    def layout(self) -> tuple[Layout, int]:
        """The layout, and how many numbers the transposed matrices have."""
        model, config, K = self.model, self.model.config, self.model.config.blocks
        for k, b in enumerate(model.blocks):
            scalars = 0 if b.gates else 1  # a block without gates leaves their row empty
            self._add(k, SELF, b.self_in_s)
            self._add(k, SELF + 1, b.self_in_v)
            self._add(k, OUT, b.self_out_s, scalars)
            self._add(k, OUT + 1, b.self_out_v)
            self._add(k, KEEP, b.self_connection_s, scalars)
            self._add(k, KEEP + 1, b.self_connection_v)
        self._add(K, SELF, model.output[0])
        rows = np.zeros((2 * BACK, 3, 2), np.int64)  # of x and y; scalars are in the first
        rows[SELF + 1] = [(1, 1), (2, 2), (3, 3)]
        rows[OUT + 1] = [(2, 2), (5, 3), (8, 4)]
        rows[KEEP + 1] = [(1, 2), (2, 3), (3, 4)]
        rows[BACK:] = rows[:BACK, :, ::-1]
        radial = [[self.starts[b.radial.name], b.radial.columns, *b.paths[:, 0]] for b in model.blocks]
        columns = [(int(b.radial.blocks[0, 0]), int(b.radial.blocks[0, :2].sum())) for b in model.blocks]
        residual = config.self_connection == "residual"
        layout = Layout(
            pieces=np.array(self.pieces, np.int64),
            factors=np.array(self.factors, self.dtype),
            matrices=self.matrices,
            rows=rows,
            turns=np.array(self.turns, np.int64),
            tiles=np.array(self.tiles, np.int64),
            with_v=np.array([*(b.self_in_v is not None for b in model.blocks), False]),
            n_even=np.array([b.n_even for b in model.blocks]),
            residual=np.array([b.residual if residual else 0 for b in model.blocks]),
            radial=np.array(radial, np.int64),
            radial_factors=np.array([b.radial.scales[0] * PATH_FACTORS for b in model.blocks], self.dtype),
            radial_columns=np.array(columns, np.int64),
            features=config.features,
            embedding=self.starts["embedding"],
            readout=self.starts[model.output[1].name],
            readout_factor=self.dtype.type(model.output[1].scales[0]),
        )
        return layout, self.turned

    def _add(self, k: int, role: int, matrix: Dense | None, y_row: int = 0) -> None:
        """Columns of y start in its row y_row; channels beyond the features have no weights."""
        if matrix is None:
            return
        start, groups = self.starts[matrix.name], self.model.n_species if matrix.per_species else 1
        step = matrix.size if matrix.per_species else 0
        blocks = list(self._cut(matrix, y_row))
        first = len(self.pieces)
        for x, k_in, y, m, offset, length, factor in blocks:
            for z in range(groups):
                for row in range(0, k_in, TILE):
                    self.tiles.append((k, role, len(self.pieces), z, row, min(TILE, k_in - row)))
            self.pieces.append((x, k_in, y, m, start + offset, length, step))
            self.factors.append(factor)
        self.matrices[k, role] = first, len(self.pieces)
        first, to = len(self.pieces), self.turned
        for x, k_in, y, m, offset, length, factor in blocks:
            for z in range(groups):
                self.turns.append((start + offset + z * step, length, k_in, m, to + z * step))
            self.pieces.append((y, m, x, k_in, to, k_in, step))
            self.factors.append(factor)
            to += k_in * m
        self.matrices[k, BACK + role] = first, len(self.pieces)
        self.turned += groups * matrix.size

    def _cut(self, matrix: Dense, y_row: int):
        """(x column, k, y column, m, offset, row length, factor) of pieces; a piece keeps to one row of
        channels where those are padded."""
        F, C = self.model.config.features, self.channels
        for (x, k, y, m, offset), factor in zip(matrix.blocks, matrix.scales, strict=True):
            for a, rows in _runs(int(x), int(k), F, C):
                for b, columns in _runs(int(y), int(m), F, C):
                    at = int(offset) + (a - int(x)) * int(m) + b - int(y)
                    yield (
                        a // F * C + a % F,
                        rows,
                        (b // F + y_row) * C + b % F,
                        columns,
                        at,
                        int(m),
                        factor,
                    )


def _runs(start: int, length: int, features: int, channels: int):
    """Stretches of columns that stay side by side when every run of features is padded to `channels`."""
    end = start + length
    if features == channels:
        yield start, length
        return
    while start < end:
        stop = min(end, (start // features + 1) * features)
        yield start, stop - start
        start = stop
