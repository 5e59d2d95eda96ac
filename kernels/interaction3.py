"""Third moments: what filters of order 3 add to the interaction, 0x3 -> 3, product 7 of `products`.

    mo[i] = sum over the edges into i of w7 s_j O sqrt(175/108)

It is linear in each of w, s and O, so that every tangent is a sum of the same calls with one of them moved.

Shapes: s[n, C], third[E, 7] (`edge_tensor3`), w[E, P C], mo[n, 7, C]; none has a unit. `paths` has eight
rows, as in `interaction`; where the last is not in use, mo has no columns.

Threads, sums and their order as in `interaction`.
"""

from numba import prange

from . import cuda as gpu
from .arguments import by_path, or_zero
from .compile import inner, kernel
from .cuda import LANES, warp_sum
from .products import R175
from .simd import WIDTH, fill, read, splat, total, write
from .third_products import added7, dot7, put_thirds, scaled7, thirds_at

cuda = None  # see cuda.py
CHUNK = 8  # atoms per unit of parallel work


# ---- channel c of the arrays, or a vector of channels from there on, as `zero` is


@inner
def third_at(third, e, zero):
    """O of edge e."""
    return (
        *(fill(third[e, 0], zero), fill(third[e, 1], zero), fill(third[e, 2], zero), fill(third[e, 3], zero)),
        *(fill(third[e, 4], zero), fill(third[e, 5], zero), fill(third[e, 6], zero)),
    )


@inner
def _weight_at(w, e, slot, c, zero):
    """w7 of edge e, with the constant of the path, of w[E, P, C]."""
    return fill(w.dtype.type(R175), zero) * read(w, (e, slot, c), zero)


@inner
def _sent(zero, i, c, mo, s, third, w, senders, receiver_ptr, slot):
    found = zero, zero, zero, zero, zero, zero, zero
    for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
        ws = _weight_at(w, e, slot, c, zero) * read(s, (senders[e], c), zero)
        found = added7(found, scaled7(ws, third_at(third, e, zero)))
    put_thirds(mo, i, c, added7(thirds_at(mo, i, c, zero), found))


@inner
def _sender_gets(zero, j, c, ds, dmo, third, w, receivers, sender_perm, sender_ptr, slot):
    g = zero
    for p in range(sender_ptr[j], sender_ptr[j + 1]):
        e = sender_perm[p]
        a = thirds_at(dmo, receivers[e], c, zero)
        g = g + _weight_at(w, e, slot, c, zero) * dot7(third_at(third, e, zero), a)
    write(ds, (j, c), read(ds, (j, c), zero) + g)


@inner
def _edge_gets(zero, e, c, dw, dmo, s, third, w, i, j, slot, want_w):
    """Adds to dw; returns dO of these channels."""
    s_j, a = read(s, (j, c), zero), thirds_at(dmo, i, c, zero)
    if want_w:
        q = fill(dw.dtype.type(R175), zero) * s_j * dot7(third_at(third, e, zero), a)
        write(dw, (e, slot, c), read(dw, (e, slot, c), zero) + q)
    return scaled7(_weight_at(w, e, slot, c, zero) * s_j, a)


# ---- on a CPU: as many channels at a time as a vector holds, then those that are left


@kernel
def _fwd_cpu(mo, s, third, w, senders, receiver_ptr, paths):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero, slot = WIDTH // s.itemsize, s.dtype.type(0), paths[7, 0]
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                _sent(splat(zero), i, c, mo, s, third, w, senders, receiver_ptr, slot)
            for c in range(C - C % L, C):
                _sent(zero, i, c, mo, s, third, w, senders, receiver_ptr, slot)


@kernel
def _bwd_sender_cpu(ds, dmo, third, w, receivers, sender_perm, sender_ptr, paths):
    n, C = ds.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero = WIDTH // ds.itemsize, ds.dtype.type(0)
        graph = receivers, sender_perm, sender_ptr, paths[7, 0]
        for j in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for c in range(0, C - C % L, L):
                _sender_gets(splat(zero), j, c, ds, dmo, third, w, *graph)
            for c in range(C - C % L, C):
                _sender_gets(zero, j, c, ds, dmo, third, w, *graph)


@kernel
def _bwd_edge_cpu(dthird, dw, dmo, s, third, w, senders, receiver_ptr, paths, want_third, want_w):
    n, C = s.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        L, zero, slot = WIDTH // s.itemsize, s.dtype.type(0), paths[7, 0]
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for e in range(receiver_ptr[i], receiver_ptr[i + 1]):
                none, rest = splat(zero), (dmo, s, third, w, i, senders[e], slot, want_w)
                g = none, none, none, none, none, none, none
                for c in range(0, C - C % L, L):
                    g = added7(g, _edge_gets(none, e, c, dw, *rest))
                g0, g1, g2, g3, g4, g5, g6 = g
                a = total(g0), total(g1), total(g2), total(g3), total(g4), total(g5), total(g6)
                for c in range(C - C % L, C):
                    a = added7(a, _edge_gets(zero, e, c, dw, *rest))
                if want_third:
                    add_third(dthird, e, a)


@inner
def add_third(dthird, e, a):
    """Add seven numbers to the cotangent of edge e's O."""
    dthird[e, 0] += a[0]
    dthird[e, 1] += a[1]
    dthird[e, 2] += a[2]
    dthird[e, 3] += a[3]
    dthird[e, 4] += a[4]
    dthird[e, 5] += a[5]
    dthird[e, 6] += a[6]


# ---- on a GPU


