"""Training: the same bits again, the same bits after a stop, and what each setting does."""

import math
from dataclasses import replace

import numpy as np
import pytest
from runs import fitted, log, same_arrays, settings
from toy import MODEL, toy_dataset

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.files import sha256
from eqpot.potential import Potential
from eqpot.runs import Watch, write_checkpoint
from eqpot.structures.data import Dataset, concatenate, write_dataset
from eqpot.structures.frames import Frames
from eqpot.training import checkpoint
from eqpot.training.checkpoint import checkpoint_of
from eqpot.training.learner import Diverged, State
from eqpot.training.statistics import choose_frames, element_weights, energy_shifts, shifts_left
from eqpot.training.trainer import Trainer
from eqpot.training.validation import errors, predict


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "toy.h5"
    write_dataset(path, toy_dataset())
    return path


PLATEAU = {"schedule": "plateau", "patience": 1}
SETTINGS = {
    "plain": settings(),
    "plateau": settings(**PLATEAU),
    "adam": settings(**PLATEAU, optimizer="adam"),
    "soap": settings(**PLATEAU, optimizer="soap"),
    "everything": settings(
        {"kind": "huber", "element_weights": "balanced", "errors": "per_atom"},
        **PLATEAU,
        optimizer="adam",
        amsgrad=True,
        dtype="float64",
        max_epochs=5,
    ),
}


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_same_seed_same_bits(config, data, tmp_path):
    for name in ("a", "b"):
        fitted(config, data, tmp_path / name)
    assert same_arrays(tmp_path / "a/model.h5", tmp_path / "b/model.h5")
    assert same_arrays(tmp_path / "a/checkpoint.h5", tmp_path / "b/checkpoint.h5")
    assert log(tmp_path / "a") == log(tmp_path / "b")
    other = config.replace({"train": {"seed": 1}})
    fitted(other, data, tmp_path / "c")
    assert not same_arrays(tmp_path / "a/model.h5", tmp_path / "c/model.h5")


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "plain"])
def test_prolonged_equals_unbroken(name, data, tmp_path):
    """Where no rate falls towards an end that was another."""
    config = SETTINGS[name]
    fitted(config, data, tmp_path / "unbroken")
    fitted(config.replace({"train": {"max_epochs": 2}}), data, tmp_path / "broken")
    assert len(log(tmp_path / "broken")) == 2
    Trainer.resume(config, tmp_path / "broken").run()
    assert same_arrays(tmp_path / "unbroken/model.h5", tmp_path / "broken/model.h5")
    assert same_arrays(tmp_path / "unbroken/checkpoint.h5", tmp_path / "broken/checkpoint.h5")
    assert log(tmp_path / "unbroken") == log(tmp_path / "broken")


class Stop(Watch):
    """Ctrl-C in the middle of the third epoch."""

    def step_done(self, trainer, fraction, losses):
        if trainer.state.epoch == 2 and fraction > 0.5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_interrupted_within_an_epoch_and_resumed(config, data, tmp_path):
    fitted(config, data, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        Trainer.start(config, data, tmp_path / "broken").run(Stop())
    with open(tmp_path / "broken/log.csv", "a") as file:
        file.write("3,9,9,9,9,9,9,9,9,9,9,9,9\n")  # a row that no checkpoint followed
        file.write("1")  # and the beginning of the next
    (tmp_path / "broken/model.h5").unlink()
    Trainer.resume(config, tmp_path / "broken").run()
    for name in ("model.h5", "checkpoint.h5"):
        assert same_arrays(tmp_path / "unbroken" / name, tmp_path / "broken" / name)
    assert log(tmp_path / "unbroken") == log(tmp_path / "broken")


def test_short_epochs_are_saved_a_few_at_a_time(data, tmp_path, monkeypatch):
    """Waiting for the disk after each of them would take longer than training; the last one is saved."""
    saved = []
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda *a: saved.append(a[0]) or write_checkpoint(*a))
    trainer = fitted(settings(max_epochs=30), data, tmp_path / "run")
    assert len(saved) < 20
    assert checkpoint_of(tmp_path / "run")[0]["state"]["epoch"] == trainer.state.epoch == 30
    epoch = Potential.load(tmp_path / "run/model.h5").provenance["epoch"]
    assert epoch == trainer.state.best_epoch


