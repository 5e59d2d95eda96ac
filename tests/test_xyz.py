"""Comment lines of extended xyz: a crystal is read as one or refused, and never as a cluster."""

import bz2
import gzip
import lzma

import numpy as np
import pytest
from click.testing import CliRunner

from eqpot.cli import main
from eqpot.data_tools.commands import data
from eqpot.data_tools.convert import convert
from eqpot.errors import UserError
from eqpot.files import read_structure
from eqpot.structures.trajectory import read_trajectory
from eqpot.structures.xyz import names_a_cell, parse_comment

CELL = [[3.6, 0.1, 0.2], [0.0, 3.7, 0.3], [0.0, 0.0, 3.8]]
NINE = "3.6 0.1 0.2 0 3.7 0.3 0 0 3.8"
ATOMS = "Cu 0 0 0 0.1 0.2 0.3\nAu 1.8 1.8 1.8 -0.1 -0.2 -0.3\n"
PROPERTIES = "Properties=species:S:1:pos:R:3:forces:R:3"


def xyz(folder, comment, atoms=ATOMS, end="", name="a.xyz"):
    path = folder / name
    path.write_text(f"2\n{comment}\n{atoms}{end}")
    return path


CRYSTALS = {
    "ASE": (f'Lattice="{NINE}" {PROPERTIES} energy=-1', (1, 1, 1)),
    "GPUMD": (f'lattice="{NINE}" properties=species:S:1:pos:R:3:force:R:3 energy=-1', (1, 1, 1)),
    "capitals": (f'LATTICE="{NINE}" PROPERTIES=Species:S:1:POS:R:3:Forces:R:3 ENERGY=-1', (1, 1, 1)),
    "pbc": (f'lattice="{NINE}" PBC="T F T" {PROPERTIES} energy=-1', (1, 0, 1)),
    "one flag": (f'lattice="{NINE}" pbc=T {PROPERTIES} energy=-1', (1, 1, 1)),
    "flags as numbers": (f'pbc="1 1 0" Lattice = {{{NINE}}} {PROPERTIES} energy=-1', (1, 1, 0)),
}


@pytest.mark.parametrize("case", CRYSTALS)
def test_a_lattice_is_read_in_any_case(case, tmp_path):
    comment, pbc = CRYSTALS[case]
    path = xyz(tmp_path, comment)
    dataset = convert(path, tmp_path / "a.h5").dataset
    pbc = np.array(pbc, bool)
    np.testing.assert_array_equal(dataset.pbc[0], pbc)
    np.testing.assert_array_equal(dataset.cell[0], np.array(CELL) * pbc[:, None])
    np.testing.assert_array_equal(dataset.forces, [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
    assert dataset.energy[0] == -1
    for atoms in (read_structure(path), read_trajectory(path)[0]):
        np.testing.assert_array_equal(atoms.pbc, pbc)
        np.testing.assert_array_equal(atoms.cell.array, CELL)


LATTICES = {
    "other name": f'cell="{NINE}"',
    "other name, capitals": f'Lattice_Vectors="{NINE}"',
    "box": 'box="10 10 10"',
    "a constant": "lattice_constant=3.6",
    "supercell": f'supercell="{NINE}"',
    "simulation_box": f'simulation_box="{NINE}"',
    "Lat": f'Lat="{NINE}"',
    "H": f'H="{NINE}"',
    "basis": f'basis="{NINE}"',
    "CRYST1": 'CRYST1="3.6 3.6 3.6 90 90 90"',
    "not quoted": "cell = 10 10 10",
    "three vectors": 'a="3.6 0 0" b="0 3.6 0" c="0 0 3.6"',
    "numbered vectors": 'a1="3.6 0 0" a2="0 3.6 0" a3="0 0 3.6"',
    "cell_x": "cell_x=10 cell_y=10 cell_z=10",
    "nine numbers": NINE,
    "nine numbers among words": f"step 3 {NINE} done",
    "lengths and angles": "62.23 62.23 62.23 90.0 90.0 90.0",
    "lengths": "10.0 10.0 12.0",
    "i-PI": "# CELL(abcABC): 35.2 35.2 35.2 90.0 90.0 90.0 Traj: positions{angstrom} Step: 0 Bead: 0",
    "words": "Lattice: 10 10 10",
    "although periodic": f'pbc="T T T" cell="{NINE}"',
    "in unclosed quotes": f'name=it\'s Lattice="{NINE}"',
    "three numbers": 'Lattice="3.6 3.6 3.6"',
    "no numbers": "Lattice=fcc",
    "lattice without quotes": f"Lattice={NINE}",
    "twice": f'lattice="{NINE}" Lattice="{NINE}"',
    "pbc in letters": f'Lattice="{NINE}" pbc=xyz',
    "two flags": f'Lattice="{NINE}" pbc="T T"',
}


@pytest.mark.parametrize("case", LATTICES)
def test_what_looks_like_a_lattice_is_refused(case, tmp_path):
    for comment in (LATTICES[case], f"{LATTICES[case]} {PROPERTIES} energy=-1"):
        if "lengths" in case and PROPERTIES in comment:
            continue  # numbers alone are lengths
        path = xyz(tmp_path, comment)
        with pytest.raises(UserError, match=r"a.xyz: frame 0, (comment|Lattice|pbc): ") as caught:
            convert(path, tmp_path / "a.h5")
        assert "\n" not in str(caught.value)
        for read in (read_structure, read_trajectory):
            with pytest.raises(UserError, match="attice|pbc"):
                read(path)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "water at 300 K",
        "-97208.4",
        "i =        0, time =        0.000, E =       -17.1641447508",
        "gdb 1\t157.71\t157.70\t157.70\t0.\t13.21\t-0.38\t0.11\t0.50\t35.36\t0.04\t-40.47\t-40.4",
        " energy: -5.070544446379 gnorm: 0.000667803339 xtb: 6.4.0 (d4b70c2)",
        "cell_id=5 lattice_type=fcc box_number=7",
        'pbc="F F F" cell="10 10 10"',
        'dipole="0.1 0.2 0.3"',
        'supercell="2 2 2"',
        'polarizability="9 0 0 0 9 0 0 0 9"',
        "0 1 0",
    ],
)
def test_other_comments_are_of_molecules(comment, tmp_path):
    path = xyz(tmp_path, comment, atoms="O 0 0 0\nH 0 0 0.96\n")
    dataset = convert(path, tmp_path / "a.h5", allow_missing=["energy", "forces"]).dataset
    assert not dataset.pbc.any()
    assert not read_structure(path).pbc.any()


