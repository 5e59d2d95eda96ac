"""The operators of `reference` for filters of order 2 and 3 and products on atoms, in plain NumPy, float64.

As in `reference_operators`.
"""

from __future__ import annotations

import numpy as np

from .reference_operators import Array, interaction_bwd, interaction_fwd, message_slot, sum_by

# Symmetric traceless tensors: an edge's has six numbers, xx, yy, zz, xy, yz, zx; an atom's the five without
# zz = -xx - yy. `full` makes 3 x 3 of either, on the axis of its components.
ROW, COLUMN = [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]
FIVE = [0, 1, 3, 4, 5]  # of the six
# Third moments have seven numbers, xxx, xyy, yyy, xxy, xxz, yyz, xyz; the others follow, as traces vanish.
SEVEN = [0, 0, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 1, 2, 2, 2]
OTHERS = {(0, 2, 2): (0, 1), (1, 2, 2): (2, 3), (2, 2, 2): (4, 5)}  # less the sum of these two


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


def _orders(place: tuple[int, ...]) -> set[tuple[int, ...]]:
    a, b, c = place
    return {(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)}


def full3(o: Array) -> Array:
    """[n, 7, ...] -> [n, 3, 3, 3, ...]"""
    whole = np.zeros((len(o), 3, 3, 3, *o.shape[2:]), o.dtype)
    for m, place in enumerate(zip(*SEVEN, strict=True)):
        for own in _orders(place):
            whole[:, *own] = o[:, m]
    for place, (a, b) in OTHERS.items():
        for own in _orders(place):
            whole[:, *own] = -o[:, a] - o[:, b]
    return whole


def full3_bwd(dwhole: Array) -> Array:
    """The transpose of `full3`."""
    d = np.zeros((len(dwhole), 7, *dwhole.shape[4:]), dwhole.dtype)
    for m, place in enumerate(zip(*SEVEN, strict=True)):
        d[:, m] += sum(dwhole[:, *own] for own in _orders(place))
    for place, two in OTHERS.items():
        for m in two:
            d[:, m] -= sum(dwhole[:, *own] for own in _orders(place))
    return d


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


def edge_tensor3_fwd(unit: Array) -> Array:
    """O = Y Y Y - 3/5 (1 Y + Y 1 + 1 Y), traceless as |Y|^2 = 3. unit[E, 3] -> third[E, 7]."""
    traces = 0.6 * np.einsum("xy,ez->exyz", np.eye(3), unit)
    traces = traces + traces.transpose(0, 1, 3, 2) + traces.transpose(0, 3, 1, 2)
    return (np.einsum("ex,ey,ez->exyz", unit, unit, unit) - traces)[:, *SEVEN]


def edge_tensor3_bwd(dthird: Array, unit: Array) -> tuple[Array]:
    """dY: each factor Y of O in turn."""
    d = np.zeros((len(unit), 3, 3, 3), np.result_type(dthird, unit))
    d[:, *SEVEN] = dthird
    found = 0
    for own in (d, d.transpose(0, 2, 1, 3), d.transpose(0, 3, 1, 2)):
        found = found + np.einsum("exyz,ey,ez->ex", own, unit, unit) - 0.6 * np.einsum("exyy->ex", own)
    return (found,)


def interaction3_fwd(
    s: Array,
    third: Array,
    w: Array,
    senders: Array,
    receivers: Array,
    receiver_ptr: Array,
    sender_perm: Array,
    sender_ptr: Array,
    paths: Array,
) -> Array:
    """Path 7, third moments: the sum of w s_j O sqrt(175/108), with O = third, in mo[n, 7, C] (no columns
    without it). |O|^2 = 54/5, and a symmetric traceless tensor of seven components of unit variance has 35/2.
    """
    n, channels = s.shape
    if paths[7, 0] < 0:
        return np.zeros((n, 7, 0))
    weight, _ = message_slot(paths, 7, w, channels)
    product = np.sqrt(175 / 108) * third[:, :, None] * s[senders][:, None, :]
    return sum_by(receivers, weight[:, None, :] * product, n)


