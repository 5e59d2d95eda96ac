"""What a fit says of its end: the estimate on curves that are known, and what limits it."""

import numpy as np
import pytest
from toy import MODEL, toy_dataset

from eqpot.config import Config
from eqpot.structures.data import write_dataset
from eqpot.training import outlook
from eqpot.training.outlook import BENT, COOLED, estimate, final_error, limit
from eqpot.training.trainer import Trainer
from eqpot.words import duration


@pytest.mark.parametrize("power", [-0.1, -0.5, -1.0])
def test_a_power_of_the_epoch_goes_on(power):
    errors = 0.3 * np.arange(1.0, 21) ** power
    for cooldown, cooled in ((0.4, COOLED), (0.0, 1.0)):
        low, high = final_error(errors, epochs=200, cooldown=cooldown)
        before = 200 * (1 - cooldown)
        expected = cooled * errors[-1] * (before / 20) ** (BENT * power)
        assert low < expected < high and high / low < 2


def test_no_estimate_from_few_epochs_or_perfect_ones():
    assert final_error([0.1] * 7, 100, 0.5) is None
    assert final_error([0.1] * 8 + [0.0], 100, 0.5) is None


def test_no_estimate_from_a_network_that_has_hardly_begun():
    errors = 0.5 * np.arange(1.0, 21) ** -0.3
    assert estimate(errors, 0.2, 0.5, 60, forces=1.0).startswith("estimate: F of ")
    assert estimate(errors, 0.2, 0.5, 60, forces=0.5) == ""


def test_errors_that_rise_are_not_prolonged():
    low, high = final_error(np.linspace(0.1, 0.2, 20), 1000, 0.5)
    assert low < COOLED * 0.2 < high * 1.1 and high < 0.2


@pytest.mark.parametrize(
    ("training", "validation", "words"),
    [
        (2.0, 9.0, "the frames limit"),
        (9.0, 9.5, "time or size limits"),
        (7.0, 9.5, "time and frames"),
        (0.0, 0.0, "time or size"),
    ],
)
def test_what_limits(training, validation, words):
    assert words in limit(training, validation)


@pytest.mark.parametrize(("power", "words"), [(-0.5, "time and frames limit"), (-0.05, "the frames limit")])
def test_errors_that_still_fall_are_limited_by_time_too(power, words):
    assert words in limit(2.0, 9.0, np.arange(1, 40.0) ** power)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.52, "0.52 s"), (42, "42 s"), (100, "2 min"), (5400, "90 min"), (7800, "2 h 10 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_fit_says_it_once_and_at_its_end(tmp_path, capsys, monkeypatch):
    from eqpot.commands.progress import Lines

    monkeypatch.setattr(outlook, "BEGUN", 10)  # so short a fit has hardly begun
    write_dataset(tmp_path / "toy.h5", toy_dataset())
    train = {"batch_size": 3, "max_epochs": 40, "n_valid": 3}
    trainer = Trainer.start(
        Config.from_dict({"model": MODEL, "train": train}), tmp_path / "toy.h5", tmp_path / "run"
    )
    assert trainer.outlook() == ""
    with Lines() as watch:
        trainer.run(watch)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("estimate: F of ")]
    assert len(lines) == 1 and "meV/Å at the end; twice as many training frames" in lines[0]
    assert trainer.verdict().startswith("F ") and "on 9 training frames: " in trainer.verdict()
