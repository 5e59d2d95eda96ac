"""Pictures: learning curves, parity plots, distributions and displacements, drawn without a display."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from eqpot.diffusion import Msd
from eqpot.files import replacing
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Labels
from eqpot.words import plain

INK, FAINT = "#333333", "#bbbbbb"
COLOURS = ("#2a6f97", "#d1495b", "#66a182", "#edae49", "#8d6a9f", "#6b705c")


def _axes(figure: Figure, position: int, columns: int, rows: int = 1):
    axes = figure.add_subplot(rows, columns, position)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(True, color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _log_scale(axis, ratio: float) -> None:
    """Logarithmic, with plain numbers as dense as the `ratio` of largest to smallest value asks for."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    dense = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio > 5 else dense))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def learning_curve(log: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """Validation RMSE of forces and energy, and the training loss, over the epochs of log.csv's columns."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = (
        ("valid_forces_rmse", 1000, "force RMSE, meV/Å", "validation"),
        ("valid_energy_per_atom_rmse", 1000, "energy RMSE, meV/atom", "validation"),
        ("loss", 1, "loss", "training"),
    )
    for position, (key, factor, label, title) in enumerate(panels, 1):
        axes = _axes(figure, position, len(panels))
        values = factor * np.asarray(log[key], float)
        axes.plot(
            log["epoch"], values, color=COLOURS[0], linewidth=1.5, marker="." if len(values) < 30 else None
        )
        positive = values[values > 0]
        if len(positive):
            _log_scale(axes.yaxis, positive.max() / positive.min())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("epoch", color=INK)
        axes.set_ylabel(label, color=INK)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    rate = axes.twinx()
    rate.plot(log["epoch"], log["learning_rate"], color=COLOURS[1], linewidth=1, linestyle="--")
    rate.set_ylabel("learning rate", color=COLOURS[1])
    rate.tick_params(colors=COLOURS[1], labelsize=9)
    rate.set_ylim(bottom=0)
    rate.spines[:].set_visible(False)
    _save(figure, path)


