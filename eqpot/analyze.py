"""What trajectories are asked for: radial and angular distributions; see `diffusion` for displacements.

Lengths in Å, angles in degrees. All periodic images are neighbours, an atom's own too, so that no distance
is too long for a small cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from math import ceil

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from eqpot.errors import UserError
from eqpot.structures.neighbours import search
from eqpot.structures.trajectory import frame_name

MOST_BINS, MOST_PAIRS = 100_000, 50_000_000  # of a histogram, of a frame, and angles: more is a slip
PROMINENCE = 0.1  # of the highest value: what rises less above its surroundings is no peak
BLUR_R, BLUR_ANGLE = 0.1, 4.0  # Å, degrees: what lies closer together is one peak


def check_elements(frames: Sequence[Atoms], wanted: Sequence[str]) -> tuple[str, ...]:
    """Symbols in the frames by atomic number. UserError where one that is wanted is not among them."""
    found = np.unique(np.concatenate([atoms.numbers for atoms in frames]))
    symbols = tuple(chemical_symbols[z] for z in found)
    for symbol in wanted:
        if symbol not in symbols:
            raise UserError(f"expected elements of the trajectory ({' '.join(symbols)}), found {symbol}")
    return symbols


def _bins(end: float, width: float, unit: str) -> np.ndarray:
    """Edges from 0 to end, as many as make bins no wider than width."""
    if not 0 < end < np.inf:
        raise UserError(f"range: expected a finite number above 0 {unit}, found {end:g} {unit}")
    if not 0 < width < end or end / width > MOST_BINS:
        raise UserError(
            f"bin width: expected a number above 0 and below {end:g} {unit}, with at most {MOST_BINS} bins, "
            f"found {width:g} {unit}"
        )
    return np.linspace(0, end, ceil(end / width - 1e-9) + 1)


def _check_pairs(frames: Sequence[Atoms], reach: float) -> None:
    """UserError where atoms have too many neighbours within reach (Å) to list."""
    for k, atoms in enumerate(frames):
        if not atoms.pbc.all():
            continue
        pairs = len(atoms) ** 2 / 2 * 4 / 3 * np.pi * reach**3 / atoms.cell.volume
        if pairs > MOST_PAIRS:
            raise UserError(
                f"{frame_name(frames, k)}: expected a distance with at most {MOST_PAIRS} pairs, found "
                f"{reach:g} Å with some {pairs:.0e}"
            )


def peaks(x: np.ndarray, y: np.ndarray, blur: float) -> np.ndarray:
    """Bins where y [bins], not negative, over x [bins] has a peak; outside the range it counts as zero.

    Which bumps are peaks is decided on a curve blurred by a Gaussian of standard deviation `blur`, where
    noise is less, as is how far each reaches, to the valleys beside it; where it is highest, on y itself.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks  # longer to import than all the rest

    width = x[1] - x[0]
    smooth = gaussian_filter1d(y, blur / width, mode="constant")
    tops = find_peaks(np.concatenate([[0], smooth, [0]]), prominence=PROMINENCE * smooth.max())[0] - 1
    valleys = [a + smooth[a:b].argmin() for a, b in pairwise(tops)]
    ranges = pairwise([0, *valleys, len(y)])
    return np.array([a + y[a:b].argmax() for a, b in ranges] if len(tops) else [], int)


# ---------------------------------------------------------------- radial


@dataclass(frozen=True)
class Rdf:
    """g(r) of pairs of elements ("H-O") and of all atoms ("total")."""

    r: np.ndarray  # [bins], middle of a bin, Å
    g: dict[str, np.ndarray]  # [bins]
    around: dict[str, np.ndarray]  # "H around O": how many H within r of an O, on average; [bins]

    def shell(self, pair: str) -> "Shell | None":
        """The first shell of neighbours; None where g(r) has no peak."""
        g = self.g[pair]
        found = peaks(self.r, g, BLUR_R)
        if not len(found) or found[0] == len(g) - 1:  # still rising at the end
            return None
        first = found[0]
        stop = found[1] if len(found) > 1 else len(g)
        between = g[first:stop]
        lowest = first + int(np.median(np.flatnonzero(between == between.min())))  # middle of a gap
        a, b = pair.split("-") if "-" in pair else (pair, pair)
        around = dict.fromkeys((f"{b} around {a}", f"{a} around {b}"))
        counts = {name: float(self.around[name][lowest]) for name in around if name in self.around}
        return Shell(float(self.r[first]), float(g[first]), float(self.r[lowest]), counts)


