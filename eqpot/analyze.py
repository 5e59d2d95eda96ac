"""What trajectories are asked for: radial and angular distributions, mean square displacement, diffusivity.

Lengths in Å, angles in degrees, times in ps, diffusivities in cm²/s. All periodic images are neighbours, an
atom's own too, so that no distance is too long for a small cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import ceil

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import complete_cell

from eqpot.errors import UserError
from eqpot.neighbours import search
from eqpot.trajectory import frame_name, interval

MOST_BINS, MOST_PAIRS = 100_000, 50_000_000  # of a histogram, of a frame, and angles: more is a slip
PROMINENCE = 0.1  # of the highest value: what rises less above its surroundings is no peak
BLUR_R, BLUR_ANGLE = 0.1, 4.0  # Å, degrees: what lies closer together is one peak
AMBIGUOUS = 0.4  # of a cell vector between two frames; from 0.5 on the image nearest is another one
CM2_PER_S = 1e-4  # in one Å²/ps


def _check_elements(frames: Sequence[Atoms], wanted: Sequence[str]) -> tuple[str, ...]:
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
    noise is less; where they are, on y itself.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks  # longer to import than all the rest

    width = x[1] - x[0]
    smooth = gaussian_filter1d(y, blur / width, mode="constant")
    tops = find_peaks(np.concatenate([[0], smooth, [0]]), prominence=PROMINENCE * smooth.max())[0] - 1
    reach = ceil(blur / width)
    starts = np.maximum(tops - reach, 0)
    return np.array([k + y[k : top + reach + 1].argmax() for k, top in zip(starts, tops, strict=True)], int)


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
    symbols = _check_elements(frames, [symbol for pair in pairs or () for symbol in pair])
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
    _check_elements(frames, triple)
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


# ---------------------------------------------------------------- dynamic


@dataclass(frozen=True)
class Diffusivity:
    """Slope of the mean square displacement over twice the number of directions."""

    value: float  # cm²/s
    intercept: float  # of the line, Å²
    error: float  # standard error of value from the blocks, cm²/s; NaN with one block
    exponent: float  # of t in the mean square displacement: 1 where atoms diffuse, 2 where they fly
    along: tuple[float, float, float]  # x, y and z by themselves, cm²/s


@dataclass(frozen=True)
class Msd:
    """Mean square displacement by element, and what follows from it."""

    lag: np.ndarray  # [lags], ps, from 0
    msd: dict[str, np.ndarray]  # [lags], Å²
    error: dict[str, np.ndarray]  # [lags], standard error from the blocks, Å²; NaN with one block
    diffusivity: dict[str, Diffusivity]
    fit: tuple[float, float]  # shortest and longest lag of the fit, ps
    along: dict[str, np.ndarray]  # [3, lags], of x, y and z by themselves, Å²
    axes: str  # the directions that count, such as "xy"
    dimensions: int  # how many they are

    def line(self, element: str) -> np.ndarray:
        """The fitted line at both ends of the fit, Å² [2]."""
        found = self.diffusivity[element]
        return found.intercept + 2 * self.dimensions * found.value / CM2_PER_S * np.array(self.fit)


def msd(
    frames: Sequence[Atoms],
    frame_time: float | None = None,
    elements: Sequence[str] | None = None,
    fit: tuple[float, float] | None = None,
    blocks: int = 5,
    unwrapped: bool = False,
    axes: str | None = None,
) -> Msd:
    """Mean square displacement against lag time, averaged over atoms and time origins, and diffusivity.

    frame_time: fs between frames of the file, where info has no `time_ps`. elements: symbols; None for all.
    fit: shortest and longest lag of the straight line, ps, which has an intercept; None for 10 to 50 % of a
    block. blocks: contiguous parts of the trajectory, as long as the longest lag; each gives a value of its
    own, their spread the standard error of the mean. unwrapped: positions never were wrapped into the cell.
    axes: directions that count, such as "xy"; None for all, or the periodic ones where some are and some not:
    what is bound to a surface gets nowhere along its normal.

    From frame to frame an atom goes to the nearest image, unless unwrapped, in scaled coordinates times the
    mean of the two cells: a cell that breathes moves nothing. The motion of the centre of mass is taken off.
    D = slope / 2d, in d directions, is not corrected for the size of the cell.

    Sums over time origins by Fourier transform: G. R. Kneller et al., Comput. Phys. Commun. 91, 191 (1995).
    UserError at frames whose atoms or periodicity differ, unknown or uneven times, frames too far apart to
    tell the nearest image, and fewer than three lags to fit.
    """
    if len(frames) < 2:
        raise UserError(f"expected at least 2 frames, found {len(frames)}")
    if len(frames[0]) < 2:
        raise UserError("expected at least 2 atoms, since one moves with its own centre of mass, found 1")
    symbols = _check_elements(frames, elements or ())
    _check_same_atoms(frames)
    step = interval(frames, frame_time)
    if not 1 <= blocks <= len(frames) // 2:
        raise UserError(f"blocks: expected 1 to {len(frames) // 2} for {len(frames)} frames, found {blocks}")
    length = len(frames) // blocks
    lag = step * np.arange(length)
    start, stop = fit or (0.1 * lag[-1], 0.5 * lag[-1])
    fitted = (lag >= start * (1 - 1e-9)) & (lag <= stop * (1 + 1e-9)) & (lag > 0)
    if stop > lag[-1] * (1 + 1e-9) or np.count_nonzero(fitted) < 3:
        raise UserError(
            f"fit: expected a range of at least 3 lags, {step:g} ps apart, up to {lag[-1]:g} ps, the longest "
            f"lag in one of {blocks} blocks (fewer are longer), found {start:g}:{stop:g} ps"
        )

    directions, axes = _directions(frames[0], axes)
    count = len(directions)
    moved = displacements(frames, unwrapped)
    masses = frames[0].get_masses()
    moved -= np.einsum("a,tax->tx", masses / masses.sum(), moved)[:, None]
    numbers = frames[0].numbers
    values, errors, along, diffusivities = {}, {}, {}, {}
    for symbol in elements or symbols:
        free = np.moveaxis(moved[:, numbers == atomic_numbers[symbol]], 0, 1)
        along[symbol] = np.array([mean_square(free[..., [k]], length) for k in range(3)])
        paths = free @ directions.T
        values[symbol] = mean_square(paths, length)
        parts = np.array(
            [mean_square(paths[:, k * length : (k + 1) * length], length) for k in range(blocks)]
        )
        errors[symbol] = _standard_error(parts)
        slope, intercept = np.polyfit(lag[fitted], values[symbol][fitted], 1)
        slopes = np.polyfit(lag[fitted], parts[:, fitted].T, 1)[0]
        diffusivities[symbol] = Diffusivity(
            slope / (2 * count) * CM2_PER_S,
            intercept,
            float(_standard_error(slopes / (2 * count) * CM2_PER_S)),
            _exponent(lag[fitted], values[symbol][fitted]),
            tuple(np.polyfit(lag[fitted], along[symbol][:, fitted].T, 1)[0] / 2 * CM2_PER_S),
        )
    ends = float(lag[fitted][0]), float(lag[fitted][-1])
    return Msd(lag, values, errors, diffusivities, ends, along, axes, count)


def _directions(atoms: Atoms, axes: str | None) -> tuple[np.ndarray, str]:
    """Orthonormal vectors [d, 3] that displacements are measured along, and what to call them; see `msd`."""
    if axes is None and 0 < atoms.pbc.sum() < 3:
        periodic = np.linalg.qr(atoms.cell[atoms.pbc].T)[0].T
        lengths = np.linalg.norm(periodic, axis=0)  # of the projections of x, y and z
        axes = "".join(axis for axis, length in zip("xyz", lengths, strict=True) if length > 1 - 1e-6)
        if len(axes) < len(periodic):
            return periodic, f"the periodic cell vector{'' if len(periodic) == 1 else 's'}"
    axes = "".join(sorted(axes or "xyz"))
    return np.eye(3)[["xyz".index(axis) for axis in axes]], axes


def _check_same_atoms(frames: Sequence[Atoms]) -> None:
    for k, atoms in enumerate(frames):
        name, first = frame_name(frames, k), frames[0]
        if len(atoms) != len(first):
            raise UserError(f"{name}, numbers: expected {len(first)} atoms as before, found {len(atoms)}")
        changed = np.flatnonzero(atoms.numbers != first.numbers)
        if len(changed):
            a = changed[0]
            raise UserError(
                f"{name}, numbers: expected atoms in the same order, found atom {a} to be "
                f"{chemical_symbols[atoms.numbers[a]]}, before {chemical_symbols[first.numbers[a]]}"
            )
        if not np.array_equal(atoms.pbc, first.pbc):
            raise UserError(
                f"{name}, pbc: expected {first.pbc.tolist()} as before, found {atoms.pbc.tolist()}"
            )


def displacements(frames: Sequence[Atoms], unwrapped: bool = False) -> np.ndarray:
    """Where atoms have moved to since the first frame, Å [frames, atoms, 3]; see `msd`.

    UserError where frames are too far apart to tell the nearest image.
    """
    pbc = frames[0].pbc
    cells = np.array([complete_cell(np.where(pbc[:, None], atoms.cell[:], 0.0)) for atoms in frames])
    scaled = np.array(
        [atoms.positions @ np.linalg.inv(cell) for atoms, cell in zip(frames, cells, strict=True)]
    )
    steps = np.diff(scaled, axis=0)
    if not unwrapped:
        steps[..., pbc] -= np.round(steps[..., pbc])
        far = np.abs(steps[..., pbc]).max(axis=2, initial=0)
        if far.max() > AMBIGUOUS:
            k, atom = np.unravel_index(far.argmax(), far.shape)
            raise UserError(
                f"{frame_name(frames, k + 1)}, positions: expected successive frames, close enough to follow "
                f"atoms, found atom {atom} ({frames[0].symbols[atom]}) {far[k, atom]:.2f} of a cell "
                "away from where it was in the frame before; give --unwrapped if positions never were wrapped"
            )
    moved = np.zeros_like(scaled)
    np.cumsum(np.einsum("tai,tix->tax", steps, (cells[1:] + cells[:-1]) / 2), axis=0, out=moved[1:])
    return moved


def mean_square(paths: np.ndarray, lags: int) -> np.ndarray:
    """Mean square displacement, Å² [lags], of paths, Å [atoms, frames, 3], over atoms and time origins.

    |r(k+m) - r(k)|² = |r(k+m)|² + |r(k)|² - 2 r(k+m)·r(k): running sums, and an autocorrelation.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    frames = paths.shape[1]
    origins = frames - np.arange(lags)
    size = next_fast_len(2 * frames, real=True)  # padded, so that the end does not meet the beginning
    total = np.zeros(lags)
    for path in paths:
        path = path - path.mean(axis=0)
        products = irfft(np.abs(rfft(path, size, axis=0)) ** 2, size, axis=0)[:lags].sum(axis=1)
        sums = np.concatenate([[0], np.cumsum((path**2).sum(axis=1))])
        total += sums[origins] + sums[-1] - sums[:lags] - 2 * products
    total[0] = 0
    return np.maximum(total, 0) / origins / len(paths)


def _exponent(lag: np.ndarray, values: np.ndarray) -> float:
    if (values <= 0).any():
        return float("nan")
    return float(np.polyfit(np.log(lag), np.log(values), 1)[0])


def _standard_error(parts: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis; NaN for one part."""
    count = len(parts)
    return parts.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(parts.shape[1:], np.nan)