def test_errors_fall_and_the_best_model_is_kept(data, tmp_path):
    trainer = fitted(settings(max_epochs=30), data, tmp_path / "run")
    rmse = [float(row["valid_forces_rmse"]) for row in log(tmp_path / "run")]
    assert min(rmse) < 0.7 * rmse[0]
    assert trainer.state.best_epoch == 1 + int(np.argmin(rmse))
    potential = Potential.load(tmp_path / "run/model.h5")
    frames = Frames(trainer.valid.dataset, potential.species, potential.config.cutoff)
    found = errors(frames.dataset, predict(potential, frames))
    assert found["forces_rmse"] == pytest.approx(min(rmse), rel=1e-5)
    assert found == {k: v for k, v in trainer.report().items() if k in found}


def test_shifts_are_fitted_anew_at_the_end(data, tmp_path):
    """The best weights leave no mean error of the training energies; training itself goes as it went."""
    trainer = fitted(settings(dtype="float64"), data, tmp_path / "anew")
    plain = fitted(settings(dtype="float64", refit_shifts=False), data, tmp_path / "plain")
    assert same_arrays(tmp_path / "anew/checkpoint.h5", tmp_path / "plain/checkpoint.h5")
    error = {}
    for name in ("anew", "plain"):
        potential = Potential.load(tmp_path / name / "model.h5")
        frames = Frames(trainer.train.dataset, potential.species, potential.config.cutoff)
        left = frames.dataset.energy - predict(potential, frames, forces=False).energy
        error[name] = abs(left.mean())
        assert ("shifts_refit" in potential.provenance) == (name == "anew")
    assert error["anew"] < 1e-10 < 1e-4 < error["plain"]
    assert np.array_equal(plain.weights, trainer.weights)


