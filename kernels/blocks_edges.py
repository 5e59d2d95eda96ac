"""The edges of the walks of `blocks`: messages, what goes back through them, and the tangents of both."""

import numpy as np

from .compile import inner, routine
from .products import added, message, nothing, to_sender, to_weights
from .simd import WIDTH, dual, duals, load, splat, spread, store, tangents, total
from .walks import (
    add_seen,
    backwards,
    direction,
    edge_back,
    messages,
    messages_of,
    radial_weights,
    seen,
    store_messages,
)
from .walks2 import hidden_back2, hidden_back2_tan, messages2, messages2_tan
from .walks3 import hidden_back3, hidden_back3_tan, messages3, messages3_tan

V, D, T, TD = range(4)  # walks over even slots go forward, over odd ones backward


@inner
def _messages_tan(tm, tu, u, h, W, tunit, unit, senders, lo, hi, step, with_v, want_v):
    """tm[., C] of edges lo : hi."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    for k in range(W.shape[0]):
        c, found = k * L, nothing(zero)
        for e in range(lo, hi):
            w, tw = radial_weights(W, k, h, e, e, np.int64(1), with_v, want_v)
            f = duals(seen(u, senders[e], c, with_v), seen(tu, senders[e], c, with_v))
            y = duals(direction(unit, e), direction(tunit, e))
            m = message(duals(w, tw), f, y, dual(zero, zero), with_v, want_v)
            found = added(found, tangents(m))
        store_messages(tm, c, found, step, with_v, want_v)


@inner
def _messages_back(du, dunit, dh, gh, i, dm, u, h, W, unit, senders, lo, hi, step, with_v, want_v):
    """du[4, C] of atom i as sender of the reverses of edges lo : hi; their dh; adds to their dunit."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    H = W.shape[1]
    du[:] = 0
    for e in range(lo, hi):
        y = direction(unit, e)
        gx = gy = gz = zero
        for q in range(H):
            store(gh, (q, 0), zero)
        for k in range(W.shape[0]):
            w, _ = radial_weights(W, k, h, e, e, np.int64(0), with_v, want_v)
            to_w, g = edge_back(du, u, dm, i, senders[e], k * L, y, w, step, with_v, want_v)
            gx, gy, gz = gx + g[0], gy + g[1], gz + g[2]
            for q in range(H):
                _add_hidden(gh, W, k, q, to_w, with_v, want_v)
        dunit[e, 0] += total(gx)
        dunit[e, 1] += total(gy)
        dunit[e, 2] += total(gz)
        for q in range(H):
            dh[e, 0, q] = total(load(gh, (q, 0)))


@inner
def _add_hidden(gh, W, k, q, to_w, with_v, want_v):
    """Add what hidden number q gets back from the weights of a vector of channels to gh[q]."""
    L = W.shape[2] // 5
    g = load(gh, (q, 0)) + to_w[0] * load(W, (k, q, 0))
    if want_v:
        g = g + to_w[1] * load(W, (k, q, L))
    if with_v and want_v:
        g = g + to_w[2] * load(W, (k, q, 2 * L)) + to_w[4] * load(W, (k, q, 4 * L))
    if with_v:
        g = g + to_w[3] * load(W, (k, q, 3 * L))
    store(gh, (q, 0), g)


@inner
def _messages_back_tan(
    tdu, dh, tdW, gh, i, tdm, dm, tu, u, h, W, tunit, unit, senders, lo, hi, step, with_v, want_v
):
    """tdu[4, C] and tdh as in the walk before, for the tangents; adds the edges' h^T tq + th^T q to tdW."""
    L = WIDTH // u.itemsize
    zero = splat(u.dtype.type(0))
    none, H = dual(zero, zero), W.shape[1]
    tdu[:] = 0
    for e in range(lo, hi):
        j = senders[e]
        y = duals(direction(unit, e), direction(tunit, e))
        for q in range(H):
            store(gh, (q, 0), zero)
        for k in range(W.shape[0]):
            c = k * L
            w, tw = radial_weights(W, k, h, e, e, np.int64(1), with_v, want_v)
            f = duals(seen(u, j, c, with_v), seen(tu, j, c, with_v))
            a = duals(
                messages_of(dm, i, c, step, with_v, want_v), messages_of(tdm, i, c, step, with_v, want_v)
            )
            to_w = to_weights(f, a, y, none, with_v, want_v)
            there = duals(
                messages_of(dm, j, c, step, with_v, want_v), messages_of(tdm, j, c, step, with_v, want_v)
            )
            g = to_sender(duals(w, tw), there, backwards(y, none), none, with_v, want_v)
            add_seen(tdu, c, tangents(g), with_v)
            for q in range(H):
                hidden = dual(spread(h, (e, 0, q)), spread(h, (e, 1, q)))
                _add_hidden(gh, W, k, q, tangents(to_w), with_v, want_v)
                _add_last_layer(tdW, k, q, hidden, to_w, with_v, want_v)
        for q in range(H):
            dh[e, 1, q] = total(load(gh, (q, 0)))