def interaction3_bwd(
    dmo: Array,
    s: Array,
    third: Array,
    w: Array,
    senders: Array,
    receivers: Array,
    receiver_ptr: Array,
    sender_perm: Array,
    sender_ptr: Array,
    paths: Array,
) -> tuple[Array, Array, Array]:
    """Transpose of `interaction3_fwd`."""
    n, channels = s.shape
    dtype = np.result_type(dmo, s, third, w)
    ds, dthird, dw = (np.zeros(a.shape, dtype) for a in (s, third, w))
    if paths[7, 0] >= 0:
        weight, _ = message_slot(paths, 7, w, channels)
        d, s_j = np.sqrt(175 / 108) * dmo[receivers], s[senders]
        along = np.einsum("em,emc->ec", third, d)
        ds += sum_by(senders, weight * along, n)
        dthird += np.einsum("ec,emc->em", weight * s_j, d)
        dw[:, paths[7, 0] * channels : (paths[7, 0] + 1) * channels] = s_j * along
    return ds, dthird, dw


def node_products_fwd(s: Array, v: Array, t: Array, o: Array) -> tuple[Array, Array]:
    """Products of two projections of an atom's messages, s and s', v and v', T and T', each pair side by side
    in s[n, 2 D], v[n, 3, 2 D or 0], t[n, 5, 2 D or 0], O and O' in o[n, 7, 2 D or 0]:

    ps = [s s' | v · v' / √3 | T : T' / √5 | v · q / √3 | v · p / √3 | O : O' √(4/175)],
    pv = [s v' | v x v' / √2 | q | p],  q = √(3/5) T v',  p = √(6/35) O : T',

    of what there is. The factors keep unit variance (|T|^2 = 5, |O|^2 = 35/2).
    """
    (s, q), (v, u), (t, r), (o, z) = (np.split(x, 2, axis=-1) for x in (s, v, t, o))
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
    if o.shape[2]:
        bent = np.sqrt(6 / 35) * np.einsum("nxyzc,nyzc->nxc", full3(o), full(r))
        square = np.sqrt(4 / 175) * np.einsum("nxyzc,nxyzc->nc", full3(o), full3(z))
        ps, pv = [*ps, np.sum(v * bent, axis=1) / np.sqrt(3), square], [*pv, bent]
    return np.concatenate(ps, axis=1), np.concatenate(pv, axis=2)


def node_products_bwd(dps: Array, dpv: Array, s: Array, v: Array, t: Array, o: Array) -> tuple[Array, ...]:
    """Transpose of `node_products_fwd`, product by product."""
    D, with_v, with_t, with_o = s.shape[1] // 2, v.shape[2] > 0, t.shape[2] > 0, o.shape[2] > 0
    (s, q), (v, u), (t, r), (o, z) = (np.split(x, 2, axis=-1) for x in (s, v, t, o))
    b, P = np.split(dps, dps.shape[1] // D, axis=1), np.split(dpv, max(1, dpv.shape[2] // D), axis=2)
    ds, dq, dv, du, dt, dr, do, dz = b[0] * q, b[0] * s, 0 * v, 0 * u, 0 * t, 0 * r, 0 * o, 0 * z
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
    if with_o:
        whole, c = full3(o), np.sqrt(6 / 35)
        dv = dv + b[4][:, None] * c * np.einsum("nxyzc,nyzc->nxc", whole, R) / np.sqrt(3)
        dbent = c * (P[3] + b[4][:, None] * v / np.sqrt(3))
        b6 = np.sqrt(4 / 175) * b[5][:, None, None, None]
        do = full3_bwd(np.einsum("nxc,nyzc->nxyzc", dbent, R) + b6 * full3(z))
        dz = full3_bwd(b6 * whole)
        dr = dr + full_bwd(np.einsum("nxyzc,nxc->nyzc", whole, dbent), 5)
    pairs = ((ds, dq), (dv, du), (dt, dr), (do, dz))
    return tuple(np.concatenate(pair, axis=-1) for pair in pairs)
