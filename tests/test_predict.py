"""`eqpot predict`: all frames of a file, the numbers of the calculator."""

import os
import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.build import molecule as molecule_of
from ase.calculators.singlepoint import SinglePointCalculator
from potentials import crystal, molecule, potential
from runs import refused
from toy import toy_dataset

from eqpot import EqpotCalculator
from eqpot.benchmark import water
from eqpot.cli import main
from eqpot.dynamics import predictions
from eqpot.dynamics.limits import unlike
from eqpot.potential import Potential
from eqpot.structures.data import concatenate, read_dataset, write_dataset
from eqpot.structures.frames import Labels
from eqpot.training.validation import Errors

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
    monkeypatch.setattr(predictions, "ATOMS", atoms)
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


@pytest.mark.parametrize("cutoff", [4.0, 3.0])
def test_a_committee_tells_how_far_it_deviates(cutoff, here):
    """Also one whose models see differently far."""
    other = potential(cutoff=cutoff)
    other.params.flat[:] *= 1.1
    other.save("two.h5")
    assert main(["predict", "one.h5", "two.h5", "frames.extxyz"]) == 0
    calculator = EqpotCalculator(["one.h5", "two.h5"])
    for got, atoms in zip(ase.io.read("predicted.extxyz", ":"), FRAMES, strict=True):
        atoms = atoms.copy()
        atoms.calc = calculator
        assert got.get_forces() == pytest.approx(atoms.get_forces(), abs=TOLERANCE)
        assert got.info["energy_std"] == pytest.approx(calculator.results["energy_std"], abs=TOLERANCE)
        assert got.arrays["forces_std"] == pytest.approx(calculator.results["forces_std"], abs=TOLERANCE)
    assert main(["data", "convert", "predicted.extxyz", "means.h5", "--allow-missing=stress"]) == 0


def test_deviations_of_another_prediction_are_left_behind(here):
    assert main(["predict", "one.h5", "two.h5", "frames.extxyz"]) == 0
    assert main(["predict", "one.h5", "predicted.extxyz", "-o", "again.extxyz"]) == 0
    for atoms in ase.io.read("again.extxyz", ":"):
        assert "forces_std" not in atoms.arrays and "energy_std" not in atoms.info


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


def labelled() -> list[Atoms]:
    """Frames with some labels, in two groups."""
    frames, random = [atoms.copy() for atoms in FRAMES[:4]], np.random.default_rng(0)
    for k, atoms in enumerate(frames):
        results = {"energy": random.normal(), "forces": random.normal(size=(len(atoms), 3))}
        if atoms.pbc.all():
            results["stress"] = random.normal(size=6)
        if k < 2:
            del results[("energy", "forces")[k]]
        atoms.info["config_type"] = "odd" if k % 2 else "even"
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


@pytest.mark.parametrize("atoms", [1, 2000])
def test_errors_are_those_of_eval(atoms, here, monkeypatch, capsys):
    """As `eval` prints them, of a text and of a data set, however many frames are taken together."""
    monkeypatch.setattr(predictions, "ATOMS", atoms)
    ase.io.write("labelled.extxyz", labelled())
    missing = [f"--allow-missing={label}" for label in ("energy", "forces", "stress")]
    assert main(["data", "convert", "labelled.extxyz", "labelled.h5", *missing]) == 0
    capsys.readouterr()
    assert main(["eval", "one.h5", "labelled.h5"]) == 0
    expected = capsys.readouterr().out.replace("labelled.h5", "FILE")
    expected = expected[expected.index("errors on the 4 frames of FILE") :]
    assert "by element" in expected and "RMSE by group" in expected and "stress" in expected
    for file in ("labelled.extxyz", "labelled.h5"):
        assert main(["predict", "one.h5", file, "--against", "--overwrite"]) == 0
        found = capsys.readouterr().out.replace(file, "FILE")
        labels = "of 4 frames these have labels: energy in 3, forces in 3, stress in 2\n"
        assert found[found.index("errors on the 4 frames of FILE") :] == expected + labels
    against = ase.io.read("predicted.extxyz", ":")
    assert main(["predict", "one.h5", "labelled.extxyz", "-o", "without.extxyz"]) == 0
    for one, other in zip(against, ase.io.read("without.extxyz", ":"), strict=True):
        assert one.info == other.info and (one.get_forces() == other.get_forces()).all()


