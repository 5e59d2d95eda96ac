"""Where the weights of a model lie for the compiled walks of `eqpot.kernels.walks`.

Features are padded to C channels, whole vectors: column q of stretches of F features becomes column (q // F)
C + q % F. Training takes the matrices where they are among the flat weights, and leaves out columns that are
no features; evaluation takes copies, padded with zeros and with all factors in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from eqpot.kernels.products import PATH_FACTORS
from eqpot.kernels.simd import aligned
from eqpot.kernels.walks import BACK, KEEP, OUT, SELF, Flat, Graph, Layout
from eqpot.network.model import Dense, Model
from eqpot.network.params import Params
from eqpot.structures.graph import Batch

TILE = 32  # rows of a matrix whose gradient is one task
# Rows of x and y, see `walks`: for matrices of vectors, one for each component.
ROWS = {
    SELF + 1: [(1, 1), (2, 2), (3, 3)],
    OUT + 1: [(2, 2), (5, 3), (8, 4)],
    KEEP + 1: [(1, 2), (2, 3), (3, 4)],
}


def graph_of(batch: Batch, parts: np.ndarray) -> Graph:
    """The batch as the walks take it; parts[.]: where each part of its atoms begins, and the end."""
    return Graph(
        *(batch.species, batch.species_ptr, batch.senders, batch.receiver_ptr, batch.edge_vec),
        *(batch.sender_perm, batch.sender_ptr, parts),
    )


@dataclass(frozen=True)
class Place:
    """A matrix in the network: role in a block, or of the readout, and the row of y that it starts in."""

    block: int
    role: int
    matrix: Dense
    y_row: int


def places(model: Model) -> Iterator[Place]:
    """All matrices between the edges, in order."""
    for k, b in enumerate(model.blocks):
        scalars = 0 if b.gates else 1  # a block without gates leaves their row empty
        for role, matrix, y_row in (
            (SELF, b.self_in_s, 0),
            (SELF + 1, b.self_in_v, 0),
            (OUT, b.self_out_s, scalars),
            (OUT + 1, b.self_out_v, 0),
            (KEEP, b.self_connection_s, scalars),
            (KEEP + 1, b.self_connection_v, 0),
        ):
            if matrix is not None:
                yield Place(k, role, matrix, y_row)
    yield Place(len(model.blocks), SELF, model.output[0], 0)


@dataclass
class _Pieces:
    """Collects those of a layout."""

    model: Model
    dtype: np.dtype
    rows: list[tuple[int, ...]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.matrices = np.zeros((len(self.model.blocks) + 1, 2 * BACK, 2), np.int64)

    def add(self, block: int, role: int, pieces: Iterable[tuple[int, ...]], factors: Iterable[float]) -> None:
        """The pieces of one matrix."""
        first = len(self.rows)
        self.rows += pieces
        self.factors += factors
        self.matrices[block, role] = first, len(self.rows)

    def layout(self) -> Layout:
        model, rows = self.model, np.zeros((2 * BACK, 3, 2), np.int64)
        for role, of_x_and_y in ROWS.items():
            rows[role] = of_x_and_y
        rows[BACK:] = rows[:BACK, :, ::-1]
        residual = model.config.self_connection == "residual"
        with_v = [*(b.self_in_v is not None for b in model.blocks), False]
        return Layout(
            pieces=np.array(self.rows, np.int64),
            factors=np.array(self.factors, self.dtype),
            matrices=self.matrices,
            rows=rows,
            with_v=np.array(with_v),
            n_even=np.array([b.n_even for b in model.blocks]),
            residual=np.array([b.residual if residual else 0 for b in model.blocks]),
            scalar=None if all(before or after for before, after in pairwise(with_v)) else 1,
        )


# ------------------------------------------------------------ among the flat weights


def in_place(
    model: Model, starts: dict[str, int], channels: int, dtype: np.dtype
) -> tuple[Layout, Flat, int]:
    """For training: matrices in the flat weights, where each array begins at `starts`; also how many numbers
    their transposes have."""
    pieces, turns, tiles, turned = _Pieces(model, dtype), [], [], 0
    for place in places(model):
        matrix, start = place.matrix, starts[place.matrix.name]
        groups, step = (model.n_species, matrix.size) if matrix.per_species else (1, 0)
        rows, back, factors, to = [], [], [], turned
        for x, k, y, m, offset, length, factor in _cut(place, model.config.features, channels):
            number = len(pieces.rows) + len(rows)
            for z in range(groups):
                tiles += [
                    (place.block, place.role, number, z, row, min(TILE, k - row)) for row in range(0, k, TILE)
                ]
                turns.append((start + offset + z * step, length, k, m, to + z * step))
            rows.append((x, k, y, m, start + offset, length, step))
            back.append((y, m, x, k, to, k, step))
            factors.append(factor)
            to += k * m
        pieces.add(place.block, place.role, rows, factors)
        pieces.add(place.block, BACK + place.role, back, factors)
        turned += groups * matrix.size
    last = [b.radial for b in model.blocks]
    radial = [[starts[m.name], m.columns, *b.paths[:, 0]] for m, b in zip(last, model.blocks, strict=True)]
    flat = Flat(
        turns=np.array(turns, np.int64),
        tiles=np.array(tiles, np.int64),
        radial=np.array(radial, np.int64),
        radial_factors=np.array([m.scales[0] * PATH_FACTORS for m in last], dtype),
        radial_columns=np.array([(int(m.pieces[0, 0]), int(m.pieces[0, :2].sum())) for m in last]),
        features=model.config.features,
        embedding=starts["embedding"],
        readout=starts[model.output[1].name],
        readout_factor=dtype.type(model.output[1].scales[0]),
    )
    return pieces.layout(), flat, turned


def _cut(place: Place, F: int, C: int) -> Iterator[tuple]:
    """(x column, k, y column, m, offset, row length, factor) of pieces; a piece keeps to one row of channels
    where those are padded."""
    for (x, k, y, m, offset), factor in zip(place.matrix.pieces.tolist(), place.matrix.scales, strict=True):
        for a, rows in _runs(x, k, F, C):
            for b, columns in _runs(y, m, F, C):
                at = offset + (a - x) * m + b - y
                yield a // F * C + a % F, rows, (b // F + place.y_row) * C + b % F, columns, at, m, factor


def _runs(start: int, length: int, features: int, channels: int) -> Iterator[tuple[int, int]]:
    """Stretches of columns that stay side by side when every run of features is padded to `channels`."""
    end = start + length
    if features == channels:
        yield start, length
        return
    while start < end:
        stop = min(end, (start // features + 1) * features)
        yield start, stop - start
        start = stop


# ------------------------------------------------------------ copies


def padded(model: Model, params: Params, channels: int, lanes: int) -> tuple[Layout, np.ndarray, np.ndarray]:
    """For evaluation: also the matrices' weights, and those of their transposes."""
    F, C, dtype = model.config.features, channels, params.flat.dtype
    pieces, copies, at = _Pieces(model, dtype), [], 0
    for place in places(model):
        matrix = place.matrix
        full = [_whole(place, weights, F, C) for weights in params[matrix.name]]
        height, width = full[0].shape
        step = full[0].size if matrix.per_species else 0
        forward, back = [], []
        for x, k, y, m in _tiles(place, full[0].shape, F, C, lanes):
            forward.append((x, k, y, m, at + x * width + y, width, step))
            back.append((y, m, x, k, at + y * height + x, height, step))
        pieces.add(place.block, place.role, forward, [1.0] * len(forward))
        pieces.add(place.block, BACK + place.role, back, [1.0] * len(back))
        copies += full
        at += len(full) * full[0].size
    weights, turned = aligned((at,), dtype), aligned((at,), dtype)
    np.concatenate([a.ravel() for a in copies], out=weights)
    np.concatenate([a.T.ravel() for a in copies], out=turned)
    return pieces.layout(), weights, turned