@inner
def _add_last_layer(tdW, k, q, hidden, to_w, with_v, want_v):
    """Add the tangent of hidden times to_w, row q of the last layer's gradient, for a vector of channels."""
    L = tdW.shape[2] // 5
    store(tdW, (k, q, 0), load(tdW, (k, q, 0)) + (hidden * to_w[0]).tangent)
    if want_v:
        store(tdW, (k, q, L), load(tdW, (k, q, L)) + (hidden * to_w[1]).tangent)
    if with_v and want_v:
        store(tdW, (k, q, 2 * L), load(tdW, (k, q, 2 * L)) + (hidden * to_w[2]).tangent)
        store(tdW, (k, q, 4 * L), load(tdW, (k, q, 4 * L)) + (hidden * to_w[4]).tangent)
    if with_v:
        store(tdW, (k, q, 3 * L), load(tdW, (k, q, 3 * L)) + (hidden * to_w[3]).tangent)


@routine
def _edges_fwd(graph, layout, mem, second, third, k, first, last):
    m, u, h, W, y = mem.m[V, k], mem.u[V, k], mem.h[k], mem.W[k], mem.unit[0]
    ptr, senders, with_v, want_v = graph.receiver_ptr, graph.senders, layout.with_v[k], layout.want_v[k]
    step = 3
    if second is not None:
        step = 4
    for i in range(first, last):
        lo, hi = ptr[i], ptr[i + 1]
        if with_v and want_v:
            messages(m[i], u, h, W, y, senders, lo, hi, step, True, True)
        elif with_v:
            messages(m[i], u, h, W, y, senders, lo, hi, step, True, False)
        elif want_v:
            messages(m[i], u, h, W, y, senders, lo, hi, step, False, True)
        elif layout.scalar is not None:
            messages(m[i], u, h, W, y, senders, lo, hi, step, False, False)
        if second is not None:
            if second.filters[k] and want_v and with_v:
                messages2(m[i], u, h, second.W[k], y, senders, lo, hi, True)
            elif second.filters[k] and want_v:
                messages2(m[i], u, h, second.W[k], y, senders, lo, hi, False)
        if third is not None:
            messages3(m[i], u, h, third.W[k], third.o[0], senders, lo, hi)


@routine
def _edges_bwd(dunit, graph, layout, mem, second, third, part, k, first, last):
    du, dm, u, h, W, y, dh = mem.u[D, k], mem.m[D, k], mem.u[V, k], mem.h[k], mem.W[k], mem.unit[0], mem.dh[k]
    ptr, senders, with_v, want_v = graph.receiver_ptr, graph.senders, layout.with_v[k], layout.want_v[k]
    gh, step = mem.held[part, 4:], 3
    if second is not None:
        step = 4
    for i in range(first, last):
        lo, hi = ptr[i], ptr[i + 1]
        if with_v and want_v:
            _messages_back(du[i], dunit, dh, gh, i, dm, u, h, W, y, senders, lo, hi, step, True, True)
        elif with_v:
            _messages_back(du[i], dunit, dh, gh, i, dm, u, h, W, y, senders, lo, hi, step, True, False)
        elif want_v:
            _messages_back(du[i], dunit, dh, gh, i, dm, u, h, W, y, senders, lo, hi, step, False, True)
        elif layout.scalar is not None:
            _messages_back(du[i], dunit, dh, gh, i, dm, u, h, W, y, senders, lo, hi, step, False, False)
        if second is not None:
            if second.filters[k] and want_v and with_v:
                hidden_back2(du[i], dunit, dh, gh, i, dm, u, h, second.W[k], y, senders, lo, hi, True)
            elif second.filters[k] and want_v:
                hidden_back2(du[i], dunit, dh, gh, i, dm, u, h, second.W[k], y, senders, lo, hi, False)
        if third is not None:
            W3, o = third.W[k], third.o[0]
            hidden_back3(du[i], dunit, dh, gh, i, dm, u, h, W3, y, o, senders, lo, hi)


