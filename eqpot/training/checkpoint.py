"""checkpoint.h5 of a fit: all that the next epoch depends on, and what a resumed fit must agree with."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.network.model import Model
from eqpot.potential import MOST_WEIGHT, PROVENANCE
from eqpot.runs import check_hash, read_checkpoint, write_checkpoint
from eqpot.schema import HASH, RANDOM, TABLE, TEXT, Array, Rule, either, integer, number
from eqpot.structures.data import MAX_NUMBER, Dataset, read_dataset

CHECKPOINT = "checkpoint.h5"
FORMAT, VERSION = "eqpot-checkpoint", 2
# What the JSON of a checkpoint holds; the arrays are `_layout`.
CONTENT: Rule = {
    "config": TABLE,
    "state": {
        "rate": number(above=0),
        "epoch": integer(),
        "seconds": number(low=0),
        "best_rmse": either(number(low=0), "infinity", math.inf),
        "best_epoch": integer(),
        "waited": integer(),
    },
    "sources": {
        "data": TEXT,
        "data_hash": HASH,
        "valid_data": TEXT,
        "valid_hash": either(HASH, "nothing", ""),
        "command": TEXT,
    },
    "random": RANDOM,
    "adam_steps": integer(),
    "average_steps": integer(),
    "provenance": PROVENANCE,
}
# what a resumed run may do differently without being another run
STOPS = ("max_epochs", "max_time", "stop_patience", "min_learning_rate")


def write(folder: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Of a run, into its folder."""
    write_checkpoint(folder / CHECKPOINT, FORMAT, VERSION, content, arrays)


def checkpoint_of(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and state, and the arrays, of the checkpoint in a run folder; UserError where it breaks a
    rule."""
    path = Path(folder) / CHECKPOINT
    content, arrays = read_checkpoint(path, FORMAT, VERSION, CONTENT, _layout)
    state, sources = content["state"], content["sources"]
    for part in ("train", "valid"):
        drawn, told = len(arrays[f"{part}_frames"]), content["provenance"].get(f"n_{part}")
        if told not in (None, drawn):
            raise UserError(f"{path}: {part}_frames: expected the {told} of the provenance, found {drawn}")
    if ("parent" in content["provenance"]) != ("parent_species" in arrays):
        raise UserError(f"{path}: parent_species: expected of a run with a parent alone, found otherwise")
    if state["best_epoch"] > state["epoch"]:
        raise UserError(
            f"{path}: state.best_epoch: expected at most epoch {state['epoch']}, found {state['best_epoch']}"
        )
    if bool(state["best_epoch"]) != math.isfinite(state["best_rmse"]):
        raise UserError(f"{path}: state.best_rmse: expected one of a best epoch, found {state['best_rmse']}")
    if bool(sources["valid_data"]) != bool(sources["valid_hash"]):
        raise UserError(f"{path}: sources.valid_hash: expected one of valid_data, found another")
    model = Model(Config.from_file(content["config"]).model, len(arrays["scale"]), 1.0)
    expected = sum(math.prod(shape) for shape in model.shapes().values())
    if len(arrays["weights"]) != expected:
        raise UserError(
            f"{path}: weights: expected {expected:,} numbers, as the settings have it, "
            f"found {len(arrays['weights']):,}"
        )
    return content, arrays


def _layout(content: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays of a checkpoint."""
    train = Config.from_file(content["config"]).train
    weights = Array(np.dtype(train.dtype).type, ("weights",))
    squares = replace(weights, low=0)
    return {
        "train_frames": Array(np.integer, ("train",), low=0, rising=True),
        "valid_frames": Array(np.integer, ("valid",), low=0, rising=True),
        **dict.fromkeys(("weights", "average", "best"), replace(weights, low=-MOST_WEIGHT, high=MOST_WEIGHT)),
        "adam_m": weights,
        **dict.fromkeys(("adam_v", "adam_v_max") if train.amsgrad else ("adam_v",), squares),
        **(_factors(weights) if train.optimizer == "soap" else {}),
        "scale": Array(np.float64, ("elements",), above=0),
        "shift": Array(np.float64, ("elements",)),
        "mean_neighbours": Array(np.float64, low=1e-3, high=1e6),
        "parent_species": Array(np.integer, ("known",), low=1, high=MAX_NUMBER, rising=True, optional=True),
    }


def _factors(weights: Array) -> dict[str, Array]:
    return {
        f"adam_{side}{kind}": replace(weights, shape=(side,))
        for side in ("left", "right")
        for kind in ("", "_basis")
    }


def check_drawn(frames: np.ndarray, data: Dataset, path: Path) -> None:
    """UserError where a checkpoint has drawn other frames than there are."""
    if not len(frames) or frames[-1] >= len(data):
        raise UserError(f"{path}: expected some of the {len(data)} frames of {data.path}, found {frames}")


def only_stops_differ(config: Config, stored: Config, path: Path) -> None:
    """UserError where a resumed run would be another run."""
    for table, values in config.to_dict().items():
        for key, value in values.items():
            before = getattr(getattr(stored, table), key)
            if value != before and key not in STOPS:
                raise UserError(
                    f"{path}: {table}.{key}: expected {before!r} as the run began, found {value!r}; "
                    f"a resumed run may change only train.{', train.'.join(STOPS)}"
                )


def same_file(path: str | Path, expected: str, checkpoint: Path) -> Dataset:
    """A data set that the run began with; UserError where it has changed."""
    data = read_dataset(path)
    check_hash(path, data.hash, expected, checkpoint)
    return data
