"""Fine-tuning: what is taken over from the parent, what stays, and the same bits after a stop."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import fitted, log, refused, same_arrays, settings
from toy import toy_dataset

from eqpot.cli import main
from eqpot.errors import UserError
from eqpot.files import sha256
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.structures.data import concatenate, read_dataset, write_dataset
from eqpot.structures.frames import Frames
from eqpot.training.finetune import LEARNING_RATE, Parent
from eqpot.training.trainer import Trainer
from eqpot.training.validation import predict

OLD = Path(__file__).parent / "version_0_1"
OFFSETS = {"H": -13.5, "O": -430.25, "N": -1485.0}  # eV, of another level of theory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A parent of H and O, its data, and new data of another level, with N: three compositions."""
    path = tmp_path_factory.mktemp("finetune")
    write_dataset(path / "old.h5", concatenate([toy_dataset(8), toy_dataset(8, 1, "H3O")]))
    fitted(settings(max_epochs=3), path / "old.h5", path / "parent")
    parts = [toy_dataset(6, 10 + k, symbols) for k, symbols in enumerate(("H2O2", "H3O", "HO2N"))]
    for part, counts in zip(parts, ((2, 2, 0), (3, 1, 0), (1, 2, 1)), strict=True):
        part.energy += counts @ np.array(list(OFFSETS.values()))
    write_dataset(path / "new.h5", concatenate(parts))
    write_dataset(path / "known.h5", concatenate(parts[:2]))
    return path


@pytest.fixture
def parent(folder):
    return Parent.load(folder / "parent/model.h5")


def tuned(parent, **train):
    return parent.settings({"train": {"batch_size": 3, "n_valid": 3, "max_epochs": 4, "ema": 0.9, **train}})


def rows(potential, name, element):
    """Weights of one element."""
    return potential.params[name][potential.species.index(element)]


def test_what_is_taken_over(parent):
    old = parent.potential
    new = parent.extended((1, 7), seed=5, dtype="float32")
    assert new.species == (1, 7, 8) and new.config == old.config
    assert new.mean_neighbours == old.mean_neighbours
    assert new.scale == pytest.approx([old.scale[0]] * 3) and new.shift[1] == 0
    fresh = Potential.create((1, 7, 8), 5, **old.config.to_dict())
    by_element = [name for name, array in new.params.items() if len(array) == 3]
    assert "embedding" in by_element and "block0.self_connection.s" in by_element
    for name, array in new.params.items():
        if name in by_element:
            for z in (1, 8):
                assert np.array_equal(rows(new, name, z), rows(old, name, z)), name
            assert np.array_equal(rows(new, name, 7), rows(fresh, name, 7)), name
        else:
            assert np.array_equal(array, old.params[name]), name


def test_forces_of_known_elements_do_not_jump(folder, parent):
    potential = Potential.load(parent.path)
    potential.scale[:] *= 20  # two epochs taught hardly any forces
    new = replace(parent, potential=potential).extended((7,), seed=0, dtype="float32")
    atoms = read_dataset(folder / "old.h5").atoms(3)
    before, after = potential.evaluate(atoms), new.evaluate(atoms)
    assert np.abs(before.forces).max() > 0.1
    assert after.forces == pytest.approx(before.forces, abs=1e-6)
    assert after.energy == pytest.approx(before.energy, abs=1e-6)


def own_labels(parent, data):
    """Its own energies in the place of the labels."""
    frames = Frames(data, parent.potential.species, parent.potential.config.cutoff)
    return replace(data, energy=predict(parent.potential, frames).energy)


@pytest.mark.parametrize("change", [(0.0, 0.0), (-13.5, -430.25)])
def test_shifts_are_fitted_to_what_the_parent_leaves(change, folder, parent):
    """Energies of another level of theory change the shifts by just the energies of its atoms."""
    data = own_labels(parent, read_dataset(folder / "known.h5"))
    data.energy += data.composition() @ change
    potential = parent.extended(data.species, 0, "float32")
    shifts, told = parent.shifts(potential, data, "least_squares")
    assert shifts - parent.potential.shift == pytest.approx(change, abs=1e-6)
    assert "fitted to what parent/model.h5 leaves of the energies" in told
    kept, told = parent.shifts(potential, data, "parent")
    assert np.array_equal(kept, parent.potential.shift) and "shifts of parent/model.h5" in told
    table, _ = parent.shifts(potential, data, {"H": -1.0, "O": -2.0})
    assert table.tolist() == [-1.0, -2.0]


