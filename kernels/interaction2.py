"""The interaction with filters of order 2: the five products of `interaction`, and two with M = Y Y^T - 1.

    ms[i] = [p0 | p3],  mv[i] = [p1 | p2 | p4 | p5],  mt[i] = p6, summed over the edges into i

The five are left to `interaction`; the two others, 5 and 6 of `products`, are here. They are linear in each
of w, features, M and cotangents, so that every tangent is a sum of the same calls with one of them moved.

Shapes: s[n, C], v[n, 3, C] (or [n, 3, 0]), unit[E, 3], tensor[E, 6] (`edge_tensor`), w[E, P C],
ms[n, P0 C], mv[n, 3, P1 C], mt[n, 5, C] (or [n, 5, 0]);
none has a unit. `paths` has seven rows, as in `interaction`.

Threads, sums and their order as in `interaction`.
"""

from numba import prange

from . import cuda as gpu
from . import interaction as five
from .arguments import by_path, or_zero
from .channels import add_features, features_at, messages2_at, put_messages2
from .compile import inner, kernel
from .cuda import LANES, warp_sum
from .products import R2, R56, added2, message2, nothing2, to_sender2, to_tensor, to_weights2
from .simd import WIDTH, fill, read, splat, total, write

cuda = None  # see cuda.py
CHUNK = 8  # atoms per unit of parallel work


# ---- channel c of the arrays, or a vector of channels from there on, as `zero` is


@inner
def _weights_at(w, e, c, paths, zero):
    """w5 and w6 of edge e, with the constants of the paths, of w[E, P, C]."""
    w5 = w6 = zero
    if paths[5, 0] >= 0:
        w5 = fill(w.dtype.type(R2), zero) * read(w, (e, paths[5, 0], c), zero)
    if paths[6, 0] >= 0:
        w6 = fill(w.dtype.type(R56), zero) * read(w, (e, paths[6, 0], c), zero)
    return w5, w6


@inner
def _tensor_at(m, e, zero):
    return (
        *(fill(m[e, 0], zero), fill(m[e, 1], zero), fill(m[e, 2], zero)),
        *(fill(m[e, 3], zero), fill(m[e, 4], zero), fill(m[e, 5], zero)),
    )


@inner
def _add_weights(dw, e, c, q, paths, zero):
    """Add q5 and q6 to the cotangent of an edge's weights, dw[E, P, C]."""
    if paths[5, 0] >= 0:
        at = e, paths[5, 0], c
        write(dw, at, read(dw, at, zero) + fill(dw.dtype.type(R2), zero) * q[0])
    if paths[6, 0] >= 0:
        at = e, paths[6, 0], c
        write(dw, at, read(dw, at, zero) + fill(dw.dtype.type(R56), zero) * q[1])


@inner
def _sent(zero, i, c, mv, mt, s, v, m, w, senders, receiver_ptr, paths):
    found = nothing2(zero)
    for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
        f = features_at(s, v, senders[e], c, zero)
        found = added2(
            found, message2(_weights_at(w, e, c, paths, zero), f, _tensor_at(m, e, zero), zero, True)
        )
    put_messages2(mv, mt, i, c, added2(messages2_at(mv, mt, i, c, paths, zero), found), paths)


@inner
def _sender_gets(zero, j, c, ds, dv, dmv, dmt, m, w, receivers, sender_perm, sender_ptr, paths):
    s = x = y = z = zero
    for p in range(sender_ptr[j], sender_ptr[j + 1]):
        e = sender_perm[p]
        a = messages2_at(dmv, dmt, receivers[e], c, paths, zero)
        g = to_sender2(_weights_at(w, e, c, paths, zero), a, _tensor_at(m, e, zero), zero, True)
        s, x, y, z = s + g[0], x + g[1], y + g[2], z + g[3]
    add_features(ds, dv, j, c, (s, x, y, z), zero)


@inner
def _edge_gets(zero, e, c, dw, dmv, dmt, s, v, m, w, i, j, paths, want_w):
    """Adds to dw; returns dM of these channels."""
    f, a = features_at(s, v, j, c, zero), messages2_at(dmv, dmt, i, c, paths, zero)
    if want_w:
        _add_weights(dw, e, c, to_weights2(f, a, _tensor_at(m, e, zero), zero, True), paths, zero)
    return to_tensor(_weights_at(w, e, c, paths, zero), f, a, zero, True)


# ---- on a CPU: as many channels at a time as a vector holds, then those that are left


@kernel
def _fwd_cpu(mv, mt, s, v, m, w, senders, receiver_ptr, paths):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // s.itemsize, s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                _sent(splat(zero), i, c, mv, mt, s, v, m, w, senders, receiver_ptr, paths)
            for c in range(C - C % L, C):
                _sent(zero, i, c, mv, mt, s, v, m, w, senders, receiver_ptr, paths)


