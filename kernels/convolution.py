"""The convolution of one block, evaluated: the radial network's last layer and the products of `interaction`
or `interaction2` in one kernel, so that the weights w[E, P, C] of the edges are never in memory. For GPUs.

With h[E, H] the last hidden numbers of the radial network, all blocks' side by side, and this block's matrix
W[H, P C] (its first row is column `first` of h):

    w_p[e, c] = scale sum_q h[e, first + q] W[q, slot_p C + c]          then the messages of `interaction`

Only the positions are differentiated. h depends on r alone, so its derivative dh = dh/dr is given with it,
and dE/dr needs no way back through the network: with q_p = dE/dw_p and w'_p the same product with dh,

    dr = sum over p, c of w'_p q_p,      ds, dv, dY as in `interaction`

Edges come in pairs: e = (i <- j) and its reverse share r, and Y changes sign. What i gets as the sender of
the reverse edge is summed over the edges into i, with -Y and the messages' cotangents at j:

    (ds, dv)_i = sum over e into i of to_sender(w, (a, A)_j, -Y)

The two products of filters of order 2 have kernels of their own, launched where a block has one of them:
beside the five their numbers would not find room in registers. M = Y Y^T - 1 is made anew from Y, the same
for an edge and its reverse, and what it gets goes back to Y at once:

    (ds, dv)_i += sum over e into i of to_sender2(w, A_j, M),      dY += B(dM, Y), see `edge_tensor`

So has the one of filters of order 3, whose O is odd, as Y is:

    ds_i -= sum over e into i of w7 (O . A_j),      dY += B(dO, Y), see `edge_tensor3`

Shapes: s[n, C], v[n, 3, C] or [n, 3, 0], unit[E, 3], r[E], h[E, K H], dh the same, W[H, P C], ms[n, P0 C],
mv[n, 3, P1 C], mt[n, 5, C] or [n, 5, 0], mo[n, 7, C] or [n, 7, 0].
"""

from functools import cache

from . import cuda as gpu
from .arguments import by_path
from .channels import (
    direction_at,
    features_at,
    messages2_at,
    messages_at,
    put_messages,
    put_messages2,
)
from .cuda import LANES, warp_sum
from .edge_tensor import back, tensor_of
from .edge_tensor3 import A, back3, third_of
from .products import (
    PATH_FACTORS,
    added,
    added2,
    message,
    message2,
    nothing,
    nothing2,
    to_sender,
    to_sender2,
    to_tensor,
    to_unit,
    to_weights,
    to_weights2,
)
from .third_products import added7, dot7, put_thirds, scaled7, thirds_at

cuda = None  # see cuda.py
FACTORS = tuple(float(factor) for factor in PATH_FACTORS)


@gpu.Device
def _hold(held, W, slots, C, c, scale, paths, begin):
    """Channel c of the last layer, with the constants of the paths from `begin` on, into held[., H]."""
    for p in range(held.shape[0]):
        slot = paths[begin + p, 0]
        factor = W.dtype.type(scale * FACTORS[begin + p])
        for q in range(held.shape[1]):
            held[p, q] = factor * W[(q * slots + slot) * C + c] if slot >= 0 else W.dtype.type(0)


@gpu.Device
def _product(held, h, e, first):
    """w_p from the hidden numbers of edge e."""
    w0 = w1 = w2 = w3 = w4 = h.dtype.type(0)
    for q in range(held.shape[1]):
        x = h[e, first + q]
        w0 += x * held[0, q]
        w1 += x * held[1, q]
        w2 += x * held[2, q]
        w3 += x * held[3, q]
        w4 += x * held[4, q]
    return w0, w1, w2, w3, w4


@gpu.Device
def _product2(held, h, e, first):
    """w5 and w6."""
    w5 = w6 = h.dtype.type(0)
    for q in range(held.shape[1]):
        x = h[e, first + q]
        w5 += x * held[0, q]
        w6 += x * held[1, q]
    return w5, w6


