"""The search for neighbours, and the gate before it.

vesin's cell list is the fast one. It divides by zero where a structure is far longer than it is wide, goes
through all cells across a slab, overflows where positions are many cells away, and lists pairs until memory
ends: what is not for it goes to a k-d tree, and what is for neither is refused before anything is searched.
"""

import math
from collections.abc import Sequence

import numpy as np
from ase.geometry import complete_cell, minkowski_reduce
from vesin import NeighborList

from eqpot.errors import UserError
from eqpot.memory import memory

FARTHEST = 1e9  # Å; beyond, what is 1e-7 Å apart has the same position
LEAST_SINE = 1e-6  # of the angle between a cell vector and the plane of the others
BYTES = 200  # of a pair, from the search to the graph
CROWDED = 2e5  # pairs of an atom; in diamond, 50 Å reach 9e4
SMALL = 1e8  # bytes for pairs that nobody needs to be asked for
# Of vesin: cells, beyond which it makes them wider; steps from cell to cell that take less than a second; how
# many cells away it can count.
CELLS, STEPS, COUNTS = 1e5, 1e8, 1e9

# ---------------------------------------------------------------- the gate


def check_cell(cell: np.ndarray, pbc: Sequence[bool], name: str) -> list[float]:
    """Heights of the cell along its periodic vectors (rows, Å), infinite where not periodic.

    UserError, beginning with ``name``, at periodic vectors that depend on each other, or are endless.
    """
    periodic = [d for d in range(3) if pbc[d]]
    if not periodic:
        return [math.inf] * 3
    rows = cell.tolist()
    lengths = [math.hypot(*row) for row in rows]
    if not all(math.isfinite(lengths[d]) for d in periodic):
        raise UserError(f"{name}, cell: expected finite numbers, found NaN or infinity")
    heights = [math.inf] * 3
    for d in periodic:
        heights[d] = lengths[d] * _sine(rows[d], [rows[e] for e in periodic if e != d])
    if not all(heights[d] > LEAST_SINE * lengths[d] for d in periodic):
        raise UserError(
            f"{name}, cell: expected independent vectors along the periodic directions "
            f"(pbc {''.join('FT'[d in periodic] for d in range(3))}), found volume "
            f"{abs(np.linalg.det(cell)):.3g} Å^3, lengths {', '.join(f'{x:.3g}' for x in lengths)} Å"
        )
    if any(lengths[d] > FARTHEST for d in periodic):
        raise UserError(f"{name}, cell: expected vectors up to {FARTHEST:g} Å, found {max(lengths):.3g} Å")
    return heights


def _sine(a: list[float], others: list[list[float]]) -> float:
    """Of the angle between a vector and the plane, or the line, of others; 0 where one has no direction."""
    vectors = [[x / (math.hypot(*v) or math.inf) for x in v] for v in (a, *others)]
    if len(vectors) == 1:
        return math.hypot(*vectors[0])
    normal = _cross(*vectors[-2:])
    length = math.hypot(*normal)
    if len(vectors) == 2:
        return length
    return abs(sum(x * y for x, y in zip(vectors[0], normal, strict=True))) / (length or math.inf)


