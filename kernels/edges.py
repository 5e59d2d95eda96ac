"""Edges on a CPU, from candidates that a neighbour search has found; on a GPU: `neighbours`.

An edge and its reverse are made of the same numbers but for the sign, in one order of operations. Lengths in
Å, float64.
"""

import numpy as np

from .compile import exact


@exact
def group(index: np.ndarray, ptr: np.ndarray, perm: np.ndarray) -> None:
    """What `group_by` returns, into arrays that are there."""
    ptr[:] = 0
    for i in index:
        ptr[i + 1] += 1
    for i in range(ptr.size - 1):
        ptr[i + 1] += ptr[i]
    place = ptr[:-1].copy()
    for k in range(index.size):
        perm[place[index[k]]] = k
        place[index[k]] += 1


@exact
def group_by(index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """ptr[n + 1], perm: the places where index == i are perm[ptr[i] : ptr[i + 1]], in rising order."""
    ptr, perm = np.empty(n + 1, np.int64), np.empty(index.size, np.int64)
    group(index, ptr, perm)
    return ptr, perm


@exact
def follows(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether shift a comes after shift b."""
    for d in range(3):
        if a[d] != b[d]:
            return a[d] > b[d]
    return False


@exact
def edge_order(
    senders: np.ndarray, receivers: np.ndarray, shifts: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """ptr[n + 1], perm[E]: edges into atom i are perm[ptr[i] : ptr[i + 1]], by sender, then shift."""
    _, by_sender = group_by(senders, n)
    ptr, by_receiver = group_by(receivers[by_sender], n)
    perm = by_sender[by_receiver]
    for k in range(1, perm.size):  # few edges join the same two atoms: insertion sorts their shifts
        edge, m = perm[k], k
        while m > 0:
            last = perm[m - 1]
            if receivers[last] != receivers[edge] or senders[last] != senders[edge]:
                break
            if not follows(shifts[last], shifts[edge]):
                break
            perm[m] = last
            m -= 1
        perm[m] = edge
    return ptr, perm


@exact
def edges_within(
    cutoff: float,
    positions: np.ndarray,
    box: np.ndarray,
    candidate_ptr: np.ndarray,
    candidates: np.ndarray,
    shifts: np.ndarray,
    edge_vec: np.ndarray,
    senders: np.ndarray,
    receivers: np.ndarray,
    receiver_ptr: np.ndarray,
) -> tuple[int, float]:
    """Write the edges among the candidates; their count, and the least squared distance (Å^2).

    Sender k of the candidates[C] into atom i lies at shifts[k] · box, k from candidate_ptr[i] to
    candidate_ptr[i + 1]. The arrays for edges have room for C.
    """
    count, least = 0, np.inf
    for i in range(len(positions)):
        receiver_ptr[i] = count
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        for k in range(candidate_ptr[i], candidate_ptr[i + 1]):
            j, a, b, c = candidates[k], shifts[k, 0], shifts[k, 1], shifts[k, 2]
            # In this order an edge and its reverse are the same numbers but for the sign.
            dx = (positions[j, 0] - x) + (a * box[0, 0] + b * box[1, 0] + c * box[2, 0])
            dy = (positions[j, 1] - y) + (a * box[0, 1] + b * box[1, 1] + c * box[2, 1])
            dz = (positions[j, 2] - z) + (a * box[0, 2] + b * box[1, 2] + c * box[2, 2])
            square = dx * dx + dy * dy + dz * dz
            # Written in any case, and kept by counting on: faster than a branch that no one can predict.
            edge_vec[count, 0], edge_vec[count, 1], edge_vec[count, 2] = dx, dy, dz
            senders[count], receivers[count] = j, i
            least = min(least, square)
            count += square < cutoff * cutoff
    receiver_ptr[len(positions)] = count
    return count, least


@exact
def shortest_edges(
    edge_vec: np.ndarray, senders: np.ndarray, receivers: np.ndarray, species: np.ndarray, n_species: int
) -> np.ndarray:
    """Å, [Z, Z]: the shortest edge between atoms of each two species, infinite where there is none."""
    least = np.full((n_species, n_species), np.inf)
    for e in range(len(senders)):
        square = edge_vec[e, 0] ** 2 + edge_vec[e, 1] ** 2 + edge_vec[e, 2] ** 2
        a, b = species[senders[e]], species[receivers[e]]
        least[a, b] = min(least[a, b], square)
    return np.sqrt(least)


@exact
def gather(
    positions: np.ndarray, order: np.ndarray, origin: np.ndarray, far: float, here: np.ndarray
) -> bool:
    """here[k] = positions[order[k]]; whether each lies within `far` (Å) of origin[k], which NaN does not."""
    near = True
    for k in range(len(order)):
        square = 0.0
        for d in range(3):
            here[k, d] = positions[order[k], d]
            square += (here[k, d] - origin[k, d]) ** 2
        near = near and square <= far * far
    return near


@exact
def edges_here(
    positions: np.ndarray,
    order: np.ndarray,
    origin: np.ndarray,
    far: float,
    here: np.ndarray,
    sender_perm: np.ndarray,
    sender_ptr: np.ndarray,
    cutoff: float,
    box: np.ndarray,
    candidate_ptr: np.ndarray,
    candidates: np.ndarray,
    shifts: np.ndarray,
    edge_vec: np.ndarray,
    senders: np.ndarray,
    receivers: np.ndarray,
    receiver_ptr: np.ndarray,
) -> tuple[int, float]:
    """`gather`, `edges_within` and `group`: for few atoms, calling takes as long as what is called.

    What the second returns, but -1 edges where an atom is not within `far` of its origin.
    """
    if not gather(positions, order, origin, far, here):
        return -1, np.inf
    lists = candidate_ptr, candidates, shifts, edge_vec, senders, receivers, receiver_ptr
    count, least = edges_within(cutoff, here, box, *lists)
    group(senders[:count], sender_ptr, sender_perm[:count])
    return count, least