@kernel
def _bwd_sender_cpu(ds, dv, dmv, dmt, m, w, receivers, sender_perm, sender_ptr, paths):
    n, C = ds.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // ds.itemsize, ds.dtype.type(0)
        graph = receivers, sender_perm, sender_ptr, paths
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                _sender_gets(splat(zero), j, c, ds, dv, dmv, dmt, m, w, *graph)
            for c in range(C - C % L, C):
                _sender_gets(zero, j, c, ds, dv, dmv, dmt, m, w, *graph)


@kernel
def _bwd_edge_cpu(dm, dw, dmv, dmt, s, v, m, w, senders, receiver_ptr, paths, want_m, want_w):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // s.itemsize, s.dtype.type(0)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                g0 = g1 = g2 = g3 = g4 = g5 = splat(zero)
                rest = dmv, dmt, s, v, m, w, i, senders[e], paths, want_w
                for c in range(0, C - C % L, L):
                    h = _edge_gets(splat(zero), e, c, dw, *rest)
                    g0, g1, g2, g3, g4, g5 = g0 + h[0], g1 + h[1], g2 + h[2], g3 + h[3], g4 + h[4], g5 + h[5]
                a0, a1, a2, a3, a4, a5 = total(g0), total(g1), total(g2), total(g3), total(g4), total(g5)
                for c in range(C - C % L, C):
                    k = _edge_gets(zero, e, c, dw, *rest)
                    a0, a1, a2, a3, a4, a5 = a0 + k[0], a1 + k[1], a2 + k[2], a3 + k[3], a4 + k[4], a5 + k[5]
                if want_m:
                    dm[e, 0] += a0
                    dm[e, 1] += a1
                    dm[e, 2] += a2
                    dm[e, 3] += a3
                    dm[e, 4] += a4
                    dm[e, 5] += a5


# ---- on a GPU