def _cross(a: list[float], b: list[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def check_search(
    positions: np.ndarray, cell: np.ndarray, pbc: Sequence[bool], reach: float, name: str
) -> tuple[list[float], float]:
    """Heights of the cell, as `check_cell`, and how far atoms are from the origin at most (Å), where a search
    up to `reach` (Å) can be made.

    UserError, beginning with ``name``, as there, at positions that are not finite or too far away, at
    more pairs than memory has room for, and where images of an atom crowd around it.
    """
    heights = check_cell(cell, pbc, name)
    farthest = float(np.abs(positions).max(initial=0))
    if not math.isfinite(farthest):
        raise UserError(f"{name}, positions: expected finite numbers, found NaN or infinity")
    if farthest > FARTHEST:
        raise UserError(
            f"{name}, positions: expected atoms within {FARTHEST:g} Å of the origin, where 1e-7 Å still make "
            f"a difference, found one at {farthest:.3g} Å"
        )
    if farthest > COUNTS / 2 * min(heights):
        raise UserError(
            f"{name}, positions: expected atoms within {COUNTS / 2:g} cells of the origin, found one at "
            f"{farthest:.3g} Å and a cell {min(heights):.3g} Å high"
        )
    pairs = len(positions) ** 2 * math.prod(2 * reach / h + 1 for h in heights)  # at most
    if pairs * BYTES > SMALL:
        room = memory() / 2
        if pairs * BYTES > room or pairs > CROWDED * len(positions):
            pairs = min(pairs, _count(positions, cell, pbc, reach, heights))
        if pairs * BYTES > room:
            raise UserError(
                f"{name}, positions: expected neighbours that fit into {room / 1e9:.3g} GB, half of memory, "
                f"found about {pairs:.1e} pairs within {reach:.3g} Å of {len(positions)} atoms and their "
                f"images, which take {pairs * BYTES / 1e9:.3g} GB"
            )
        if pairs > CROWDED * len(positions) and min(heights) < reach:
            raise UserError(
                f"{name}, cell: expected vectors that keep images of an atom apart, found about "
                f"{pairs / len(positions):.1e} neighbours of each atom within {reach:.3g} Å"
            )
    return heights, farthest


def _count(
    positions: np.ndarray, cell: np.ndarray, pbc: Sequence[bool], reach: float, heights: list[float]
) -> float:
    """About how many pairs there are, by how densely boxes about as wide as the reach are filled."""
    full = _completed(cell, pbc)
    fractions = positions @ np.linalg.inv(full)
    box, volume = np.zeros(len(positions), np.int64), abs(np.linalg.det(full))
    for x, height in zip(fractions.T, heights, strict=True):
        if height < math.inf:
            boxes = max(1, int(height / reach))
            x, volume = x % 1 * boxes, volume / boxes
        else:
            x, volume = (x - x.min()) / reach, volume * reach
        box = box * 6364136223846793005 + x.astype(np.int64)  # a number for each box, but for rare chance
    filled = np.unique(box, return_counts=True)[1].astype(np.float64)
    return 4 / 3 * math.pi * reach**3 / max(volume, 1e-300) * float((filled**2).sum())


def _completed(cell: np.ndarray, pbc: Sequence[bool]) -> np.ndarray:
    """The cell with vectors of 1 Å, perpendicular to the others, where it is not periodic."""
    return complete_cell(np.where(np.asarray(pbc, bool)[:, None], cell, 0.0))


# ---------------------------------------------------------------- the search


def search(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Sequence[bool],
    reach: float,
    quantities: str,
    name: str,
    full: bool = True,
) -> tuple[np.ndarray, ...]:
    """Pairs of atoms, images too, that are less than `reach` (Å) apart, each from both sides if `full`.

    quantities, by the letter, of C pairs: i and j, the two atoms, int64 [C]; S, cell vectors between them [C,
    3]; D = r_j - r_i + S · cell [C, 3] and d, its length [C], Å. UserError, beginning with `name`, as in
    `check_search`.
    """
    positions, pbc = np.ascontiguousarray(positions, np.float64), np.asarray(pbc, bool)
    heights, farthest = check_search(positions, cell, pbc, reach, name)
    box = np.where(pbc[:, None], cell, 0.0)
    if _is_for_vesin(positions, farthest, heights, reach):
        finder = NeighborList(cutoff=reach, full_list=full, n_threads=1)
        found = dict(zip(quantities, finder.compute(positions, box, pbc, quantities), strict=True))
    else:
        found = _by_tree(positions, box, pbc, reach, full)
    return tuple(found[q].astype(np.int64) if q in "ij" else found[q] for q in quantities)


def _is_for_vesin(positions: np.ndarray, farthest: float, heights: list[float], reach: float) -> bool:
    """Whether its cell list takes the structure, and no longer than a tree."""
    periodic = [h < math.inf for h in heights]
    if farthest < 10 * reach < 300:  # so few cells, each of them 1 Å wide or more, that spans are no matter
        if not any(periodic):
            return True
        spans = [2 * farthest] * 3
    else:
        spans = np.ptp(positions, axis=0).tolist()
    widths = [h if p else max(1.0, 1.01 * s) for h, p, s in zip(heights, periodic, spans, strict=True)]
    cells = [max(1, int(w / reach)) for w in widths]
    wanted = math.prod(cells)
    if wanted > CELLS:
        x_y, y_z = cells[0] / cells[1], cells[1] / cells[2]
        cells[2] = int(math.cbrt(CELLS / (x_y * y_z * y_z)))
        cells[1] = int(y_z * cells[2])
        cells[0] = int(x_y * cells[1])
        # With none along a direction it divides by zero, and few atoms far apart share its wide cells.
        if min(cells) < 2 or wanted > 8 * len(positions):
            return False
    steps = math.prod(cells)
    for count, w, p in zip(cells, widths, periodic, strict=True):
        # Where some directions are periodic, it goes along all of the others.
        steps *= 2 * max(1, math.ceil(reach * count / w), 0 if p or not any(periodic) else count - 1) + 1
        if p and 2 * farthest / w * count > COUNTS:
            return False
    return steps <= STEPS


def _by_tree(
    positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, reach: float, full: bool
) -> dict[str, np.ndarray]:
    """What `search` finds, by a k-d tree of the atoms and one of those images that can be near them."""
    from scipy.spatial import KDTree  # takes as long to import as the rest of eqpot

    lattice, turn = minkowski_reduce(box, pbc)  # as few images as can be
    fractions = positions @ np.linalg.inv(_completed(lattice, pbc))
    wraps = np.where(pbc, np.floor(fractions), 0.0)
    fractions -= wraps
    atoms, shifts = np.arange(len(positions)), np.zeros((len(positions), 3))
    for d, height in enumerate(check_cell(lattice, pbc, "structure")):
        if pbc[d]:
            near = reach / height * (1 + 1e-9) + 1e-9
            steps = np.arange(-math.ceil(near), math.ceil(near) + 1)
            there = fractions[atoms, d, None] + steps
            which, step = np.nonzero((there > -near) & (there < 1 + near))
            atoms, shifts = atoms[which], shifts[which]
            shifts[:, d] = steps[step]
    here = positions - wraps @ lattice
    pairs = KDTree(here).sparse_distance_matrix(
        KDTree(here[atoms] + shifts @ lattice), reach, output_type="ndarray"
    )
    i, image = pairs["i"], pairs["j"]
    j = atoms[image]
    S = np.rint((shifts[image] - wraps[j] + wraps[i]) @ turn)
    first = np.take_along_axis(S, (S != 0).argmax(axis=1)[:, None], axis=1)[:, 0]  # that is not 0
    kept = (j != i) | (first != 0) if full else (j > i) | (j == i) & (first > 0)
    i, j, S = i[kept], j[kept], S[kept]
    D = positions[j] - positions[i] + S @ box
    return {"i": i, "j": j, "S": S.astype(np.int32), "D": D, "d": np.linalg.norm(D, axis=1)}
