"""`eqpot learning-curve`: fits with more and more frames, their law, and going on after a stop."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from runs import refused, same_arrays
from toy import MODEL, toy_dataset

from eqpot.cli import main
from eqpot.errors import UserError
from eqpot.runs import Watch
from eqpot.structures.data import concatenate, read_dataset, repeated, write_dataset
from eqpot.training import by_frames
from eqpot.training.checkpoint import checkpoint_of
from eqpot.training.outlook import Law
from eqpot.training.trainer import Trainer

SHORT = [*(f"--set=model.{key}={value}" for key, value in MODEL.items()), "--set=train.batch_size=3"]
SHORT += ["--n-valid=3", "--max-epochs=3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset("toy.h5", toy_dataset(24))
    return tmp_path


def test_a_power_law_is_found():
    frames = np.array([10, 20, 40, 80])
    law = Law.of(frames, 3.0 * frames**-0.5)
    assert (law.factor, law.exponent, law.spread) == pytest.approx((3.0, 0.5, 0.0), abs=1e-9)
    assert law(160) == pytest.approx(3.0 * 160**-0.5)
    assert np.isnan(Law.of([1, 2], [2.0, 1.0]).spread)
    with pytest.raises(UserError, match="errors: expected numbers above 0, found 0"):
        Law.of([1, 2], [1.0, 0.0])


def test_the_spread_of_the_exponent_is_its_standard_error():
    """Over 400 curves of errors that scatter by a tenth."""
    random, frames = np.random.default_rng(0), np.array([10, 20, 40, 80])
    laws = [Law.of(frames, frames**-0.4 * np.exp(0.1 * random.normal(size=4))) for _ in range(400)]
    exponents = np.array([law.exponent for law in laws])
    assert exponents.mean() == pytest.approx(0.4, abs=0.01)
    assert np.sqrt(np.mean([law.spread**2 for law in laws])) == pytest.approx(exponents.std(), rel=0.1)


def test_errors_by_frames(folder, capsys):
    """Fewer frames are a part of more, all are validated alike, and each fit is one of `eqpot fit`."""
    assert main(["learning-curve", "toy.h5", "--frames", "5,10,20", *SHORT]) == 0
    said = capsys.readouterr().out
    pool, valid = (read_dataset(f"curve/{name}") for name in (by_frames.FRAMES, by_frames.VALID))
    assert (len(pool), len(valid)) == (21, 3) and not repeated(valid, pool).any()
    drawn = {}
    for size in (5, 10, 20):
        content, arrays = checkpoint_of(f"curve/{size}")
        drawn[size] = set(arrays["train_frames"])
        assert len(drawn[size]) == size and content["state"]["epoch"] == 3
        assert len(arrays["valid_frames"]) == 3
        assert main(["eval", f"curve/{size}/model.h5", "curve/frames_valid.h5", f"--json={size}.json"]) == 0
    assert drawn[5] < drawn[10] < drawn[20]
    with open("curve/learning_curve.csv", newline="") as file:
        rows = {int(row["frames"]): row for row in csv.DictReader(file)}
    for size, row in rows.items():
        found = json.loads(Path(f"{size}.json").read_text())
        for key in by_frames.COLUMNS:
            assert float(row[key]) == pytest.approx(found[key])
        assert row["epochs"] == "3"
    assert (
        "twice as many, 40, by fits as long, would give about " in said
        and "F goes as the number of frames to the power" in said
    )
    assert Path("curve/learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    fit = ["fit", "curve/frames.h5", "--valid=curve/frames_valid.h5", "--n-train=10", *SHORT, "--n-valid=0"]
    assert main([*fit, "-o", "alone"]) == 0
    assert same_arrays("alone/model.h5", "curve/10/model.h5")


def test_by_itself_it_takes_parts_of_all(folder):
    valid = toy_dataset(4, seed=1)
    write_dataset("valid.h5", valid)
    assert main(["learning-curve", "toy.h5", "--valid=valid.h5", *SHORT, "-o", "own"]) == 0
    assert by_frames.begun_in(Path("own")) == [3, 6, 12, 24]
    assert len(read_dataset("own/frames_valid.h5")) == 3  # --n-valid


def test_where_a_fit_cannot_begin_nothing_is_left(folder, capsys):
    """The one frame of another element is to validate on, and few frames know nothing of it."""
    other = toy_dataset(1, symbols="H2N2", seed=3)
    write_dataset("other.h5", concatenate([toy_dataset(20), other], {}))
    write_dataset("nitrogen.h5", other)
    for seed in range(3):
        words = ["learning-curve", "other.h5", "--valid=nitrogen.h5", "--frames=2,20", *SHORT, "--n-valid=0"]
        said = refused([*words, f"--seed={seed}"], capsys)
        assert "expected elements trained on (H O), found N" in said
        assert not Path("curve").exists()


class Stop(Watch):
    def epoch_done(self, trainer):
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt


def test_stopped_and_gone_on_with(folder, monkeypatch, capsys):
    words = ["learning-curve", "toy.h5", "--frames=5,10", *SHORT]
    assert main([*words, "-o", "whole"]) == 0
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, watch=None: run(self, Stop()))
    capsys.readouterr()
    assert main([*words, "-o", "broken"]) == 130
    assert "continue with: eqpot learning-curve --resume -o broken" in capsys.readouterr().out
    assert checkpoint_of("broken/5")[0]["state"]["epoch"] == 2
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    (folder / "toy.h5").unlink()
    assert main(["learning-curve", "--resume", "-o", "broken"]) == 0
    for size in (5, 10):
        assert same_arrays(f"whole/{size}/model.h5", f"broken/{size}/model.h5")
    again = Path("broken/learning_curve.csv").read_text()
    assert main(["learning-curve", "--resume", "-o", "broken"]) == 0
    assert Path("broken/learning_curve.csv").read_text() == again


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "expected a data set: eqpot learning-curve DATA.h5"),
        ("none.h5 --max-epochs 1", "none.h5: expected a data set file, found no such file"),
        ("toy.h5", "expected --max-epochs or --max-time, where each of the fits ends, found neither"),
        ("toy.h5 --max-epochs 1 --frames 5", "expected two different numbers of frames or more, found '5'"),
        ("toy.h5 --max-epochs 1 --frames 5,5", "expected two different numbers of frames or more"),
        ("toy.h5 --max-epochs 1 --frames 5,-1", "expected numbers of frames such as 25,50,100, found '5,-1'"),
        (
            "toy.h5 --max-epochs 1 --frames 5,100",
            "toy.h5: train.n_train + train.n_valid: expected at most the 24",
        ),
        ("toy.h5 --max-epochs 1 -o there", "there: exists already; give --resume to go on there"),
        ("--resume toy.h5 -o there", "--resume: expected -o DIR alone"),
        ("--resume -o there", "there: expected a folder of `eqpot learning-curve`, found 0 fits in it"),
    ],
)
def test_mistakes(line, words, folder, capsys):
    Path("there").mkdir()
    assert words in refused(["learning-curve", *line.split()], capsys)
    assert not list(Path("there").iterdir()) and not Path("curve").exists()
