"""The products of the interaction for one edge and one channel: the only place where they are written.

Receiver i, sender j, edge e = (i <- j), Y = Y1(e) = sqrt(3) edge_vec / r. With w_p from the radial network
(Batzner et al. 2022, eq. 8 to 11; constants as in e3nn's component normalisation):

    p   path       message into i
    0   0x0 -> 0   w0 s_j
    1   0x1 -> 1   w1 s_j Y
    2   1x0 -> 1   w2 v_j
    3   1x1 -> 0   w3 (Y . v_j) / sqrt(3)
    4   1x1 -> 1   w4 (Y x v_j) / sqrt(2)

Backward, for the cotangent (a, A) of the messages at i, from A . (Y x v) = Y . (v x A) = v . (A x Y):

    dw0 = s a0                     ds_j += w0 a0 + w1 (Y . A1)
    dw1 = s (Y . A1)               dv_j += w2 A2 + (w3 / sqrt 3) a3 Y + (w4 / sqrt 2) A4 x Y
    dw2 = v . A2                   dY   += sum_c [w1 s A1 + (w3 / sqrt 3) a3 v + (w4 / sqrt 2) v x A4]
    dw3 = (Y . v) a3 / sqrt 3
    dw4 = (Y x v) . A4 / sqrt 2

Below, w[5] holds the constants of the paths already, f[4] is (s, v), y[3] is Y, and eleven numbers, of
messages or their cotangents, are p0, p3, then x, y, z of p1, of p2 and of p4.

Each of these is a number (operators, CUDA), a `Vector` of neighbouring channels (compiled walks), or a `Dual`
of either: the derivative along a direction is the same function of values that carry their tangents, by the
product rule of their multiplication. Where they have no common arithmetic of this kind, as on a GPU, every
term being linear in each factor, the tangent is the sum of three calls, one factor replaced in each.

with_v, want_v: whether there are vectors before and after, for which the compiler leaves out what is zero;
`zero` is what stands there.

Filters of order 2, where the model has them, add two products, which leave l <= 1 features with nothing that
they cannot see of an edge. With M = Y Y^T - 1, symmetric and traceless (|M|^2 = 6, so that sqrt(5/6) M has
five components of unit variance),

    5   1x2 -> 1   w5 M v_j / sqrt(2)
    6   0x2 -> 2   w6 s_j M sqrt(5/6)

    dw5 = v . M A5 / sqrt 2           ds_j += w6 sqrt(5/6) (M : A6)        dM += w6 sqrt(5/6) s A6
    dw6 = s (M : A6) sqrt(5/6)        dv_j += w5 M A5 / sqrt 2                   + w5 v A5^T / sqrt 2

m[6] is M: xx, yy, zz, xy, yz, zx. The second moment keeps five of its six numbers, xx, yy, xy, yz, zx, as
zz = -xx - yy; the cotangents A6 are those of these five. Everything here is linear in each of w, f, m and a.

Filters of order 3 add third moments, of O = Y Y Y - 3/5 (1 Y + Y 1 + 1 Y), see `edge_tensor3`. |O|^2 is 54/5,
so that sqrt(175/108) O has seven components of unit variance. Seven of its numbers are kept, and

    7   0x3 -> 3   w7 s_j O sqrt(175/108)

    dw7 = s (O . A7) sqrt(175/108)    ds_j += w7 sqrt(175/108) (O . A7)    dO += w7 sqrt(175/108) s A7
"""

import numpy as np

from .compile import inner

R3 = 1.0 / np.sqrt(3.0)
R2 = 1.0 / np.sqrt(2.0)
R56 = np.sqrt(5.0 / 6.0)
R175 = np.sqrt(175.0 / 108.0)
PATH_FACTORS = np.array([1.0, 1.0, 1.0, R3, R2, R2, R56, R175])


@inner
def message(w, f, y, zero, with_v, want_v):
    """What the receiver is sent, eleven numbers.

    The last path first: it takes the most registers, and walks with vectors are a tenth faster so.
    """
    w0, w1, w2, w3, w4 = w
    s, vx, vy, vz = f
    x, y, z = y
    p3 = x1 = y1 = z1 = x2 = y2 = z2 = x4 = y4 = z4 = zero
    if with_v and want_v:
        x4, y4, z4 = w4 * (y * vz - z * vy), w4 * (z * vx - x * vz), w4 * (x * vy - y * vx)
        x2, y2, z2 = w2 * vx, w2 * vy, w2 * vz
    if with_v:
        p3 = w3 * (x * vx + y * vy + z * vz)
    p0 = w0 * s
    if want_v:
        ws = w1 * s
        x1, y1, z1 = ws * x, ws * y, ws * z
    return p0, p3, x1, y1, z1, x2, y2, z2, x4, y4, z4


@inner
def to_sender(w, a, y, zero, with_v, want_v):
    """What the sender gets back: ds, dv."""
    w0, w1, w2, w3, w4 = w
    a0, a3, x1, y1, z1, x2, y2, z2, x4, y4, z4 = a
    x, y, z = y
    ds, dx, dy, dz = w0 * a0, zero, zero, zero
    if want_v:
        ds = ds + w1 * (x * x1 + y * y1 + z * z1)
    if with_v:
        wa = w3 * a3
        dx, dy, dz = wa * x, wa * y, wa * z
    if with_v and want_v:
        dx = dx + w2 * x2 + w4 * (y4 * z - z4 * y)
        dy = dy + w2 * y2 + w4 * (z4 * x - x4 * z)
        dz = dz + w2 * z2 + w4 * (x4 * y - y4 * x)
    return ds, dx, dy, dz


