"""Neighbours on a GPU: atoms in bins, pairs from the bins around, edges from the pairs.

The cell is cut into bins[3] parallelepipeds; atom i, wrapped into the cell by wraps_i cells, lies in one of
them. Whatever is up to `reach` away from it lies at most around[3] bins away, and a bin outside the cell
stands for an image: with T cells between them,

    r_j + S·cell - r_i,   S = T - wraps_j + wraps_i

Where the structure is not periodic the bins span it. Pairs (a count, then the same loop to write them) are
sorted by sender, then shift: their order does not depend on the bins. An edge is a pair closer than the
cutoff now; edges keep the pairs' order, which is that of `edges`.

Arrays: positions[n, 3] and cell[3, 3] in Å, inverse of the cell; float64.
"""

import math

from . import cuda as gpu

cuda = None  # see cuda.py


@gpu.kernel(lambda index, *_: index.size)
def bins_cuda(index, wraps, positions, origin, inverse, bins, pbc):
    """index[n], the bin of each atom, and wraps[n, 3].

    A thread takes one atom; 40 registers; 56 bytes, 40 operations.
    """
    for i in range(cuda.grid(1), index.size, cuda.gridsize(1)):
        place = 0
        for d in range(3):
            f = 0.0
            for k in range(3):
                f += (positions[i, k] - origin[k]) * inverse[k, d]
            cells = int(math.floor(f)) if pbc[d] else 0
            wraps[i, d] = cells
            place = place * bins[d] + min(max(int((f - cells) * bins[d]), 0), bins[d] - 1)
        index[i] = place


@gpu.Device
def _square(positions, cell, i, j, a, b, c):
    """Squared distance from i to the image of j, in the order of operations of `edges`."""
    dx = (positions[j, 0] - positions[i, 0]) + (a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0])
    dy = (positions[j, 1] - positions[i, 1]) + (a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1])
    dz = (positions[j, 2] - positions[i, 2]) + (a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2])
    return dx * dx + dy * dy + dz * dz, dx, dy, dz


@gpu.kernel(lambda counts, *_: counts.size)
def pairs_cuda(
    counts,
    senders,
    shifts,
    ptr,
    positions,
    cell,
    index,
    wraps,
    bin_ptr,
    by_bin,
    bins,
    around,
    pbc,
    reach,
    write,
):
    """counts[n] of pairs; or, to `write`, senders[P] and shifts[P, 3] from ptr[i] on, in order.

    A thread takes one atom; 80 registers; for each atom in the bins around 56 bytes, 32 operations, for each
    pair 16 bytes, and those that come after it move up.
    """
    for i in range(cuda.grid(1), counts.size, cuda.gridsize(1)):
        bz, rest = index[i] % bins[2], index[i] // bins[2]
        by, bx = rest % bins[1], rest // bins[1]
        found = 0
        for x in range(bx - around[0], bx + around[0] + 1):
            tx = x // bins[0]
            if not pbc[0] and tx != 0:
                continue
            for y in range(by - around[1], by + around[1] + 1):
                ty = y // bins[1]
                if not pbc[1] and ty != 0:
                    continue
                for z in range(bz - around[2], bz + around[2] + 1):
                    tz = z // bins[2]
                    if not pbc[2] and tz != 0:
                        continue
                    place = ((x - tx * bins[0]) * bins[1] + y - ty * bins[1]) * bins[2] + z - tz * bins[2]
                    for p in range(bin_ptr[place], bin_ptr[place + 1]):
                        j = by_bin[p]
                        a = tx - wraps[j, 0] + wraps[i, 0]
                        b = ty - wraps[j, 1] + wraps[i, 1]
                        c = tz - wraps[j, 2] + wraps[i, 2]
                        if i == j and a == 0 and b == 0 and c == 0:
                            continue
                        if _square(positions, cell, i, j, a, b, c)[0] >= reach * reach:
                            continue
                        if write:
                            _insert(senders, shifts, ptr[i], found, j, a, b, c)
                        found += 1
        if not write:
            counts[i] = found


