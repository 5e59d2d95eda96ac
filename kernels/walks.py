"""What both compiled walks of the network share: the rows of an atom, and the edges into it.

Layout. C channels, padded with zeros to whole vectors. Rows of an atom:

    x[4, C]     the features between blocks: s, v_x, v_y, v_z
    u[4, C]     what its neighbours see of them
    m[11, C]    messages: p0, p3 | p1_x, p2_x, p4_x | p1_y, ... | p1_z, ...; paths as in `products`
    p[5, C]     what the gate takes: gates, scalars, v_x, v_y, v_z

Messages of one l and component lie side by side, as the matrices after them take them: `step` is the number
of paths into vectors, 3, or 4 where filters of order 2 or products on atoms need more rows, see `walks2`.

The radial network's last layer W holds the constants of the paths; the weights w = h W of an edge live in
registers only.

Edges come in pairs, and e = (i <- j) and its reverse share r, hence w, while Y changes sign. What i gets as
the sender of the reverse edge is therefore summed over the edges into i, from the cotangents M of the
messages at j, with no second list of edges:

    du_i += to_sender(w, M_j, -Y)        q = to_weights(u_j, M_i, Y)        dY = to_unit(w, u_j, M_i)
"""

from typing import NamedTuple

import numpy as np

from .compile import inner, routine
from .products import added, message, nothing, to_sender, to_unit, to_weights
from .simd import WIDTH, add_product, load, splat, spread, store

# Roles of a block's matrices: of scalars, + 1 of vectors, + BACK transposed. For products on atoms: to their
# factors, also those of second and third moments, and from the products.
SELF, OUT, KEEP, FACTORS, TAKE, FACTORS_T, FACTORS_O, BACK = 0, 2, 4, 6, 8, 10, 11, 12


class Graph(NamedTuple):
    """Atoms by species, edges by receiver."""

    species: np.ndarray  # [n]
    species_ptr: np.ndarray  # [Z + 1]
    senders: np.ndarray  # [E]
    receiver_ptr: np.ndarray  # [n + 1]
    edge_vec: np.ndarray  # [E, 3], Å
    sender_perm: np.ndarray  # [E]
    sender_ptr: np.ndarray  # [n + 1]
    parts: np.ndarray  # [parts + 1]: where each part of the atoms begins; threads share parts


class Layout(NamedTuple):
    """The model, and where its matrices lie in one array of weights, their transposes in another.

    pieces[., 7] = (first column of x, k, first column of y, m, start, row length, step from species to
    species or 0) is a k x m matrix, factors[pieces] its static factor; matrices[k, role] = (first, last) are
    the pieces of one matrix of block k. rows[role, d] = (row of x, row of y) of each of
    components[role].
    """

    pieces: np.ndarray
    factors: np.ndarray
    matrices: np.ndarray  # [K + 1, 2 BACK, 2]; the readout's is the last one's SELF
    rows: np.ndarray  # [2 BACK, 7, 2]
    components: np.ndarray  # [2 BACK]
    with_v: np.ndarray  # [K + 1]: whether there are vectors between the blocks
    want_v: np.ndarray  # [K]: whether messages have vectors
    n_even: np.ndarray  # [K]
    residual: np.ndarray  # [K]: leading scalars that a plain residual carries over
    # None where every block has vectors before or after it: code for the others then is not even compiled.
    scalar: int | None


class Flat(NamedTuple):
    """How the model's flat weights hold what is in no matrix of `Layout`, and what is done to all of them.

    For training: a matrix's gradient is made in tiles, and its transpose written into an array of all.
    """

    turns: np.ndarray  # [., 5]: (start, row length, k, m, start in that array) of what is transposed
    tiles: np.ndarray  # [., 6]: (k, role, piece, species, first row, rows)
    radial: (
        np.ndarray
    )  # [K, 10]: start and columns of the radial network's last layer, slot of each path or -1
    radial_factors: np.ndarray  # [K, 8]: its static factor times the paths' constants
    radial_columns: np.ndarray  # [K, 2]: first and last column of h that each block takes
    features: int
    embedding: int  # start of the embedding
    readout: int  # start of the last layer
    readout_factor: float


