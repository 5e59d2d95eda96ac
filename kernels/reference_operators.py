"""The operators of `reference`, in plain NumPy, float64.

For each there is a pure function `<name>_fwd(*inputs, *static)` and its transposed derivative
`<name>_bwd(*doutputs, *inputs, *static)`, which returns one cotangent per input. All are analytic in their
arrays, so a complex number with a tiny imaginary part carries an exact directional derivative through any of
them. Sizes and units as in `reference`.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

SSP, SILU, TANH = 0, 1, 2

# Standard deviations are kept near one through the network by static factors on standard-normal weights.
ACTIVATION_GAIN = 1.68  # 1 / sqrt(E[silu(x)^2]) for x ~ N(0, 1)
RADIAL_GAIN = 2.0  # about 1 / sqrt(E[ssp(x)^2]), and about the inverse size of the enveloped basis
SUM_GAIN = 1 / np.sqrt(2)  # messages and self-connection are added
NORM_EPS = 1e-3  # keeps the norm of a vector smooth where the vector vanishes


# ------------------------------------------------------------ edges


def edge_geometry_fwd(edge_vec: Array) -> tuple[Array, Array]:
    """Length and direction: r = |d|, unit = Y1(d) = sqrt(3) d / r for d = edge_vec.

    edge_vec[E, 3] in Å, never zero -> r[E] in Å, unit[E, 3], order x, y, z, component normalisation (|Y1|^2 =
    3).
    """
    r = np.sqrt(np.sum(edge_vec**2, axis=-1))
    return r, np.sqrt(3.0) * edge_vec / r[:, None]


def edge_geometry_bwd(dr: Array, dunit: Array, edge_vec: Array) -> tuple[Array]:
    """d(r)/d(d) = d/r and d(unit)/d(d) = sqrt(3) (1 - d d^T / r^2) / r, a symmetric matrix."""
    r = np.sqrt(np.sum(edge_vec**2, axis=-1))[:, None]
    n = edge_vec / r
    along = np.sum(n * dunit, axis=-1, keepdims=True)
    return (dr[:, None] * n + np.sqrt(3.0) * (dunit - along * n) / r,)


def envelope(x: Array, p: int) -> Array:
    """f(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2): 1 at 0, triple zero at 1.

    Gasteiger et al., "Directional message passing for molecular graphs" (DimeNet), eq. 8.
    """
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def envelope_derivative(x: Array, p: int) -> Array:
    """f'(x) = -p(p+1)(p+2)/2 x^(p-1) (1-x)^2."""
    return -p * (p + 1) * (p + 2) / 2 * x ** (p - 1) * (1 - x) ** 2


def radial_basis_fwd(r: Array, frequencies: Array, cutoff: float, envelope_p: int) -> Array:
    """Bessel functions under a smooth cutoff (eq. 7): B_n(r) = sqrt(2/c) sin(w_n r/c) / r f(r/c), zero for r
    >= c.

    r[E] in Å, frequencies[B] (w_n, trained from n pi), cutoff c in Å, envelope_p > 1 -> basis[E, B].
    """
    x = r / cutoff
    inside = np.real(x) < 1
    amplitude = np.sqrt(2 / cutoff) * np.where(inside, envelope(x, envelope_p), 0) / r
    return amplitude[:, None] * np.sin(x[:, None] * frequencies)


def radial_basis_bwd(
    dbasis: Array, r: Array, frequencies: Array, cutoff: float, envelope_p: int
) -> tuple[Array, Array]:
    """dB_n/dr = sqrt(2/c) [(w_n/c cos - sin/r) f + sin f'/c] / r,  dB_n/dw_n = sqrt(2/c) cos f / c."""
    x = r / cutoff
    inside = np.real(x) < 1
    f = np.where(inside, envelope(x, envelope_p), 0)[:, None]
    df = np.where(inside, envelope_derivative(x, envelope_p), 0)[:, None] / cutoff
    phase, r = x[:, None] * frequencies, r[:, None]
    sin, cos = np.sin(phase), np.cos(phase)
    by_r = np.sqrt(2 / cutoff) * ((frequencies / cutoff * cos - sin / r) * f + sin * df) / r
    by_frequency = np.sqrt(2 / cutoff) * cos * f / cutoff
    return np.sum(dbasis * by_r, axis=1), np.sum(dbasis * by_frequency, axis=0)