def test_shifts_of_the_parent_and_one_for_a_new_element(folder, parent):
    data = read_dataset(folder / "new.h5")
    potential = parent.extended(data.species, 0, "float32")
    shifts, _ = parent.shifts(potential, data, "parent")
    assert np.array_equal(shifts[[0, 2]], parent.potential.shift)
    frames = Frames(data, potential.species, potential.config.cutoff)
    rest = (data.energy - predict(potential, frames).energy)[12:]
    assert shifts[1] == pytest.approx(rest.mean())


def test_a_fit_of_another_level_with_a_new_element(folder, parent, tmp_path):
    trainer = Trainer.start(tuned(parent), folder / "new.h5", tmp_path / "run", parent=parent)
    change = trainer.potential.shift - [*parent.potential.shift[:1], 0, *parent.potential.shift[1:]]
    assert change == pytest.approx(
        [OFFSETS[s] for s in "HNO"], abs=3
    )  # shifts of forces of the toy: below 3 eV
    assert np.array_equal(trainer.potential.scale, np.full(3, parent.potential.scale[0]))
    before = trainer.validate()
    assert before["energy_per_atom_rmse"] < 2
    trainer.run()
    provenance = Potential.load(tmp_path / "run/model.h5").provenance
    assert provenance["parent"] == "parent/model.h5"
    assert provenance["parent_hash"] == sha256(folder / "parent/model.h5")
    assert provenance["taken_over"] == "weights, scale and mean neighbours; fresh weights for N"
    assert provenance["parent_valid_forces_rmse"] == before["forces_rmse"]
    for pair, r in parent.potential.provenance["closest"].items():
        assert provenance["closest"][pair] <= r
    assert "H-N" in provenance["closest"]


def test_a_parent_of_version_0_1(tmp_path):
    parent = Parent.load(OLD / "fit/model.h5")
    data = OLD / "toy.h5"
    trainer = Trainer.start(tuned(parent, max_epochs=1), data, tmp_path / "run", parent=parent)
    assert np.array_equal(trainer.weights, parent.potential.params.flat)
    trainer.run()


def test_elements_that_only_the_parent_knows_are_kept(folder, parent, tmp_path):
    write_dataset(tmp_path / "h.h5", toy_dataset(8, 3, "H4"))
    trainer = fitted(tuned(parent), tmp_path / "h.h5", tmp_path / "run", parent=parent)
    assert trainer.potential.species == (1, 8)
    assert trainer.potential.shift[1] == parent.potential.shift[1]
    assert not np.array_equal(trainer.weights, parent.potential.params.flat)


