"""Which frames of the committee's dynamics are computed, and why.

    random      drawn from all frames: the errors on these, before any model was trained on them, are honest
    threshold   beyond the threshold of the deviation, or where a run ended by another limit
    uncertain   where these are few and errors above the target: of the quarter with the largest deviations

Of the last two the farthest points are taken, one after the other, from all frames computed so far and from
each other, in the models' own features: no two are near-duplicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eqpot.backend import to_host
from eqpot.network.named import NamedStages
from eqpot.network.ops import operators
from eqpot.network.pool import Pool
from eqpot.network.tape import Node, Tape
from eqpot.potential import Potential
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames

RANDOM = "random"
RANDOM_SHARE = 0.25
QUARTER = 0.25
BATCH = 20  # frames whose features are computed together


@dataclass(frozen=True)
class Choice:
    """Frames by number, and the reason for each."""

    frames: list[int]
    reasons: list[str]


def choose(
    worst: np.ndarray,
    beyond: np.ndarray,
    places: np.ndarray,
    known: np.ndarray,
    count: int,
    satisfied: bool,
    random: np.random.Generator,
) -> Choice:
    """At most `count` of n frames.

    worst [n]: largest deviation of an atom; beyond [n]: which frames are to be computed for it; places [n, C]
    and known [m, C]: features of these and of the frames computed so far. satisfied: whether errors are below
    the target, so that only frames beyond the threshold are wanted beside random ones.
    """
    count = min(count, len(worst))
    drawn = random.permutation(len(worst))[: max(1, round(RANDOM_SHARE * count))].tolist()
    known = np.concatenate([known, places[drawn]])
    left = np.setdiff1d(np.arange(len(worst)), drawn)
    first = left[beyond[left]]
    chosen = farthest(places, first, known, count - len(drawn))
    reasons = [RANDOM] * len(drawn) + ["threshold"] * len(chosen)
    wanted = count - len(drawn) - len(chosen)
    if wanted and not satisfied:
        rest = left[~beyond[left]]
        rest = rest[np.argsort(-worst[rest], kind="stable")]
        rest = rest[: max(wanted, round(QUARTER * len(rest)))]
        more = farthest(places, rest, np.concatenate([known, places[chosen]]), wanted)
        chosen, reasons = chosen + more, reasons + ["uncertain"] * len(more)
    return Choice(drawn + chosen, reasons)


def farthest(places: np.ndarray, allowed: Sequence[int], known: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the points `allowed`, each as far as can be from those known and those before it."""
    allowed, chosen = np.asarray(allowed, int), []
    if not len(allowed):
        return chosen
    distance = np.full(len(allowed), np.inf)
    for point in known:
        distance = np.minimum(distance, np.linalg.norm(places[allowed] - point, axis=1))
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(allowed[distance.argmax()]))
        distance = np.minimum(distance, np.linalg.norm(places[allowed] - places[chosen[-1]], axis=1))
    return chosen


def features(potential: Potential, data: Dataset) -> np.ndarray:
    """Scalars of the atoms after the last block, their mean over each element side by side, [frames, Z C]."""
    frames = Frames(data, potential.species, potential.config.cutoff)
    model, elements = potential.model, len(potential.species)
    params = {name: to_host(array) for name, array in potential.params.items()}
    rows = []
    for first in range(0, len(data), BATCH):
        batch, _ = frames.batch(range(first, min(first + BATCH, len(data))))
        tape = Tape(operators("cpu"), Pool(np.dtype(potential.dtype)))
        nodes = {name: Node(array) for name, array in params.items()}
        stages = NamedStages(model, nodes, batch)
        model.record(tape, nodes, batch, Node(batch.edge_vec), lambda *_, stages=stages: stages)
        scalars = stages.found[f"block{potential.config.blocks}.s"].value
        sums = np.zeros((len(batch.atom_counts), elements, scalars.shape[1]))
        np.add.at(sums, (batch.frame, batch.species), scalars)
        rows.append((sums / batch.atom_counts[:, None, None]).reshape(len(sums), -1))
    return np.concatenate(rows)