@inner
def to_weights(f, a, y, zero, with_v, want_v):
    """What the weights get back, but for the constants of the paths: q_p, five numbers."""
    s, vx, vy, vz = f
    a0, a3, x1, y1, z1, x2, y2, z2, x4, y4, z4 = a
    x, y, z = y
    q0, q1, q2, q3, q4 = s * a0, zero, zero, zero, zero
    if want_v:
        q1 = s * (x * x1 + y * y1 + z * z1)
    if with_v:
        q3 = a3 * (x * vx + y * vy + z * vz)
    if with_v and want_v:
        q2 = vx * x2 + vy * y2 + vz * z2
        q4 = x * (vy * z4 - vz * y4) + y * (vz * x4 - vx * z4) + z * (vx * y4 - vy * x4)
    return q0, q1, q2, q3, q4


@inner
def to_unit(w, f, a, zero, with_v, want_v):
    """What the direction gets back, of this channel: dY."""
    _, w1, _, w3, w4 = w
    s, vx, vy, vz = f
    _, a3, x1, y1, z1, _, _, _, x4, y4, z4 = a
    gx = gy = gz = zero
    if want_v:
        ws = w1 * s
        gx, gy, gz = ws * x1, ws * y1, ws * z1
    if with_v:
        wa = w3 * a3
        gx, gy, gz = gx + wa * vx, gy + wa * vy, gz + wa * vz
    if with_v and want_v:
        gx = gx + w4 * (vy * z4 - vz * y4)
        gy = gy + w4 * (vz * x4 - vx * z4)
        gz = gz + w4 * (vx * y4 - vy * x4)
    return gx, gy, gz


@inner
def nothing(zero):
    """No message."""
    return zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero


@inner
def added(a, b):
    """a + b, of eleven numbers each."""
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10 = b
    a0, a1, a2, a3, a4, a5 = a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5
    return a0, a1, a2, a3, a4, a5, a6 + b6, a7 + b7, a8 + b8, a9 + b9, a10 + b10


# ---- filters of order 2


@inner
def message2(w, f, m, zero, with_v):
    """What the receiver is sent, eight numbers: x, y, z of path 5, five of path 6."""
    w5, w6 = w
    s, vx, vy, vz = f
    xx, yy, zz, xy, yz, zx = m
    x5 = y5 = z5 = zero
    if with_v:
        x5 = w5 * (xx * vx + xy * vy + zx * vz)
        y5 = w5 * (xy * vx + yy * vy + yz * vz)
        z5 = w5 * (zx * vx + yz * vy + zz * vz)
    ws = w6 * s
    return x5, y5, z5, ws * xx, ws * yy, ws * xy, ws * yz, ws * zx


@inner
def to_sender2(w, a, m, zero, with_v):
    """What the sender gets back: ds, dv."""
    w5, w6 = w
    x5, y5, z5, axx, ayy, axy, ayz, azx = a
    xx, yy, zz, xy, yz, zx = m
    ds, dx, dy, dz = w6 * (xx * axx + yy * ayy + xy * axy + yz * ayz + zx * azx), zero, zero, zero
    if with_v:
        dx = w5 * (xx * x5 + xy * y5 + zx * z5)
        dy = w5 * (xy * x5 + yy * y5 + yz * z5)
        dz = w5 * (zx * x5 + yz * y5 + zz * z5)
    return ds, dx, dy, dz


@inner
def to_weights2(f, a, m, zero, with_v):
    """What the weights get back, but for the constants of the paths: q5, q6."""
    s, vx, vy, vz = f
    x5, y5, z5, axx, ayy, axy, ayz, azx = a
    xx, yy, zz, xy, yz, zx = m
    q5, q6 = zero, s * (xx * axx + yy * ayy + xy * axy + yz * ayz + zx * azx)
    if with_v:
        q5 = vx * (xx * x5 + xy * y5 + zx * z5)
        q5 = q5 + vy * (xy * x5 + yy * y5 + yz * z5) + vz * (zx * x5 + yz * y5 + zz * z5)
    return q5, q6


@inner
def to_tensor(w, f, a, zero, with_v):
    """What M gets back, of this channel, six numbers."""
    w5, w6 = w
    s, vx, vy, vz = f
    x5, y5, z5, axx, ayy, axy, ayz, azx = a
    ws = w6 * s
    gxx, gyy, gzz, gxy, gyz, gzx = ws * axx, ws * ayy, zero, ws * axy, ws * ayz, ws * azx
    if with_v:
        x, y, z = w5 * vx, w5 * vy, w5 * vz
        gxx, gyy, gzz = gxx + x * x5, gyy + y * y5, z * z5
        gxy, gyz, gzx = gxy + (x * y5 + y * x5), gyz + (y * z5 + z * y5), gzx + (z * x5 + x * z5)
    return gxx, gyy, gzz, gxy, gyz, gzx


@inner
def nothing2(zero):
    """No message."""
    return zero, zero, zero, zero, zero, zero, zero, zero


@inner
def added2(a, b):
    """a + b, of eight numbers each."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a
    b0, b1, b2, b3, b4, b5, b6, b7 = b
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7