@gpu.Device
def _insert(senders, shifts, start, count, j, a, b, c):
    """One more pair among `count` sorted ones, in its place."""
    k = start + count
    while k > start and _after(
        senders[k - 1], shifts[k - 1, 0], shifts[k - 1, 1], shifts[k - 1, 2], j, a, b, c
    ):
        senders[k] = senders[k - 1]
        for d in range(3):
            shifts[k, d] = shifts[k - 1, d]
        k -= 1
    senders[k] = j
    shifts[k, 0], shifts[k, 1], shifts[k, 2] = a, b, c


@gpu.Device
def _after(i, a0, b0, c0, j, a, b, c):
    """Whether the first pair comes after the second."""
    if i != j:
        return i > j
    if a0 != a:
        return a0 > a
    if b0 != b:
        return b0 > b
    return c0 > c


@gpu.kernel(lambda counts, *_: counts.size)
def edges_cuda(
    counts,
    least,
    edge_vec,
    senders,
    receivers,
    edge_shifts,
    edge_ptr,
    positions,
    cell,
    ptr,
    pairs,
    shifts,
    cutoff,
    write,
):
    """counts[n] of edges and the least squared distance[n] (Å^2); or, to `write`, the edges from edge_ptr[i]
    on: edge_vec[E, 3], senders[E], receivers[E], edge_shifts[E, 3].

    A thread takes one atom; 72 registers; for each pair 40 bytes, 27 operations, for each edge 52 bytes.
    """
    for i in range(cuda.grid(1), counts.size, cuda.gridsize(1)):
        found, closest = 0, math.inf
        for p in range(ptr[i], ptr[i + 1]):
            j, a, b, c = pairs[p], shifts[p, 0], shifts[p, 1], shifts[p, 2]
            square, dx, dy, dz = _square(positions, cell, i, j, a, b, c)
            closest = min(closest, square)
            if square >= cutoff * cutoff:
                continue
            if write:
                e = edge_ptr[i] + found
                senders[e], receivers[e] = j, i
                edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2] = dx, dy, dz
                edge_shifts[e, 0], edge_shifts[e, 1], edge_shifts[e, 2] = a, b, c
            found += 1
        if not write:
            counts[i], least[i] = found, closest


@gpu.kernel(lambda reverse, *_: reverse.size)
def reverse_cuda(reverse, senders, receivers, edge_shifts, receiver_ptr):
    """reverse[E]: the edge (j <- i) of every edge (i <- j), found by halving among those into j.

    A thread takes one edge; 26 registers; 52 bytes, and 20 for each halving.
    """
    for e in range(cuda.grid(1), reverse.size, cuda.gridsize(1)):
        i, j = receivers[e], senders[e]
        low, high = receiver_ptr[j], receiver_ptr[j + 1]
        while low < high - 1:
            middle = (low + high) // 2
            a, b, c = edge_shifts[middle, 0], edge_shifts[middle, 1], edge_shifts[middle, 2]
            if _after(
                senders[middle], a, b, c, i, -edge_shifts[e, 0], -edge_shifts[e, 1], -edge_shifts[e, 2]
            ):
                high = middle
            else:
                low = middle
        reverse[e] = low


@gpu.kernel(lambda far, *_: far.size)
def moved_cuda(far, positions, origin):
    """far[n], Å^2: how far each atom is from where it was, squared.

    A thread takes one atom; 32 registers; 56 bytes, 8 operations.
    """
    for i in range(cuda.grid(1), far.size, cuda.gridsize(1)):
        dx, dy, dz = (
            positions[i, 0] - origin[i, 0],
            positions[i, 1] - origin[i, 1],
            positions[i, 2] - origin[i, 2],
        )
        far[i] = dx * dx + dy * dy + dz * dz
