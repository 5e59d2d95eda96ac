"""Errors that a fit of given length reaches on a published data set: a row for each choice and seed.

    python bench/accuracy.py acac --time 45m --seed 0                     # the defaults
    python bench/accuracy.py acac --time 45m --seed 0 --preset paper      # those of version 0.1
    python bench/accuracy.py acac --epochs 400 --set model.features=96    # so many steps in any time
    python bench/accuracy.py acac --time 45m --seed 0 --test              # the test frames, too
    python bench/accuracy.py                                              # the table of all rows

Settings are chosen by the errors on validation frames; `--test` is for what was chosen. Frames of training
and validation are drawn by the seed from those that are no test frames, which are the same for all seeds. The
kernels are compiled before the clock starts. Data are looked for in EQPOT_DATA or ../shared/data.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from recording import Record
from workloads import HERE, published

from eqpot.cli import main as eqpot
from eqpot.config import PRESETS, Config
from eqpot.errors import UserError
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.settings import parse_setting
from eqpot.structures.data import read_dataset, write_dataset
from eqpot.threads import most_threads
from eqpot.training.trainer import Trainer
from eqpot.training.validation import compare

RUNS = HERE / "runs" / "accuracy"
ERRORS = ("forces_rmse", "forces_mae", "energy_per_atom_rmse", "energy_per_atom_mae", "stress_rmse")


@dataclass(frozen=True)
class Published:
    """What `eqpot data convert` reads in a folder of `workloads.PUBLISHED`, and how many frames are for what.

    test: files of the test frames; without any, what `train` and `valid` leave of `files`.
    """

    folder: str
    files: tuple[str, ...]
    train: int
    valid: int
    test: tuple[str, ...] = ()


DATA = {
    "acac": Published("acac", ("train_300K.xyz",), 450, 50, ("test_MD_300K.xyz",)),
    "acac_100": Published("acac", ("train_300K.xyz",), 100, 250, ("test_MD_300K.xyz",)),
    "water": Published("water_pbe0ts", ("data_0", "data_1", "data_2"), 133, 20),
    "lips": Published("lips", ("lips_200.npz",), 100, 20),
    "ethanol": Published("rmd17", ("rmd17_ethanol_train_01.npz",), 950, 50, ("rmd17_ethanol_test_01.npz",)),
    "aspirin": Published("rmd17", ("rmd17_aspirin_train_01.npz",), 950, 50, ("rmd17_aspirin_test_01.npz",)),
    "ethanol_ccsdt": Published("ethanol_ccsdt", ("ethanol_ccsd_t-train.npz",), 850, 50),
    "3bpa": Published("3bpa", ("train_300K.xyz",), 360, 40),
    "3bpa_450": Published("3bpa", ("train_300K.xyz",), 450, 50),  # all: nothing is left to test on
    "formate": Published("formate_cu110", ("deal_0.05_selected.xyz",), 318, 30),
    "mota": Published("mota_stress", ("MoTa_SS.xyz",), 600, 58, ("MoTa_Test.xyz",)),
}


def data_sets(name: str) -> tuple[Path, Path | None]:
    """Frames to draw from, and test frames, as data sets in RUNS; made from the published files."""
    data, folder = DATA[name], RUNS / "data"
    pool, test = folder / f"{name}.h5", folder / f"{name}_test.h5"
    if pool.exists() and test.exists():
        return pool, test
    folder.mkdir(parents=True, exist_ok=True)
    source = published(data.folder)

    def convert(files, path):
        path.unlink(missing_ok=True)
        if eqpot(["data", "convert", *(str(source / file) for file in files), str(path)]):
            sys.exit(2)

    if data.test:
        convert(data.files, pool)
        convert(data.test, test)
        return pool, test
    whole = folder / f"{name}_whole.h5"
    convert(data.files, whole)
    frames = read_dataset(whole)
    order = np.random.default_rng(0).permutation(len(frames))
    drawn = data.train + data.valid
    if drawn == len(frames):
        write_dataset(pool, frames)
        return pool, None
    write_dataset(pool, frames.subset(np.sort(order[:drawn])))
    write_dataset(test, frames.subset(np.sort(order[drawn:])))
    return pool, test


class Steps(Watch):
    """Counts the steps."""

    def __init__(self) -> None:
        self.count = 0

    def step_done(self, trainer, fraction, losses) -> None:
        self.count += 1


def fit(config: Config, data: Path, test: Path | None, folder: Path) -> dict:
    """Errors of the best weights on the validation frames, and on those of `test`; what the fit took."""
    few = {"n_train": 2, "n_valid": 1, "max_epochs": 1, "max_time": ""}
    with TemporaryDirectory() as scratch:
        Trainer.start(config.replace({"train": few}), data, scratch).run(Steps())
    trainer, steps = Trainer.start(config, data, folder, overwrite=True), Steps()
    trainer.run(steps)
    found = {"valid": _errors(trainer.report())}
    if test is not None:
        found["test"] = _errors(compare(Potential.load(folder / "model.h5"), read_dataset(test))[0])
    return {
        **found,
        "parameters": len(trainer.weights),
        "epochs": trainer.state.epoch,
        "best_epoch": trainer.state.best_epoch,
        "steps": steps.count,
        "minutes": round(trainer.state.seconds / 60, 2),
    }


def _errors(report: dict) -> dict:
    known = {key: report[key] for key in ERRORS if report.get(key) is not None}
    elements = {symbol: found["forces_mae"] for symbol, found in report["per_element"].items()}
    return {**known, "forces_mae_per_element": elements, "frames": report["frames"]}


def table(results: dict) -> str:
    """Markdown: a row for each fit, by data set, length and force error."""
    found = "forces, MAE, energy"
    columns = f"data, fit, settings, seed, parameters, steps, minutes, {found}, test: {found}"
    lines = [f"| {columns.replace(', ', ' | ')} |", "|---" * 13 + "|"]

    def order(row: dict):
        return row["data"], row["length"], row["valid"]["forces_rmse"]

    for row in sorted(results.values(), key=order):
        errors = [row[part] for part in ("valid", "test") if part in row]
        cells = [f"{1000 * e[key]:.{digits}f}" for e in errors for key, digits in QUANTITIES]
        cells += [""] * (6 - len(cells))
        told = (row["data"], row["length"], row["settings"], row["seed"], f"{row['parameters']:,}")
        lines.append("| " + " | ".join(map(str, (*told, row["steps"], row["minutes"], *cells))) + " |")
    return "\n".join([*lines, "", "RMSE but where MAE stands; forces in meV/Å, energy in meV/atom."])


def commit() -> str:
    """Of the checkout, with "-dirty" where files differ from it; empty where this is none."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def settings_name(preset: str, overrides: Sequence[str] = ()) -> str:
    """Of the settings of a fit: what differs from the defaults."""
    return " ".join([*([preset] if preset != "default" else []), *overrides]) or "defaults"