def zbl(r: Array, z: Array, other_z: Array, end: Array, envelope_p: int) -> Array:
    """Screened repulsion of nuclei under a smooth cutoff: V(r) = k Z Z' phi(r/a) f(r/end) / r, zero for r >=
    end; k = e^2 / (4 pi eps0), a = 0.8854 a0 / (Z^0.23 + Z'^0.23).

    Ziegler, Biersack, Littmark, "The Stopping and Range of Ions in Solids" (1985). An edge has half of it.
    Distances r[E] and end[E] in Å, atomic numbers z[E] and other_z[E] -> V[E] in eV.
    """
    k, a = 14.3996454, 0.8854 * 0.529177211 / (z**0.23 + other_z**0.23)  # eV Å, Å
    x = r / a
    phi = (
        0.18175 * np.exp(-3.1998 * x)
        + 0.50986 * np.exp(-0.94229 * x)
        + 0.28022 * np.exp(-0.4029 * x)
        + 0.02817 * np.exp(-0.20162 * x)
    )
    return k * z * other_z * phi * np.where(np.real(r) < end, envelope(r / end, envelope_p), 0) / r


# ------------------------------------------------------------ channel by channel


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), written so that no exponential overflows."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def ssp(x: Array) -> Array:
    """Shifted softplus ln(e^x / 2 + 1/2), zero at zero; the larger exponential is taken out of the log."""
    positive = np.real(x) > 0
    return np.where(positive, x, 0) + np.log(0.5 + 0.5 * np.exp(np.where(positive, -x, x)))


def activation_fwd(x: Array, kind: int) -> Array:
    """A function of each number: 0 shifted softplus ln(e^x/2 + 1/2) (eq. 6), 1 silu x sigmoid(x), 2 tanh(x).

    x[..., K] -> y[..., K]. Of odd scalars only tanh, an odd function, is equivariant under a mirror.
    """
    if kind == SSP:
        return ssp(x)
    if kind == SILU:
        return x * sigmoid(x)
    return np.tanh(x)


def activation_slope(x: Array, kind: int) -> Array:
    """ssp' = sigmoid = g, silu' = g + x g (1 - g), tanh' = 1 - tanh^2."""
    g = sigmoid(x)
    if kind == SSP:
        return g
    if kind == SILU:
        return g + x * g * (1 - g)
    return 1 - np.tanh(x) ** 2


def activation_bwd(dy: Array, x: Array, kind: int) -> tuple[Array]:
    """dx = dy f'(x)."""
    return (dy * activation_slope(x, kind),)


def scalar_activation(s: Array, n_even: int, even_kind: int) -> Array:
    """The first n_even columns through `even_kind`, the rest, odd under a mirror, through tanh."""
    return np.concatenate(
        [activation_fwd(s[:, :n_even], even_kind), activation_fwd(s[:, n_even:], TANH)], axis=1
    )


def scalar_slope(s: Array, n_even: int, even_kind: int) -> Array:
    """Derivative of `scalar_activation`."""
    even, odd = activation_slope(s[:, :n_even], even_kind), activation_slope(s[:, n_even:], TANH)
    return np.concatenate([even, odd], axis=1)