@gpu.Device
def _product3(held, h, e, first):
    """w7."""
    w = h.dtype.type(0)
    for q in range(held.shape[1]):
        w += h[e, first + q] * held[0, q]
    return w


@gpu.Device
def _add_edge(dunit, dr, e, gx, gy, gz, r, mine, lane, zero):
    """Add what the warp's channels, those that are its own, give back to Y and r of edge e."""
    if not mine:
        gx = gy = gz = r = zero
    gx, gy, gz, r = warp_sum(gx), warp_sum(gy), warp_sum(gz), warp_sum(r)
    if lane == 0:
        dunit[e, 0] += gx
        dunit[e, 1] += gy
        dunit[e, 2] += gz
        dr[e] += r


@gpu.Device
def _add_atom(ds, dv, i, c, gs, gx, gy, gz):
    """Add to what is wanted of atom i."""
    if ds.size:
        ds[i, c] += gs
    if dv.size:
        dv[i, 0, c] += gx
        dv[i, 1, c] += gy
        dv[i, 2, c] += gz


@cache
def _kernels(H):
    """Both kernels for H hidden numbers: only if the compiler knows H are the weights kept in registers."""

    @gpu.kernel(lambda ms, mv, s, *_: s.size)
    def fwd(ms, mv, s, v, unit, h, W, senders, receiver_ptr, paths, slots, first, scale):
        """A thread takes one channel of one atom, 5 H weights of it in registers, 117 for H = 8; for each
        edge 16 bytes, 10 H + 37 operations, and H + 3 numbers for the whole warp."""
        n, C = s.shape
        zero = s.dtype.type(0)
        held = cuda.local.array((5, H), s.dtype)
        for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
            i, c = k // C, k % C
            _hold(held, W, slots, C, c, scale, paths, 0)
            m = nothing(zero)
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                w, f = _product(held, h, e, first), features_at(s, v, senders[e], c, zero)
                m = added(m, message(w, f, direction_at(unit, e, zero), zero, True, True))
            put_messages(ms, mv, i, c, m, paths)

    @gpu.kernel(lambda ds, dv, dunit, dr, dms, *_: LANES * len(dms))
    def bwd(
        ds,
        dv,
        dunit,
        dr,
        dms,
        dmv,
        s,
        v,
        unit,
        h,
        dh,
        W,
        senders,
        receiver_ptr,
        paths,
        slots,
        first,
        scale,
    ):
        """A warp takes one atom, 32 channels at a time; 205 registers for H = 8; for each edge and channel 60
        bytes, 20 H + 107 operations, four sums over the warp, and 2 H + 3 numbers for all of it."""
        n, C = s.shape
        zero = s.dtype.type(0)
        held = cuda.local.array((5, H), s.dtype)
        lane = cuda.threadIdx.x % LANES
        for i in range(cuda.grid(1) // LANES, n, cuda.gridsize(1) // LANES):
            for start in range(0, C, LANES):
                c = min(start + lane, C - 1)  # the last lanes may have no channel of their own
                mine = start + lane < C
                _hold(held, W, slots, C, c, scale, paths, 0)
                a = messages_at(dms, dmv, i, c, paths, zero)
                gs = gx = gy = gz = zero
                for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                    j = senders[e]
                    y = direction_at(unit, e, zero)
                    w, f = _product(held, h, e, first), features_at(s, v, j, c, zero)
                    there, back = messages_at(dms, dmv, j, c, paths, zero), (-y[0], -y[1], -y[2])
                    t = to_sender(w, there, back, zero, True, True)
                    gs, gx, gy, gz = gs + t[0], gx + t[1], gy + t[2], gz + t[3]
                    q, w1 = to_weights(f, a, y, zero, True, True), _product(held, dh, e, first)
                    yx, yy, yz = to_unit(w, f, a, zero, True, True)
                    r = q[0] * w1[0] + q[1] * w1[1] + q[2] * w1[2] + q[3] * w1[3] + q[4] * w1[4]
                    _add_edge(dunit, dr, e, yx, yy, yz, r, mine, lane, zero)
                if mine:
                    _add_atom(ds, dv, i, c, gs, gx, gy, gz)

    return fwd, bwd


@cache
def _kernels2(H):
    """The same of the two products of filters of order 2."""

    @gpu.kernel(lambda mv, mt, s, *_: s.size)
    def fwd2(mv, mt, s, v, unit, h, W, senders, receiver_ptr, paths, slots, first, scale):
        """A thread takes one channel of one atom, 2 H weights of it in registers, 72 for H = 8; for each edge
        16 bytes, 4 H + 41 operations, and H + 3 numbers for the whole warp."""
        n, C = s.shape
        zero, one = s.dtype.type(0), s.dtype.type(1)
        held = cuda.local.array((2, H), s.dtype)
        for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
            i, c = k // C, k % C
            _hold(held, W, slots, C, c, scale, paths, 5)
            m = nothing2(zero)
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                x, y, z = direction_at(unit, e, zero)
                w, f = _product2(held, h, e, first), features_at(s, v, senders[e], c, zero)
                m = added2(m, message2(w, f, tensor_of(x, y, z, one), zero, True))
            put_messages2(mv, mt, i, c, m, paths)

    @gpu.kernel(lambda ds, dv, dunit, dr, dmv, *_: LANES * len(dmv))
    def bwd2(
        ds,
        dv,
        dunit,
        dr,
        dmv,
        dmt,
        s,
        v,
        unit,
        h,
        dh,
        W,
        senders,
        receiver_ptr,
        paths,
        slots,
        first,
        scale,
    ):
        """A warp takes one atom, 32 channels at a time; 167 registers for H = 8; for each edge and channel 48
        bytes, 8 H + 118 operations, four sums over the warp, and 2 H + 3 numbers for all of it."""
        n, C = s.shape
        zero, one = s.dtype.type(0), s.dtype.type(1)
        held = cuda.local.array((2, H), s.dtype)
        lane = cuda.threadIdx.x % LANES
        for i in range(cuda.grid(1) // LANES, n, cuda.gridsize(1) // LANES):
            for start in range(0, C, LANES):
                c = min(start + lane, C - 1)
                mine = start + lane < C
                _hold(held, W, slots, C, c, scale, paths, 5)
                a = messages2_at(dmv, dmt, i, c, paths, zero)
                gs = gx = gy = gz = zero
                for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                    j = senders[e]
                    x, y, z = direction_at(unit, e, zero)
                    tensor = tensor_of(x, y, z, one)
                    w, f = _product2(held, h, e, first), features_at(s, v, j, c, zero)
                    t = to_sender2(w, messages2_at(dmv, dmt, j, c, paths, zero), tensor, zero, True)
                    gs, gx, gy, gz = gs + t[0], gx + t[1], gy + t[2], gz + t[3]
                    q, w1 = to_weights2(f, a, tensor, zero, True), _product2(held, dh, e, first)
                    yx, yy, yz = back(x, y, z, to_tensor(w, f, a, zero, True))
                    r = q[0] * w1[0] + q[1] * w1[1]
                    _add_edge(dunit, dr, e, yx, yy, yz, r, mine, lane, zero)
                if mine:
                    _add_atom(ds, dv, i, c, gs, gx, gy, gz)

    return fwd2, bwd2


@cache
def _kernels3(H):
    """The same of the product of filters of order 3."""

    @gpu.kernel(lambda mo, s, *_: s.size)
    def fwd3(mo, s, unit, h, W, senders, receiver_ptr, paths, slots, first, scale):
        """A thread takes one channel of one atom, H weights of it in registers; for each edge 4 bytes,
        2 H + 29 operations, and H + 3 numbers for the whole warp."""
        n, C = s.shape
        zero, a0 = s.dtype.type(0), s.dtype.type(A)
        held = cuda.local.array((1, H), s.dtype)
        for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
            i, c = k // C, k % C
            _hold(held, W, slots, C, c, scale, paths, 7)
            m = zero, zero, zero, zero, zero, zero, zero
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                x, y, z = direction_at(unit, e, zero)
                ws = _product3(held, h, e, first) * s[senders[e], c]
                m = added7(m, scaled7(ws, third_of(x, y, z, a0)))
            put_thirds(mo, i, c, m)

    @gpu.kernel(lambda ds, dunit, dr, dmo, *_: LANES * len(dmo))
    def bwd3(ds, dunit, dr, dmo, s, unit, h, dh, W, senders, receiver_ptr, paths, slots, first, scale):
        """A warp takes one atom, 32 channels at a time; for each edge and channel 32 bytes, 4 H + 96
        operations, four sums over the warp, and 2 H + 3 numbers for all of it."""
        n, C = s.shape
        zero, a0 = s.dtype.type(0), s.dtype.type(A)
        held = cuda.local.array((1, H), s.dtype)
        lane = cuda.threadIdx.x % LANES
        for i in range(cuda.grid(1) // LANES, n, cuda.gridsize(1) // LANES):
            for start in range(0, C, LANES):
                c = min(start + lane, C - 1)
                mine = start + lane < C
                _hold(held, W, slots, C, c, scale, paths, 7)
                a, gs = thirds_at(dmo, i, c, zero), zero
                for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                    j = senders[e]
                    x, y, z = direction_at(unit, e, zero)
                    third, w = third_of(x, y, z, a0), _product3(held, h, e, first)
                    gs -= w * dot7(third, thirds_at(dmo, j, c, zero))
                    yx, yy, yz = back3(x, y, z, scaled7(w * s[j, c], a), a0)
                    r = s[j, c] * dot7(third, a) * _product3(held, dh, e, first)
                    _add_edge(dunit, dr, e, yx, yy, yz, r, mine, lane, zero)
                if mine and ds.size:
                    ds[i, c] += gs

    return fwd3, bwd3


def _of_order_2(paths):
    """Whether the block has one of the two products."""
    return (paths[5:7, 0] >= 0).any()


def _of_order_3(paths):
    return (paths[7:, 0] >= 0).any()


def convolution_fwd_cuda(ms, mv, mt, mo, s, v, unit, r, h, dh, W, senders, receiver_ptr, paths, first, scale):
    """W[H, P C]; `paths`, of five, seven or eight rows, is on the host."""
    C, H = s.shape[1], len(W)
    ms, mv = by_path(ms, C), by_path(mv, C)
    arrays = s, v, unit, h, W.reshape(-1), senders, receiver_ptr, gpu.constant(paths)
    static = W.shape[1] // C, first, scale
    _kernels(H)[0](ms, mv, *arrays, *static)
    if _of_order_2(paths):
        _kernels2(H)[0](mv, mt, *arrays, *static)
    if _of_order_3(paths):
        _kernels3(H)[0](mo, s, *arrays[2:], *static)


def convolution_bwd_cuda(
    ds, dv, dunit, dr, dms, dmv, dmt, dmo, s, v, unit, r, h, dh, W, senders, receiver_ptr, paths, first, scale
):
    C, H = s.shape[1], len(W)
    ds, dv = s[:0] if ds is None else ds, v[:0] if dv is None else dv
    dms, dmv = by_path(dms, C), by_path(dmv, C)
    arrays = s, v, unit, h, dh, W.reshape(-1), senders, receiver_ptr, gpu.constant(paths)
    static = W.shape[1] // C, first, scale
    _kernels(H)[1](ds, dv, dunit, dr, dms, dmv, *arrays, *static)
    if _of_order_2(paths):
        _kernels2(H)[1](ds, dv, dunit, dr, dmv, dmt, *arrays, *static)
    if _of_order_3(paths):
        _kernels3(H)[1](ds, dunit, dr, dmo, s, *arrays[2:], *static)