def by_frames(rows: Mapping[int, Mapping[str, float | None]], path: str | Path) -> None:
    """Validation RMSE of forces and energy by the number of training frames, and the power laws."""
    from eqpot.training.outlook import Law

    panels = (
        ("forces_rmse", "force RMSE, meV/Å"),
        ("energy_per_atom_rmse", "energy RMSE, meV/atom"),
    )
    panels = [panel for panel in panels if all(row[panel[0]] for row in rows.values())]
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    frames = np.array(list(rows))
    for position, (key, label) in enumerate(panels, 1):
        axes = _axes(figure, position, len(panels))
        errors = np.array([row[key] for row in rows.values()])
        law, ends = Law.of(frames, errors), np.array([frames[0], 2 * frames[-1]])
        axes.plot(ends, 1000 * law(ends), color=INK, linewidth=1, linestyle="--")
        axes.plot(frames, 1000 * errors, color=COLOURS[0], linewidth=0, marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks([*frames, ends[-1]], [*map(str, frames), f"{ends[-1]}"])
        axes.minorticks_off()
        low, high = min(errors.min(), law(ends[-1])), max(errors.max(), law(ends[0]))
        _log_scale(axes.yaxis, high / low)
        axes.set_xlabel("training frames", color=INK)
        axes.set_ylabel(label, color=INK)
        axes.set_title(f"falls to the power {-law.exponent:.2f}", loc="left", fontsize=10, color=INK)
    _save(figure, path)


def rounds(rows: Sequence[Mapping[str, float]], target: float, path: str | Path) -> None:
    """RMS errors of forces on random frames by the frames computed before, and what the dynamics met.

    rows: as `eqpot.learning.folder.COLUMNS`, eV and Å; target: eV/Å.
    """
    tested = [(before, row) for before, row in pairwise(rows) if row.get("tested")]
    frames = [before["frames"] for before, _ in tested]
    scaled = [1000 * row["deviation_rms"] * row["factor"] for _, row in tested]
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = _axes(figure, 1, 2)
    errors = [1000 * row["forces_rmse"] for _, row in tested]
    axes.axhline(1000 * target, color=INK, linewidth=0.8, linestyle="--", label="target")
    axes.plot(frames, errors, color=COLOURS[0], marker="o", label="true error")
    axes.plot(frames, scaled, color=COLOURS[1], marker="x", linestyle=":", label="predicted deviation")
    known = [*errors, *(value for value in scaled if value > 0), 1000 * target]
    _log_scale(axes.yaxis, max(known) / min(known))
    axes.set_ylabel("forces, RMS, meV/Å", color=INK)
    axes.legend(frameon=False, fontsize=9)
    counts = _axes(figure, 2, 2)
    for name, label, colour in (("met", "met", COLOURS[0]), ("beyond", "beyond the threshold", COLOURS[1])):
        counts.plot(frames, [row[name] for _, row in tested], color=colour, marker="o", label=label)
    counts.set_ylabel("frames of the dynamics", color=INK)
    counts.legend(frameon=False, fontsize=9)
    for one in (axes, counts):
        one.set_xlabel("frames computed before", color=INK)
        one.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _save(figure, path)


def calibration(deviation: np.ndarray, error: np.ndarray, path: str | Path) -> None:
    """True errors of frames against scaled deviations, eV/Å [frames] each; between the dotted lines they
    differ by less than a factor 2."""
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = _axes(figure, 1, 1)
    axes.plot(1000 * deviation, 1000 * error, color=COLOURS[0], linewidth=0, marker="o", markersize=4)
    known = 1000 * np.concatenate([deviation, error])
    known = known[known > 0]
    ends = np.array([known.min() / 1.2, known.max() * 1.2]) if len(known) else np.array([1.0, 10.0])
    for factor, style in ((1, "-"), (2, ":"), (0.5, ":")):
        axes.plot(ends, factor * ends, color=INK, linewidth=0.8, linestyle=style)
    for axis in (axes.xaxis, axes.yaxis):
        _log_scale(axis, ends[1] / ends[0])
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel("predicted deviation of forces, scaled, meV/Å", color=INK)
    axes.set_ylabel("true error, meV/Å", color=INK)
    _save(figure, path)


def thermo(log: Mapping[str, np.ndarray], atoms: int, path: str | Path) -> None:
    """Temperature and energy over the time of thermo.csv's columns; volume, pressure and the deviation of a
    committee where there are such and they change.

    atoms: how many share the energy.
    """
    time = log["time_ps"]
    energy = {"total": log["total_eV"], "conserved": log["conserved_eV"]}
    if np.array_equal(*energy.values()):
        energy = {"total, which is conserved": log["total_eV"]}
    panels = {
        "temperature, K": {"": log["temperature_K"]},
        "energy change, meV/atom": {
            name: 1000 * (values - values[0]) / atoms for name, values in energy.items()
        },
    }
    for key, label in (
        ("volume_A3", "volume, Å³"),
        ("pressure_bar", "pressure, bar"),
        ("forces_std_eV_per_A", "deviation of forces, eV/Å"),
    ):
        if np.ptp(log[key]) > 0:
            panels[label] = {"": log[key]}
    rows = ceil(len(panels) / 2)
    figure = Figure(figsize=(9.6, 3.0 * rows), layout="constrained")
    for position, (label, curves) in enumerate(panels.items(), 1):
        axes = _axes(figure, position, 2, rows)
        for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
            there = np.isfinite(values)
            if there.any():
                marker = "." if len(values) < 30 else None
                axes.plot(time[there], values[there], color=colour, linewidth=1, marker=marker, label=name)
        axes.ticklabel_format(useOffset=False)
        axes.set_xlabel("time, ps", color=INK)
        axes.set_ylabel(label, color=INK)
        if any(curves):
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
        else:
            unit = label.rpartition(", ")[2]
            mean, spread = values[there].mean(), values[there].std()
            title = f"mean {mean:.4g} {unit}, standard deviation {spread:.4g} {unit}"
            axes.set_title(title, loc="left", fontsize=10, color=INK)
    _save(figure, path)


def parity(dataset: Dataset, prediction: Labels, folder: str | Path) -> list[Path]:
    """Predicted against reference energy, forces and stress, one picture for each that is labelled.

    Written to `folder` (made if need be) as energy.png, forces.png and stress.png; returns their paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, unit, axis in (
        ("energy", "eV/atom", "energy per atom, relative to the mean"),
        ("forces", "eV/Å", "force components"),
        ("stress", "eV/Å³", "stress components"),
    ):
        if not dataset.known(name).any() or getattr(prediction, name) is None:
            continue
        label, value = getattr(dataset, name), getattr(prediction, name)
        classes = np.zeros(label.shape, int)
        legend = {}
        if name == "energy":
            label, value = label / dataset.sizes, value / dataset.sizes
            mean = np.nanmean(label)
            label, value = label - mean, value - mean
        elif name == "forces" and 1 < len(dataset.species) <= len(COLOURS):
            classes = np.repeat(np.searchsorted(dataset.species, dataset.numbers)[:, None], 3, axis=1)
            legend = {k: chemical_symbols[z] for k, z in enumerate(dataset.species)}
        written.append(folder / f"{name}.png")
        _parity(label.ravel(), value.ravel(), classes.ravel(), legend, axis, unit, written[-1])
    return written


def _parity(label, value, classes, legend, axis, unit, path) -> None:
    known = np.isfinite(label)
    label, value, classes = label[known], value[known], classes[known]
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = _axes(figure, 1, 1)
    size = float(np.clip(3000 / len(label), 2, 20))
    order = np.random.default_rng(0).permutation(len(label))  # so that no element hides another
    colours = np.array(COLOURS)[classes[order]]
    axes.scatter(label[order], value[order], s=size, c=colours, alpha=0.5, linewidths=0, rasterized=True)
    low, high = min(label.min(), value.min()), max(label.max(), value.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=INK, linewidth=0.8, zorder=0.8)  # grid 0.5, points 1
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"reference, {unit}", color=INK)
    axes.set_ylabel(f"predicted, {unit}", color=INK)
    axes.set_title(axis, loc="left", fontsize=10, color=INK)
    error = value - label
    text = (
        f"MAE {1000 * np.abs(error).mean():.3g} m{unit}\nRMSE {1000 * np.sqrt((error**2).mean()):.3g} m{unit}"
    )
    axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=9, color=INK)
    for k, symbol in legend.items():
        axes.scatter([], [], s=20, c=COLOURS[k], label=symbol, linewidths=0)
    if legend:
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    _save(figure, path)


def distributions(
    x: np.ndarray,
    curves: Mapping[str, Mapping[str, np.ndarray]],
    labels: tuple[str, str],
    path: str | Path,
    level: float | None = None,
) -> None:
    """One panel for each name, in it a curve for each trajectory: trajectory -> name -> y [bins], x [bins].

    labels: of x and y. level: of y where nothing is ordered; then a peak that dwarfs what follows, as bonds
    do in g(r), is cut off and its height told.
    """
    names = list(next(iter(curves.values())))
    columns = ceil(len(names) ** 0.5)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(3.7 * columns, 5.2), 2.9 * rows + 0.4), layout="constrained")
    for position, name in enumerate(names, 1):
        axes = _axes(figure, position, columns, rows)
        if level is not None:
            axes.axhline(level, color=FAINT, linewidth=0.8)
        for k, (trajectory, panels) in enumerate(curves.items()):
            style = "-" if k == 0 else "--"
            axes.plot(x, panels[name], style, color=COLOURS[k], linewidth=1.4, label=_name(trajectory))
        axes.set_xlim(0, x[-1] + x[0])
        axes.set_ylim(bottom=0)
        highest = np.max([panels[name] for panels in curves.values()], axis=0)
        rest = highest[_end_of_peak(highest) :].max(initial=0)
        if level is not None and level / 2 < rest < highest.max() / 5:
            axes.set_ylim(top=1.5 * rest)
            place = x[highest.argmax()], 1.45 * rest
            axes.text(*place, f"  {highest.max():.3g}", va="top", fontsize=9, color=INK)
        if position > len(names) - columns:
            axes.set_xlabel(labels[0], color=INK)
        if (position - 1) % columns == 0:
            axes.set_ylabel(labels[1], color=INK)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
    if len(curves) > 1:
        lines, shown = axes.get_legend_handles_labels()
        figure.legend(lines, shown, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def _name(path: str) -> str:
    """What stands for a file; none of it is mathematics."""
    return plain(path).replace("$", r"\$")


def _end_of_peak(y: np.ndarray) -> int:
    """Where y first falls to a twentieth of its highest value after it."""
    top = y.argmax()
    return top + int(np.flatnonzero(y[top:] < y[top] / 20).min(initial=len(y)))


def displacement(found: Msd, path: str | Path) -> None:
    """Mean square displacement by element with its standard error, the lags of the fit, and the lines."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = _axes(figure, 1, 1)
    axes.axvspan(*found.fit, color="#f2f2f2", linewidth=0)
    for k, (symbol, values) in enumerate(found.msd.items()):
        colour, error = COLOURS[k % len(COLOURS)], found.error[symbol]
        axes.plot(found.lag, values, color=colour, linewidth=1.5, label=symbol)
        axes.fill_between(found.lag, values - error, values + error, color=colour, alpha=0.2, linewidth=0)
        axes.plot(found.fit, found.line(symbol), color=INK, linewidth=1, linestyle="--")
    axes.set_xlim(0, found.lag[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("lag, ps", color=INK)
    axes.set_ylabel("mean square displacement, Å²", color=INK)
    axes.set_title("bands: standard error, grey: lags of the fit", loc="left", fontsize=10, color=INK)
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)