@dataclass(frozen=True)
class Shell:
    """First peak of g(r), the minimum that follows, and the neighbours up to there ("H around O": 2.0)."""

    peak: float  # Å
    height: float
    minimum: float  # Å
    neighbours: dict[str, float]


def rdf(
    frames: Sequence[Atoms],
    r_max: float = 6.0,
    bin_width: float = 0.05,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Rdf:
    """Radial distribution functions to r_max (Å), in bins of at most bin_width (Å).

    g(r) is the number of pairs found over that in an ideal gas, both summed over the frames: in a shell of
    volume v, v N_a N_b / V of unlike elements and v N (N - 1) / V of like ones and in total, since an atom
    has N - 1 others around it. Thus an ideal gas gives 1 for every N. Periodic images are neighbours at any
    distance; from the shortest lattice vector on an atom sees images of itself, too, and N - 1 becomes N.

    pairs: of element symbols; None for all, and the total of more than one element.
    UserError at a frame that is not periodic in all directions, an element that is not there, and a range
    that asks for too many bins or pairs.
    """
    symbols = check_elements(frames, [symbol for pair in pairs or () for symbol in pair])
    edges = _bins(r_max, bin_width, "Å")
    balls = 4 / 3 * np.pi * edges**3
    for k, atoms in enumerate(frames):
        if not atoms.pbc.all():
            raise UserError(
                f"{frame_name(frames, k)}, pbc: expected a structure periodic in all three directions, whose "
                f"volume g(r) needs, found pbc {atoms.pbc.tolist()}"
            )
    _check_pairs(frames, r_max)
    bins, count = len(edges) - 1, len(symbols)
    element = np.zeros(len(chemical_symbols), int)
    element[[atomic_numbers[symbol] for symbol in symbols]] = np.arange(count)

    # [a, b, bin]: of b around a
    found, expected, centres = np.zeros((count, count, bins)), np.zeros((count, count, bins)), np.zeros(count)
    shells = np.diff(balls)
    for k, atoms in enumerate(frames):
        species = element[atoms.numbers]
        sizes = np.bincount(species, minlength=count)
        geometry = atoms.positions, atoms.cell[:], atoms.pbc
        i, j, d = search(*geometry, r_max, "ijd", frame_name(frames, k), full=False)
        into = np.minimum((d / edges[1]).astype(int), bins - 1)
        at = (species[i] * count + species[j]) * bins + into
        pairs_found = np.bincount(at, minlength=found.size).reshape(found.shape)
        found += pairs_found + pairs_found.swapaxes(0, 1)
        lattice = into[i == j].min(initial=bins)  # where the shortest lattice vector is
        own = np.where(np.arange(bins) < lattice, 0.0, shells)
        volume = atoms.cell.volume
        expected += np.multiply.outer(np.outer(sizes, sizes), shells) / volume
        expected += np.multiply.outer(np.diag(sizes), own - shells) / volume
        centres += sizes

    def ratio(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return np.divide(found, expected, out=np.zeros(bins), where=expected > 0)

    g = {}
    if pairs is None and count > 1:
        g["total"] = ratio(found.sum(axis=(0, 1)), expected.sum(axis=(0, 1)))
    within = (np.cumsum(found, axis=2) - found / 2) / centres[:, None, None]  # to the middle of a bin
    around = {}
    for pair in pairs or combinations_with_replacement(symbols, 2):
        a, b = (symbols.index(symbol) for symbol in pair)
        g["-".join(pair)] = ratio(found[a, b], expected[a, b])
        around[f"{pair[1]} around {pair[0]}"] = within[a, b]
        around[f"{pair[0]} around {pair[1]}"] = within[b, a]
    return Rdf((edges[1:] + edges[:-1]) / 2, g, around)


# ---------------------------------------------------------------- angular


@dataclass(frozen=True)
class Adf:
    """Distribution of the angles A-B-C at the vertex B."""

    angle: np.ndarray  # [bins], middle of a bin, degrees
    density: np.ndarray  # [bins], 1/degree; its integral over 0 to 180 degrees is 1
    relative: np.ndarray  # [bins], over that of random directions, (sin θ) / 2 per radian
    per_vertex: float  # angles at a vertex, on average
    mean: float  # degrees
    std: float  # degrees

    def curve(self, sine: bool) -> np.ndarray:
        """The density, or with `sine` over that of random directions."""
        return self.relative if sine else self.density

    def peaks(self, sine: bool) -> np.ndarray:
        """Bins in which the curve has its peaks."""
        return peaks(self.angle, self.curve(sine), BLUR_ANGLE)


def adf(
    frames: Sequence[Atoms],
    triple: tuple[str, str, str],
    cutoffs: tuple[float, float],
    bin_width: float = 2.0,
) -> Adf:
    """Angular distribution of the triple A, B, C (symbols), its vertex B in the middle.

    cutoffs: longest A-B and B-C, Å. Every two neighbours of a vertex make one angle; with A = C they are the
    same kind of neighbour and have one cutoff. bin_width: at most, degrees. Periodic images are neighbours.

    UserError at an element that is not there, two atoms in the same place, and where there is no angle.
    """
    check_elements(frames, triple)
    if not all(cutoff > 0 for cutoff in cutoffs):
        raise UserError(f"cutoff: expected lengths above 0 Å, found {cutoffs}")
    (a, b, c), alike = (atomic_numbers[symbol] for symbol in triple), triple[0] == triple[2]
    if alike and cutoffs[0] != cutoffs[1]:
        raise UserError(
            f"cutoff: expected one for {'-'.join(triple)}, found {cutoffs[0]:g} and {cutoffs[1]:g} Å"
        )
    edges = _bins(180.0, bin_width, "degrees")
    _check_pairs(frames, max(cutoffs))
    found, vertices, total, squares = np.zeros(len(edges) - 1), 0, 0.0, 0.0
    for k, atoms in enumerate(frames):
        numbers = atoms.numbers
        geometry = atoms.positions, atoms.cell[:], atoms.pbc
        i, j, d, vectors = search(*geometry, max(cutoffs), "ijdD", frame_name(frames, k))
        if d.min(initial=np.inf) < 1e-12:
            raise UserError(
                f"{frame_name(frames, k)}, positions: expected atoms apart from each other, found two at the "
                "same place"
            )
        first, last = (
            np.flatnonzero((numbers[i] == b) & (numbers[j] == z) & (d < cutoff))
            for z, cutoff in zip((a, c), cutoffs, strict=True)
        )
        count = int(np.bincount(i[last], minlength=len(atoms))[i[first]].sum())
        if count > MOST_PAIRS:
            raise UserError(
                f"{frame_name(frames, k)}: expected a cutoff with at most {MOST_PAIRS} angles, found {count}"
            )
        p, q = _products(i[first], i[last], len(atoms))
        if alike:
            p, q = p[p < q], q[p < q]
        units = vectors / d[:, None]
        cosine = np.einsum("ax,ax->a", units[first[p]], units[last[q]])
        angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        found += np.histogram(angles, edges)[0]
        vertices += np.count_nonzero(numbers == b)
        total += angles.sum()
        squares += (angles**2).sum()
    count = found.sum()
    if not count:
        raise UserError(f"cutoff: expected {'-'.join(triple)} angles, found none within {max(cutoffs):g} Å")
    random = -np.diff(np.cos(np.radians(edges))) / 2
    return Adf(
        angle=(edges[1:] + edges[:-1]) / 2,
        density=found / count / edges[1],
        relative=found / count / random,
        per_vertex=float(count / vertices),
        mean=total / count,
        std=float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0))),
    )


def _products(first: np.ndarray, last: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All p, q with first[p] = last[q], where both are numbers below count."""
    order = np.argsort(last, kind="stable")
    sizes = np.bincount(last, minlength=count)
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    repeats = sizes[first]
    p = np.repeat(np.arange(len(first)), repeats)
    within = np.arange(len(p)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return p, order[ptr[first[p]] + within]
