"""The operators of `reference` for filters of order 2 and for products on atoms, in plain NumPy, float64.

As in `reference_operators`.
"""

from __future__ import annotations

import numpy as np

from .reference_operators import Array, interaction_bwd, interaction_fwd, message_slot, sum_by

# Symmetric traceless tensors: an edge's has six numbers, xx, yy, zz, xy, yz, zx; an atom's the five without
# zz = -xx - yy. `full` makes 3 x 3 of either, on the axis of its components.
ROW, COLUMN = [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]
FIVE = [0, 1, 3, 4, 5]  # of the six


def full(t: Array) -> Array:
    """[n, 5 or 6, ...] -> [n, 3, 3, ...]"""
    six = t
    if t.shape[1] == 5:
        six = np.concatenate([t[:, :2], -t[:, :1] - t[:, 1:2], t[:, 2:]], axis=1)
    whole = np.zeros((len(t), 3, 3, *t.shape[2:]), t.dtype)
    whole[:, ROW, COLUMN] = six
    whole[:, COLUMN, ROW] = six
    return whole


def full_bwd(dwhole: Array, components: int) -> Array:
    """The transpose of `full`: a number off the diagonal stands in two places, -xx - yy in a third."""
    six = dwhole[:, ROW, COLUMN] + np.where(
        np.reshape(np.arange(6) < 3, (1, 6, *[1] * (dwhole.ndim - 3))), 0, dwhole[:, COLUMN, ROW]
    )
    if components == 6:
        return six
    five = six[:, FIVE].copy()
    five[:, :2] -= six[:, 2:3]
    return five


def edge_tensor_fwd(unit: Array) -> Array:
    """M = Y Y^T - 1, traceless as |Y|^2 = 3. unit[E, 3] -> tensor[E, 6]."""
    return (unit[:, :, None] * unit[:, None, :] - np.eye(3))[:, ROW, COLUMN]


def edge_tensor_bwd(dtensor: Array, unit: Array) -> tuple[Array]:
    """dY = (dM + dM^T) Y."""
    d = np.zeros((len(unit), 3, 3), np.result_type(dtensor, unit))
    d[:, ROW, COLUMN] = dtensor
    return (np.einsum("exy,ey->ex", d + d.swapaxes(1, 2), unit),)


def interaction2_fwd(
    s: Array,
    v: Array,
    unit: Array,
    tensor: Array,
    w: Array,
    senders: Array,
    receivers: Array,
    receiver_ptr: Array,
    sender_perm: Array,
    sender_ptr: Array,
    paths: Array,
) -> tuple[Array, Array, Array]:
    """`interaction_fwd`, and with M = tensor the paths 5, w M v_j / sqrt(2), last in mv, and 6,
    w s_j M sqrt(5/6), in mt[n, 5, C].

    Constants: |M v|^2 of v of unit variance is 6, and a third of that a component; M has five components and
    |M|^2 = 6.
    """
    n, channels = s.shape
    graph = senders, receivers, receiver_ptr, sender_perm, sender_ptr
    ms, mv = interaction_fwd(s, v, unit, w, *graph, paths)
    if paths[5, 0] >= 0:
        weight, _ = message_slot(paths, 5, w, channels)
        product = np.einsum("exy,eyc->exc", full(tensor), v[senders]) / np.sqrt(2)
        mv = np.concatenate([mv, sum_by(receivers, weight[:, None, :] * product, n)], axis=2)
    if paths[6, 0] < 0:
        return ms, mv, np.zeros((n, 5, 0))
    weight, _ = message_slot(paths, 6, w, channels)
    product = np.sqrt(5 / 6) * tensor[:, FIVE, None] * s[senders][:, None, :]
    return ms, mv, sum_by(receivers, weight[:, None, :] * product, n)


