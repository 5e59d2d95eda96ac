"""Where the weights of a model lie for the compiled walks of `eqpot.kernels.walks`.

Features are padded to C channels, whole vectors: column q of stretches of F features becomes column (q // F)
C + q % F; so are the channels of products on atoms. Training takes the matrices where they are among the flat
weights, and leaves out columns that are no features; evaluation takes copies, padded with zeros and with all
factors in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from eqpot.kernels.products import PATH_FACTORS
from eqpot.kernels.simd import aligned, lanes, whole
from eqpot.kernels.walks import (
    BACK,
    FACTORS,
    FACTORS_O,
    FACTORS_T,
    KEEP,
    OUT,
    SELF,
    TAKE,
    Flat,
    Graph,
    Layout,
)
from eqpot.kernels.walks2 import ROWS, SECOND
from eqpot.kernels.walks3 import FACTOR, ROWS3, THIRD
from eqpot.network.labels import Dense
from eqpot.network.model import Block, Model
from eqpot.network.params import Params
from eqpot.structures.graph import Batch

TILE = 32  # rows of a matrix whose gradient is one task


def rows_of(step: int) -> dict[int, list[tuple[int, int]]]:
    """Rows of x and y by role, one for each component, see `walks` and `walks2`; (0, 0) where it is not here.
    step: paths into vectors."""
    return {
        SELF + 1: [(1, 1), (2, 2), (3, 3)],
        OUT + 1: [(2 + step * d, 2 + d) for d in range(3)],
        KEEP + 1: [(1, 2), (2, 3), (3, 4)],
        FACTORS + 1: [(2 + step * d, 1 + d) for d in range(3)],
        FACTORS_T: [(SECOND + d, 4 + d) for d in range(5)],
        FACTORS_O: [(THIRD + d, FACTOR + d) for d in range(7)],
        TAKE + 1: [(1, 2), (2, 3), (3, 4)],
    }


def graph_of(batch: Batch, parts: np.ndarray) -> Graph:
    """The batch as the walks take it; parts[.]: where each part of its atoms begins, and the end."""
    return Graph(
        *(batch.species, batch.species_ptr, batch.senders, batch.receiver_ptr, batch.edge_vec),
        *(batch.sender_perm, batch.sender_ptr, parts),
    )


@dataclass(frozen=True)
class Place:
    """A matrix in the network: role in a block, or of the readout, the row of y that it starts in, and the
    length of the stretches of x and of y that are padded by themselves."""

    block: int
    role: int
    matrix: Dense
    y_row: int
    x_stretch: int
    y_stretch: int


def places(model: Model) -> Iterator[Place]:
    """All matrices between the edges, in order."""
    F, D = model.config.features, model.product_width
    for k, b in enumerate(model.blocks):
        scalars = 0 if b.gates else 1  # a block without gates leaves their row empty
        for role, matrix, y_row, *stretches in (
            (SELF, b.self_in_s, 0, F, F),
            (SELF + 1, b.self_in_v, 0, F, F),
            (OUT, b.self_out_s, scalars, F, F),
            (OUT + 1, b.self_out_v, 0, F, F),
            (KEEP, b.self_connection_s, scalars, F, F),
            (KEEP + 1, b.self_connection_v, 0, F, F),
            (FACTORS, b.project_s, 0, F, D),
            (FACTORS + 1, b.project_v, 0, F, D),
            (FACTORS_T, b.project_t, 0, F, D),
            (FACTORS_O, b.project_o, 0, F, D),
            (TAKE, b.products_s, scalars, D, F),
            (TAKE + 1, b.products_v, 0, D, F),
        ):
            if matrix is not None:
                yield Place(k, role, matrix, y_row, *stretches)
    yield Place(len(model.blocks), SELF, model.output[0], 0, F, F)


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
        model, rows = self.model, np.zeros((2 * BACK, 7, 2), np.int64)
        components = np.ones(2 * BACK, np.int64)
        for role, of_x_and_y in rows_of(3 if model.config.of_papers else 4).items():
            rows[role, : len(of_x_and_y)] = of_x_and_y
            components[role] = components[BACK + role] = len(of_x_and_y)
        rows[BACK:] = rows[:BACK, :, ::-1]
        residual = model.config.self_connection == "residual"
        with_v = [*(b.self_in_v is not None for b in model.blocks), False]
        want_v = [bool(b.paths[1, 0] >= 0) for b in model.blocks]
        return Layout(
            pieces=np.array(self.rows, np.int64),
            factors=np.array(self.factors, self.dtype),
            matrices=self.matrices,
            rows=rows,
            components=components,
            with_v=np.array(with_v),
            want_v=np.array(want_v),
            n_even=np.array([b.n_even for b in model.blocks]),
            residual=np.array([b.residual if residual else 0 for b in model.blocks]),
            scalar=None if all(map(any, zip(with_v[:-1], want_v, strict=True))) else 1,
        )


# ------------------------------------------------------------ among the flat weights


def in_place(model: Model, starts: dict[str, int], dtype: np.dtype) -> tuple[Layout, Flat, int]:
    """For training: matrices in the flat weights, where each array begins at `starts`; also how many numbers
    their transposes have."""
    pieces, turns, tiles, turned = _Pieces(model, dtype), [], [], 0
    for place in places(model):
        matrix, start = place.matrix, starts[place.matrix.name]
        groups, step = (model.n_species, matrix.size) if matrix.per_species else (1, 0)
        rows, back, factors, to = [], [], [], turned
        for x, k, y, m, offset, length, factor in _cut(place, lanes(dtype)):
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
    radial = [[starts[m.name], m.columns, *slots(b)] for m, b in zip(last, model.blocks, strict=True)]
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


def of_order_2(model: Model) -> np.ndarray:
    """[K]: whether a block has paths whose filter is of order 2."""
    return np.array([max(slots(b)[5:7]) >= 0 for b in model.blocks])


def message_rows(model: Model) -> int:
    """Rows of an atom's messages, see `walks`, `walks2` and `walks3`."""
    if model.config.of_papers:
        return 11
    return ROWS3 if model.config.filter_order == 3 else ROWS


