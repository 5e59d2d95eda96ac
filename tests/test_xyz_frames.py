"""Frames of extended xyz are read and written as ASE does it."""

import bz2
import io

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import write_extxyz
from potentials import crystal, molecule

from eqpot.errors import UserError
from eqpot.files import read_structure
from eqpot.structures.trajectory import iterate, read_trajectory
from eqpot.structures.xyz import parse_comment
from eqpot.structures.xyz_frames import frame_text, read_frames


def decorated(atoms: Atoms) -> Atoms:
    """With a column of each kind, and an info of each."""
    n = len(atoms)
    atoms.info = {"group": 'a "b" c', "time_ps": 0.5, "step": 3, "list": [1, 2], "flag": True, "word": "x=y"}
    atoms.info |= {"matrix": np.arange(9.0).reshape(3, 3), "nothing": None, "table": {"a": 1}}
    atoms.set_tags(range(n))
    atoms.set_initial_charges(np.linspace(-1, 1, n))
    atoms.set_momenta(np.random.default_rng(0).normal(size=(n, 3)))
    atoms.new_array("name", np.array([f"site{k}" for k in range(n)]))
    atoms.new_array("object", np.array(["a", "bcd"] * n, object)[:n])
    atoms.new_array("mask", np.arange(n) % 2 == 0)
    atoms.new_array("single", np.linspace(0, 1, n).astype(np.float32))
    atoms.new_array("column", np.arange(n)[:, None])
    return atoms


def named(arrays: dict[str, np.ndarray]) -> Atoms:
    atoms = molecule()
    atoms.arrays |= arrays
    return atoms