def test_predictions_are_no_reference_data(here, capsys):
    """Taken for labels they would make every model look perfect."""
    assert main(["predict", "one.h5", "two.h5", "frames.extxyz", "-o", "p.extxyz"]) == 0
    assert {atoms.info["predicted_by"] for atoms in ase.io.read("p.extxyz", ":")} == {"one.h5, two.h5"}
    capsys.readouterr()
    assert main(["data", "convert", "p.extxyz", "p.h5", "--allow-missing=stress"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: the labels of 5 frames are predictions of one.h5, two.h5 (predicted_by)" in told


def test_against_no_labels(here, capsys):
    assert main(["predict", "one.h5", "frames.extxyz", "--against"]) == 0
    said = capsys.readouterr().out
    assert "warning: frames.extxyz: --against: expected energy, forces or stress" in said
    assert "found no labels" in said and "errors" not in said
    assert len(ase.io.read("predicted.extxyz", ":")) == len(FRAMES)


def test_against_some_labels(here, capsys):
    """Only atoms whose forces are known are counted."""
    frames = ase.io.read("frames.extxyz", ":")
    labelled = frames[0].copy()
    labelled.calc = SinglePointCalculator(labelled, forces=np.zeros((len(labelled), 3)))
    ase.io.write("some.extxyz", [labelled, frames[0]])
    assert main(["predict", "one.h5", "some.extxyz", "--against"]) == 0
    assert "of 2 frames these have labels: forces in 1\n" in capsys.readouterr().out
    errors = Errors()
    data = concatenate([toy_dataset(1), toy_dataset(1, 1)])
    data.forces[data.atom_ptr[1] :] = np.nan
    errors.add(data, Labels(data.energy, np.zeros_like(data.forces), data.stress))
    atoms = sum(row["atoms"] for row in errors.report()["per_element"].values())
    assert atoms == data.sizes[0]


READ = {
    "predict": (["predict", "one.h5", "f.extxyz", "-o", "f.extxyz"], "f.extxyz"),
    "by a link": (["predict", "one.h5", "f.extxyz", "-o", "link.extxyz"], "link.extxyz"),
    "relax": (["relax", "one.h5", "f.extxyz", "-o", "./f.extxyz"], "f.extxyz"),
    "relax many": (["relax", "one.h5", "f.extxyz", "--index=:", "-o", "f.extxyz"], "f.extxyz"),
    "eval, model": (["eval", "one.h5", "d.h5", "--json=one.h5"], "one.h5"),
    "eval, data": (["eval", "one.h5", "d.h5", "--json=d.h5"], "d.h5"),
    "inspect": (["inspect", "one.h5", "f.extxyz", "--json=f.extxyz"], "f.extxyz"),
    "bench": (["bench", "one.h5", "f.extxyz", "--json=one.h5"], "one.h5"),
    "split": (["data", "split", "d_train.h5", "-o", "d", "--train=1"], "d_train.h5"),
    "convert": (["data", "convert", "d.h5", "d.h5"], "d.h5"),
}


@pytest.mark.parametrize("command", READ)
def test_no_command_writes_over_what_it_reads(here, capsys, command):
    words, file = READ[command]
    write_dataset("d.h5", toy_dataset(3))
    shutil.copy("d.h5", "d_train.h5")
    shutil.copy("frames.extxyz", "f.extxyz")
    os.symlink("f.extxyz", "link.extxyz")
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    said = refused([*words, "--overwrite"], capsys)
    assert f"{file}: expected another file than those that are read" in said
    assert before == {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def test_predictions_that_are_not_finite_are_told(here, capsys):
    broken = potential("float32")
    for name, array in broken.params.items():
        array[:] *= 1 if name == "frequencies" else 1e8
    broken.save("broken.h5")
    text = refused(["predict", "one.h5", "broken.h5", "frames.extxyz"], capsys)
    assert "frames.extxyz: frame 0: expected finite predictions of the model, found NaN" in text
    assert not (here / "predicted.extxyz").exists()


def test_a_label_that_is_no_number_is_told(here, capsys):
    lines = ["2", 'Properties=species:S:1:pos:R:3 energy="so low"', "H 0 0 0", "O 0 0 1"]
    (here / "wrong.extxyz").write_text("\n".join(lines) + "\n")
    text = refused(["predict", "one.h5", "wrong.extxyz", "--against"], capsys)
    assert "wrong.extxyz: frame 0, energy: expected numbers, found 'so low'" in text
    assert not (here / "predicted.extxyz").exists()


def test_lengths_in_another_unit_are_doubted(here, capsys):
    """Once, and not those of molecules and crystals as they are."""
    assert main(["predict", "one.h5", "frames.extxyz"]) == 0
    assert "are its lengths" not in capsys.readouterr().out
    bohr = [atoms.copy() for atoms in FRAMES]
    for atoms in bohr:
        atoms.set_cell(atoms.cell / 0.529177)
        atoms.positions /= 0.529177
    ase.io.write("bohr.extxyz", bohr)
    assert main(["predict", "one.h5", "bohr.extxyz", "-o", "out.extxyz"]) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert told.startswith("note: bohr.extxyz: frame 1: atoms have ")
    assert "in training 11: are its lengths in Å? (" in told and told.endswith(" of this kind in all)")


WATER = molecule_of("H2O")


def scaled(atoms: Atoms, factor: float) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(factor * atoms.cell[:])
    atoms.positions *= factor
    return atoms


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (water(3), ""),
        (WATER, ""),
        (Atoms("O"), ""),
        (Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]), ""),
        (water(2), ""),
        (scaled(water(3), 1.8897), "atoms have [2-9].* neighbours within 5 Å, in training 55"),
        (scaled(water(2), 0.4), "atoms have .* neighbours within 5 Å, in training 55"),
        (scaled(WATER, 1.8897), "no two atoms are as close as in training: H-O 1.83 Å, there 0.9 Å"),
        (Atoms("OH", [[0, 0, 0], [0, 0, 9.0]]), "atoms have 0 neighbours within 5 Å"),
    ],
    ids=[
        "box",
        "molecule",
        "atom",
        "pair",
        "small box",
        "box in Bohr",
        "nm",
        "molecule in Bohr",
        "far apart",
    ],
)
def test_what_is_unlike_training(atoms, words):
    made = Potential.create(["H", "O"], features=2, blocks=1)
    made.mean_neighbours = 55.0
    made.provenance["closest"] = {"H-H": 1.3, "H-O": 0.9, "O-O": 2.4}
    told = unlike(made, made.graph(atoms), atoms.pbc.any())
    assert re.match(words, told) if words else told == ""


