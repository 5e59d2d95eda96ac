"""`eqpot fit` on any source that `eqpot data convert` takes: read, told and kept alike."""

import json
import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from runs import fitted, refused, same_arrays, settings
from toy import MODEL, toy_dataset

from eqpot import units
from eqpot.cli import main
from eqpot.data_tools import options
from eqpot.errors import UserError
from eqpot.files import sha256
from eqpot.potential import Potential
from eqpot.structures.data import read_dataset, write_dataset
from eqpot.training.trainer import Trainer

SHORT = [*(f"--set=model.{key}={value}" for key, value in MODEL.items()), "--set=train.batch_size=3"]
SHORT += ["--n-valid=3", "--max-epochs=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A few frames as eqpot's file, extxyz and an npz in kcal/mol, in the present folder."""
    monkeypatch.chdir(tmp_path)
    data = toy_dataset(12)
    data.weight = np.linspace(0.5, 2, 12)
    write_dataset("toy.h5", data)
    frames = [data.atoms(k) for k in range(12)]
    ase.io.write("all.extxyz", frames, format="extxyz")
    ase.io.write("a.extxyz", frames[:7], format="extxyz")
    ase.io.write("b.extxyz", frames[7:], format="extxyz")
    shape, kcal = (12, 4, 3), 1 / units.ENERGY_UNITS["kcal/mol"]
    arrays = {"R": data.positions.reshape(shape), "F": kcal * data.forces.reshape(shape)}
    np.savez("toy.npz", **arrays, z=data.numbers[:4].astype(int), E=kcal * data.energy)
    return tmp_path


def fit(*arguments: str) -> None:
    assert main(["fit", *arguments, *SHORT]) == 0, arguments


def test_a_source_is_fitted_like_what_it_is_converted_to(folder, capsys):
    """Rounding of the text apart nothing differs, and convert's own words are said."""
    assert main(["data", "convert", "a.extxyz", "b.extxyz", "converted.h5"]) == 0
    said = capsys.readouterr().out.splitlines()
    fit("converted.h5", "-o", "one")
    assert "labels:" not in capsys.readouterr().out
    fit("a.extxyz", "b.extxyz", "-o", "two")
    found = capsys.readouterr().out.splitlines()
    assert found[: len(said) - 1] == said[:-1]
    assert found[len(said) - 1].startswith("a.extxyz and 1 more: 12 frames, 48 atoms (H O), labels: energy,")
    assert same_arrays("one/model.h5", "two/model.h5")
    assert same_arrays("two/converted.h5", "converted.h5")
    origin = Potential.load("two/model.h5").provenance
    assert origin["data"] == "a.extxyz and 1 more" and origin["data_hash"] == sha256("two/converted.h5")
    assert origin["source"] == "a.extxyz, b.extxyz"
    capsys.readouterr()
    assert main(["info", "two/model.h5"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^data +a.extxyz and 1 more$", told, re.MULTILINE) and "converted.h5" not in told
    assert re.search(r"^source +a.extxyz, b.extxyz$", told, re.MULTILINE)
    assert main(["info", "one/model.h5"]) == 0  # a file of that name that is the user's
    assert re.search(r"^data +converted.h5$", capsys.readouterr().out, re.MULTILINE)
    assert not (folder / "one/converted.h5").exists() and not (folder / "two/converted_valid.h5").exists()


def test_eval_takes_sources_too(folder, capsys):
    fit("a.extxyz", "b.extxyz", "-o", "run")
    for name in ("toy.h5", "all.extxyz", "toy.npz"):
        capsys.readouterr()
        units = ["--energy-unit=kcal/mol"] * name.endswith("npz")
        assert main(["eval", "run/model.h5", name, *units, f"--json={name}.json"]) == 0
        assert f"errors on the 12 frames of {name}" in capsys.readouterr().out
    one, other, npz = (
        json.loads(Path(f"{name}.json").read_text()) for name in ("toy.h5", "all.extxyz", "toy.npz")
    )
    for found in (other, npz):
        assert found["forces_rmse"] == pytest.approx(one["forces_rmse"], rel=1e-5)
    assert npz["stress_rmse"] is None
    assert "--energy-unit: expected a source to be converted" in refused(
        ["eval", "run/model.h5", "toy.h5", "--energy-unit=eV"], capsys
    )


def test_frames_of_weight_0_are_told(folder, capsys):
    data = read_dataset("toy.h5")
    data.weight[:3] = 0
    data.weight[3:] = 0.5
    write_dataset("some.h5", data)
    fit("some.h5", "-o", "run")
    said = capsys.readouterr().out
    assert "note: 3 frames of weight 0 left out" in said and "note: frames weigh 0.5 each in the loss" in said


def test_options_and_files_to_validate_on(folder, capsys):
    fit("toy.npz", "--energy-unit=kcal/mol", "--valid=b.extxyz", "-o", "run")
    said = capsys.readouterr().out
    assert "toy.npz: 12 frames" in said and "b.extxyz: 5 frames" in said
    assert "frames weigh" not in said  # of those to validate on, which count alike
    kept = read_dataset("run/converted.h5")
    assert kept.energy == pytest.approx(toy_dataset(12).energy)
    assert len(read_dataset("run/converted_valid.h5")) == 5
    fit("toy.npz", "--energy-unit=kJ/mol", "--level-of-theory=x", "-o", "other")
    kept = read_dataset("other/converted.h5")
    assert kept.energy == pytest.approx(toy_dataset(12).energy / 4.184)
    assert kept.attrs["level_of_theory"] == "x"


def test_resumed_without_the_sources(folder, capsys):
    fit("a.extxyz", "--valid=b.extxyz", "-o", "run")
    shutil.copytree("run", "moved")
    for name in ("a.extxyz", "b.extxyz"):
        (folder / name).unlink()
    shutil.rmtree("run")
    assert main(["fit", "--resume", "-o", "moved", "--max-epochs=3"]) == 0
    assert main(["fit", "--resume", "-o", "moved", "--max-epochs=4", "moved/converted.h5"]) == 0
    capsys.readouterr()
    changed = read_dataset("moved/converted.h5")
    changed.energy[0] += 1
    write_dataset("moved/converted.h5", changed)
    words = "moved/converted.h5: expected the file that moved/checkpoint.h5 was made from"
    assert words in refused(["fit", "--resume", "-o", "moved", "--max-epochs=5"], capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("toy.h5 --energy-unit=eV", "--energy-unit: expected a source to be converted"),
        ("toy.h5 --energy-key=energy", "--energy-key: expected a source to be converted"),
        ("all.extxyz --energy-key=e", "all.extxyz: energy: expected the key 'e', found config_type, config"),
        ("all.extxyz none.extxyz", "none.extxyz: no such file or folder"),
        ("all.extxyz --valid=none.npz", "none.npz: no such file or folder"),
        ("--resume -o run all.extxyz", "all.extxyz: expected no source with --resume"),
        ("--resume -o run --length-unit=nm", "--length-unit: expected a source to be converted"),
        ("run/converted.h5 -o run --overwrite", "run/converted.h5: expected a file that the run in run does"),
        ("toy.h5 --valid run/converted.h5 -o run --overwrite", "run/converted.h5: expected a file that the"),
    ],
)
def test_mistakes(line, words, folder, capsys):
    fit("all.extxyz", "-o", "run")
    capsys.readouterr()
    before = sha256("run/converted.h5")
    assert words in refused(["fit", *line.split()], capsys)
    assert sha256("run/converted.h5") == before


def test_a_run_replaced_by_one_of_a_file_keeps_no_frames(folder):
    fit("a.extxyz", "--valid=b.extxyz", "-o", "run")
    fit("toy.h5", "-o", "run", "--overwrite")
    assert not list((folder / "run").glob("converted*"))


def test_frames_from_python(tmp_path):
    """A data set in memory, whatever file it came from, is kept; messages call it data."""
    data = toy_dataset(12)
    trainer = fitted(settings(), data, tmp_path / "run")
    write_dataset(tmp_path / "toy.h5", data)
    same = fitted(settings(), tmp_path / "toy.h5", tmp_path / "same")
    assert np.array_equal(trainer.weights, same.weights)
    assert same_arrays(tmp_path / "run/converted.h5", tmp_path / "toy.h5")
    with pytest.raises(UserError, match="^data: train.n_train .* expected at most the 12 frames"):
        Trainer.start(settings(n_train=20), data, tmp_path / "b")


def test_names_of_units_in_the_help_are_those_that_are_known():
    tables = units.ENERGY_UNITS, units.LENGTH_UNITS, units.PRESSURE_UNITS
    assert ["|".join(table) for table in tables] == [options.ENERGY, options.LENGTH, options.STRESS]
