"""Matrices between columns that carry labels of parity: equal labels connect."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dense:
    """A block-diagonal matrix as the dense operator takes it."""

    name: str
    columns: int
    pieces: np.ndarray
    scales: np.ndarray
    per_species: bool

    @property
    def size(self) -> int:
        """Weights of one group of rows."""
        return int(np.sum(self.pieces[:, 1] * self.pieces[:, 3]))


def dense(
    name: str,
    inputs: str,
    outputs: str,
    gain: float = 1.0,
    neighbours: float = 1.0,
    per_species: bool = False,
) -> Dense:
    """Connect columns of equal label, given one letter per column.

    The factor gain / sqrt(fan-in · neighbours) keeps the variance of sums of independent terms at gain^2.
    """
    pieces, scales, offset = [], [], 0
    for y_col, m, label in _runs(outputs):
        for x_col, k, other in _runs(inputs):
            if other == label:
                pieces.append((x_col, k, y_col, m, offset))
                scales.append(gain / np.sqrt(inputs.count(label) * neighbours))
                offset += k * m
    return Dense(name, len(outputs), np.array(pieces, np.int64).reshape(-1, 5), np.array(scales), per_species)


def _runs(labels: str) -> list[tuple[int, int, str]]:
    """(start, length, label) of each stretch of equal labels."""
    starts = [k for k, label in enumerate(labels) if k == 0 or labels[k - 1] != label]
    return [(a, b - a, labels[a]) for a, b in zip(starts, [*starts[1:], len(labels)], strict=True)]


def flip(labels: str) -> str:
    return labels.translate(str.maketrans("eo", "oe"))


def times(a: str, b: str) -> str:
    """Labels of products: parities multiply."""
    return "".join("e" if x == y else "o" for x, y in zip(a, b, strict=True))


def factors(order: str, labels: str, width: int, last: bool) -> tuple[str, str]:
    """Labels of the two factors of products on an atom, from those of the messages they are made of.

    With two kinds of messages the first factor has half of either, so that products have as well; the second
    has the kind that nature makes first: even scalars and second moments, polar vectors, odd third moments.
    In the last block, where even products are all that count, those of one kind meet their like, and second
    moments are even.
    """
    if len(set(labels)) < 2:
        return labels[:1] * width, labels[:1] * width
    plain, other = ("o", "e") if order in "vo" else ("e", "o")
    halves = plain * (width - width // 2) + other * (width // 2)
    if last:
        return (plain * width,) * 2 if order == "t" else (halves, halves)
    return halves, plain * width
