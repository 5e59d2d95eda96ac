"""Errors of forces against the time of a force call, for the presets.

    python bench/accuracy.py acac --time 15m --preset fast --test    # a fit for each preset, then
    python bench/pareto.py acac --time 15m                           # times, table and picture

Errors are those of the rows of `accuracy.py`, fitted on as many threads as Numba has here, on test frames.
Times are of a call of the ASE calculator on one thread, the atoms of the first test frame moved a little
before each: all models by turns in one process, the median of all calls.
"""

from __future__ import annotations

import json
import sys
from statistics import median

import click
import numpy as np
from accuracy import RUNS, fit_name, folder_of, settings_name
from force_call import one_turn
from recording import Record
from workloads import HERE

from eqpot import EqpotCalculator, Potential
from eqpot.config import PRESETS
from eqpot.files import replacing
from eqpot.structures.data import read_dataset
from eqpot.threads import most_threads, on_threads

PICTURE, FITS = HERE / "pareto.png", HERE / "results" / "accuracy.json"
TURNS = 20


def fitted(data: str, length: str, seed: int) -> dict[str, dict]:
    """The rows of `accuracy.py` with errors on test frames, by preset, each with its `fit`."""
    rows = json.loads(FITS.read_text())
    names = {p: fit_name(data, length, settings_name(p), seed, most_threads()) for p in PRESETS}
    return {p: {**rows[name], "fit": name} for p, name in names.items() if "test" in rows.get(name, {})}


def times(models: dict[str, Potential], data: str) -> tuple[dict[str, float], int]:
    """Median seconds of a force call of each model, and the number of atoms."""
    frame = read_dataset(RUNS / "data" / f"{data}_test.h5").atoms(0)
    random, actions = np.random.default_rng(0), {}
    for name, model in models.items():
        atoms = frame.copy()
        atoms.calc = EqpotCalculator(model)

        def call(atoms=atoms) -> None:
            atoms.positions = frame.positions + random.normal(scale=0.003, size=frame.positions.shape)
            atoms.get_forces()

        actions[name] = call
        call()
    with on_threads(1):
        turns = [{name: one_turn(call) for name, call in actions.items()} for _ in range(TURNS)]
    return {name: median(sum((turn[name] for turn in turns), [])) for name in actions}, len(frame)


def table(results: list[dict]) -> str:
    """Markdown: a row for each preset, fastest first."""
    lines = [
        "| preset | weights | µs per atom | force RMSE, meV/Å | energy RMSE, meV/atom |",
        "|---" * 5 + "|",
    ]
    lines += [
        f"| {r['preset']} | {r['parameters']:,} | {1e6 * r['seconds'] / r['atoms']:.1f} | "
        f"{1e3 * r['test']['forces_rmse']:.1f} | {1e3 * r['test']['energy_per_atom_rmse']:.3f} |"
        for r in results
    ]
    return "\n".join(lines)


def draw(results: list[dict]) -> None:
    """Log-log picture of errors against times, a line for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for fits in dict.fromkeys((r["data"], r["length"]) for r in results):
        rows = [r for r in results if (r["data"], r["length"]) == fits]
        points = [(1e6 * r["seconds"] / r["atoms"], 1e3 * r["test"]["forces_rmse"]) for r in rows]
        (line,) = axis.loglog(*zip(*points, strict=True), "o", label=", ".join(fits))
        ours = [point for point, r in zip(points, rows, strict=True) if r["preset"] != "paper"]
        axis.loglog(*zip(*ours, strict=True), color=line.get_color(), lw=1)
        for row, point in zip(rows, points, strict=True):
            axis.annotate(row["preset"], point, (6, 4), textcoords="offset points", fontsize="small")
    axis.set(xlabel="force call on one thread, µs per atom", ylabel="force RMSE on test frames, meV/Å")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(which="minor", labelsize="small")
    axis.grid(which="both", alpha=0.25)
    axis.margins(x=0.25)
    axis.legend(frameon=False)
    with replacing(PICTURE) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


@click.command(help=__doc__.split("\n")[0])
@click.argument("data")
@click.option("--time", "length", required=True, metavar="TIME", help="Of the fits, as accuracy.py was told.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(data, length, seed) -> None:
    rows = fitted(data, length, seed)
    if not rows:
        sys.exit(f"error: {FITS}: no fit of {data} in {length}, see accuracy.py")
    models = {p: Potential.load(folder_of(row["fit"]) / "model.h5") for p, row in rows.items()}
    seconds, atoms = times(models, data)
    record = Record()
    for preset in sorted(rows, key=seconds.get):
        kept = {key: rows[preset][key] for key in ("data", "length", "fit", "commit", "parameters", "test")}
        record.add(rows[preset]["fit"], preset=preset, atoms=atoms, seconds=seconds[preset], **kept)
    told = record.write()
    results = sorted(record.results.values(), key=lambda r: (r["data"], r["length"], r["seconds"]))
    draw(results)
    of_these = [r for r in results if (r["data"], r["length"]) == (data, length)]
    click.echo(f"{table(of_these)}\n\n{told}\nwrote {PICTURE}")


if __name__ == "__main__":
    main()