# ---- rows of an atom


@inner
def seen(u, j, c, with_v):
    """A vector of channels of u[n, 4, C], from c on: s, v_x, v_y, v_z of atom j."""
    x = y = z = splat(u.dtype.type(0))
    if with_v:
        x, y, z = load(u, (j, 1, c)), load(u, (j, 2, c)), load(u, (j, 3, c))
    return load(u, (j, 0, c)), x, y, z


@inner
def add_seen(du, c, g, with_v):
    """Add g[4] to du[4, C]."""
    store(du, (0, c), load(du, (0, c)) + g[0])
    if with_v:
        store(du, (1, c), load(du, (1, c)) + g[1])
        store(du, (2, c), load(du, (2, c)) + g[2])
        store(du, (3, c), load(du, (3, c)) + g[3])


@inner
def messages_of(m, i, c, step, with_v, want_v):
    """The eleven of m[n, ., C] at atom i, or of their cotangents."""
    p3 = x1 = y1 = z1 = x2 = y2 = z2 = x4 = y4 = z4 = splat(m.dtype.type(0))
    if with_v:
        p3 = load(m, (i, 1, c))
    if want_v:
        x1, y1, z1 = load(m, (i, 2, c)), load(m, (i, 2 + step, c)), load(m, (i, 2 + 2 * step, c))
    if with_v and want_v:
        x2, y2, z2 = load(m, (i, 3, c)), load(m, (i, 3 + step, c)), load(m, (i, 3 + 2 * step, c))
        x4, y4, z4 = load(m, (i, 4, c)), load(m, (i, 4 + step, c)), load(m, (i, 4 + 2 * step, c))
    return load(m, (i, 0, c)), p3, x1, y1, z1, x2, y2, z2, x4, y4, z4


@inner
def store_messages(m, c, found, step, with_v, want_v):
    """The eleven into m[., C], those that there are."""
    p0, p3, x1, y1, z1, x2, y2, z2, x4, y4, z4 = found
    store(m, (0, c), p0)
    if with_v:
        store(m, (1, c), p3)
    if want_v:
        store(m, (2, c), x1)
        store(m, (2 + step, c), y1)
        store(m, (2 + 2 * step, c), z1)
    if with_v and want_v:
        store(m, (3, c), x2)
        store(m, (3 + step, c), y2)
        store(m, (3 + 2 * step, c), z2)
        store(m, (4, c), x4)
        store(m, (4 + step, c), y4)
        store(m, (4 + 2 * step, c), z4)


@routine
def clear(a, first, count):
    """Zeros into atoms first : first + count."""
    for i in range(first, first + count):
        for row in range(a.shape[1]):
            for c in range(a.shape[2]):
                a[i, row, c] = 0


@routine
def add_leading(y, y_row, x, x_row, n, count):
    """Add the first `count` channels of rows x_row, x_row + x.shape[1], ... of x to those of y."""
    i, y_at = y_row // y.shape[1], y_row % y.shape[1]
    j, x_at = x_row // x.shape[1], x_row % x.shape[1]
    for r in range(n):
        for c in range(count):
            y[i + r, y_at, c] += x[j + r, x_at, c]