def gate_fwd(g: Array, v: Array, n_even: int) -> tuple[Array, Array]:
    """Gated nonlinearity: s_out = act(scalars), v_out = v silu(gates), g = [gates | scalars].

    g[n, Cv + C], v[n, 3, Cv] -> s_out[n, C], v_out[n, 3, Cv]. The first n_even scalars take silu, the rest
    tanh. The gates are even scalars of their own, so the vectors keep their parity. Cv may be 0.
    """
    gates, scalars = np.split(g, [v.shape[2]], axis=1)
    return scalar_activation(scalars, n_even, SILU), v * activation_fwd(gates, SILU)[:, None, :]


def gate_bwd(ds_out: Array, dv_out: Array, g: Array, v: Array, n_even: int) -> tuple[Array, Array]:
    """dg = [silu'(gates) (v · dv_out) | act'(scalars) ds_out], dv = silu(gates) dv_out."""
    gates, scalars = np.split(g, [v.shape[2]], axis=1)
    dgates = activation_slope(gates, SILU) * np.sum(v * dv_out, axis=1)
    dscalars = scalar_slope(scalars, n_even, SILU) * ds_out
    return np.concatenate([dgates, dscalars], axis=1), dv_out * activation_fwd(gates, SILU)[:, None, :]


def norm_fwd(s: Array, v: Array, n_even: int) -> tuple[Array, Array]:
    """Norm nonlinearity of the preprint: s_out = act(s), v_out = v ssp(|v|), |v| = sqrt(v·v + NORM_EPS^2).

    s[n, C], v[n, 3, Cv] -> s_out[n, C], v_out[n, 3, Cv]. The first n_even scalars take ssp, the rest tanh.
    """
    length = np.sqrt(np.sum(v**2, axis=1) + NORM_EPS**2)
    return scalar_activation(s, n_even, SSP), v * ssp(length)[:, None, :]


def norm_bwd(ds_out: Array, dv_out: Array, s: Array, v: Array, n_even: int) -> tuple[Array, Array]:
    """ds = act'(s) ds_out, dv = ssp(|v|) dv_out + sigmoid(|v|) (v · dv_out) v / |v|."""
    length = np.sqrt(np.sum(v**2, axis=1) + NORM_EPS**2)
    along = sigmoid(length) * np.sum(v * dv_out, axis=1) / length
    dv = dv_out * ssp(length)[:, None, :] + v * along[:, None, :]
    return scalar_slope(s, n_even, SSP) * ds_out, dv


def add_fwd(a: Array, b: Array, col: int, count: int) -> Array:
    """y = a, with b's first `count` columns added from column col on: a[..., M], b[..., K] -> y[..., M]."""
    y = np.array(a, np.result_type(a, b))
    y[..., col : col + count] += b[..., :count]
    return y


def add_bwd(dy: Array, a: Array, b: Array, col: int, count: int) -> tuple[Array, Array]:
    """da = dy; db = those columns of dy, zero beyond `count`."""
    db = np.zeros(b.shape, dy.dtype)
    db[..., :count] = dy[..., col : col + count]
    return dy, db


# ------------------------------------------------------------ matrices and tables


def dense_fwd(
    x: Array, w: Array, row_ptr: Array, pieces: Array, scales: Array, columns: int | None = None
) -> Array:
    """Self-interaction: block-diagonal matrices over the channels, the same for x, y and z, one set for each
    group of rows.

    y[R_g, y_col : y_col + m] += scale x[R_g, x_col : x_col + k] @ W_g  for every piece (x_col, k, y_col, m,
    offset), with R_g = row_ptr[g] : row_ptr[g + 1] and W_g[k, m] read from w[g] at offset, row by row.
    x[..., K] (leading dimensions are rows), w[G, S], row_ptr[G + 1], pieces[nb, 5], scales[nb] -> y[..., M].
    Columns that no piece writes are zero; M is `columns`, or else where the last piece ends.
    """
    rows = x.reshape(-1, x.shape[-1])
    if columns is None:
        columns = max((y_col + m for _, _, y_col, m, _ in pieces), default=0)
    y = np.zeros((len(rows), columns), np.result_type(x, w))
    for g, (start, end) in enumerate(zip(row_ptr[:-1], row_ptr[1:], strict=True)):
        for (x_col, k, y_col, m, offset), scale in zip(pieces, scales, strict=True):
            matrix = w[g, offset : offset + k * m].reshape(k, m)
            y[start:end, y_col : y_col + m] += scale * rows[start:end, x_col : x_col + k] @ matrix
    return y.reshape(*x.shape[:-1], columns)