def stays(name: str, group: str) -> bool:
    """Whether an array of weights is in a group."""
    block, _, part = name.partition(".")
    if part == "radial" or name in ("frequencies", "radial.0"):
        return group == "radial"
    if block.startswith("block"):
        return group == "blocks" or (group == "block1" and block == "block0")
    return {"embedding": "embedding", "output": "readout"}[block] == group


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("group", ["embedding", "radial", "block1", "blocks", "readout"])
def test_weights_that_stay(group, optimizer, folder, parent, tmp_path):
    """To the last bit, but for those of a new element; all others learn."""
    config = tuned(parent, freeze=group, optimizer=optimizer)
    trainer = fitted(config, folder / "new.h5", tmp_path / "run", parent=parent)
    before, after = parent.extended((7,), 0, "float32").params, trainer.potential.params
    for name in before:
        known = [0, 2] if len(before[name]) == 3 else slice(None)
        assert np.array_equal(before[name][known], after[name][known]) == stays(name, group), name
        if len(before[name]) == 3:
            assert not np.array_equal(before[name][1], after[name][1]), name


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ("block3", "expected a block up to block2, found block3"),
        ("embedding,radial,blocks,readout", "expected weights that are left to learn"),
    ],
)
def test_what_cannot_stay(freeze, words, folder, parent, tmp_path):
    with pytest.raises(UserError, match=f"train.freeze: {words}"):
        Trainer.start(tuned(parent, freeze=freeze), folder / "known.h5", tmp_path / "run", parent=parent)
    with pytest.raises(UserError, match="train.freeze: expected --from MODEL"):
        Trainer.start(settings(freeze=freeze), folder / "known.h5", tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Stop(Watch):
    """Ctrl-C in the middle of the third epoch."""

    def step_done(self, trainer, fraction, losses):
        if trainer.state.epoch == 2 and fraction > 0.5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_resumed_without_any_file_but_the_run_folder(optimizer, folder, tmp_path):
    """New elements, weights that stay, replayed frames: the same bits, wherever the folder is."""
    config = tuned(Parent.load(folder / "parent/model.h5"), optimizer=optimizer, freeze="radial", n_replay=5)
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
        for file in ("parent/model.h5", "new.h5", "old.h5"):
            shutil.copy(folder / file, tmp_path / name)
        files = tmp_path / name
        trainer = Trainer.start(
            config,
            files / "new.h5",
            files / "run",
            parent=Parent.load(files / "model.h5"),
            replay=files / "old.h5",
        )
        if name == "unbroken":
            trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run(Stop())
    shutil.move(tmp_path / "broken/run", tmp_path / "moved")
    shutil.rmtree(tmp_path / "broken")
    Trainer.resume(config, tmp_path / "moved").run()
    for name in ("model.h5", "checkpoint.h5", "converted.h5"):
        assert same_arrays(tmp_path / "unbroken/run" / name, tmp_path / "moved" / name)
    assert log(tmp_path / "unbroken/run") == log(tmp_path / "moved")


def test_replayed_frames(folder, parent, tmp_path):
    """Trained on, not validated on; what is theirs beside the shifts stays what it was."""
    config = tuned(parent, n_replay=5)
    made = folder / "new.h5", tmp_path / "run"
    trainer = Trainer.start(config, *made, parent=parent, replay=folder / "old.h5")
    data, old = trainer.train.dataset, read_dataset(folder / "old.h5")
    assert len(data) == 15 + 5 and len(trainer.valid) == 3
    assert [str(group) for group in data.group[-5:]] == ["replay"] * 5
    assert "replay" not in {str(group) for group in trainer.valid.dataset.group}
    shift = dict(zip(trainer.potential.species, trainer.potential.shift, strict=True))
    before = dict(zip(parent.potential.species, parent.potential.shift, strict=True))
    for k in range(15, 20):
        atoms = data.atoms(k)
        same = [j for j in range(len(old)) if np.array_equal(old.atoms(j).positions, atoms.positions)]
        rest = [
            energy - sum(of[z] for z in atoms.numbers)
            for energy, of in ((data.energy[k], shift), (old.energy[same[0]], before))
        ]
        assert rest[0] == pytest.approx(rest[1], abs=1e-9)
    alone = Trainer.start(tuned(parent), folder / "new.h5", tmp_path / "alone", parent=parent)
    assert np.array_equal(alone.potential.shift, trainer.potential.shift)  # of the new data alone
    assert np.array_equal(alone.valid.dataset.positions, trainer.valid.dataset.positions)


def test_frames_that_the_parent_was_not_fitted_to_are_told(folder, parent, tmp_path):
    """By its own errors on them; of its own data nothing is said."""
    made = tuned(parent), folder / "new.h5"
    own = Trainer.start(*made, tmp_path / "own", parent=parent, replay=folder / "old.h5")
    assert not any("ruins" in line for line in own.warnings())
    energies, forces = read_dataset(folder / "old.h5"), read_dataset(folder / "old.h5")
    energies.energy += 0.5 * energies.sizes
    forces.forces *= 100
    for k, other in enumerate((energies, forces)):
        trainer = Trainer.start(*made, tmp_path / str(k), parent=parent, replay=other)
        (told,) = (line for line in trainer.warnings() if "ruins" in line)
        assert "expected data that " in told and "parent/model.h5 was fitted to, found its errors" in told


def test_a_parent_that_is_better_is_told(folder, parent, tmp_path):
    trainer = Trainer.start(tuned(parent), folder / "known.h5", tmp_path / "run", parent=parent)
    trainer.run()
    trainer.potential.provenance["parent_valid_forces_rmse"] = trainer.state.best_rmse * 1.01
    assert "it is better" not in trainer.verdict()
    trainer.potential.provenance["parent_valid_forces_rmse"] = trainer.state.best_rmse * 0.99
    assert "parent/model.h5 had before the first step: it is better than this model" in trainer.verdict()


def test_frames_that_are_not_replayed(folder, parent, tmp_path):
    """Those that are validated on."""
    known = folder / "known.h5"
    trainer = Trainer.start(tuned(parent), known, tmp_path / "run", parent=parent, replay=known)
    assert len(trainer.train) == 9 + 9
    unweighted = read_dataset(known)
    unweighted.weight = np.arange(len(unweighted)) % 2.0
    again = Trainer.start(tuned(parent), known, tmp_path / "c", parent=parent, replay=unweighted)
    validated = again.sources.valid
    assert len(again.train) == 9 + 6 - sum(k % 2 for k in validated)
    with pytest.raises(UserError, match="train.n_replay: expected at most the 9 frames that may be"):
        Trainer.start(tuned(parent, n_replay=10), known, tmp_path / "b", parent=parent, replay=known)
    with pytest.raises(
        UserError, match="new.h5: expected elements that .* knows in frames to replay, found N"
    ):
        Trainer.start(tuned(parent), known, tmp_path / "b", parent=parent, replay=folder / "new.h5")
    with pytest.raises(UserError, match="--replay: expected --from MODEL"):
        Trainer.start(settings(), known, tmp_path / "b", replay=known)
    with pytest.raises(UserError, match="train.n_replay: expected --replay FILE"):
        Trainer.start(tuned(parent, n_replay=2), known, tmp_path / "b", parent=parent)
    assert not (tmp_path / "b").exists()


def test_settings_are_the_parents(folder, parent):
    config = tuned(parent)
    assert config.model == parent.potential.config
    assert config.train.learning_rate == LEARNING_RATE and config.train.dtype == "float32"
    assert tuned(parent, learning_rate=0.01).train.learning_rate == 0.01
    assert parent.settings({"model": {"features": 4, "isolated_atoms": "auto"}}).model.features == 4
    mine = parent.potential.config.to_dict()
    paper = parent.settings({"preset": "paper", "model": mine})
    assert paper.train.optimizer == "adam" and paper.train.learning_rate == LEARNING_RATE


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"features": 8}}, "model.features: expected 4, as .*model.h5 has it, found 8"),
        ({"model": {"isolated_atoms": True}}, "model.isolated_atoms: expected False"),
        ({"preset": "accurate"}, "model.features: expected 4, as .*model.h5 has it, found 128"),
        ({"model": {"zzz": 8}}, "model.zzz: unknown key"),
    ],
)
def test_settings_that_contradict_the_parent(tables, words, parent):
    with pytest.raises(UserError, match=words):
        parent.settings(tables)


