"""The weights of the walks of `blocks`: as the walks take them, and their gradient."""

from .activation import SILU, slope, value
from .blocks_edges import TD, D, T, V
from .compile import routine
from .simd import add_product
from .walks import FACTORS, FACTORS_T, KEEP, OUT, SELF, TAKE

SQUARE = 16  # edge of the squares in which matrices are transposed


@routine
def pack_radial(W, weights, flat, k, first, paths):
    """The last layer of block k's radial network as the edges take it, of some paths from the `first` on:
    vector by vector, constants in."""
    L, F, wide = W.shape[3] // paths, flat.features, flat.radial[k, 1]
    for p in range(paths):
        slot = flat.radial[k, 2 + first + p]
        for q in range(W.shape[2]):
            at = flat.radial[k, 0] + q * wide + slot * F
            for v in range(W.shape[1]):
                for c in range(L):
                    known = slot >= 0 and v * L + c < F
                    w = weights[at + v * L + c] if known else W.dtype.type(0)
                    W[k, v, q, p * L + c] = flat.radial_factors[k, first + p] * w


@routine
def unpack_radial(gradient, tdW, flat, k, first, paths):
    """Add the parts' gradients of that layer, in order."""
    L, F, wide = tdW.shape[4] // paths, flat.features, flat.radial[k, 1]
    for p in range(paths):
        slot = flat.radial[k, 2 + first + p]
        for q in range(tdW.shape[3]):
            at = flat.radial[k, 0] + q * wide + slot * F
            for part in range(tdW.shape[0] if slot >= 0 else 0):
                for v in range(tdW.shape[2]):
                    for c in range(min(L, F - v * L)):
                        g = tdW[part, k, v, q, p * L + c]
                        gradient[at + v * L + c] += flat.radial_factors[k, first + p] * g


@routine
def turn(turned, weights, turns, task):
    """turned[m, k] from weights[k, m]"""
    start, length, k, m, to = turns[task, 0], turns[task, 1], turns[task, 2], turns[task, 3], turns[task, 4]
    for k0 in range(0, k, SQUARE):
        for m0 in range(0, m, SQUARE):
            for c in range(m0, min(m, m0 + SQUARE)):
                for r in range(k0, min(k, k0 + SQUARE)):
                    turned[to + c * k + r] = weights[start + r * length + c]


@routine
def tile(gradient, layout, flat, graph, mem, second, tile):
    """Add x^T tdy + tx^T dy to some rows of one matrix's gradient."""
    tiles = flat.tiles
    k, role, piece, z = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
    row, rows = tiles[tile, 4], tiles[tile, 5]
    for pair in range(2):
        s, d = (V, TD) if pair == 0 else (T, D)
        if k == layout.n_even.size:
            _add_tile(gradient, mem.x[s, k], mem.y[d], layout, graph, role, piece, z, row, rows)
        elif role // 2 == SELF // 2:
            _add_tile(gradient, mem.x[s, k], mem.u[d, k], layout, graph, role, piece, z, row, rows)
        elif role // 2 == OUT // 2:
            _add_tile(gradient, mem.m[s, k], mem.p[d, k], layout, graph, role, piece, z, row, rows)
        elif role // 2 == KEEP // 2:
            _add_tile(gradient, mem.x[s, k], mem.p[d, k], layout, graph, role, piece, z, row, rows)
        if second is not None:
            if role // 2 == FACTORS // 2 or role // 2 == FACTORS_T // 2:
                _add_tile(gradient, mem.m[s, k], second.a[d, k], layout, graph, role, piece, z, row, rows)
            elif role // 2 == TAKE // 2:
                _add_tile(gradient, second.b[s, k], mem.p[d, k], layout, graph, role, piece, z, row, rows)


@routine
def _add_tile(gradient, x, y, layout, graph, role, piece, z, row, rows):
    """Add x^T y of all atoms, or those of species z."""
    pieces = layout.pieces
    x_col, y_col, m = pieces[piece, 0], pieces[piece, 2], pieces[piece, 3]
    at, length, step = pieces[piece, 4], pieces[piece, 5], pieces[piece, 6]
    lo, hi, to = 0, graph.species.size, at + z * step + row * length
    if step:
        lo, hi = graph.species_ptr[z], graph.species_ptr[z + 1]
    x_step, y_step = x.shape[1] * x.shape[2], y.shape[1] * y.shape[2]
    for d in range(layout.components[role]):
        x_at = lo * x_step + layout.rows[role, d, 0] * x.shape[2] + x_col + row
        y_at = lo * y_step + layout.rows[role, d, 1] * y.shape[2] + y_col
        n, factor = hi - lo, layout.factors[piece]
        add_product(gradient, to, length, x, x_at, 1, x_step, y, y_at, y_step, rows, n, m, factor)


@routine
def ends(gradient, flat, graph, mem):
    """Gradient of the embedding and of the last layer."""
    F, y, de = flat.features, mem.y, mem.energies
    dx = mem.x[TD, 0]
    for i in range(graph.species.size):
        at = flat.embedding + graph.species[i] * F
        for c in range(F):
            gradient[at + c] += dx[i, 0, c]
        for c in range(F // 2):
            f, f1 = value(y[V, i, 0, c], SILU), slope(y[V, i, 0, c], SILU)
            moved = f * de[TD, i] + f1 * y[T, i, 0, c] * de[D, i]
            gradient[flat.readout + c] += flat.readout_factor * moved