def test_half_a_crystal_is_no_other_unit():
    """A thin slab under a model of the bulk."""
    made = Potential.create(["Cu"], features=2, blocks=1)
    made.mean_neighbours, made.provenance["closest"] = 42.0, {"Cu-Cu": 2.2}
    slab = fcc111("Cu", (2, 2, 2), vacuum=8)
    assert unlike(made, made.graph(slab), True) == ""


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
        (
            ["one.h5", "none.xyz", "-o", "frames.extxyz"],
            "none.xyz: expected a trajectory, found no such file",
        ),
        (["none.h5", "frames.extxyz", "-o", "frames.extxyz"], "none.h5: expected a model file"),
        (["one.h5", "frames.extxyz", "-o", "frames.extxyz"], "frames.extxyz: expected another file than"),
        (["one.h5", "frames.extxyz", "-o", "out.h5"], "out.h5: expected a name that ends in .extxyz or .xyz"),
        (["one.h5", "frames.extxyz", "-o", "one.extxyz/out.xyz"], "the folder one.extxyz does not exist"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(arguments, words, here, capsys):
    ase.io.write("iron.xyz", [molecule(), Atoms("Fe")], format="extxyz")
    before = sorted(path.name for path in here.iterdir())
    assert words in refused(["predict", *arguments], capsys)
    assert sorted(path.name for path in here.iterdir()) == before
