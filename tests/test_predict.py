"""`eqpot predict`: all frames of a file, the numbers of the calculator."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from potentials import crystal, molecule, potential
from runs import refused

from eqpot import EqpotCalculator
from eqpot.cli import main
from eqpot.commands import predict as command
from eqpot.structures.data import read_dataset

TOLERANCE = 1e-6  # positions in a file have eight decimals
FRAMES = [molecule(), crystal(), Atoms("O", positions=[[0, 0, 0]]), crystal(12, seed=8), molecule(5, seed=2)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two models and a file of frames, whose labels are none of the models'."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one.h5", "two.h5")):
        made = potential()
        made.params.flat[:] *= 1 + 0.1 * seed
        made.save(name)
    ase.io.write("frames.extxyz", FRAMES)
    return tmp_path


@pytest.mark.parametrize("atoms", [1, 2000])
def test_equals_the_calculator(atoms, here, monkeypatch, capsys):
    """However many frames are taken together."""
    monkeypatch.setattr(command, "ATOMS", atoms)
    assert main(["predict", "one.h5", "frames.extxyz", "-o", "out.extxyz"]) == 0
    count = sum(map(len, FRAMES))
    assert capsys.readouterr().out == f"wrote out.extxyz: {len(FRAMES)} frames, {count} atoms\n"
    calculator = EqpotCalculator("one.h5")
    found = ase.io.read("out.extxyz", ":")
    assert len(found) == len(FRAMES)
    for k, (got, atoms) in enumerate(zip(found, FRAMES, strict=True)):
        atoms = atoms.copy()
        atoms.calc = calculator
        assert got.info["frame"] == k and (got.numbers == atoms.numbers).all()
        assert got.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=TOLERANCE)
        assert got.get_forces() == pytest.approx(atoms.get_forces(), abs=TOLERANCE)
        assert got.get_potential_energies() == pytest.approx(atoms.get_potential_energies(), abs=TOLERANCE)
        if atoms.pbc.all():
            assert got.get_stress() == pytest.approx(atoms.get_stress(), abs=TOLERANCE)
        else:
            assert "stress" not in got.calc.results


def test_a_committee_tells_how_far_it_deviates(here):
    assert main(["predict", "one.h5", "two.h5", "frames.extxyz"]) == 0
    calculator = EqpotCalculator(["one.h5", "two.h5"])
    for got, atoms in zip(ase.io.read("predicted.extxyz", ":"), FRAMES, strict=True):
        atoms = atoms.copy()
        atoms.calc = calculator
        assert got.get_forces() == pytest.approx(atoms.get_forces(), abs=TOLERANCE)
        assert got.info["energy_std"] == pytest.approx(calculator.results["energy_std"], abs=TOLERANCE)
        assert got.arrays["forces_std"] == pytest.approx(calculator.results["forces_std"], abs=TOLERANCE)
    assert main(["data", "convert", "predicted.extxyz", "means.h5", "--allow-missing=stress"]) == 0


def test_a_committee_of_one_file_is_told(here, capsys):
    assert main(["predict", "one.h5", "one.h5", "two.h5", "frames.extxyz"]) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert "one.h5: 2 of the 3 models are this one" in told


def test_atoms_closer_than_in_training_are_told(here, capsys):
    """What dynamics would stop at: once, however many frames there are."""
    close = [Atoms("OH", positions=[[0, 0, 0], [0, 0, d]]) for d in (1.0, 0.3, 0.2)]
    ase.io.write("close.extxyz", close)
    assert main(["predict", "one.h5", "close.extxyz"]) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert told.startswith(
        "warning: close.extxyz: frame 1: expected H and O at least 0.485 Å apart, found 0.300"
    )
    assert told.endswith("predictions mean little there (2 frames of this kind in all)")


def test_a_data_set_in_and_out_again(here):
    """What is written is what `convert` takes for labels, and a data set is read like any other file."""
    ase.io.write("crystals.extxyz", [crystal(), crystal(12)])
    assert main(["predict", "one.h5", "crystals.extxyz", "-o", "labelled.extxyz"]) == 0
    assert main(["data", "convert", "labelled.extxyz", "labelled.h5"]) == 0
    assert main(["predict", "one.h5", "labelled.h5", "-o", "again.extxyz"]) == 0
    data, again = read_dataset("labelled.h5"), ase.io.read("again.extxyz", ":")
    assert data.energy == pytest.approx([a.get_potential_energy() for a in again], abs=TOLERANCE)
    assert data.forces == pytest.approx(np.concatenate([a.get_forces() for a in again]), abs=TOLERANCE)
    assert data.stress == pytest.approx(np.array([a.get_stress(voigt=False) for a in again]), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one.h5", "iron.xyz"], "iron.xyz: frame 1: numbers: expected elements trained on"),
        (["one.h5", "two.h5", "iron.xyz"], "iron.xyz: frame 1, one.h5: numbers: expected elements"),
        (["one.h5", "none.xyz"], "none.xyz: expected a trajectory, found no such file"),
        (["one.h5"], "expected one model or more and a file"),
        (["one.h5", "frames.extxyz", "-o", "out.h5"], "out.h5: expected a name that ends in .extxyz or .xyz"),
        (["one.h5", "frames.extxyz", "-o", "one.extxyz/out.xyz"], "the folder one.extxyz does not exist"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(arguments, words, here, capsys):
    ase.io.write("iron.xyz", [molecule(), Atoms("Fe")], format="extxyz")
    before = sorted(path.name for path in here.iterdir())
    assert words in refused(["predict", *arguments], capsys)
    assert sorted(path.name for path in here.iterdir()) == before