def test_vectors_after_the_atoms(tmp_path):
    plain = "Cu 0 0 0\nAu 1.8 1.8 1.8\n"
    path = xyz(tmp_path, "energy=-2", plain, "VEC1 3.6 0 0\nVEC2 0 3.7 0\n")
    dataset = convert(path, tmp_path / "a.h5", allow_missing=["forces"]).dataset
    np.testing.assert_array_equal(dataset.pbc[0], [True, True, False])
    np.testing.assert_array_equal(dataset.cell[0], np.diag([3.6, 3.7, 0]))
    assert dataset.energy[0] == -2
    for comment, end, message in (
        ("", "VEC1 3.6\n", "frame 0, line 5: expected three numbers"),
        (f'lattice="{NINE}"', "VEC1 3.6 0 0\n", "frame 0: expected VEC lines or Lattice"),
    ):
        with pytest.raises(UserError, match=message):
            convert(xyz(tmp_path, comment, plain, end), tmp_path / "b.h5", allow_missing=["forces"])


def test_pbc_without_a_lattice_is_refused(tmp_path):
    with pytest.raises(UserError, match="frame 0, cell: expected independent vectors"):
        convert(xyz(tmp_path, f'pbc="T T T" energy=-1 {PROPERTIES}'), tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ("species:S:1", "Properties: expected pos:R:3"),
        ("species:S:1:pos:R", "Properties: expected name:type:columns"),
        ("species:S:1:pos:R:-3", "Properties: expected name:type:columns"),
        ("species:S:1:pos:R:999999999", "Properties: expected name:type:columns"),
    ],
)
def test_wrong_properties_are_refused(properties, message, tmp_path):
    with pytest.raises(UserError, match=message):
        convert(xyz(tmp_path, f"energy=-1 Properties={properties}"), tmp_path / "a.h5")


@pytest.mark.parametrize("species", ["Cu1", "D", "29", "H_w", "cu", "CU", "Qq"])
def test_species_that_are_no_symbols(species, tmp_path):
    path = xyz(tmp_path, f"energy=-1 {PROPERTIES}", ATOMS.replace("Au", species))
    message = f"a.xyz: frame 0, atom 1: expected a chemical symbol such as Cu, found '{species}'"
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "a.h5")


def test_columns_of_many_names(tmp_path):
    path = xyz(tmp_path, "energy=-1 properties=element:S:1:position:R:3:force:R:3")
    assert convert(path, tmp_path / "a.h5").dataset.species == (29, 79)
    path = xyz(
        tmp_path,
        "energy=-1 properties=z:I:1:pos:R:3:force:R:3",
        ATOMS.replace("Cu", "29").replace("Au", "79"),
    )
    assert convert(path, tmp_path / "b.h5").dataset.species == (29, 79)