def fit_name(data: str, length: str, settings: str, seed: int, threads: int) -> str:
    """Of a fit's row."""
    return f"{data}, {length}, {settings}, seed {seed}, {threads} threads"


def folder_of(fit: str) -> Path:
    """Where the run of a fit is."""
    return RUNS / "".join(c if c.isalnum() or c in "._-=" else "_" for c in fit)


QUANTITIES = (("forces_rmse", 1), ("forces_mae", 1), ("energy_per_atom_rmse", 3))


@click.command(help=__doc__.split("\n")[0])
@click.argument("name", required=False, type=click.Choice(list(DATA)))
@click.option("--time", "max_time", metavar="TIME", help="Of the fit, such as 45m.")
@click.option("--epochs", type=click.IntRange(1), help="Of the fit, in the place of a time.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--preset", type=click.Choice(list(PRESETS)), default="default", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="One setting, repeatable.")
@click.option("--test", is_flag=True, help="Errors on the test frames, too.")
def main(name, max_time, epochs, seed, preset, overrides, test) -> None:
    record = Record()
    if name is None:
        click.echo(table(record.results))
        return
    if (max_time is None) == (epochs is None):
        raise click.UsageError("expected one of --time and --epochs")
    data, frames = DATA[name], {"n_train": DATA[name].train, "n_valid": DATA[name].valid, "seed": seed}
    limit = {"max_time": max_time} if epochs is None else {"max_epochs": epochs}
    try:
        config = Config.from_dict({"preset": preset}).replace({"train": {**frames, **limit}})
        for part, key, value in map(parse_setting, overrides):
            config = config.replace({part: {key: value}})
    except UserError as e:
        raise click.UsageError(str(e)) from None
    published(data.folder)
    pool, test_frames = data_sets(name)
    if test and test_frames is None:
        raise click.UsageError(f"--test: {name} has no frames beside those of training and validation")
    length = max_time or f"{epochs} epochs"
    settings = settings_name(preset, overrides)
    key = fit_name(name, length, settings, seed, most_threads())
    folder = folder_of(key)
    told = {"data": name, "length": length, "settings": settings, "seed": seed, "threads": most_threads()}
    told["commit"] = commit()
    found = fit(config, pool, test_frames if test else None, folder)
    record = Record()  # another fit may have written it meanwhile
    record.add(key, **told, **found, config=config.to_dict())
    click.echo(f"{table({key: record.results[key]})}\n\n{record.write()}")


if __name__ == "__main__":
    main()