@gpu.kernel(lambda mv, mt, s, *_: s.size)
def _fwd_cuda(mv, mt, s, v, m, w, senders, receiver_ptr, paths):
    """A thread takes one channel of one atom; 56 registers; for each edge 24 bytes, 32 operations."""
    n, C = s.shape
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        zero = s.dtype.type(0)
        _sent(zero, k // C, k % C, mv, mt, s, v, m, w, senders, receiver_ptr, paths)


@gpu.kernel(lambda ds, *_: ds.size)
def _bwd_sender_cuda(ds, dv, dmv, dmt, m, w, receivers, sender_perm, sender_ptr, paths):
    """A thread takes one channel of one atom; 55 registers; for each edge 40 bytes, 32 operations."""
    n, C = ds.shape
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        zero = ds.dtype.type(0)
        _sender_gets(zero, k // C, k % C, ds, dv, dmv, dmt, m, w, receivers, sender_perm, sender_ptr, paths)


@gpu.kernel(lambda dm, dw, *_: LANES * len(dw))
def _bwd_edge_cuda(dm, dw, dmv, dmt, s, v, m, w, senders, receivers, paths, want_m, want_w):
    """A warp takes one edge; 60 registers; for each channel 72 bytes, 64 operations, then six sums."""
    C = s.shape[1]
    lane = cuda.threadIdx.x % LANES
    for e in range(cuda.grid(1) // LANES, dw.shape[0], cuda.gridsize(1) // LANES):
        zero = s.dtype.type(0)
        g0 = g1 = g2 = g3 = g4 = g5 = zero
        for c in range(lane, C, LANES):
            i, j = receivers[e], senders[e]
            h = _edge_gets(zero, e, c, dw, dmv, dmt, s, v, m, w, i, j, paths, want_w)
            g0, g1, g2, g3, g4, g5 = g0 + h[0], g1 + h[1], g2 + h[2], g3 + h[3], g4 + h[4], g5 + h[5]
        if want_m:
            g0, g1, g2 = warp_sum(g0), warp_sum(g1), warp_sum(g2)
            g3, g4, g5 = warp_sum(g3), warp_sum(g4), warp_sum(g5)
            if lane == 0:
                dm[e, 0] += g0
                dm[e, 1] += g1
                dm[e, 2] += g2
                dm[e, 3] += g3
                dm[e, 4] += g4
                dm[e, 5] += g5


# ---- the table's signatures; each backend is (kernels of the two products, functions of the five)


class _Backend:
    """Launches of the kernels, with the five products before or beside them."""

    def __init__(self, backend, fwd, sender, edge):
        self.five = {
            walk: getattr(five, f"interaction_{walk}_{backend}")
            for walk in ("fwd", "bwd", "fwd_tan", "bwd_tan")
        }
        self._fwd, self._sender, self._edge = fwd, sender, edge
        self._by_receiver = backend == "cpu"  # whose edges a CPU's thread takes; a GPU's ask for it
        self._place = gpu.constant if backend == "cuda" else lambda paths: paths

    def _send(self, mv, mt, s, v, m, w, graph):
        senders, _, receiver_ptr, _, _, paths = graph
        C = s.shape[-1]
        self._fwd(by_path(mv, C), mt, s, v, m, by_path(w, C), senders, receiver_ptr, self._place(paths))

    def _back(self, ds, dv, dm, dw, dmv, dmt, s, v, m, w, graph):
        """Adds to what is not None."""
        senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
        C, paths = s.shape[-1], self._place(paths)
        dmv, w = by_path(dmv, C), by_path(w, C)
        if ds is not None or dv is not None:
            ds, dv = or_zero(ds, s), or_zero(dv, v)
            self._sender(ds, dv, dmv, dmt, m, w, receivers, sender_perm, sender_ptr, paths)
        if dm is not None or dw is not None:
            wanted = dm is not None, dw is not None
            dm, dw = m if dm is None else dm, w if dw is None else by_path(dw, C)
            edges = receiver_ptr if self._by_receiver else receivers
            self._edge(dm, dw, dmv, dmt, s, v, m, w, senders, edges, paths, *wanted)

    def _five(self, walk, *arguments):
        """The five products, if there is one of them."""
        if (arguments[-1][:5, 0] >= 0).any():
            self.five[walk](*arguments)

    def fwd(self, ms, mv, mt, s, v, unit, m, w, *graph):
        self._five("fwd", ms, mv, s, v, unit, w, *graph)
        _clear(mv, mt, s.shape[-1], graph[-1])
        self._send(mv, mt, s, v, m, w, graph)

    def fwd_tan(self, tms, tmv, tmt, ts, tv, tunit, tm, tw, s, v, unit, m, w, *graph):
        self._five("fwd_tan", tms, tmv, ts, tv, tunit, tw, s, v, unit, w, *graph)
        _clear(tmv, tmt, s.shape[-1], graph[-1])
        if ts is not None or tv is not None:
            self._send(tmv, tmt, or_zero(ts, s), or_zero(tv, v), m, w, graph)
        if tm is not None:
            self._send(tmv, tmt, s, v, tm, w, graph)
        if tw is not None:
            self._send(tmv, tmt, s, v, m, tw, graph)

    def bwd(self, ds, dv, dunit, dm, dw, dms, dmv, dmt, s, v, unit, m, w, *graph):
        self._five("bwd", ds, dv, dunit, dw, dms, dmv, s, v, unit, w, *graph)
        self._back(ds, dv, dm, dw, dmv, dmt, s, v, m, w, graph)

    def bwd_tan(self, tds, tdv, tdunit, tdm, tdw, tdms, tdmv, tdmt, *rest):
        ts, tv, tunit, tm, tw, dms, dmv, dmt, s, v, unit, m, w, *graph = rest
        moved = ts, tv, tunit, tw, dms, dmv, s, v, unit, w
        self._five("bwd_tan", tds, tdv, tdunit, tdw, tdms, tdmv, *moved, *graph)
        self._back(tds, tdv, tdm, tdw, tdmv, tdmt, s, v, m, w, graph)
        if ts is not None or tv is not None:
            f = or_zero(ts, s), or_zero(tv, v)
            self._back(None, None, tdm, tdw, dmv, dmt, *f, m, w, graph)
        if tm is not None:
            self._back(tds, tdv, None, tdw, dmv, dmt, s, v, tm, w, graph)
        if tw is not None:
            self._back(tds, tdv, tdm, None, dmv, dmt, s, v, m, tw, graph)


def _clear(mv, mt, channels, paths):
    """Zeros where the two products add: the five leave their columns alone."""
    mt[...] = 0
    if paths[5, 0] >= 0:
        by_path(mv, channels)[:, :, paths[5, 1]] = 0


_cpu = _Backend("cpu", _fwd_cpu, _bwd_sender_cpu, _bwd_edge_cpu)
_cuda = _Backend("cuda", _fwd_cuda, _bwd_sender_cuda, _bwd_edge_cuda)
interaction2_fwd_cpu, interaction2_fwd_cuda = _cpu.fwd, _cuda.fwd
interaction2_bwd_cpu, interaction2_bwd_cuda = _cpu.bwd, _cuda.bwd
interaction2_fwd_tan_cpu, interaction2_fwd_tan_cuda = _cpu.fwd_tan, _cuda.fwd_tan
interaction2_bwd_tan_cpu, interaction2_bwd_tan_cuda = _cpu.bwd_tan, _cuda.bwd_tan