def calculated(atoms: Atoms) -> Atoms:
    n = len(atoms)
    results = {
        "energy": -1.5,
        "forces": np.ones((n, 3)),
        "energies": np.arange(n) / 7,
        "stress": np.arange(6.0),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def constrained(constraint) -> Atoms:
    atoms = crystal()
    atoms.set_constraint(constraint)
    return atoms


FRAMES = {
    "molecule": molecule(),
    "crystal": crystal(12, seed=8),
    "one atom": Atoms("Xe", positions=[[0, -1e-9, 1e7]]),
    "slab": Atoms("CuC", positions=[[0, 0, 0], [1, 1, 1]], cell=[3, 4, 50], pbc=[1, 1, 0]),
    "no element": Atoms("X2H", positions=np.eye(3)),
    "cell of a molecule": Atoms("H", cell=[9, 9, 9]),
    "decorated": decorated(crystal()),
    "names that a file has": named({"species": np.arange(9), "pos": np.ones(9)}),
    "nothing": Atoms(),
    "calculated": calculated(decorated(molecule())),
    "fixed": constrained(FixAtoms([0, 2])),
    "fixed along x": constrained(FixCartesian([1], mask=(True, False, False))),
}


def same(one: Atoms, other: Atoms) -> None:
    assert list(one.arrays) == list(other.arrays) and one.info.keys() == other.info.keys()
    for name, values in other.arrays.items():
        assert one.arrays[name].dtype == values.dtype and (one.arrays[name] == values).all(), name
    for name, value in other.info.items():
        assert type(one.info[name]) is type(value) and np.array_equal(one.info[name], value), name
    assert (one.cell[:] == other.cell[:]).all() and (one.pbc == other.pbc).all()
    assert [c.todict() for c in one.constraints] == [c.todict() for c in other.constraints]
    results = [atoms.calc.results if atoms.calc else {} for atoms in (one, other)]
    assert results[0].keys() == results[1].keys()
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("name", FRAMES)
def test_written_to_the_byte_as_ase_writes(name):
    text = io.StringIO()
    write_extxyz(text, FRAMES[name], write_results=False)
    assert frame_text(FRAMES[name]) == text.getvalue()


def test_a_line_break_in_info_ends_no_comment():
    atoms = Atoms("H", info={"config_type": "one\ntwo"})
    (found,) = ase.io.read(io.StringIO(frame_text(atoms)), ":", format="extxyz")
    assert found.info == {"config_type": "one two"}


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("name", [name for name in FRAMES if name != "nothing"])
def test_read_as_ase_reads(name, vectors, tmp_path):
    """Three times, since the second comment is known from the first."""
    atoms = FRAMES[name]
    path = tmp_path / "a.xyz"
    ase.io.write(path, 3 * [atoms], format="extxyz", vec_cell=vectors)
    expected = ase.io.read(path, ":", format="extxyz", properties_parser=parse_comment)
    found = list(read_frames(path))
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    for name, value in found[0].info.items():  # frames of one comment share nothing
        assert not isinstance(value, list | dict | np.ndarray) or value is not found[1].info[name]


COLUMNS = {
    "symbols in capitals": ("", "CU 0 0 0\nh 0 0 1"),
    "numbers": ("Properties=Z:I:1:pos:R:3", "29 0 0 0\n1 0 0 1"),
    "both": ("Properties=species:S:1:Z:I:1:pos:R:3", "Cu 29 0 0 0\nH 1 0 0 1"),
    "more columns than named": ("", "Cu 0 0 0 5\nH 0 0 1 6"),
    "a name twice": ("Properties=species:S:1:x:R:2:x:R:1:pos:R:3", "Cu 9 9 5 0 0 0\nH 9 9 6 0 0 1"),
    "logical": ("Properties=species:S:1:pos:R:3:on:L:2", "Cu 0 0 0 T F\nH 0 0 1 F True"),
    "exponents": ("", "Cu 0 1e-3 -.5\nH 0 +0 1E1"),
    "spaces": ("", "  Cu\t0 0   0 \nH 0 0 1\t"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_read_as_ase_reads_them(name, tmp_path):
    comment, rows = COLUMNS[name]
    path = tmp_path / "a.xyz"
    path.write_text(f"2\n{comment}\n{rows}\n")
    (found,) = read_frames(path)
    same(found, ase.io.read(path, format="extxyz", properties_parser=parse_comment))


GOOD = "1\n\nH 0 0 0\n"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("two\n\nH 0 0 0\n", "expected a number of atoms, found 'two'"),
        ("2\n\nH 0 0 0\n", "expected 2 lines of atoms, found 1"),
        ("1\n\nH 0 0\n", "cannot be read"),
        ("1\n\nH 0 0 zero\n", "could not convert string to float: 'zero'"),
        ("1\n\nQq 0 0 0\n", "cannot be read ('Qq')"),
        ('1\nLattice="1 2 3"\nH 0 0 0\n', "Lattice: expected nine numbers"),
        ("1\n\nH 0 0 0\n\n" + GOOD, "found a blank line and more after it"),
        ("1\n\nH 0 0 0\nVEC2 1 0 0\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_frame(wrong, words, tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(2 * GOOD + wrong)
    with pytest.raises(UserError) as told:
        read_trajectory(path)
    assert words in str(told.value) and "a.xyz: frame " in str(told.value)
    path.write_text(wrong)
    with pytest.raises(UserError, match=r"a\.xyz: frame [01]: cannot be read"):
        read_trajectory(path)


def test_text_that_is_not_utf_8(tmp_path):
    (tmp_path / "a.xyz").write_bytes((500 * GOOD).encode() + b"1\nname=\xe9\nH 0 0 0\n")
    with pytest.raises(UserError, match=r"a\.xyz: expected text in utf-8"):
        read_trajectory(tmp_path / "a.xyz")


def test_one_structure_of_a_file_with_a_blank_line(tmp_path):
    (tmp_path / "a.xyz").write_text(GOOD + "\n" + GOOD)
    with pytest.raises(UserError, match=r"a\.xyz: expected a number of atoms, found a blank line and more"):
        read_structure(tmp_path / "a.xyz")


def test_compressed_files_and_blank_ends(tmp_path):
    path = tmp_path / "a.extxyz.bz2"
    path.write_bytes(bz2.compress((2 * GOOD + "\n \n").encode()))
    assert len(read_trajectory(path)) == 2


def test_frames_are_read_as_they_are_asked_for(tmp_path):
    """ASE would go through the whole file before the first."""
    (tmp_path / "a.xyz").write_text(GOOD + "nonsense\n")
    assert len(next(iterate(tmp_path / "a.xyz"))) == 1
