"""The whole model in plain NumPy, float64: what to read first, and what every other kernel is held to.

S. Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and accurate interatomic
potentials" (Nature Communications 13, 2453, 2022; the SO(3) version is its preprint, arXiv:2101.03164v1).
Equation numbers are the preprint's. Features carry rotation order l = 0 (scalars `s[n, C]`) and l = 1
(vectors `v[n, 3, C]`), channel last.

The operators are in `reference_operators` and `reference_operators2`, and known by this address, too; here
is what they make together.

Sizes: n atoms, E edges, Z species, B basis functions, C features. Lengths are in Å; features have no unit.
Edge e goes from `senders[e]` to `receivers[e]`, the central atom, and edge_vec = r_sender - r_receiver.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .reference_operators import *
from .reference_operators2 import *


def dense_layout(
    x_labels: str, y_labels: str, gain: float = 1.0, neighbours: float = 1.0
) -> tuple[Array, Array]:
    """Pieces and scales of a self-interaction between columns labelled "e" or "o": equal labels connect.

    One letter per column. Each run of equal output labels takes from each run of equal input labels of its
    kind. A piece's scale is gain / sqrt(its output's number of inputs · neighbours), so that sums of
    independent unit-variance terms come out with variance gain^2.
    """
    pieces, scales, offset = [], [], 0
    for y_col, m, y_label in runs(y_labels):
        fan_in = x_labels.count(y_label)
        for x_col, k, x_label in runs(x_labels):
            if x_label == y_label:
                pieces.append((x_col, k, y_col, m, offset))
                scales.append(gain / np.sqrt(fan_in * neighbours))
                offset += k * m
    return np.array(pieces, np.int64).reshape(-1, 5), np.array(scales)


def runs(labels: str) -> list[tuple[int, int, str]]:
    """(start, length, label) of each maximal run of equal labels."""
    edges = [i for i in range(len(labels) + 1) if i in (0, len(labels)) or labels[i] != labels[i - 1]]
    return [(a, b - a, labels[a]) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def factor_labels(order: str, labels: str, width: int, last: bool) -> tuple[str, str]:
    """Labels of the two factors of products on an atom, made of columns with these labels.

    order: "s", "v", "t", "o". Where there are columns of both labels, the first factor has half of each, the
    second the label of even scalars and second moments, polar vectors and odd third moments alone. The last
    block wants even products: both factors have both halves there, but for second moments, which are even.
    """
    if len(set(labels)) < 2:
        return labels[:1] * width, labels[:1] * width
    plain, other = ("o", "e") if order in "vo" else ("e", "o")
    halves = plain * (width - width // 2) + other * (width // 2)
    if last:
        return (plain * width, plain * width) if order == "t" else (halves, halves)
    return halves, plain * width


def energies(
    config: Any,
    species_count: int,
    params: dict[str, Array],
    species: Array,
    edge_vec: Array,
    senders: Array,
    receivers: Array,
    mean_neighbours: float,
) -> Array:
    """The network's number for each atom, x[n]; the atom's energy is scale[species] x + shift[species].

    config: the fields of the model's configuration; params: arrays by name, weights of one matrix flat and
    with one row, or one row per species; species[n]: index of each atom's species, in rising order;
    edge_vec[E, 3] in Å; mean_neighbours: edges per atom on average over the training set, a constant of the
    model.

    Parity. Under O(3) each channel of s and v is labelled even "e" or odd "o", by what a point inversion does
    to it: a vector is "o", a pseudovector "e". With both parities scalars come as (e, o) halves, vectors as
    (o, e); of natural parity are "e" and "o" alone. Y1 is odd, so a path with Y1 flips its channel's label;
    matrices connect equal labels only. Under SO(3) there is one label for all.
    """
    n, channels, half = len(species), config.features, config.features // 2
    parity = config.symmetry == "o3" and config.l_max == 1
    gated = config.nonlinearity == "gate"
    species_ptr = np.searchsorted(species, np.arange(species_count + 1))
    graph = (senders, receivers, None, None, None)

    def flip(labels: str) -> str:
        return labels.translate(str.maketrans("eo", "oe")) if parity else labels

    def dense(name: str, x: Array, x_labels: str, y_labels: str, gain: float = 1.0, neighbours: float = 1.0):
        row_ptr = species_ptr if "self_connection" in name else np.array([0, len(x)])
        layout = dense_layout(x_labels, y_labels, gain, neighbours)
        return dense_fwd(x, params[name], row_ptr * int(np.prod(x.shape[1:-1])), *layout, len(y_labels))

    def times(a: str, b: str) -> str:
        """Labels of products of channels."""
        return "".join("e" if x == y else "o" for x, y in zip(a, b, strict=True))

    r, unit = edge_geometry_fwd(edge_vec)
    basis = radial_basis_fwd(r, params["frequencies"], config.cutoff, config.envelope_p)

    s, s_labels = embedding_fwd(params["embedding"], species, species_ptr), "e" * channels
    v, v_labels = np.zeros((n, 3, 0)), ""

    for k in range(config.blocks):
        block, last = f"block{k}", k == config.blocks - 1
        gain = ACTIVATION_GAIN if k > 0 else 1.0  # after a block, an array has passed an activation
        makes_vectors = config.l_max == 1 and not last
        halves = parity and config.parity == "both" and not last
        s_next = "e" * half + "o" * half if halves else "e" * channels
        v_next = flip(s_next) if makes_vectors else ""
        gates = "e" * len(v_next) if gated else ""

        # Weight of every path and channel on every edge, from its length alone (eq. 6).
        of_vectors = makes_vectors or config.node_products and config.l_max == 1
        scalar_paths = [0, 3] if v_labels else [0]
        vector_paths = ([1, 2, 4] if v_labels else [1]) if of_vectors else []
        if config.filter_order >= 2 and v_labels and of_vectors:
            vector_paths.append(5)
        if not config.node_products and "e" not in v_next and parity:  # axial vectors would go nowhere
            vector_paths = [p for p in vector_paths if p != 4]
        tensor_paths = [6] if config.filter_order >= 2 and config.node_products else []
        third_paths = [7] if config.filter_order == 3 and config.node_products else []
        in_use = sorted(scalar_paths + vector_paths + tensor_paths + third_paths)
        w = basis
        for d in range(config.radial_depth):
            columns, width = w.shape[1], config.radial_width
            every = params[f"radial.{d}"][0]  # of all blocks: side by side in the first layer, then in turn
            own = every.reshape(columns, -1, width)[:, k] if d == 0 else every.reshape(-1, width, width)[k]
            w = activation_fwd(RADIAL_GAIN / np.sqrt(columns) * w @ own, SSP)
        w = dense(f"{block}.radial", w, "e" * w.shape[1], "e" * (len(in_use) * channels), RADIAL_GAIN)

        # Convolution between two self-interactions.
        paths, by_order = np.full((8, 2), -1), (scalar_paths, vector_paths, tensor_paths, third_paths)
        for same_order in by_order:
            for p in same_order:
                paths[p] = in_use.index(p), same_order.index(p)
        s_in = dense(f"{block}.self_in.s", s, s_labels, s_labels, gain)
        v_in = dense(f"{block}.self_in.v", v, v_labels, v_labels, gain) if v_labels else v
        ms, mv, mt = interaction2_fwd(s_in, v_in, unit, edge_tensor_fwd(unit), w, *graph, paths)
        mo = interaction3_fwd(s_in, edge_tensor3_fwd(unit), w, *graph, paths)
        carried = [s_labels, flip(s_labels), v_labels, flip(v_labels), flip(v_labels), v_labels, s_labels]
        carried.append(flip(s_labels))
        ms_labels, mv_labels, mt_labels, mo_labels = ("".join(carried[p] for p in of) for of in by_order)
        out_gain = SUM_GAIN / np.sqrt(2) if config.node_products else SUM_GAIN
        s_new = dense(f"{block}.self_out.s", ms, ms_labels, gates + s_next, out_gain, mean_neighbours)
        v_new = np.zeros((n, 3, 0))
        if v_next:
            v_new = dense(f"{block}.self_out.v", mv, mv_labels, v_next, out_gain, mean_neighbours)

        # Products of two projections of the messages of each order, channel by channel.
        if config.node_products:
            width, projections, factors = max(1, half), [], []
            for order, x, labels in (
                *(("s", ms, ms_labels), ("v", mv, mv_labels)),
                *(("t", mt, mt_labels), ("o", mo, mo_labels)),
            ):
                a, b = factor_labels(order, labels, width, last)
                factors.append((a, b))
                name = f"{block}.project.{order}"
                projections.append(dense(name, x, labels, a + b, 1.0, mean_neighbours) if labels else x)
            ps, pv = node_products_fwd(*projections)
            (a_s, b_s), (a_v, b_v), (a_t, b_t), (a_o, b_o) = factors
            ps_labels = times(a_s, b_s) + times(a_v, b_v) + times(a_t, b_t)
            if a_t:
                ps_labels += times(times(a_v, a_t), b_v)
            if a_o:
                ps_labels += times(times(a_v, a_o), b_t) + times(a_o, b_o)
            s_new = s_new + dense(f"{block}.products.s", ps, ps_labels, gates + s_next, out_gain)
            if v_next:
                pv_labels = times(a_s, b_v) + times(a_v, b_v) + (times(a_t, b_v) if a_t else "")
                pv_labels += times(a_o, b_t) if a_o else ""
                v_new = v_new + dense(f"{block}.products.v", pv, pv_labels, v_next, out_gain)

        # Self-connection from the block's input: a matrix per species, or the input itself where parity
        # allows.
        if config.self_connection == "species":
            s_new = s_new + dense(f"{block}.self_connection.s", s, s_labels, gates + s_next, gain * SUM_GAIN)
            if v_labels and v_next:
                v_new = v_new + dense(f"{block}.self_connection.v", v, v_labels, v_next, gain * SUM_GAIN)
        else:
            alike = sum(a == b for a, b in zip(s_labels, s_next, strict=True))
            s_new = add_fwd(s_new, s, len(gates), alike)
            if v_labels and v_next:
                v_new = add_fwd(v_new, v, 0, channels)

        nonlinearity = gate_fwd if gated else norm_fwd
        s, v = nonlinearity(s_new, v_new, s_next.count("e"))
        s_labels, v_labels = s_next, v_next

    h = dense("output.0", s, s_labels, "e" * half, ACTIVATION_GAIN)
    return dense("output.1", activation_fwd(h, SILU), "e" * half, "e", ACTIVATION_GAIN)[:, 0]


def forces(
    config: Any,
    species_count: int,
    params: dict[str, Array],
    species: Array,
    edge_vec: Array,
    senders: Array,
    receivers: Array,
    mean_neighbours: float,
    scale: Array,
    step: float = 1e-30,
) -> Array:
    """Forces -dE/dr[n, 3] in eV/Å of E = sum_i scale[species_i] x_i (eV), by complex step: one run for each
    number.

    Moving atom a along an axis adds to edge_vec where a sends and subtracts where a receives.
    """
    result = np.zeros((len(species), 3))
    for atom, axis in np.ndindex(result.shape):
        moved = edge_vec.astype(complex)
        moved[senders == atom, axis] += 1j * step
        moved[receivers == atom, axis] -= 1j * step
        x = energies(config, species_count, params, species, moved, senders, receivers, mean_neighbours)
        result[atom, axis] = -np.sum(scale[species] * x.imag) / step
    return result
