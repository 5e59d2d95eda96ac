"""Mean square displacement and diffusivity in trajectories.

Lengths in Å, times in ps, diffusivities in cm²/s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import complete_cell

from eqpot.analyze import check_elements
from eqpot.errors import UserError
from eqpot.structures.trajectory import frame_name, interval

AMBIGUOUS = 0.4  # of a cell vector between two frames; from 0.5 on the image nearest is another one
CM2_PER_S = 1e-4  # in one Å²/ps


@dataclass(frozen=True)
class Diffusivity:
    """Slope of the mean square displacement over twice the number of directions."""

    value: float  # cm²/s
    intercept: float  # of the line, Å²
    error: float  # standard error of value from the blocks or runs, cm²/s; NaN with one
    exponent: float  # of t in the mean square displacement: 1 where atoms diffuse, 2 where they fly
    along: tuple[float, float, float]  # x, y and z by themselves, cm²/s


@dataclass(frozen=True)
class Msd:
    """Mean square displacement by element, and what follows from it."""

    lag: np.ndarray  # [lags], ps, from 0
    msd: dict[str, np.ndarray]  # [lags], Å²
    error: dict[str, np.ndarray]  # [lags], standard error from the blocks or runs, Å²; NaN with one
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
    symbols = check_elements(frames, elements or ())
    _check_same_atoms(frames)
    step = interval(frames, frame_time)
    if not 1 <= blocks <= len(frames) // 2:
        raise UserError(f"blocks: expected 1 to {len(frames) // 2} for {len(frames)} frames, found {blocks}")
    length = len(frames) // blocks
    lag = step * np.arange(length)
    if length < 4:
        raise UserError(
            f"blocks: expected at least 4 frames in each of {blocks}, found {length}; fewer blocks are longer"
        )
    start, stop = fit or (0.1 * lag[-1], max(0.5 * lag[-1], 3 * step))
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


def mean_of_runs(named: Mapping[str, Msd]) -> Msd:
    """Of independent runs of the same system, by their names: errors are those of the mean over the runs.

    UserError where elements, lags, their fit or directions differ.
    """
    runs = list(named.values())
    first = runs[0]
    for name, run in named.items():
        for what in ("elements", "lags", "fit", "axes"):
            mine, other = (_told(found, what) for found in (first, run))
            if mine != other:
                raise UserError(f"{name}: {what}: expected {mine} as of the first run, found {other}")
    values, errors, along, diffusivities = {}, {}, {}, {}
    fitted = (first.lag >= first.fit[0]) & (first.lag <= first.fit[1])
    for symbol in first.msd:
        parts = np.array([run.msd[symbol] for run in runs])
        values[symbol], errors[symbol] = parts.mean(axis=0), _standard_error(parts)
        along[symbol] = np.mean([run.along[symbol] for run in runs], axis=0)
        found = [run.diffusivity[symbol] for run in runs]
        diffusivities[symbol] = Diffusivity(
            float(np.mean([d.value for d in found])),
            float(np.mean([d.intercept for d in found])),
            float(_standard_error(np.array([d.value for d in found]))),
            _exponent(first.lag[fitted], values[symbol][fitted]),
            tuple(np.mean([d.along for d in found], axis=0)),
        )
    return replace(first, msd=values, error=errors, diffusivity=diffusivities, along=along)


def _told(found: Msd, what: str) -> str:
    lag = found.lag
    return {
        "elements": " ".join(found.msd),
        "lags": f"{len(lag)} of {lag[1]:g} ps",
        "fit": f"{found.fit[0]:g}:{found.fit[1]:g} ps",
        "axes": found.axes,
    }[what]


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