def test_a_loss_of_nothing_is_refused(data, tmp_path):
    """Weights of labels that there are none of."""
    unlabelled = replace(toy_dataset(), stress=None, energy=None)
    for weights in ({"forces": 0}, {"forces": 0, "energy": 0}):
        with pytest.raises(UserError, match="expected a weight above 0 of a label in the training frames"):
            Trainer.start(settings(weights), unlabelled, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fitted(settings({"forces": 0, "energy": 0}, max_epochs=1), data, tmp_path / "stress")


def test_a_resume_that_does_nothing_changes_nothing(data, tmp_path):
    fitted(settings(), data, tmp_path)
    before = (tmp_path / "config.toml").read_bytes()
    trainer = Trainer.resume(settings(max_epochs=2), tmp_path)
    assert trainer.finished()
    trainer.run()
    assert (tmp_path / "config.toml").read_bytes() == before


def test_shifts_that_are_given_stay(data, tmp_path):
    table = {"H": -1.0, "O": -4.0}
    trainer = fitted(settings(shifts=table, max_epochs=1), data, tmp_path / "run")
    assert trainer.potential.shift.tolist() == [-1.0, -4.0]
    trainer = fitted(
        settings(shifts=table, max_epochs=1).replace({"model": {"isolated_atoms": False}}),
        data,
        tmp_path / "other",
    )
    assert trainer.potential.shift.tolist() == [-1.0, -4.0]


def test_shifts_left_count_errors_as_the_loss_does():
    """Squares of E - E' by N, times the frame's weight."""
    four = toy_dataset(1, symbols="H4")
    two = Dataset(np.array([0, 2]), four.numbers[:2], four.positions[:2], four.cell, four.pbc)
    two = replace(two, energy=np.zeros(1), forces=np.zeros((2, 3)))
    data = concatenate([replace(four, stress=None, group=None), two], {})
    potential = Potential.create([1], dtype="float64", **MODEL)
    frames = Frames(data, potential.species, potential.config.cutoff)
    frames.dataset.energy[:] = predict(potential, frames, forces=False).energy + [0.1, 0.4]
    expected = (0.1 * 4 / 4 + 3 * 0.4 * 2 / 2) / (4 * 4 / 4 + 3 * 2 * 2 / 2)
    assert shifts_left(potential, frames, [1], np.array([1.0, 3.0])) == pytest.approx(expected)


def test_run_folder_and_provenance(data, tmp_path):
    trainer = fitted(settings(max_epochs=1), data, tmp_path / "run", command="eqpot fit toy.h5")
    trainer.write_curve()
    names = {"model.h5", "checkpoint.h5", "log.csv", "config.toml", "learning_curve.png"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == names
    assert Config.from_toml(tmp_path / "run/config.toml") == settings(max_epochs=1)
    origin = Potential.load(tmp_path / "run/model.h5").provenance
    assert origin["data_hash"] == sha256(data) and origin["command"] == "eqpot fit toy.h5"
    assert (origin["seed"], origin["n_train"], origin["n_valid"]) == (0, 9, 3)


def test_a_folder_with_a_run_is_left_alone(data, tmp_path):
    fitted(settings(max_epochs=1), data, tmp_path)
    before = (tmp_path / "checkpoint.h5").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--resume.*--overwrite"):
        Trainer.start(settings(), data, tmp_path)
    assert (tmp_path / "checkpoint.h5").read_bytes() == before
    with pytest.raises(UserError, match="train.seed: expected 0 .* found 5"):
        Trainer.resume(settings(seed=5), tmp_path)
    with pytest.raises(UserError, match="model.blocks: expected 2 .* found 3"):
        Trainer.resume(settings().replace({"model": {"blocks": 3}}), tmp_path)
    Trainer.start(settings(), data, tmp_path, overwrite=True)
    assert checkpoint_of(tmp_path)[0]["state"]["epoch"] == 0
    assert not (tmp_path / "model.h5").exists()


def test_resuming_on_other_data_or_from_nothing(data, tmp_path):
    fitted(settings(max_epochs=1), data, tmp_path / "run")
    write_dataset(tmp_path / "other.h5", toy_dataset(seed=1))
    with pytest.raises(UserError, match="other.h5: expected the file that"):
        Trainer.resume(settings(), tmp_path / "run", tmp_path / "other.h5")
    with pytest.raises(UserError, match="expected no --valid"):
        Trainer.resume(settings(), tmp_path / "run", valid=tmp_path / "other.h5")
    with pytest.raises(UserError, match="nothing to resume"):
        Trainer.resume(settings(), tmp_path / "none")
    checkpoint = tmp_path / "run/checkpoint.h5"
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(UserError, match="expected a checkpoint, found a damaged or truncated"):
        Trainer.resume(settings(), tmp_path / "run")


def test_loss_that_turns_nan(data, tmp_path):
    """Stops, names the frames as the file counts them, keeps the last checkpoint; a lower rate goes on."""

    class Break(Watch):
        def epoch_done(self, trainer):
            if trainer.state.epoch == 2:
                trainer.weights[:] = np.nan

    trainer = Trainer.start(settings(), data, tmp_path)
    with pytest.raises(UserError) as error:
        trainer.run(Break())
    order = np.random.default_rng()
    order.bit_generator.state = checkpoint_of(tmp_path)[0]["random"]
    first = trainer.sources.train[order.permutation(9)[:3]]
    assert f"frames {', '.join(map(str, first))}: training diverged in epoch 3" in str(error.value)
    assert checkpoint_of(tmp_path)[0]["state"]["epoch"] == 2
    assert np.isfinite(checkpoint_of(tmp_path)[1]["weights"]).all()
    Trainer.resume(settings(), tmp_path).run()


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_a_gradient_whose_square_is_out_of_range_is_not_taken(optimizer, data, tmp_path):
    """The moments would be infinite for good, and the checkpoint that holds them unreadable."""
    trainer = Trainer.start(settings(optimizer=optimizer), data, tmp_path)
    compute, before = trainer.loss_gradient, trainer.weights.copy()

    def steep(*arguments):
        value, parts, gradient = compute(*arguments)
        gradient[7] = 1e20
        return value, parts, gradient

    trainer.loss_gradient = steep
    with pytest.raises(Diverged, match="with a gradient of 1e.20"):
        trainer.step(np.array([0, 1]))
    assert np.array_equal(trainer.weights, before)
    assert all(np.isfinite(moment).all() for moment in trainer.optimizer.state().values())


def test_validation_that_is_nan_is_no_missing_label(data, tmp_path):
    trainer = Trainer.start(settings(), data, tmp_path)
    trainer.average.weights[:] = np.nan
    with pytest.raises(Diverged, match="validation force RMSE of inf"):
        trainer.validate()


def test_timed_run_ends_with_rate_zero(data, tmp_path, monkeypatch):
    trainer = Trainer.start(settings(max_time="100s", max_epochs=10**6, cooldown=0.25), data, tmp_path)
    clock = iter(range(0, 10**6))
    monkeypatch.setattr(trainer, "elapsed", lambda: next(clock))
    assert trainer.run() == "max_time = 100s reached"
    rates = [row["learning_rate"] for row in trainer.rows]
    assert rates[0] == 0.01 and rates[-1] == 0
    assert any(0 < r < 0.01 for r in rates) and rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", ["cooldown", "plateau"])
def test_rate_falls_towards_the_last_epoch(schedule, data, tmp_path):
    """Step by step over the cooldown; cut at plateaus with that schedule, or without an end."""
    limited = dict(schedule=schedule, max_epochs=4, cooldown=0.5, patience=1)
    trainer, rates = Trainer.start(settings(**limited), data, tmp_path / "a"), []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda w, g, rate: rates.append(rate) or step(w, g, rate)
    trainer.state.best_rmse = 0.0  # no epoch is better
    trainer.run()
    start, steps = trainer.config.train.learning_rate, 3
    if schedule == "cooldown":
        done = np.arange(4 * steps) / (4 * steps)
        assert rates == pytest.approx(start * np.minimum(1, (1 - done) / 0.5))
    else:
        assert rates == pytest.approx(np.repeat([start, start, 0.8 * start, 0.8 * start], steps))
    endless = Trainer.start(settings(**{**limited, "max_epochs": 0}), data, tmp_path / "b")
    assert not endless.to_its_end() and endless.rate() == start
    endless.state.epoch = 10**7
    assert not endless.finished()


def test_stop_patience_and_plateau(data, tmp_path):
    state = State(rate=1.0)
    better = [state.validated(rmse, patience=1, factor=0.5) for rmse in (3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 1.0)]
    assert better == [True, True, False, False, False, False, True]
    assert (state.rate, state.best_epoch, state.best_rmse, state.epoch) == (0.25, 7, 1.0, 7)
    trainer = Trainer.start(settings(stop_patience=2, min_learning_rate=1e-3), data, tmp_path)
    trainer.state = State(rate=0.01, epoch=3, best_epoch=1)
    assert "stop_patience = 2" in trainer.finished()
    trainer.state = State(rate=0.0009, epoch=3, best_epoch=2)
    assert "min_learning_rate" in trainer.finished()


@pytest.mark.parametrize(("given", "expected"), [(0, 19), (3, 3)])
def test_a_step_takes_about_as_many_atoms_of_any_frames(given, expected, data, tmp_path):
    """Frames of four atoms: 75 / 4 of them."""
    assert Trainer.start(settings(batch_size=given), data, tmp_path).batch_size == expected


@pytest.mark.parametrize(
    ("loss", "told"),
    [({}, 0), ({"energy": 5.0}, 1), ({"stress": 1.0}, 1), ({"energy": 5.0, "errors": "per_atom"}, 0)],
)
def test_weights_that_meant_something_else_are_told(loss, told, data, tmp_path):
    notes = Trainer.start(settings(loss), data, tmp_path).notes()
    assert sum("as version 0.1 did" in note for note in notes) == told


def test_frames_are_drawn_apart():
    data = toy_dataset(12)
    train, valid = choose_frames(settings(), data, None)
    assert len(train) == 9 and len(valid) == 3 and not set(train) & set(valid)
    train, valid = choose_frames(settings(n_train=4, n_valid=0), data, None)
    assert len(train) == 4 and len(valid) == 1
    train, valid = choose_frames(settings(n_train=0, n_valid=2), data, toy_dataset(5))
    assert np.array_equal(train, np.arange(12)) and len(valid) == 2
    more = choose_frames(settings(n_train=6), data, None)[0]
    assert not np.array_equal(more, choose_frames(settings(n_train=6, seed=1), data, None)[0])


def test_every_element_is_met_in_training():
    data = toy_dataset(20)
    data.numbers[4 * 13] = 6  # carbon in one frame only
    for seed in range(5):
        train, valid = choose_frames(settings(n_train=2, n_valid=18, seed=seed), data, None)
        assert 13 in train and len(train) == 2 and len(valid) == 18


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"n_train": 10, "n_valid": 3}, "at most the 12 frames of the file, found 13"),
        ({"n_train": 20}, "at most the 12 frames"),
        ({"n_valid": 12}, "no frames are left to train on"),
    ],
)
def test_too_few_frames(train, words, data, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        Trainer.start(settings(**train), data, tmp_path / "run")
    assert str(data) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_shifts_by_least_squares():
    parts = [toy_dataset(2, k, symbols) for k, symbols in enumerate(("H2O2", "H3O", "HO3"))]
    counts = np.array([[2, 2], [3, 1], [1, 3]])
    for data, (h, o) in zip(parts, counts, strict=True):
        data.energy[:] = -13.5 * h - 430.25 * o
        data.energy[1] = np.nan
    assert energy_shifts(concatenate(parts)) == pytest.approx(np.array([-13.5, -430.25]), abs=1e-9)
    one = parts[0]
    assert one.composition()[0] @ energy_shifts(one) == pytest.approx(one.energy[0])
    assert not energy_shifts(replace(one, energy=None)).any()


@pytest.mark.parametrize(
    ("symbols", "shifts", "told"),
    [
        (["H2O2"], "least_squares", "1 independent composition of 2 elements"),
        (["H2O2", "H3O"], "least_squares", ""),
        (["H2O2"], {"H": -13.6, "O": -432.0}, ""),
    ],
)
def test_shifts_that_the_frames_leave_open_are_told(symbols, shifts, told, tmp_path):
    write_dataset(tmp_path / "a.h5", concatenate([toy_dataset(6, k, s) for k, s in enumerate(symbols)]))
    trainer = Trainer.start(settings(shifts=shifts), tmp_path / "a.h5", tmp_path / "run")
    note = trainer.potential.provenance["note"]
    assert told in note and bool(told) == bool(note)


def test_given_shifts_and_scale(data, tmp_path):
    trainer = Trainer.start(settings(shifts={"O": -3.0, "H": 0.5}, scale=0.25), data, tmp_path / "a")
    assert np.array_equal(trainer.potential.shift, [0.5, -3.0])
    assert np.array_equal(trainer.potential.scale, [0.25, 0.25])
    with pytest.raises(UserError, match="train.shifts: .* found none for H"):
        Trainer.start(settings(shifts={"O": -3.0}), data, tmp_path / "b")


def test_statistics_of_the_training_frames(data, tmp_path):
    trainer = Trainer.start(settings(), data, tmp_path)
    train = trainer.train.dataset
    assert trainer.potential.scale == pytest.approx(np.sqrt(np.mean(train.forces**2)))
    inside = 0
    for k in range(len(train)):
        distances = train.atoms(k).get_all_distances(mic=True)
        inside += (distances < MODEL["cutoff"]).sum() - 4  # the box is larger than twice the cutoff's reach
    assert trainer.potential.mean_neighbours >= inside / len(train.numbers) > 0


def test_balanced_elements_count_alike():
    data = toy_dataset(3, symbols="HO3")
    weights = element_weights(data, True)
    assert (weights[1], weights[8]) == pytest.approx((2.0, 2 / 3))
    assert weights[data.numbers].mean() == pytest.approx(1.0)
    assert (element_weights(data, False) == 1).all()


def test_weights_of_one_are_no_weights(data, tmp_path):
    """The same bits, whether by the data or by settings."""
    ones = replace(toy_dataset(), weight=np.ones(12))
    write_dataset(tmp_path / "ones.h5", ones)
    trainers = [
        fitted(settings(), data, tmp_path / "plain"),
        fitted(settings(), tmp_path / "ones.h5", tmp_path / "ones"),
        fitted(settings({"group_weights": {"cold": 1}}), data, tmp_path / "group"),
    ]
    for trainer in trainers[1:]:
        assert np.array_equal(trainer.weights, trainers[0].weights)
        assert trainer.frame_weights is None and not any("weigh" in note for note in trainer.notes())


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_weights_of_groups_are_those_of_their_frames(optimizer, data, tmp_path):
    weighted = toy_dataset()
    weighted.weight = np.where(weighted.group == "warm", 3.0, 0.5)
    write_dataset(tmp_path / "weighted.h5", weighted)
    loss = {"group_weights": {"warm": 3, "cold": 0.5}}
    groups = fitted(settings(loss, optimizer=optimizer), data, tmp_path / "groups")
    frames = fitted(settings(optimizer=optimizer), tmp_path / "weighted.h5", tmp_path / "frames")
    plain = fitted(settings(optimizer=optimizer), data, tmp_path / "plain")
    assert np.array_equal(groups.weights, frames.weights)
    assert not np.array_equal(groups.weights, plain.weights)
    assert "frames weigh 0.5 to 3 in the loss, and all alike in validation" in groups.notes()
    config = settings(loss, optimizer=optimizer)
    assert Config.from_toml(tmp_path / "groups/config.toml") == config
    Trainer.resume(config.replace({"train": {"max_epochs": 5}}), tmp_path / "groups").run()


def test_the_gradient_is_linear_in_the_weights_of_frames(data, tmp_path):
    trainer = Trainer.start(settings({"element_weights": "balanced"}), data, tmp_path / "run")
    batch, rows = trainer.train.batch([2, 5])
    labels, elements = trainer.train.labels([2, 5], rows), trainer.atom_weights[rows]

    def gradient(*frames):
        weights = np.array(frames)
        of_atoms = elements * weights[batch.frame]
        return trainer.loss_gradient(batch, labels, of_atoms, weights)[2].copy()

    first, second, both = gradient(1, 0), gradient(0, 1), gradient(0.25, 3)
    assert both == pytest.approx(0.25 * first + 3 * second, abs=1e-5 * float(np.abs(both).max()))
    plain = trainer.loss_gradient(batch, labels, elements)[2]
    assert np.array_equal(gradient(1, 1), plain)


def test_frames_of_weight_zero_are_left_out(data, tmp_path):
    """Of training, of what is split off to validate, and of what shifts and scale are made from."""
    spoiled = concatenate([toy_dataset(), toy_dataset(2, seed=9)])
    spoiled.energy[12:], spoiled.forces[48:] = 1e6, 1e4
    spoiled.weight = np.where(np.arange(14) < 12, 1.0, 0.0)
    write_dataset(tmp_path / "spoiled.h5", spoiled)
    without, spoiled = (
        fitted(settings(), path, tmp_path / path.stem) for path in (data, tmp_path / "spoiled.h5")
    )
    assert np.array_equal(spoiled.weights, without.weights)
    assert np.array_equal(spoiled.potential.shift, without.potential.shift)
    cold = fitted(settings({"group_weights": {"warm": 0}}, n_valid=2), data, tmp_path / "cold")
    assert set(cold.train.dataset.group) == {"cold"} and len(cold.train) == 4
    with pytest.raises(UserError, match="expected frames of a weight above 0, found none"):
        Trainer.start(settings({"group_weights": {"warm": 0, "cold": 0}}), data, tmp_path / "none")


def test_a_group_that_is_not_there_is_named(data, tmp_path):
    with pytest.raises(
        UserError, match="loss.group_weights: .* found 'hot'; those of the data: 'cold', 'warm'"
    ):
        Trainer.start(settings({"group_weights": {"hot": 2}}), data, tmp_path / "run")
    write_dataset(tmp_path / "bare.h5", replace(toy_dataset(), group=None))
    with pytest.raises(UserError, match="found 'hot'; those of the data: none"):
        Trainer.start(settings({"group_weights": {"hot": 2}}), tmp_path / "bare.h5", tmp_path / "run")


def test_missing_labels(data, tmp_path):
    write_dataset(tmp_path / "bare.h5", replace(toy_dataset(), forces=None))
    with pytest.raises(UserError, match="bare.h5: forces: expected forces in the training frames"):
        Trainer.start(settings(), tmp_path / "bare.h5", tmp_path / "run")
    with pytest.raises(UserError, match="bare.h5: forces: expected forces in the validation frames"):
        Trainer.start(settings(), data, tmp_path / "run", tmp_path / "bare.h5")
    assert not (tmp_path / "run").exists()
    write_dataset(tmp_path / "forces.h5", replace(toy_dataset(), energy=None, stress=None))
    trainer = fitted(settings(max_epochs=1), tmp_path / "forces.h5", tmp_path / "run")
    assert not trainer.stress and any("no energies" in line for line in trainer.warnings())
    assert trainer.rows[0]["valid_stress_rmse"] is None and math.isfinite(trainer.rows[0]["loss"])


def test_unknown_element_in_validation(data, tmp_path):
    other = toy_dataset(3)
    other.numbers[5] = 6
    write_dataset(tmp_path / "carbon.h5", other)
    with pytest.raises(UserError) as error:
        Trainer.start(settings(), data, tmp_path / "run", tmp_path / "carbon.h5")
    assert "carbon.h5" in str(error.value) and "C" in str(error.value) and "frame 1" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("other", "count"), [("toy.h5", 8), ("new.h5", 0)])
def test_validation_frames_that_were_trained_on_are_told(other, count, tmp_path):
    whole = toy_dataset()
    write_dataset(tmp_path / "toy.h5", whole.subset(slice(0, 8)))
    write_dataset(tmp_path / "new.h5", whole.subset(slice(8, 12)))
    config = settings(n_train=0, n_valid=0)
    trainer = Trainer.start(config, tmp_path / "toy.h5", tmp_path / "run", tmp_path / other)
    told = [line for line in trainer.warnings() if "repeat frames trained on" in line]
    assert len(told) == (count > 0)
    assert not told or f"{other}: 8 of 8 validation frames" in told[0]


def test_frames_without_edges_are_legal_and_told(tmp_path):
    data = toy_dataset()
    data.positions[:4] *= 3.0
    data.cell[0] *= 3.0
    write_dataset(tmp_path / "far.h5", data)
    config = settings(n_train=11, n_valid=1).replace({"model": {"cutoff": 2.8}})
    trainer = fitted(config, tmp_path / "far.h5", tmp_path / "run")
    lines = trainer.warnings()
    assert len(lines) == 1 and "1 of " in lines[0] and "within the cutoff of 2.8 Å" in lines[0]
