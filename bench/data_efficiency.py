"""Errors on liquid water against the number of training frames, for three networks in equal wall time.

    python bench/data_efficiency.py                           # nine fits, then table and picture
    python bench/data_efficiency.py --frames 40 --network l1  # one of them; results accumulate
    python bench/data_efficiency.py --max-epochs 1 --into /tmp/try

Networks: that of the papers without vectors (l0) and with them (l1), and the defaults (new). All else, the
optimiser too, is as the defaults have it.

Data: 320 frames of 64 water molecules, PBE0-TS, from the examples of DeePMD-kit (`water_pbe0ts`), looked for
in EQPOT_DATA or ../shared/data. The frames are shuffled once: smaller training sets are parts of larger ones,
and all fits share their validation frames and the frames that errors are measured on.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import click
import numpy as np
from recording import command_line
from workloads import HERE, published

from eqpot.cli import main as eqpot
from eqpot.config import Config
from eqpot.files import replacing
from eqpot.potential import Potential
from eqpot.structures.data import read_dataset, write_dataset
from eqpot.training.trainer import Trainer
from eqpot.training.validation import compare
from eqpot.version import version

RESULTS, PICTURE, RUNS = (
    HERE / "results" / "data_efficiency.json",
    HERE / "data_efficiency.png",
    HERE / "runs",
)

FRAMES = (10, 40, 160)
N_VALID = 10
OF_PAPERS = {"blocks": 4, "filter_order": 1, "node_products": False, "parity": "both"}
NETWORKS = {"l0": {**OF_PAPERS, "l_max": 0}, "l1": OF_PAPERS, "new": {}}
CALLED = {"l0": "scalars", "l1": "scalars, vectors", "new": "defaults"}


def split_water(folder: Path) -> dict[str, Path]:
    """train_10.h5, train_40.h5, train_160.h5, valid.h5 and test.h5, made from the published files."""
    files = {name: folder / f"{name}.h5" for name in (*(f"train_{n}" for n in FRAMES), "valid", "test")}
    if all(file.exists() for file in files.values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "water.h5"
    whole.unlink(missing_ok=True)
    sources = [str(published("water_pbe0ts") / f"data_{k}") for k in range(3)]
    if eqpot(["data", "convert", *sources, str(whole)]):
        sys.exit(2)
    water = read_dataset(whole)
    order = np.random.default_rng(0).permutation(len(water))
    most = max(FRAMES)
    parts = {f"train_{n}": order[:n] for n in FRAMES}
    parts |= {"valid": order[most : most + N_VALID], "test": order[most + N_VALID :]}
    for name, frames in parts.items():
        write_dataset(files[name], water.subset(np.sort(frames)))
    return files


def fit(n: int, network: str, minutes: float, max_epochs: int | None, runs: Path) -> dict:
    """Errors on the test frames after training on `n` frames."""
    files = split_water(runs / "water")
    train = {"max_time": f"{minutes:g}m", **({} if max_epochs is None else {"max_epochs": max_epochs})}
    config = Config().replace({"model": NETWORKS[network], "train": train})
    folder = runs / f"water_{n}_{network}"
    trainer = Trainer.start(config, files[f"train_{n}"], folder, files["valid"], overwrite=True)
    trainer.run()
    report, _, _ = compare(Potential.load(folder / "model.h5"), read_dataset(files["test"]))
    return {
        **{
            key: report[key]
            for key in ("forces_rmse", "forces_mae", "energy_per_atom_rmse", "energy_per_atom_mae")
        },
        "test_frames": report["frames"],
        "epochs": trainer.state.epoch,
        "best_epoch": trainer.state.best_epoch,
        "parameters": len(trainer.weights),
        "minutes": round(trainer.state.seconds / 60, 2),
        "command": command_line(),
        "settings": config.to_dict(),
        "version": version(),
        "date": date.today().isoformat(),
    }


def name(n: int, network: str) -> str:
    """Of a fit's results."""
    return f"{network}, {n} frames"


def read_results(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def table(results: dict) -> str:
    """Markdown: a row for each number of frames, force and energy RMSE of every network."""
    columns = [f"{label}: {CALLED[network]}" for label in ("forces", "energy") for network in NETWORKS]
    lines = ["| training frames | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for n in FRAMES:
        found = [results.get(name(n, network)) for network in NETWORKS]
        cells = [f"{1000 * r[key]:.{digits}f}" if r else "" for key, digits in QUANTITIES for r in found]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "RMSE on the test frames; forces in meV/Å, energy in meV/atom."])


QUANTITIES = (("forces_rmse", 1), ("energy_per_atom_rmse", 2))


def draw(results: dict, path: Path) -> None:
    """Log-log picture of the force and energy RMSE."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = ("force RMSE, meV/Å", "energy RMSE, meV/atom")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, (key, _), label in zip(axes, QUANTITIES, labels, strict=True):
        for network, style in zip(NETWORKS, ("s--", "o-.", "D-"), strict=True):
            points = [(n, 1000 * r[key]) for n in FRAMES if (r := results.get(name(n, network)))]
            if points:
                axis.loglog(*zip(*points, strict=True), style, label=CALLED[network])
        axis.set(xlabel="training frames", ylabel=label, xticks=FRAMES, xticklabels=FRAMES)
        axis.xaxis.set_minor_locator(plt.NullLocator())
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.tick_params(axis="y", which="minor", labelsize="small")
        axis.grid(which="both", alpha=0.25)
        axis.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


@click.command(help=__doc__.split("\n")[0])
@click.option(
    "--frames", "counts", type=click.Choice([str(n) for n in FRAMES]), multiple=True, help="One of all."
)
@click.option("--network", "networks", type=click.Choice(list(NETWORKS)), multiple=True, help="One of all.")
@click.option("--minutes", default=6.0, show_default=True, help="Wall time of each fit.")
@click.option("--max-epochs", type=int, help="Stop earlier, for a quick try.")
@click.option("--again", is_flag=True, help="Fit also what the JSON file already holds.")
@click.option("--into", default=str(HERE), show_default="bench", help="Folder of results, picture and runs.")
def main(counts, networks, minutes, max_epochs, again, into) -> None:
    file, picture = Path(into) / "results" / "data_efficiency.json", Path(into) / "data_efficiency.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    for n in map(int, counts or FRAMES):
        for network in networks or NETWORKS:
            key = name(n, network)
            if key in read_results(file) and not again:
                click.echo(f"{key}: already in {file}; --again fits it again")
                continue
            click.echo(f"{key}: fitting for {minutes:g} minutes")
            result = fit(n, network, minutes, max_epochs, Path(into) / "runs")
            with replacing(file) as temporary:
                temporary.write_text(json.dumps({**read_results(file), key: result}, indent=2) + "\n")
            rmse = 1000 * result["forces_rmse"]
            click.echo(f"{key}: force RMSE {rmse:.1f} meV/Å after {result['epochs']} epochs")
    results = read_results(file)
    draw(results, picture)
    click.echo(f"\n{table(results)}\n\nwrote {file}\nwrote {picture}")


if __name__ == "__main__":
    main()