def interaction2_bwd(
    dms: Array,
    dmv: Array,
    dmt: Array,
    s: Array,
    v: Array,
    unit: Array,
    tensor: Array,
    w: Array,
    senders: Array,
    receivers: Array,
    receiver_ptr: Array,
    sender_perm: Array,
    sender_ptr: Array,
    paths: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Transpose of `interaction2_fwd`."""
    n, channels = s.shape
    graph = senders, receivers, receiver_ptr, sender_perm, sender_ptr
    dtype = np.result_type(dms, dmv, dmt, s, v, unit, tensor, w)
    ds, dv, dunit, dw = interaction_bwd(dms, dmv, s, v, unit, w, *graph, paths)
    dw, dtensor, s_j = dw.astype(dtype), np.zeros(tensor.shape, dtype), s[senders]

    def own(p: int) -> tuple[Array, slice]:
        return message_slot(paths, p, w, channels)[0], slice(
            paths[p, 0] * channels, (paths[p, 0] + 1) * channels
        )

    if paths[5, 0] >= 0:
        (weight, into_w), v_j = own(5), v[senders]
        columns = slice(paths[5, 1] * channels, (paths[5, 1] + 1) * channels)
        d = dmv[receivers][:, :, columns] / np.sqrt(2)
        turned = np.einsum("exy,exc->eyc", full(tensor), d)  # M is symmetric
        dw[:, into_w] = np.sum(v_j * turned, axis=1)
        dv = dv + sum_by(senders, weight[:, None, :] * turned, n)
        dtensor += full_bwd(np.einsum("ec,exc,eyc->exy", weight, d, v_j), 6)
    if paths[6, 0] >= 0:
        (weight, into_w), d = own(6), np.sqrt(5 / 6) * dmt[receivers]
        along = np.sum(tensor[:, FIVE, None] * d, axis=1)
        dw[:, into_w] = s_j * along
        ds = ds + sum_by(senders, weight * along, n)
        dtensor[:, FIVE] += np.sum((weight * s_j)[:, None, :] * d, axis=2)
    return ds, dv, dunit, dtensor, dw


def node_products_fwd(s: Array, v: Array, t: Array) -> tuple[Array, Array]:
    """Products of two projections of an atom's messages, s and s', v and v', T and T', each pair side by side
    in s[n, 2 D], v[n, 3, 2 D or 0], t[n, 5, 2 D or 0]:

    ps = [s s' | v · v' / √3 | T : T' / √5 | v · q / √3],  pv = [s v' | v x v' / √2 | q],  q = √(3/5) T v',

    of what there is. The factors keep unit variance (|T|^2 = 5).
    """
    (s, q), (v, u), (t, r) = (np.split(x, 2, axis=-1) for x in (s, v, t))
    ps, pv = [s * q], [np.zeros((len(s), 3, 0))]
    if v.shape[2]:
        ps += [np.sum(v * u, axis=1) / np.sqrt(3)]
        pv += [s[:, None] * u, np.cross(v, u, axis=1) / np.sqrt(2)]
    if t.shape[2]:
        turned = np.sqrt(3 / 5) * np.einsum("nxyc,nyc->nxc", full(t), u)
        ps += [
            np.einsum("nxyc,nxyc->nc", full(t), full(r)) / np.sqrt(5),
            np.sum(v * turned, axis=1) / np.sqrt(3),
        ]
        pv += [turned]
    return np.concatenate(ps, axis=1), np.concatenate(pv, axis=2)


def node_products_bwd(dps: Array, dpv: Array, s: Array, v: Array, t: Array) -> tuple[Array, Array, Array]:
    """Transpose of `node_products_fwd`, product by product."""
    D, with_v, with_t = s.shape[1] // 2, v.shape[2] > 0, t.shape[2] > 0
    (s, q), (v, u), (t, r) = (np.split(x, 2, axis=-1) for x in (s, v, t))
    b, P = np.split(dps, dps.shape[1] // D, axis=1), np.split(dpv, max(1, dpv.shape[2] // D), axis=2)
    ds, dq, dv, du, dt, dr = b[0] * q, b[0] * s, 0 * v, 0 * u, 0 * t, 0 * r
    if with_v:
        ds, du = ds + np.sum(P[0] * u, axis=1), du + s[:, None] * P[0]
        dv, du = dv + b[1][:, None] * u / np.sqrt(3), du + b[1][:, None] * v / np.sqrt(3)
        dv = dv + np.cross(u, P[1], axis=1) / np.sqrt(2)
        du = du + np.cross(P[1], v, axis=1) / np.sqrt(2)
    if with_t:
        T, R = full(t), full(r)
        turned = np.sqrt(3 / 5) * np.einsum("nxyc,nyc->nxc", T, u)
        dv = dv + b[3][:, None] * turned / np.sqrt(3)
        dturned = P[2] + b[3][:, None] * v / np.sqrt(3)
        dT = b[2][:, None, None] * R / np.sqrt(5) + np.sqrt(3 / 5) * dturned[:, :, None] * u[:, None]
        dt, dr = full_bwd(dT, 5), full_bwd(b[2][:, None, None] * T / np.sqrt(5), 5)
        du = du + np.sqrt(3 / 5) * np.einsum("nxyc,nxc->nyc", T, dturned)
    pairs = ((ds, dq), (dv, du), (dt, dr))
    return tuple(np.concatenate(pair, axis=-1) for pair in pairs)