def product_rows(model: Model, D: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the factors of products on atoms and of the products, D channels each."""
    if model.config.filter_order == 3:
        return (16, 2 * D), (4, 6 * D)
    return (9, 2 * D), (4, 4 * D)


def slots(b: Block) -> list[int]:
    """Of all paths in w, -1 for those that the block has not."""
    return [*b.paths[:, 0].tolist(), *[-1] * (len(PATH_FACTORS) - len(b.paths))]


def _cut(place: Place, L: int) -> Iterator[tuple]:
    """(x column, k, y column, m, offset, row length, factor) of pieces; a piece keeps to one stretch of
    channels where those are padded, to whole vectors of L."""
    of_x, of_y = ((stretch, whole(stretch, L)) for stretch in (place.x_stretch, place.y_stretch))
    y_start = place.y_row * of_y[1]
    for (x, k, y, m, offset), factor in zip(place.matrix.pieces.tolist(), place.matrix.scales, strict=True):
        for a, rows in _runs(x, k, *of_x):
            for b, columns in _runs(y, m, *of_y):
                at = offset + (a - x) * m + b - y
                yield _padded(a, *of_x), rows, y_start + _padded(b, *of_y), columns, at, m, factor


def _padded(columns, stretch: int, channels: int):
    """Where columns are when every stretch is padded to `channels`."""
    return columns // stretch * channels + columns % stretch


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


def padded(model: Model, params: Params, lanes: int) -> tuple[Layout, np.ndarray, np.ndarray]:
    """For evaluation: also the matrices' weights, and those of their transposes."""
    dtype = params.flat.dtype
    pieces, copies, at = _Pieces(model, dtype), [], 0
    for place in places(model):
        matrix = place.matrix
        full = [_whole(place, weights, lanes) for weights in params[matrix.name]]
        height, width = full[0].shape
        step = full[0].size if matrix.per_species else 0
        forward, back = [], []
        for x, k, y, m in _tiles(place, full[0].shape, lanes):
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


def _whole(place: Place, weights: np.ndarray, L: int) -> np.ndarray:
    """The matrix among all padded columns of x, and of y from its first row on, zeros where it has none."""
    pieces, inputs = place.matrix.pieces, max(x + k for x, k, *_ in place.matrix.pieces)
    of_x, of_y = ((stretch, whole(stretch, L)) for stretch in (place.x_stretch, place.y_stretch))
    height = of_x[1] * -(-inputs // of_x[0])
    width = of_y[1] * (place.y_row + -(-place.matrix.columns // of_y[0]))
    full = np.zeros((height, width), weights.dtype)
    for (x, k, y, m, offset), scale in zip(pieces, place.matrix.scales, strict=True):
        rows, columns = _padded(x + np.arange(k), *of_x), _padded(y + np.arange(m), *of_y)
        block = scale * weights[offset : offset + k * m].reshape(k, m)
        full[np.ix_(rows, columns + place.y_row * of_y[1])] = block
    return full


def _tiles(place: Place, shape: tuple[int, int], L: int) -> list[tuple[int, ...]]:
    """(x column, k, y column, m) of what is not zero, or all of it where that is no whole vectors."""
    pieces = place.matrix.pieces[:, :4].copy()
    if place.x_stretch % L or place.y_stretch % L or np.any(pieces % L):
        return [(0, shape[0], 0, shape[1])]
    pieces[:, 2] += place.y_row * place.y_stretch
    return [tuple(piece) for piece in pieces.tolist()]


def last_layers(
    model: Model, params: Params, channels: int, lanes: int, first: int = 0, count: int = 5
) -> np.ndarray:
    """Of the radial networks, [K, C / lanes, H, count lanes], with the constants of the paths: `count` paths
    from the `first` on."""
    F, C, L = model.config.features, channels, lanes
    height = int(model.blocks[0].radial.pieces[0, 1])
    found = aligned((len(model.blocks), C // L, height, count * L), params.flat.dtype)
    for k, b in enumerate(model.blocks):
        weights = dense_piece(params, b.radial)
        for p, slot in enumerate(slots(b)[first : first + count]):
            if slot >= 0:
                part = np.zeros((height, C), params.flat.dtype)
                part[:, :F] = PATH_FACTORS[first + p] * weights[:, slot * F : (slot + 1) * F]
                found[k, :, :, p * L : (p + 1) * L] = part.reshape(height, -1, L).swapaxes(0, 1)
    return found


def dense_piece(params: Params, matrix: Dense, piece: int = 0) -> np.ndarray:
    """One piece [k, m] of a matrix, with its factor."""
    (_, rows, _, columns, at), factor = matrix.pieces[piece], matrix.scales[piece]
    return factor * params[matrix.name][0, at : at + rows * columns].reshape(rows, columns)