@routine
def _edges_fwd_tan(graph, layout, mem, second, third, k, first, last):
    tm, tu, u, h, W = mem.m[T, k], mem.u[T, k], mem.u[V, k], mem.h[k], mem.W[k]
    ty, y = mem.unit[1], mem.unit[0]
    ptr, senders, with_v, want_v = graph.receiver_ptr, graph.senders, layout.with_v[k], layout.want_v[k]
    step = 3
    if second is not None:
        step = 4
    for i in range(first, last):
        lo, hi = ptr[i], ptr[i + 1]
        if with_v and want_v:
            _messages_tan(tm[i], tu, u, h, W, ty, y, senders, lo, hi, step, True, True)
        elif with_v:
            _messages_tan(tm[i], tu, u, h, W, ty, y, senders, lo, hi, step, True, False)
        elif want_v:
            _messages_tan(tm[i], tu, u, h, W, ty, y, senders, lo, hi, step, False, True)
        elif layout.scalar is not None:
            _messages_tan(tm[i], tu, u, h, W, ty, y, senders, lo, hi, step, False, False)
        if second is not None:
            if second.filters[k] and want_v and with_v:
                messages2_tan(tm[i], tu, u, h, second.W[k], ty, y, senders, lo, hi, True)
            elif second.filters[k] and want_v:
                messages2_tan(tm[i], tu, u, h, second.W[k], ty, y, senders, lo, hi, False)
        if third is not None:
            W3, o = third.W[k], third.o
            messages3_tan(tm[i], tu, u, h, W3, o[1], o[0], senders, lo, hi)


@routine
def _edges_bwd_tan(graph, layout, mem, second, third, part, k, first, last):
    tdu, tdm, dm, tu, u = mem.u[TD, k], mem.m[TD, k], mem.m[D, k], mem.u[T, k], mem.u[V, k]
    h, W, ty, y, dh = mem.h[k], mem.W[k], mem.unit[1], mem.unit[0], mem.dh[k]
    ptr, senders, with_v, want_v = graph.receiver_ptr, graph.senders, layout.with_v[k], layout.want_v[k]
    gh, tdW, step = mem.held[part, 4:], mem.tdW[part, k], 3
    if second is not None:
        step = 4
    for i in range(first, last):
        lo, hi = ptr[i], ptr[i + 1]
        moving = ty, y, senders, lo, hi
        if with_v and want_v:
            _messages_back_tan(tdu[i], dh, tdW, gh, i, tdm, dm, tu, u, h, W, *moving, step, True, True)
        elif with_v:
            _messages_back_tan(tdu[i], dh, tdW, gh, i, tdm, dm, tu, u, h, W, *moving, step, True, False)
        elif want_v:
            _messages_back_tan(tdu[i], dh, tdW, gh, i, tdm, dm, tu, u, h, W, *moving, step, False, True)
        elif layout.scalar is not None:
            _messages_back_tan(tdu[i], dh, tdW, gh, i, tdm, dm, tu, u, h, W, *moving, step, False, False)
        if second is not None:
            W2, tdW2 = second.W[k], second.tdW[part, k]
            if second.filters[k] and want_v and with_v:
                hidden_back2_tan(tdu[i], dh, tdW2, gh, i, tdm, dm, tu, u, h, W2, *moving, True)
            elif second.filters[k] and want_v:
                hidden_back2_tan(tdu[i], dh, tdW2, gh, i, tdm, dm, tu, u, h, W2, *moving, False)
        if third is not None:
            W3, tdW3, o = third.W[k], third.tdW[part, k], third.o
            hidden_back3_tan(
                *(tdu[i], dh, tdW3, gh, i, tdm, dm, tu, u, h, W3, o[1], o[0], senders, lo, hi),
            )


@routine
def edges(unit, graph, layout, mem, second, third, part, slot, k, first, last):
    """Messages of block k into some atoms, or the way back."""
    if slot == V:
        _edges_fwd(graph, layout, mem, second, third, k, first, last)
    elif slot == D:
        _edges_bwd(unit, graph, layout, mem, second, third, part, k, first, last)
    elif slot == T:
        _edges_fwd_tan(graph, layout, mem, second, third, k, first, last)
    else:
        _edges_bwd_tan(graph, layout, mem, second, third, part, k, first, last)