@routine
def mix(y, y_first, x, x_first, first, n, layout, k, role, weights, species_ptr):
    """Add a matrix product to n atoms, `first` the first of them, which are y_first and x_first in their
    arrays; nothing where block k has no such matrix."""
    y_step, x_step = y.shape[1] * y.shape[2], x.shape[1] * x.shape[2]
    pieces = layout.pieces
    for piece in range(layout.matrices[k, role, 0], layout.matrices[k, role, 1]):
        x_col, k_in, y_col, m = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2], pieces[piece, 3]
        at, length, step = pieces[piece, 4], pieces[piece, 5], pieces[piece, 6]
        for z in range(species_ptr.size - 1 if step else 1):
            lo, hi = 0, n
            if step:
                lo, hi = max(0, species_ptr[z] - first), min(n, species_ptr[z + 1] - first)
            if lo >= hi:
                continue
            for d in range(layout.components[role]):  # which share the matrix
                x_at = (x_first + lo) * x_step + layout.rows[role, d, 0] * x.shape[2] + x_col
                y_at = (y_first + lo) * y_step + layout.rows[role, d, 1] * y.shape[2] + y_col
                w_at, factor = at + z * step, layout.factors[piece]
                add_product(
                    y, y_at, y_step, x, x_at, x_step, 1, weights, w_at, length, hi - lo, k_in, m, factor
                )


# ---- edges


@inner
def direction(unit, e):
    """Y of edge e."""
    return spread(unit, (e, 0)), spread(unit, (e, 1)), spread(unit, (e, 2))


@inner
def backwards(y, zero):
    """Y of the reverse edge."""
    return zero - y[0], zero - y[1], zero - y[2]


@inner
def radial_weights(W, k, h, e, other, companion, with_v, want_v):
    """w_p = sum over q of h_q W_qp, a vector of channels for each path, for two rows of h, which share the
    loads of W: of edge e, and of edge `other`, where companion = 1 takes what accompanies h."""
    L = W.shape[2] // 5
    w0 = w1 = w2 = w3 = w4 = t0 = t1 = t2 = t3 = t4 = splat(W.dtype.type(0))
    for q in range(h.shape[2]):
        ha, hb = spread(h, (e, 0, q)), spread(h, (other, companion, q))
        w = load(W, (k, q, 0))
        w0, t0 = w0 + ha * w, t0 + hb * w
        if want_v:
            w = load(W, (k, q, L))
            w1, t1 = w1 + ha * w, t1 + hb * w
        if with_v and want_v:
            w = load(W, (k, q, 2 * L))
            w2, t2 = w2 + ha * w, t2 + hb * w
        if with_v:
            w = load(W, (k, q, 3 * L))
            w3, t3 = w3 + ha * w, t3 + hb * w
        if with_v and want_v:
            w = load(W, (k, q, 4 * L))
            w4, t4 = w4 + ha * w, t4 + hb * w
    return (w0, w1, w2, w3, w4), (t0, t1, t2, t3, t4)


@inner
def messages(m, u, h, W, unit, senders, lo, hi, step, with_v, want_v):
    """m[., C] = messages of edges lo : hi, two at a time."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    for k in range(W.shape[0]):
        c, found = k * L, nothing(zero)
        for e in range(lo, hi, 2):
            other = min(e + 1, hi - 1)
            there = splat(u.dtype.type(other - e))  # 0 where an odd edge has no partner
            w, (b0, b1, b2, b3, b4) = radial_weights(W, k, h, e, other, np.int64(0), with_v, want_v)
            f = seen(u, senders[e], c, with_v)
            found = added(found, message(w, f, direction(unit, e), zero, with_v, want_v))
            w, f = (
                (there * b0, there * b1, there * b2, there * b3, there * b4),
                seen(u, senders[other], c, with_v),
            )
            found = added(found, message(w, f, direction(unit, other), zero, with_v, want_v))
        store_messages(m, c, found, step, with_v, want_v)


@inner
def edge_back(du, u, dm, i, j, c, y, w, step, with_v, want_v):
    """One edge into i from j and a vector of channels from c on: adds what i gets as sender of the reverse
    edge to du[4, C]; returns q, one vector for each path, and the edge's dY."""
    zero = splat(u.dtype.type(0))
    f, a = seen(u, j, c, with_v), messages_of(dm, i, c, step, with_v, want_v)
    there = messages_of(dm, j, c, step, with_v, want_v)
    add_seen(du, c, to_sender(w, there, backwards(y, zero), zero, with_v, want_v), with_v)
    return to_weights(f, a, y, zero, with_v, want_v), to_unit(w, f, a, zero, with_v, want_v)