def test_columns_without_a_name_are_told(tmp_path):
    path = xyz(tmp_path, "energy=-1")
    notes = convert(path, tmp_path / "a.h5", allow_missing=["forces"]).sources[0].notes
    assert "columns that Properties does not name are not used, in 1 frames" in notes
    with pytest.raises(UserError, match="columns that Properties does not name"):
        convert(path, tmp_path / "b.h5")


@pytest.mark.parametrize(("ending", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_compressed_files_are_checked_alike(ending, module, tmp_path, monkeypatch):
    text = f'2\nlattice="{NINE}" energy=-1 {PROPERTIES}\n{ATOMS}'
    path = tmp_path / f"a.xyz{ending}"
    path.write_bytes(module.compress(text.encode()))
    assert convert(path, tmp_path / "a.h5").dataset.pbc.all()
    path.write_bytes(module.compress((text + "\n1\n").encode()))
    with pytest.raises(UserError, match="expected nothing after the blank line"):
        convert(path, tmp_path / "b.h5")
    whole = module.compress(text.encode())
    path.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        convert(path, tmp_path / "b.h5")
    path.write_bytes(module.compress((text * 2000).encode()))
    monkeypatch.setattr("eqpot.data_tools.text.MIN_LIMIT", 1000)
    monkeypatch.setattr("eqpot.data_tools.text.MAX_RATIO", 2)
    with pytest.raises(UserError, match="of text, found more"):
        convert(path, tmp_path / "b.h5")


@pytest.mark.parametrize("count", ["1000000000000", "1" + 30 * "0", "-1", "0", "9" * 5000, "1e3"])
def test_counts_of_atoms_that_lie(count, tmp_path):
    (tmp_path / "a.xyz").write_text(f"{count}\nx\nH 0 0 0\n")
    with pytest.raises(UserError, match="frame 0, line 1: expected a number of atoms"):
        convert(tmp_path / "a.xyz", tmp_path / "a.h5")


def test_a_line_without_end(tmp_path):
    with open(tmp_path / "a.xyz", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="a.xyz: line 1: expected fewer than"):
        convert(tmp_path / "a.xyz", tmp_path / "a.h5")


def test_a_key_twice_is_refused():
    with pytest.raises(UserError, match="expected energy once"):
        parse_comment("energy=-1 energy=-2")


def test_names_of_a_cell():
    assert all(map(names_a_cell, ("cell", "Lattice", "unit_cell", "box_vectors", "latticeVectors", "CELLS")))
    assert not any(map(names_a_cell, ("cell_id", "lattice_type", "supercell", "vectors", "energy", "")))


@pytest.mark.parametrize(
    ("comments", "told"),
    [
        ([f'Lattice="{NINE}"'], "periodic in 3 directions, cell 3.607 x 3.712 x 3.8 Å"),
        ([""], "not periodic"),
        (
            ['Lattice="10.1 0 0 0 9 0 0 0 8" pbc="T T F"', 'Lattice="10.2 0 0 0 9 0 0 0 8" pbc="T T F"'],
            "periodic in 2 directions, cell 10.1..10.2 x 9 Å",
        ),
        (["", 'Lattice="9 0 0 0 9 0 0 0 9"'], "1 not periodic; 1 periodic in 3 directions, cell 9 x 9 x 9 Å"),
    ],
)
def test_convert_tells_periodicity_and_cell(comments, told, tmp_path):
    frames = "".join(f"2\n{comment} energy=-1 {PROPERTIES}\n{ATOMS}" for comment in comments)
    (tmp_path / "a.xyz").write_text(frames)
    words = ["convert", str(tmp_path / "a.xyz"), str(tmp_path / "a.h5")]
    run = CliRunner().invoke(data, words, catch_exceptions=False)
    assert f"\n  {told}\n" in run.output


@pytest.mark.parametrize("command", (["analyze", "rdf"], ["analyze", "adf", "--triple=H-H-H", "--cutoff=3"]))
def test_a_number_of_atoms_beyond_all_counting(command, tmp_path, capsys):
    """ASE would count lines up to it."""
    (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\n" + "9" * 19)
    assert main([*command, str(tmp_path / "a.xyz")]) == 2
    assert (
        f"a.xyz: frame 1: cannot be read (expected a number of atoms, found '{'9' * 19}')"
        in capsys.readouterr().err
    )
