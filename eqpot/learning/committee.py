"""The committee: models that differ by their seed and by the frames that each leaves out to validate on."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eqpot.config import Config
from eqpot.files import replacing
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.structures.data import Dataset, read_dataset
from eqpot.training.checkpoint import CHECKPOINT
from eqpot.training.finetune import Parent
from eqpot.training.learner import ATOMS_A_STEP
from eqpot.training.trainer import MODEL, Trainer

TRAINED = 0.9  # of the frames; the others are validated on
REFIT_RATE = 0.005  # learning rate of models that are fitted on; half of a fresh fit's


def model_paths(folder: Path, members: int) -> list[Path]:
    """Where the committee of a round lies."""
    return [folder / f"model_{m + 1}.h5" for m in range(members)]


def left_out_rmse(models: Sequence[Path]) -> float:
    """Mean error of forces (RMSE, eV/Å) of models on the frames that each was validated on."""
    return float(np.mean([Potential.load(path).provenance["valid_forces_rmse"] for path in models]))


def fit(
    config: Config,
    steps: int,
    data: Path,
    folder: Path,
    parents: Sequence[Path],
    members: int,
    watch: Watch,
    refit_rate: float = REFIT_RATE,
) -> list[Path]:
    """Fit the committee of a round; the models' files.

    parents: models to fit on, member by member in turn, with a learning rate of at most `refit_rate`; none:
    fresh weights. A fit that was stopped goes on.
    """
    paths = model_paths(folder, members)
    for m, path in enumerate(paths):
        run = folder / f"fit_{m + 1}"
        if not path.exists():
            parent = parents[m % len(parents)] if parents else None
            trainer = _trainer(config, steps, data, run, parent, m, refit_rate)
            trainer.run(watch)
            with replacing(path) as temporary:
                shutil.copyfile(run / MODEL, temporary)
        shutil.rmtree(run, ignore_errors=True)
    return paths


def _trainer(
    config: Config, steps: int, data: Path, run: Path, parent: Path | None, member: int, refit_rate: float
) -> Trainer:
    found = read_dataset(data)
    train = {"seed": config.train.seed + member, "max_epochs": _epochs(config, steps, found), "max_time": ""}
    config = config.replace({"train": train})
    begun = None
    if parent is not None:
        begun = Parent.load(parent)
        rate = min(config.train.learning_rate, refit_rate)
        tables = config.replace({"train": {"learning_rate": rate}}).to_dict()
        config = begun.settings(tables | {"model": begun.potential.config.to_dict()})
    if (run / CHECKPOINT).exists():
        return Trainer.resume(config, run, data)
    return Trainer.start(config, data, run, overwrite=True, parent=begun)


def _epochs(config: Config, steps: int, data: Dataset) -> int:
    """How often the frames are seen in so many steps of the optimizer."""
    size = config.train.batch_size or max(1, round(ATOMS_A_STEP * len(data) / len(data.numbers)))
    return max(1, math.ceil(steps / math.ceil(TRAINED * len(data) / size)))