@gpu.kernel(lambda mo, s, *_: s.size)
def _fwd_cuda(mo, s, third, w, senders, receiver_ptr, paths):
    """A thread takes one channel of one atom; for each edge 8 bytes, 15 operations."""
    n, C = s.shape
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        zero = s.dtype.type(0)
        _sent(zero, k // C, k % C, mo, s, third, w, senders, receiver_ptr, paths[7, 0])


@gpu.kernel(lambda ds, *_: ds.size)
def _bwd_sender_cuda(ds, dmo, third, w, receivers, sender_perm, sender_ptr, paths):
    """A thread takes one channel of one atom; for each edge 32 bytes, 15 operations."""
    n, C = ds.shape
    for k in range(cuda.grid(1), n * C, cuda.gridsize(1)):
        zero = ds.dtype.type(0)
        graph = receivers, sender_perm, sender_ptr, paths[7, 0]
        _sender_gets(zero, k // C, k % C, ds, dmo, third, w, *graph)


@gpu.kernel(lambda dthird, dw, *_: LANES * len(dw))
def _bwd_edge_cuda(dthird, dw, dmo, s, third, w, senders, receivers, paths, want_third, want_w):
    """A warp takes one edge; for each channel 44 bytes, 30 operations, then seven sums."""
    C = s.shape[1]
    lane = cuda.threadIdx.x % LANES
    for e in range(cuda.grid(1) // LANES, dw.shape[0], cuda.gridsize(1) // LANES):
        zero, slot = s.dtype.type(0), paths[7, 0]
        g = zero, zero, zero, zero, zero, zero, zero
        for c in range(lane, C, LANES):
            g = added7(
                g, _edge_gets(zero, e, c, dw, dmo, s, third, w, receivers[e], senders[e], slot, want_w)
            )
        if want_third:
            g0, g1, g2, g3, g4, g5, g6 = g
            g0, g1, g2, g3 = warp_sum(g0), warp_sum(g1), warp_sum(g2), warp_sum(g3)
            g4, g5, g6 = warp_sum(g4), warp_sum(g5), warp_sum(g6)
            if lane == 0:
                add_third(dthird, e, (g0, g1, g2, g3, g4, g5, g6))


# ---- the table's signatures


class _Backend:
    """Launches of the kernels of a backend."""

    def __init__(self, fwd, sender, edge, on_gpu):
        self._fwd, self._sender, self._edge = fwd, sender, edge
        self._by_receiver = not on_gpu  # whose edges a CPU's thread takes; a GPU's ask for it
        self._place = gpu.constant if on_gpu else lambda paths: paths

    def _send(self, mo, s, third, w, graph):
        senders, _, receiver_ptr, _, _, paths = graph
        self._fwd(mo, s, third, by_path(w, s.shape[-1]), senders, receiver_ptr, self._place(paths))

    def _back(self, ds, dthird, dw, dmo, s, third, w, graph):
        """Adds to what is not None."""
        senders, receivers, receiver_ptr, sender_perm, sender_ptr, paths = graph
        C, paths, want = s.shape[-1], self._place(paths), (dthird is not None, dw is not None)
        w = by_path(w, C)
        if ds is not None:
            self._sender(ds, dmo, third, w, receivers, sender_perm, sender_ptr, paths)
        if any(want):
            dthird, dw = or_zero(dthird, third), w if dw is None else by_path(dw, C)
            edges = receiver_ptr if self._by_receiver else receivers
            self._edge(dthird, dw, dmo, s, third, w, senders, edges, paths, *want)

    def fwd(self, mo, s, third, w, *graph):
        mo[...] = 0
        if mo.shape[-1]:
            self._send(mo, s, third, w, graph)

    def fwd_tan(self, tmo, ts, tthird, tw, s, third, w, *graph):
        tmo[...] = 0
        if tmo.shape[-1]:
            for moved in ((ts, third, w), (s, tthird, w), (s, third, tw)):
                if not any(a is None for a in moved):
                    self._send(tmo, *moved, graph)

    def bwd(self, ds, dthird, dw, dmo, s, third, w, *graph):
        if dmo.shape[-1]:
            self._back(ds, dthird, dw, dmo, s, third, w, graph)

    def bwd_tan(self, tds, tdthird, tdw, tdmo, ts, tthird, tw, dmo, s, third, w, *graph):
        if not dmo.shape[-1]:
            return
        self._back(tds, tdthird, tdw, tdmo, s, third, w, graph)
        if ts is not None:
            self._back(None, tdthird, tdw, dmo, ts, third, w, graph)
        if tthird is not None:
            self._back(tds, None, tdw, dmo, s, tthird, w, graph)
        if tw is not None:
            self._back(tds, tdthird, None, dmo, s, third, tw, graph)


_cpu = _Backend(_fwd_cpu, _bwd_sender_cpu, _bwd_edge_cpu, on_gpu=False)
_cuda = _Backend(_fwd_cuda, _bwd_sender_cuda, _bwd_edge_cuda, on_gpu=True)
interaction3_fwd_cpu, interaction3_fwd_cuda = _cpu.fwd, _cuda.fwd
interaction3_bwd_cpu, interaction3_bwd_cuda = _cpu.bwd, _cuda.bwd
interaction3_fwd_tan_cpu, interaction3_fwd_tan_cuda = _cpu.fwd_tan, _cuda.fwd_tan
interaction3_bwd_tan_cpu, interaction3_bwd_tan_cuda = _cpu.bwd_tan, _cuda.bwd_tan
