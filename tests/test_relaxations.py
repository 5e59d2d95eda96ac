"""`eqpot relax` of several structures: copper, with ASE's EMT in the place of the model's forces."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from runs import refused

from eqpot.cli import main
from eqpot.potential import Potential


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A model of copper, a file of three shaken crystals and one more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eqpot.calculator.EqpotCalculator", lambda _: EMT())
    made = Potential.create(["Cu"], features=2, blocks=1)
    made.mean_neighbours = 40.0
    made.save("model.h5")
    frames = []
    for seed in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    ase.io.write("three.extxyz", frames[:3])
    ase.io.write("one.extxyz", frames[3])
    return tmp_path


def many(*options: str) -> int:
    return main(["relax", "model.h5", "three.extxyz", "one.extxyz", "--index", ":", *options])


def same(one: Atoms, other: Atoms) -> bool:
    return np.array_equal(one.positions, other.positions) and np.array_equal(one.cell[:], other.cell[:])


@pytest.mark.parametrize("cell", [False, True])
def test_equals_one_at_a_time(cell, here, capsys):
    options = ["--cell"] if cell else []
    assert many(*options) == 0
    head, *lines, wrote = capsys.readouterr().out.splitlines()
    names = [*(f"three.extxyz, frame {k}" for k in range(3)), "one.extxyz, frame 0"]
    assert head.split()[0] == "structure" and wrote == "wrote relaxed.extxyz: 4 structures"
    found = ase.io.read("relaxed.extxyz", ":")
    assert [a.info["structure"] for a in found] == names and all(a.info["relaxed"] for a in found)
    for k, (name, line, got) in enumerate(zip(names, lines, found, strict=True)):
        file, index = name.split(", frame ")
        assert main(["relax", "model.h5", file, "--index", index, "-o", f"{k}.extxyz", *options]) == 0
        expected = ase.io.read(f"{k}.extxyz")
        assert same(got, expected) and got.get_potential_energy() == expected.get_potential_energy()
        step = capsys.readouterr().out.splitlines()[-2].split()
        assert line.strip().startswith(name) and line.split()[-len(step) :] == step
        assert got.info["steps"] == int(step[0])


def test_last_frames_of_several_files(here, capsys):
    assert main(["relax", "model.h5", "three.extxyz", "one.extxyz"]) == 0
    assert [a.info["structure"] for a in ase.io.read("relaxed.extxyz", ":")] == ["three.extxyz", "one.extxyz"]


@pytest.mark.parametrize("left", [0, 3, 40, 400])
def test_resume_leaves_out_what_is_done(left, here, capsys, monkeypatch):
    """Also after a kill in the middle of a structure; the result is the same."""
    assert many() == 0
    whole = (here / "relaxed.extxyz").read_text()
    first = whole.index("\n4\n") + 1
    (here / "relaxed.extxyz").write_text(whole[: first + left])
    capsys.readouterr()
    assert many("--resume") == 0
    text = capsys.readouterr().out
    assert (here / "relaxed.extxyz").read_text() == whole
    assert text.startswith("1 structure of 4 in relaxed.extxyz already\n")
    assert many("--resume") == 0
    assert capsys.readouterr().out.splitlines()[0] == "4 structures of 4 in relaxed.extxyz already"
    (here / "relaxed.extxyz").write_text(whole[:1])  # killed in the first one
    assert many("--resume") == 0 and (here / "relaxed.extxyz").read_text() == whole


def test_ctrl_c_keeps_what_is_done(here, capsys, monkeypatch):
    calculate, asked = EMT.calculate, []

    def interrupted(self, *arguments):
        asked.append(1)
        if len(asked) == 30:
            raise KeyboardInterrupt
        calculate(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(EMT, "calculate", interrupted)
        assert many("--fmax=1e-3") == 130
    text = capsys.readouterr().out
    assert "are in relaxed.extxyz; go on with the same command and --resume" in text
    assert 0 < len(ase.io.read("relaxed.extxyz", ":")) < 4
    assert many("--fmax=1e-3", "--resume") == 0
    assert len(ase.io.read("relaxed.extxyz", ":")) == 4


def test_what_is_not_relaxed_is_told_and_kept(here, capsys):
    text = refused(["relax", "model.h5", "three.extxyz", "--index=:", "--steps=1"], capsys)
    assert text.startswith("error: 3 of 3 structures are not relaxed; the first, three.extxyz, frame 0: not")
    assert [a.info["relaxed"] for a in ase.io.read("relaxed.extxyz", ":")] == [False] * 3
    text = refused(["relax", "model.h5", "three.extxyz", "--index=:", "--steps=1", "--resume"], capsys)
    assert "frame 0: not relaxed in an earlier call" in text


def test_one_without_finite_forces_stops_nothing_else(here, capsys, monkeypatch):
    calculate, asked = EMT.calculate, []

    def broken(self, *arguments):
        calculate(self, *arguments)
        asked.append(1)
        if len(asked) == 1:
            self.results["energy"] = np.nan

    monkeypatch.setattr(EMT, "calculate", broken)
    text = refused(["relax", "model.h5", "three.extxyz", "--index=:"], capsys)
    assert (
        "1 of 3 structures are not relaxed; the first, three.extxyz, frame 0: step 0: expected finite" in text
    )
    assert len(ase.io.read("relaxed.extxyz", ":")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["three.extxyz", "--index=:", "-o", "out.cif"], "out.cif: expected a name that ends in .extxyz"),
        (["one.extxyz", "one.extxyz"], "one.extxyz: expected each structure once, found it more than once"),
        (["one.extxyz", "--resume"], "--resume: expected several structures, files or --index :, found one"),
        (["one.extxyz", "three.extxyz", "--resume", "--overwrite"], "exclude each other"),
        (["one.extxyz", "iron.xyz"], "iron.xyz: numbers: expected elements trained on (Cu), found Fe"),
        (["one.extxyz", "none.xyz", "-o", "there.xyz"], "none.xyz: expected a structure, found no such file"),
        (["none.xyz", "-o", "there.xyz"], "none.xyz: expected a structure, found no such file"),
        (["one.extxyz", "-o", "there.xyz"], "there.xyz: exists already"),
        (["three.extxyz", "--index=:", "-o", "there.xyz"], "there.xyz: exists already"),
        (["three.extxyz", "--index=:", "-o", "there.xyz", "--resume"], "expected the result of an earlier"),
        (["three.extxyz", "--index=:", "-o", "text.xyz", "--resume"], "expected the result of an earlier"),
        (
            ["three.extxyz", "--index=:", "-o", "ours.xyz", "--resume", "--fmax=2"],
            "it was begun with (lbfgs,",
        ),
        (["three.extxyz", "--index=x"], "expected the number of a frame, or : for all, found 'x'"),
    ],
)
def test_mistakes_leave_everything_as_it_is(arguments, words, here, capsys):
    ase.io.write("iron.xyz", Atoms("Fe"))
    ase.io.write("there.xyz", bulk("Cu", cubic=True), format="extxyz")
    (here / "text.xyz").write_text("what somebody wrote\n")
    assert main(["relax", "model.h5", "three.extxyz", "--index=:", "-o", "ours.xyz"]) == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert words in refused(["relax", "model.h5", *arguments], capsys)
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_full_disk_leaves_whole_structures(here, capsys, monkeypatch):
    def full(number: int) -> None:
        path = here / "relaxed.extxyz"
        if path.exists() and path.read_text().count("Lattice") == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("eqpot.dynamics.relaxations.os.fsync", full)
        text = refused(["relax", "model.h5", "three.extxyz", "--index=:"], capsys)
    assert "relaxed.extxyz: cannot be written: No space left on device" in text
    assert len(ase.io.read("relaxed.extxyz", ":")) == 1
