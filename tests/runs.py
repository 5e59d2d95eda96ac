"""Fits that the tests make, and what is in their folders."""

import csv

import h5py
import numpy as np
from toy import MODEL

from eqpot.cli import main
from eqpot.config import Config
from eqpot.training.trainer import Trainer


def settings(loss=None, **train) -> Config:
    train = {"batch_size": 3, "max_epochs": 4, "ema": 0.9, "n_valid": 3, **train}
    return Config.from_dict({"model": MODEL, "loss": loss or {}, "train": train})


def fitted(config, data, folder, **options) -> Trainer:
    trainer = Trainer.start(config, data, folder, **options)
    trainer.run()
    return trainer


def arrays(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, x: found.update({name: x[()]}) if isinstance(x, h5py.Dataset) else None)
    assert found
    return found


def same_arrays(one, other) -> bool:
    one, other = arrays(one), arrays(other)
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def log(folder) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "time"} for row in csv.DictReader(file)]


def refused(arguments, capsys) -> str:
    """The one line of a command that must fail."""
    assert main([str(a) for a in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and text.endswith("\n"), text
    return text