def test_a_scale_contradicts_the_parent(folder, parent, tmp_path):
    with pytest.raises(UserError, match="train.scale: expected force_rms with --from"):
        Trainer.start(tuned(parent, scale=2.0), folder / "known.h5", tmp_path / "run", parent=parent)
    with pytest.raises(UserError, match="train.shifts: expected --from MODEL with parent"):
        Trainer.start(settings(shifts="parent"), folder / "known.h5", tmp_path / "run")


SHORT = ["--set=train.batch_size=3", "--n-valid=3", "--max-epochs=2"]


def test_on_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "parent", "parent")
    files = ["--from=parent/model.h5", f"--replay={folder / 'old.h5'}", "--freeze=embedding,radial"]
    assert main(["fit", str(folder / "new.h5"), "-o", "run", *files, *SHORT]) == 0
    said = capsys.readouterr().out
    for words in (
        "note: of parent/model.h5: weights, scale and mean neighbours; fresh weights for N; F ",
        "before the first step; learning rate 0.002",
        "note: weights that stay as they are: embedding, radial",
        "note: replayed: 16 frames of ",
        "fitted to what parent/model.h5 leaves of the energies: H ",
    ):
        assert words in said
    assert main(["info", "run/model.h5"]) == 0
    told = capsys.readouterr().out
    hash = sha256("parent/model.h5")
    assert f"parent hash               {hash}" in told and "parent                    parent/model.h5" in told
    assert main(["fit", "--resume", "-o", "run", "--max-epochs=3"]) == 0
    assert main(["fit", "--from=parent/model.h5", "--show-config"]) == 0
    assert "learning_rate = 0.002" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "new.h5 --from=parent/model.h5 --set=model.features=8",
            "model.features: expected 4, as parent/model.h5",
        ),
        ("--resume -o parent --from=parent/model.h5", "--from: expected no --from with --resume"),
        ("--resume -o parent --freeze=radial", "--freeze: expected no --freeze with --resume"),
        ("new.h5 --from=old.h5", "old.h5: this is a data set, not a model"),
        ("new.h5 --freeze=radial", "train.freeze: expected --from MODEL"),
        ("new.h5 --freeze=heart", "train.freeze: expected a list of embedding, radial, blocks"),
        (
            "new.h5 --from=parent/model.h5 -o parent --overwrite",
            "parent/model.h5: expected a file that the run in",
        ),
        ("new.h5 --replay=old.h5", "--replay: expected --from MODEL"),
    ],
)
def test_mistakes(line, words, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("new.h5", "old.h5"):
        shutil.copy(folder / name, name)
    shutil.copytree(folder / "parent", "parent")
    before = (tmp_path / "parent/model.h5").read_bytes()
    assert words in refused(["fit", *line.split()], capsys)
    assert (tmp_path / "parent/model.h5").read_bytes() == before and not (tmp_path / "run").exists()