def _whole(place: Place, weights: np.ndarray, F: int, C: int) -> np.ndarray:
    """The matrix among all padded columns of x, and of y from its first row on, zeros where it has none."""
    pieces, inputs = place.matrix.pieces, max(x + k for x, k, *_ in place.matrix.pieces)
    full = np.zeros((C * -(-inputs // F), C * (place.y_row + -(-place.matrix.columns // F))), weights.dtype)
    for (x, k, y, m, offset), scale in zip(pieces, place.matrix.scales, strict=True):
        rows, columns = _spread(x + np.arange(k), F, C), _spread(y + np.arange(m), F, C) + place.y_row * C
        full[np.ix_(rows, columns)] = scale * weights[offset : offset + k * m].reshape(k, m)
    return full


def _spread(columns: np.ndarray, F: int, C: int) -> np.ndarray:
    return columns // F * C + columns % F


def _tiles(place: Place, shape: tuple[int, int], F: int, C: int, lanes: int) -> list[tuple[int, ...]]:
    """(x column, k, y column, m) of what is not zero, or all of it where that is no whole vectors."""
    pieces = place.matrix.pieces[:, :4].copy()
    if C != F or np.any(pieces % lanes):
        return [(0, shape[0], 0, shape[1])]
    pieces[:, 2] += place.y_row * C
    return [tuple(piece) for piece in pieces.tolist()]


def last_layers(model: Model, params: Params, channels: int, lanes: int) -> np.ndarray:
    """Of the radial networks, [K, C / lanes, H, 5 lanes], with the constants of the paths."""
    F, C, L = model.config.features, channels, lanes
    height = int(model.blocks[0].radial.pieces[0, 1])
    found = aligned((len(model.blocks), C // L, height, 5 * L), params.flat.dtype)
    for k, b in enumerate(model.blocks):
        weights = dense_piece(params, b.radial)
        for p, (slot, _) in enumerate(b.paths):
            if slot >= 0:
                part = np.zeros((height, C), params.flat.dtype)
                part[:, :F] = PATH_FACTORS[p] * weights[:, slot * F : (slot + 1) * F]
                found[k, :, :, p * L : (p + 1) * L] = part.reshape(height, -1, L).swapaxes(0, 1)
    return found


def dense_piece(params: Params, matrix: Dense, piece: int = 0) -> np.ndarray:
    """One piece [k, m] of a matrix, with its factor."""
    (_, rows, _, columns, at), factor = matrix.pieces[piece], matrix.scales[piece]
    return factor * params[matrix.name][0, at : at + rows * columns].reshape(rows, columns)