def dense_bwd(
    dy: Array, x: Array, w: Array, row_ptr: Array, pieces: Array, scales: Array
) -> tuple[Array, Array]:
    """dx = scale dy @ W_g^T, dW_g = scale x^T @ dy, piece by piece."""
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx, dw = np.zeros(rows.shape, np.result_type(dy, w)), np.zeros(w.shape, np.result_type(dy, x))
    for g, (start, end) in enumerate(zip(row_ptr[:-1], row_ptr[1:], strict=True)):
        for (x_col, k, y_col, m, offset), scale in zip(pieces, scales, strict=True):
            matrix = w[g, offset : offset + k * m].reshape(k, m)
            x_block, dy_block = rows[start:end, x_col : x_col + k], drows[start:end, y_col : y_col + m]
            dx[start:end, x_col : x_col + k] += scale * dy_block @ matrix.T
            dw[g, offset : offset + k * m] += scale * (x_block.T @ dy_block).reshape(-1)
    return dx.reshape(x.shape), dw


def embedding_fwd(table: Array, species: Array, species_ptr: Array) -> Array:
    """First features of an atom: its species' row of a trained table. table[Z, C], species[n] -> s[n, C]."""
    return table[species]


def embedding_bwd(ds: Array, table: Array, species: Array, species_ptr: Array) -> tuple[Array]:
    """dtable[z] = sum of ds over the atoms of species z."""
    return (sum_by(species, ds, len(table)),)


# ------------------------------------------------------------ convolution


def sum_by(index: Array, x: Array, n: int) -> Array:
    """out[i] = sum of x[e] over the e with index[e] = i, for i < n."""
    out = np.zeros((n, *x.shape[1:]), x.dtype)
    np.add.at(out, index, x)
    return out


def path_products(s: Array, v: Array, unit: Array) -> list[Array]:
    """The five tensor products of a neighbour's features with Y1, without weights: s[E, C], v[E, 3, C],
    unit[E, 3].

    0x0->0: s,  0x1->1: s Y1,  1x0->1: v,  1x1->0: (Y1 · v) / sqrt(3),  1x1->1: (Y1 x v) / sqrt(2)  (eqs. 8 to
    11), of shapes [E, C] and [E, 3, C]. The factors are e3nn's; its cross product is v x Y1, the opposite
    sign.
    """
    y = unit[:, :, None]
    dot = np.sum(y * v, axis=1) / np.sqrt(3)
    return [s, s[:, None, :] * y, v, dot, np.cross(y, v, axis=1) / np.sqrt(2)]


def message_slot(paths: Array, path: int, w: Array, channels: int) -> tuple[Array, slice]:
    """Weights [E, C] of a path, and its columns in the summed messages of its order."""
    slot, out = paths[path]
    return w[:, slot * channels : (slot + 1) * channels], slice(out * channels, (out + 1) * channels)


