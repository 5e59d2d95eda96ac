"""Small graphs for the tests, made by trying every pair and image: nothing here comes from eqpot."""

from dataclasses import dataclass

import numpy as np

SPECIES_COUNT = 4  # species 1 never occurs: an empty group


@dataclass(frozen=True)
class Graph:
    """A batch as kernels see it: atoms in the order of species, edges in the order of receivers."""

    species: np.ndarray  # [n]
    species_ptr: np.ndarray  # [Z + 1]
    edge_vec: np.ndarray  # [E, 3] Å
    senders: np.ndarray  # [E]
    receivers: np.ndarray  # [E]
    receiver_ptr: np.ndarray  # [n + 1]
    sender_perm: np.ndarray  # [E]
    sender_ptr: np.ndarray  # [n + 1]

    @property
    def indices(self) -> tuple[np.ndarray, ...]:
        """As the interaction takes them."""
        return self.senders, self.receivers, self.receiver_ptr, self.sender_perm, self.sender_ptr


def neighbours(positions, cell, cutoff):
    """Receivers, senders and vectors of all pairs within the cutoff, images too if there is a cell."""
    reach = 0 if cell is None else 4
    box = np.zeros((3, 3)) if cell is None else cell
    receivers, senders, vectors = [], [], []
    for shift in np.ndindex(*[2 * reach + 1] * 3):
        shift = np.array(shift) - reach
        vec = positions[None, :] + shift @ box - positions[:, None]
        r = np.linalg.norm(vec, axis=2)
        i, j = np.nonzero((r < cutoff) & ((r > 0) if not shift.any() else True))
        receivers.append(i), senders.append(j), vectors.append(vec[i, j])
    return np.concatenate(receivers), np.concatenate(senders), np.concatenate(vectors)


def batch(structures, cutoff: float = 3.0) -> Graph:
    """One graph from structures (positions[n, 3], cell or None, species[n])."""
    parts, start = [], 0
    for positions, cell, _ in structures:
        i, j, vec = neighbours(positions, cell, cutoff)
        parts.append((i + start, j + start, vec))
        start += len(positions)
    receivers, senders, edge_vec = (np.concatenate(x) for x in zip(*parts, strict=True))
    species = np.concatenate([s for *_, s in structures]).astype(np.int64)

    order = np.argsort(species, kind="stable")
    place = np.argsort(order)
    receivers, senders, species = place[receivers], place[senders], species[order]
    by_receiver = np.argsort(receivers, kind="stable")
    receivers, senders, edge_vec = receivers[by_receiver], senders[by_receiver], edge_vec[by_receiver]
    sender_perm = np.argsort(senders, kind="stable")
    atoms = np.arange(len(species) + 1)
    return Graph(
        species=species,
        species_ptr=np.searchsorted(species, np.arange(SPECIES_COUNT + 1)),
        edge_vec=edge_vec,
        senders=senders,
        receivers=receivers,
        receiver_ptr=np.searchsorted(receivers, atoms),
        sender_perm=sender_perm,
        sender_ptr=np.searchsorted(senders[sender_perm], atoms),
    )


def cluster(n: int, seed: int) -> np.ndarray:
    """n positions in Å, about 1.5 apart in a zigzag and disordered."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.unravel_index(np.arange(n), (3, 3, 3)), axis=1)
    return 1.5 * grid + rng.uniform(-0.3, 0.3, (n, 3))


SKEW = np.array([[2.2, 0.0, 0.0], [0.4, 2.5, 0.0], [-0.3, 0.5, 2.7]])

GRAPHS = {
    "molecule": batch([(cluster(7, 1), None, [0, 2, 2, 0, 3, 2, 0])]),
    "no_edge": batch([(20.0 * cluster(3, 2), None, [3, 0, 2])]),
    "isolated": batch([(np.vstack([cluster(5, 3), [[50.0, 0, 0]]]), None, [0, 0, 2, 2, 3, 0])]),
    "self_images": batch([(np.array([[0.1, 0.2, 0.3]]), SKEW, [2])]),
    "mixed": batch(
        [
            (cluster(2, 4), None, [2, 0]),
            (cluster(1, 5), None, [3]),
            (cluster(11, 6), None, [0, 2, 3, 0, 2, 3, 0, 2, 3, 2, 2]),
            (cluster(3, 7), 1.8 * SKEW, [3, 0, 3]),
        ]
    ),
    "nothing": batch([(np.zeros((0, 3)), None, [])]),
}
