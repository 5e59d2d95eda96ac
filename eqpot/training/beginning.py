"""What a run begins with: frames, the settings that these decide, the potential that it goes on with."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.files import sha256
from eqpot.network.isolated import Decision, decide
from eqpot.structures.data import Dataset, concatenate, read_dataset, write_dataset
from eqpot.training.finetune import Parent
from eqpot.training.sources import Sources
from eqpot.training.statistics import check_groups, choose_frames, frame_weights, left_open
from eqpot.words import counted

if TYPE_CHECKING:
    from eqpot.potential import Potential

DATA, VALID = "converted.h5", "converted_valid.h5"  # in the run folder, of frames that are in no file of ours


@dataclass
class Beginning:
    """What a new run is made from; `potential` is None where it begins with random weights.

    notes: for the provenance; kept: data sets to be written to the run folder, by their names there.
    """

    config: Config
    sources: Sources
    train: Dataset
    valid: Dataset
    isolated: Decision
    potential: "Potential | None" = None
    notes: dict[str, str | int] = field(default_factory=dict)
    kept: dict[str, Dataset] = field(default_factory=dict)

    def store(self, folder: Path) -> None:
        """Write what is kept, whose hashes the sources then know."""
        for name, data in self.kept.items():
            write_dataset(folder / name, data)
            key = "data_hash" if name == DATA else "valid_hash"
            setattr(self.sources, key, sha256(folder / name))


def begin(
    config: Config,
    data: str | Path | Dataset,
    valid: str | Path | Dataset | None = None,
    command: str = "",
    parent: Parent | None = None,
    replay: str | Path | Dataset | None = None,
) -> Beginning:
    """Frames are drawn, and potential and shifts made where there is a parent; UserError at what cannot be
    trained."""
    _check(config, parent, replay)
    if parent is not None:
        config = config.replace({"model": parent.potential.config.to_dict()})
    train, apart = _opened(data), None if valid is None else _opened(valid)
    isolated = decide(config, train)
    if isolated.exact:
        config = config.replace({"model": {"isolated_atoms": True}})
    drawn, validated = choose_frames(config, train, apart, _left_out(config, train, isolated))
    sources = Sources(*_origin(data, train, DATA), drawn, validated, command=command)
    if valid is not None:
        sources.valid_data, sources.valid_hash = _origin(valid, apart, VALID)
    begun = Beginning(config, sources, train, train if apart is None else apart, isolated)
    chosen = train.subset(drawn)
    begun.notes |= {
        "left_out": _weightless(config, train),
        "shifts": isolated.note,
        "note": left_open(chosen, isolated.shifts, parent.name if parent else ""),
    }
    if parent is not None:
        _tune(begun, parent, chosen, None if replay is None else _opened(replay))
    check_groups(begun.train, config.loss.group_weights)
    for name, frames in ((sources.data, begun.train), (sources.valid_data, begun.valid)):
        if name in (DATA, VALID):
            begun.kept[name] = frames
    return begun


def _check(config: Config, parent: Parent | None, replay: str | Path | Dataset | None) -> None:
    if parent is not None:
        parent.check(config)
    elif replay is not None:
        raise UserError("--replay: expected --from MODEL, whose data are replayed, found none")
    elif config.train.shifts == "parent":
        raise UserError("train.shifts: expected --from MODEL with parent, found none")
    if replay is None and config.train.n_replay:
        raise UserError(f"train.n_replay: expected --replay FILE, found {config.train.n_replay} without it")


def _opened(data: str | Path | Dataset) -> Dataset:
    if isinstance(data, Dataset):
        return replace(data, path=data.path or "data")
    return read_dataset(data)


def _origin(data: str | Path | Dataset, opened: Dataset, name: str) -> tuple[str, str]:
    """Path and hash of a file; of other frames the name that they get, and no hash as yet."""
    return (name, "") if isinstance(data, Dataset) else (os.path.abspath(data), opened.hash)


def _left_out(config: Config, data: Dataset, isolated: Decision) -> np.ndarray:
    """Frames that are not drawn: isolated atoms that gave the shifts, and those of weight 0."""
    weights = frame_weights(data, config.loss.group_weights)
    if weights is None:
        return isolated.told
    left_out = np.union1d(isolated.told, np.flatnonzero(weights == 0))
    if len(left_out) == len(data):
        raise UserError(f"{data.path}: expected frames of a weight above 0, found none")
    return left_out


def _weightless(config: Config, data: Dataset) -> str:
    weights = frame_weights(data, config.loss.group_weights)
    count = 0 if weights is None else int((weights == 0).sum())
    return f"{counted(count, 'frame')} of weight 0 left out" if count else ""


def _tune(begun: Beginning, parent: Parent, chosen: Dataset, replay: Dataset | None) -> None:
    """Make the potential of its parent, and add frames to replay."""
    train = begun.config.train
    potential = parent.extended(chosen.species, train.seed, train.dtype)
    potential.shift[:], told = parent.shifts(potential, chosen, begun.isolated.shifts)
    begun.potential, begun.sources.known = potential, np.array(parent.potential.species, np.int64)
    begun.notes |= {
        "parent": parent.name,
        "parent_hash": parent.hash,
        "taken_over": parent.told(potential),
        "shifts": "; ".join(filter(None, (begun.isolated.note, told))),
    }
    if replay is None:
        return
    valid = begun.valid.subset(begun.sources.valid)
    added, told, doubt = parent.replayed(replay, potential, valid, train.n_replay, train.seed)
    begun.notes |= {"replay": told, "replay_doubt": doubt, "n_replay": len(added)}
    first = len(begun.train)
    whole = concatenate([begun.train, added], begun.train.attrs)
    whole.path = begun.train.path
    if begun.valid is begun.train:
        begun.valid = whole
    begun.train = whole
    begun.sources.train = np.concatenate([begun.sources.train, np.arange(first, len(whole))])
    begun.sources.data, begun.sources.data_hash = DATA, ""
