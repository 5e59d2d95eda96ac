"""Split a data set file into training, validation and test files."""

import os
from dataclasses import dataclass

import numpy as np

from eqpot.errors import UserError
from eqpot.files import check_output
from eqpot.structures.data import Dataset, first_alike, read_dataset, shortest_distances, write_dataset

PARTS = ("train", "valid", "test")
METHODS = ("uniform", "shortest")


@dataclass
class Part:
    """One file that a split wrote, and the frames of the source in it (rising).

    wanted: how many it should have. repeats: how many of them repeat another one.
    """

    path: str
    frames: np.ndarray
    wanted: int
    repeats: int


def split(
    path: str | os.PathLike,
    *,
    train: int | float | None = None,
    valid: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    method: str = "uniform",
    fraction: float = 0.3,
    prefix: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> dict[str, Part]:
    """Write ``{prefix}_train.h5``, ``_valid.h5``, ``_test.h5``; no frame is in two of them.

    Frames of the same atoms in the same places stay together: where that does not allow the number wanted, a
    part gets fewer, or the first of them more where every frame is to be used.

    train, valid, test: an int is a number of frames, a float a fraction of all; None writes no such file.
    All None means 0.8, 0.1, 0.1. Fractions that add up to one use every frame.
    method: "uniform", or "shortest": ``fraction`` of the training frames are those of all frames with the
    shortest interatomic distances, so that the model sees the repulsive wall; all else is uniform.
    prefix: default the name of ``path`` without its ending.

    Raises UserError when more is asked than exists, a part would be empty, or a file is in the way.
    """
    path = os.fspath(path)
    if method not in METHODS:
        raise UserError(f"method: expected one of {', '.join(METHODS)}; found {method}")
    if not 0 <= fraction <= 1:
        raise UserError(f"fraction: expected 0 to 1, found {fraction:g}")
    wanted = {"train": train, "valid": valid, "test": test}
    if all(amount is None for amount in wanted.values()):
        wanted = {"train": 0.8, "valid": 0.1, "test": 0.1}
    prefix = os.path.splitext(path)[0] if prefix is None else os.fspath(prefix)
    if os.path.basename(prefix) in ("", ".", ".."):
        raise UserError(
            f"-o: expected what the names of the files begin with, such as {os.path.join(prefix, 'data')}, "
            f"found the folder {prefix or '.'}"
        )
    paths = {name: f"{prefix}_{name}.h5" for name in PARTS if wanted[name] is not None}
    for file in paths.values():
        check_output(file, overwrite, (path,))

    dataset = read_dataset(path)
    counts = part_sizes(len(dataset), {name: wanted[name] for name in paths}, path)
    first = first_alike(dataset)
    frames = choose(dataset, counts, seed, method, fraction)
    for name, indices in frames.items():
        if not len(indices):
            raise UserError(
                f"{path}: {name}: expected at least 1 frame, found none: repeats of others stay together"
            )
    parts = {}
    for name, indices in frames.items():
        part = dataset.subset(indices)
        part.attrs.update(
            split_part=name,
            split_of=os.path.basename(path),
            split_of_hash=dataset.hash,
            split_method=method if method == "uniform" else f"shortest, fraction {fraction:g} of training",
            split_seed=seed,
            split_frames=", ".join(f"{key} {len(part)}" for key, part in frames.items()),
        )
        write_dataset(paths[name], part)
        repeats = len(indices) - len(np.unique(first[indices]))
        parts[name] = Part(paths[name], indices, counts[name], repeats)
    return parts


def part_sizes(frames: int, wanted: dict[str, int | float], path: str) -> dict[str, int]:
    """Number of frames of each part, from counts (int) and fractions (float)."""
    counts = {}
    for name, amount in wanted.items():
        if isinstance(amount, float):
            if not 0 < amount <= 1:
                raise UserError(f"{path}: {name}: expected a fraction over 0 and up to 1, found {amount:g}")
            counts[name] = int(amount * frames + 1e-9)
        else:
            counts[name] = int(amount)
    fractions = [amount for amount in wanted.values() if isinstance(amount, float)]
    if len(fractions) == len(wanted) and abs(sum(fractions) - 1) < 1e-9:
        counts[next(iter(counts))] += frames - sum(counts.values())
    for name, count in counts.items():
        if count < 1:
            raise UserError(
                f"{path}: {name}: expected at least 1 frame, found {count} ({wanted[name]} of {frames})"
            )
    total = sum(counts.values())
    if total > frames:
        asked = " + ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(f"{path}: expected at most {frames} frames, found {asked} = {total} wanted")
    return counts


def choose(
    dataset: Dataset, counts: dict[str, int], seed: int = 0, method: str = "uniform", fraction: float = 0.3
) -> dict[str, np.ndarray]:
    """Disjoint frames for each part of ``counts``, each sorted; see ``split``."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    kind = first_alike(dataset)
    chosen = {name: np.zeros(0, dtype=int) for name in counts}
    if method == "shortest" and "train" in counts:
        # a stable sort of the permuted frames leaves ties to the seed
        by_distance = order[np.argsort(shortest_distances(dataset)[order], kind="stable")]
        chosen["train"] = _take(by_distance, kind, round(fraction * counts["train"]))
        order = order[~np.isin(order, chosen["train"])]
    for name, count in counts.items():
        taken = _take(order, kind, count - len(chosen[name]))
        chosen[name] = np.concatenate([chosen[name], taken])
        order = order[~np.isin(order, taken)]
    if sum(counts.values()) == len(dataset):
        name = next(iter(counts))
        chosen[name] = np.concatenate([chosen[name], order])
    return {name: np.sort(frames) for name, frames in chosen.items()}


def _take(order: np.ndarray, kind: np.ndarray, room: int) -> np.ndarray:
    """Frames from the beginning of ``order``, no more than ``room``, with all or none of each kind."""
    _, first, inverse, sizes = np.unique(
        kind[order], return_index=True, return_inverse=True, return_counts=True
    )
    taken = np.zeros(len(sizes), dtype=bool)
    for of in np.argsort(first):
        if sizes[of] <= room:
            taken[of] = True
            room -= sizes[of]
    return order[taken[inverse]]