def interaction_fwd(
    s: Array,
    v: Array,
    unit: Array,
    w: Array,
    senders: Array,
    receivers: Array,
    receiver_ptr: Array,
    sender_perm: Array,
    sender_ptr: Array,
    paths: Array,
) -> tuple[Array, Array]:
    """Convolution (eq. 8): for every path, the sum over neighbours j of w_ij times its product with
    Y1.

    s[n, C], v[n, 3, C] (or [n, 3, 0] where no path needs it), unit[E, 3], w[E, P C], paths[5, 2] = (slot in w
    or -1, slot in the result) -> ms[n, P0 C] for paths 0 and 3, mv[n, 3, P1 C] for paths 1, 2 and 4. The
    average over neighbours is left to the matrix that follows. Only senders, receivers and paths are read
    here; the other indices are the same graph in the order that faster kernels walk.
    """
    n, channels = s.shape
    dtype = np.result_type(s, v, unit, w)
    scalar_paths, vector_paths = [[p for p in of if paths[p, 0] >= 0] for of in ((0, 3), (1, 2, 4))]
    ms = np.zeros((n, len(scalar_paths) * channels), dtype)
    mv = np.zeros((n, 3, len(vector_paths) * channels), dtype)
    products = path_products(s[senders], fill(v, channels)[senders], unit)
    for p in scalar_paths:
        weight, columns = message_slot(paths, p, w, channels)
        ms[:, columns] = sum_by(receivers, weight * products[p], n)
    for p in vector_paths:
        weight, columns = message_slot(paths, p, w, channels)
        mv[:, :, columns] = sum_by(receivers, weight[:, None, :] * products[p], n)
    return ms, mv


def fill(v: Array, channels: int) -> Array:
    """v itself, or zeros where there are no vectors yet."""
    return v if v.shape[2] else np.zeros((len(v), 3, channels))


def interaction_bwd(
    dms: Array,
    dmv: Array,
    s: Array,
    v: Array,
    unit: Array,
    w: Array,
    senders: Array,
    receivers: Array,
    receiver_ptr: Array,
    sender_perm: Array,
    sender_ptr: Array,
    paths: Array,
) -> tuple[Array, Array, Array, Array]:
    """Transpose of `interaction_fwd`, edge by edge, then summed over the edges out of each sender.

    With d the cotangent of a path's message at the receiver, Y = Y1, and a · (b x c) = b · (c x a):
      path  dw                 ds         dv                  dY
      0     s d                w d
      1     s (Y · d)          w (Y · d)                      sum_c w s d
      2     v · d                         w d
      3     (Y · v) d / √3                w d Y / √3          sum_c w d v / √3
      4     (Y x v) · d / √2              w (d x Y) / √2      sum_c w (v x d) / √2
    """
    n, channels = s.shape
    dtype = np.result_type(dms, dmv, s, v, unit, w)
    s_j, v_j, y = s[senders], fill(v, channels)[senders], unit[:, :, None]
    products = path_products(s_j, v_j, unit)
    ds = np.zeros((len(senders), channels), dtype)
    dv = np.zeros((len(senders), 3, channels), dtype)
    dunit = np.zeros(unit.shape, dtype)
    dw = np.zeros(w.shape, dtype)
    for p in range(5):
        slot = paths[p, 0]
        if slot < 0:
            continue
        weight, columns = message_slot(paths, p, w, channels)
        into_w = slice(slot * channels, (slot + 1) * channels)
        if p in (0, 3):
            d = dms[receivers][:, columns]
            dw[:, into_w] = products[p] * d
            dproduct = weight * d
        else:
            d = dmv[receivers][:, :, columns]
            dw[:, into_w] = np.sum(products[p] * d, axis=1)
            dproduct = weight[:, None, :] * d
        if p == 0:
            ds += dproduct
        elif p == 1:
            ds += np.sum(y * dproduct, axis=1)
            dunit += np.einsum("ec,exc->ex", s_j, dproduct)
        elif p == 2:
            dv += dproduct
        elif p == 3:
            dv += y * dproduct[:, None, :] / np.sqrt(3)
            dunit += np.einsum("exc,ec->ex", v_j, dproduct) / np.sqrt(3)
        else:
            dv += np.cross(dproduct, y, axis=1) / np.sqrt(2)
            dunit += np.sum(np.cross(v_j, dproduct, axis=1), axis=2) / np.sqrt(2)
    return sum_by(senders, ds, n), sum_by(senders, dv, n)[:, :, : v.shape[2]], dunit, dw
