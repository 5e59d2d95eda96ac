"""`eqpot analyze` against what can be worked out: ideal gases, perfect lattices, random walks."""

import csv
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from runs import refused
from scipy.spatial.transform import Rotation
from toy import toy_dataset

from eqpot.analyze import BLUR_ANGLE, adf, peaks, rdf
from eqpot.cli import main
from eqpot.diffusion import CM2_PER_S, displacements, mean_of_runs, mean_square, msd
from eqpot.errors import UserError
from eqpot.structures.data import write_dataset
from eqpot.structures.trajectory import interval, read_trajectory, times

RANDOM = 4 / np.sqrt(2000)  # four standard deviations of a bin with that many pairs


def walk(seed: int = 0, frames: int = 400, atoms: int = 12, d: float = 2.0) -> list[Atoms]:
    """Brownian atoms of two elements in a cell of 12 Å, never wrapped; d in Å²/ps, a frame every 10 fs."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(scale=np.sqrt(2 * d * 0.01), size=(frames, atoms, 3))
    return [
        Atoms(["Li", "S"] * (atoms // 2), x, cell=[12.0] * 3, pbc=True, info={"time_ps": 0.01 * k})
        for k, x in enumerate(np.cumsum(steps, axis=0))
    ]


def wrapped(frames: list[Atoms]) -> list[Atoms]:
    copies = [atoms.copy() for atoms in frames]
    for atoms in copies:
        atoms.wrap()
    return copies


# ---------------------------------------------------------------- radial


def test_an_ideal_gas_of_few_atoms_gives_one():
    """Also with 3 like atoms, where 1 / N is no trifle; beyond the cell one of N is an image of the atom."""
    rng, cell = np.random.default_rng(0), 6.0
    frames = [Atoms("O3H6", rng.random((9, 3)) * cell, cell=[cell] * 3, pbc=True) for _ in range(1500)]
    found = rdf(frames, r_max=9.0, bin_width=1.0)  # lattice vectors at 6 and 8.5 Å
    assert found.g.keys() == {"H-H", "H-O", "O-O", "total"}
    near, far = slice(2, 6), slice(7, 8)
    for pair, like in (("H-O", 0), ("H-H", 6), ("O-O", 3), ("total", 9)):
        assert np.abs(found.g[pair][near] - 1).max() < RANDOM
        assert abs(found.g[pair][far].item() - (1 - 1 / like if like else 1)) < RANDOM
        images = 6 / (like * 4 / 3 * np.pi * (7**3 - 6**3) / cell**3) if like else 0
        assert abs(found.g[pair][6] - (1 - 1 / like + images if like else 1)) < RANDOM
    with_images = found.around["O around O"][7] - found.around["O around O"][5]
    assert with_images == pytest.approx(6 + 2 / cell**3 * 4 / 3 * np.pi * (7.5**3 - 5.5**3), rel=0.02)


@pytest.mark.parametrize("repeat", [1, 2, 4])
@pytest.mark.parametrize(
    ("lattice", "squares", "shells"),  # of distances, in half lattice constants
    [
        ("fcc", [2, 4, 6, 8], [12, 6, 24, 12]),
        ("sc", [4, 8, 12, 16], [6, 12, 8, 6]),
        ("bcc", [3, 4, 8, 11], [8, 6, 12, 24]),
    ],
)
def test_shells_of_a_lattice_in_any_cell(lattice, squares, shells, repeat):
    """From a cell of one atom on, whose neighbours are all images of itself."""
    atoms = bulk("Po", lattice, a=3.003) * (repeat, repeat, repeat)
    found = rdf([atoms], r_max=6.2, bin_width=0.02)
    distances = 3.003 / 2 * np.sqrt(squares)
    counts = found.around["Po around Po"][np.searchsorted(found.r, distances + 0.1)]
    assert counts == pytest.approx(np.cumsum(shells))
    shell = found.shell("Po-Po")
    assert shell.peak == pytest.approx(distances[0], abs=0.01)
    assert shell.neighbours == {"Po around Po": pytest.approx(shells[0])}
    assert distances[0] < shell.minimum < distances[1]
    low, high = shell.peak + (found.r[1] - found.r[0]) / 2 * np.array([-1, 1])
    others = len(atoms) - (repeat > 1)
    gas = 4 / 3 * np.pi * (high**3 - low**3) * others / atoms.get_volume()
    assert shell.height * gas == pytest.approx(shells[0])


def test_unlike_pairs_count_both_ways():
    fluorite = bulk("CaF2", "fluorite", a=5.5)
    found = rdf([fluorite], r_max=3.0, pairs=[("Ca", "F"), ("F", "F")])
    assert found.g.keys() == {"Ca-F", "F-F"}
    assert found.shell("Ca-F").neighbours == {"F around Ca": 8.0, "Ca around F": 4.0}
    assert found.shell("F-F").neighbours == {"F around F": 6.0}
    assert rdf([fluorite], r_max=2.0).shell("F-Ca") is None


# ---------------------------------------------------------------- angular


def test_angles_of_molecules():
    water, ammonia, carbon_dioxide = map(molecule, ("H2O", "NH3", "CO2"))
    found = adf([water], ("H", "O", "H"), (1.2, 1.2))
    assert found.per_vertex == 1 and found.mean == pytest.approx(water.get_angle(1, 0, 2))
    assert found.std == pytest.approx(0, abs=1e-3)
    assert found.angle[found.peaks(False)] == pytest.approx([found.mean], abs=1)
    assert adf([ammonia], ("H", "N", "H"), (1.2, 1.2)).per_vertex == 3
    straight = adf([carbon_dioxide], ("O", "C", "O"), (1.4, 1.4))
    assert straight.mean == pytest.approx(180) and straight.peaks(False).tolist() == [89]


def test_a_peak_is_where_the_curve_is_highest_between_its_valleys():
    """Also far from where a blurred curve is: three spikes of noise on one broad peak, and another peak."""
    x = np.arange(1.0, 180, 2)
    y = np.exp(-(((x - 113) / 6) ** 2)) + 0.5 * np.exp(-(((x - 41) / 6) ** 2))
    y[np.searchsorted(x, [107, 115, 119])] = 1.6, 1.5, 1.4
    assert x[peaks(x, y, BLUR_ANGLE)].tolist() == [41, 107]


def test_two_elements_have_a_cutoff_each():
    """H-O-C of methanol; another H is nearer to O than some C would be."""
    methanol = molecule("CH3OH")
    o, c, h = (next(i for i, s in enumerate(methanol.symbols) if s == symbol) for symbol in "OCH")
    hydroxyl = next(
        i for i, s in enumerate(methanol.symbols) if s == "H" and methanol.get_distance(i, o) < 1.1
    )
    one = adf([methanol], ("H", "O", "C"), (1.1, 1.6))
    assert one.per_vertex == 1 and one.mean == pytest.approx(methanol.get_angle(hydroxyl, o, c))
    assert adf([methanol], ("C", "O", "H"), (1.6, 1.1)).mean == one.mean
    assert adf([methanol], ("H", "O", "C"), (2.2, 1.6)).per_vertex == 4
    with pytest.raises(UserError, match="expected one for H-O-H, found 1.1 and 1.6"):
        adf([methanol], ("H", "O", "H"), (1.1, 1.6))


@pytest.mark.parametrize("repeat", [1, 2])
@pytest.mark.parametrize(
    ("lattice", "reach", "angles"),  # how many at each atom
    [("sc", 1.2, {90: 12, 180: 3}), ("fcc", 0.8, {60: 24, 90: 12, 120: 24, 180: 6})],
)
def test_angles_of_a_lattice(lattice, reach, angles, repeat):
    atoms = bulk("Po", lattice, a=3.0) * (repeat, repeat, repeat)
    found = adf([atoms], ("Po",) * 3, (3 * reach,) * 2, bin_width=180 / 35)  # no such angle is an edge
    counts = found.density * 180 / 35 * found.per_vertex
    assert found.per_vertex == sum(angles.values())
    at = np.minimum((np.array(list(angles)) / (180 / 35)).astype(int), 34)
    assert counts[at] == pytest.approx(list(angles.values()))


def test_random_directions_divided_by_the_sine_give_one():
    """Around a fixed atom, 200 others in a ball."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 3))
    atoms = Atoms("OHe200", np.concatenate([np.zeros((1, 3)), directions]))
    atoms.positions[1:] *= rng.random((200, 1)) / np.linalg.norm(directions, axis=1)[:, None]
    found = adf([atoms], ("He", "O", "He"), (1.0, 1.0), bin_width=10)
    assert found.per_vertex == 200 * 199 / 2
    assert np.sum(found.density) * 10 == pytest.approx(1)
    assert np.abs(found.relative[3:-3] - 1).max() < 0.1
    assert found.density == pytest.approx(
        found.relative * np.sin(np.radians(found.angle)) * np.pi / 360, rel=0.01
    )


# ---------------------------------------------------------------- dynamic


def test_mean_square_displacement_is_the_double_sum():
    paths = np.random.default_rng(0).normal(size=(3, 20, 3)).cumsum(axis=1) + 1e3
    direct = [
        np.mean([(paths[:, k + m] - paths[:, k]) ** 2 for k in range(20 - m)], axis=0).sum(axis=1).mean()
        for m in range(12)
    ]
    assert mean_square(paths, 12) == pytest.approx(direct, abs=1e-8)


def test_a_random_walk_diffuses_as_it_should_and_the_error_bar_says_how_well():
    """Mean and spread over 40 seeds; less the motion of the centre of mass, to which each atom adds."""
    masses = walk(frames=1)[0].get_masses()
    share = masses / masses.sum()
    expected = 2.0 * (1 - 2 * share[0] + np.sum(share**2)) * CM2_PER_S
    found = [msd(walk(seed, 200)).diffusivity["Li"] for seed in range(40)]
    values, errors = np.array([d.value for d in found]), np.array([d.error for d in found])
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(40)
    assert values.std() < 0.3 * expected
    assert 0.75 < np.sqrt((errors**2).mean()) / values.std() < 1.33
    assert np.mean([d.exponent for d in found]) == pytest.approx(1, abs=0.1)


def test_runs_count_as_independent():
    """Mean and standard error of four; what does not belong together is refused."""
    four = {str(seed): msd(walk(seed, 100), blocks=1) for seed in range(4)}
    mean = mean_of_runs(four)
    values = np.array([run.diffusivity["Li"].value for run in four.values()])
    assert mean.diffusivity["Li"].value == pytest.approx(values.mean())
    assert mean.diffusivity["Li"].error == pytest.approx(values.std(ddof=1) / 2)
    assert mean.msd["Li"] == pytest.approx(np.mean([run.msd["Li"] for run in four.values()], axis=0))
    fitted = (mean.lag >= mean.fit[0]) & (mean.lag <= mean.fit[1])
    slope, intercept = np.polyfit(mean.lag[fitted], mean.msd["Li"][fitted], 1)
    assert 6 * mean.diffusivity["Li"].value / CM2_PER_S == pytest.approx(slope)  # means and lines commute
    assert mean.diffusivity["Li"].intercept == pytest.approx(intercept)
    with pytest.raises(UserError, match="b: lags: expected 100 of 0.01 ps as of the first run, found 50 of"):
        mean_of_runs({"a": four["0"], "b": msd(walk(0, 50), blocks=1)})
    with pytest.raises(UserError, match="b: fit: expected"):
        mean_of_runs({"a": four["0"], "b": msd(walk(0, 100), blocks=1, fit=(0.1, 0.2))})


def test_the_slope_is_exact_where_motion_is():
    """Two atoms that part with 3 Å/ps each: |2 r|² / 4 from their centre of mass, whatever its own motion."""
    frames = [
        Atoms("N2", [[3.0 * t, 0, 0], [-3.0 * t, 0, 0]] + np.array([7.0 * t, -t, 5.0]))
        for t in np.arange(50) * 0.1
    ]
    found = msd(frames, frame_time=100.0, blocks=1, fit=(1.0, 2.0))
    assert found.msd["N"] == pytest.approx(9 * found.lag**2, abs=1e-9)
    assert found.diffusivity["N"].exponent == pytest.approx(2)
    assert found.diffusivity["N"].value == pytest.approx(9 * 3 / 6 * CM2_PER_S)  # 9 t² between 1 and 2 ps
    assert np.isnan(found.diffusivity["N"].error) and np.isnan(found.error["N"]).all()
    assert found.line("N") == pytest.approx([9 * 0.85, 9 * 3.85])  # least squares of t² at 1, 1.1 ... 2


def confined(pbc, turn=None, frames: int = 400) -> list[Atoms]:
    """`walk` along periodic directions alone, then turned in space."""
    found = walk(frames=frames)
    for atoms in found:
        atoms.positions *= pbc
        atoms.pbc = pbc
        if turn is not None:
            atoms.set_cell(atoms.cell[:] @ turn.T, scale_atoms=True)
    return found


@pytest.mark.parametrize(
    ("pbc", "axes", "shown", "dimensions"),
    [
        ([1, 1, 0], None, "xy", 2),
        ([1, 0, 1], None, "xz", 2),
        ([0, 0, 1], None, "z", 1),
        ([1, 1, 0], "xyz", "xyz", 3),
        ([1, 1, 1], "zy", "yz", 2),
        ([1, 1, 1], None, "xyz", 3),
    ],
)
def test_directions_that_count(pbc, axes, shown, dimensions):
    """D of a random walk is the same in any number of directions; one that is closed takes its share."""
    found = msd(confined(pbc), axes=axes)
    assert (found.axes, found.dimensions) == (shown, dimensions)
    d, values = found.diffusivity["Li"], found.msd["Li"]
    counted = ["xyz".index(axis) for axis in shown]
    assert values == pytest.approx(found.along["Li"][counted].sum(axis=0), abs=1e-9)
    assert d.value == pytest.approx(np.array(d.along)[counted].mean())
    assert d.value == pytest.approx(2.0 * CM2_PER_S * min(1, sum(pbc) / dimensions), rel=0.25)
    assert [x < 1e-9 for x in d.along] == [not periodic for periodic in pbc]
    assert found.line("Li") == pytest.approx(
        d.intercept + 2 * dimensions * d.value / CM2_PER_S * np.array(found.fit)
    )


@pytest.mark.parametrize(("pbc", "what"), [([1, 1, 0], "vectors"), ([0, 1, 0], "vector")])
def test_a_slab_may_lie_askew(pbc, what):
    turn = Rotation.random(random_state=0).as_matrix()
    reference, found = (msd(confined(pbc, t, 100)) for t in (None, turn))
    assert found.axes == f"the periodic cell {what}" and found.dimensions == sum(pbc)
    assert found.msd["S"] == pytest.approx(reference.msd["S"], abs=1e-9)
    assert found.diffusivity["S"].value == pytest.approx(reference.diffusivity["S"].value)


def test_what_must_not_move_anything():
    frames = walk(frames=60)
    reference = msd(frames)
    moved = [atoms.copy() for atoms in frames]
    for k, atoms in enumerate(moved):
        atoms.positions += [0.02 * k, 3.0, -0.01 * k**1.5]
    for same in (wrapped(frames), moved, wrapped(moved)):
        assert msd(same).msd["S"] == pytest.approx(reference.msd["S"], abs=1e-9)
    assert msd(frames, unwrapped=True).msd["S"] == pytest.approx(reference.msd["S"], abs=1e-9)

    lattice = bulk("NaCl", "rocksalt", a=5.0, cubic=True)
    still = [lattice.copy() for _ in range(40)]
    for k, atoms in enumerate(still):  # all atoms together, in a cell that breathes
        atoms.set_cell(lattice.cell[:] * (1 + 0.1 * np.sin(k)), scale_atoms=True)
        atoms.positions += 0.3 * k
        atoms.wrap()
    found = msd(still, frame_time=1.0)
    assert max(found.msd["Na"].max(), found.msd["Cl"].max()) < 1e-20


def test_open_directions_are_not_wrapped():
    frames = [Atoms("H2", [[0, 0, 0], [0, 0, 9.0 * k]], cell=[5, 5, 5], pbc=[1, 1, 0]) for k in range(3)]
    assert displacements(frames)[:, 1, 2] == pytest.approx([0, 9, 18])


def test_frames_too_far_apart_are_told():
    frames = wrapped(walk(frames=100))
    for atoms in frames:
        del atoms.info["time_ps"]
    with pytest.raises(UserError, match=r"frame \d+, positions: expected successive frames.*of a cell away"):
        msd([frames[k] for k in np.random.default_rng(0).permutation(100)], frame_time=1.0)


# ---------------------------------------------------------------- files and commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trajectories good and bad."""
    folder = tmp_path_factory.mktemp("analyze")
    frames = walk(frames=60)
    for name in ("walk.traj", "walk.extxyz"):
        ase.io.write(folder / name, frames)
    whole = (folder / "walk.extxyz").read_bytes()
    (folder / "half.extxyz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.extxyz").write_bytes(b"")
    (folder / "text.md").write_text("nothing of the kind\n")
    for name in ("old.csv", "old_rdf.csv"):
        (folder / name).write_text("")
    ase.io.write(folder / "twice.extxyz", [*frames[:30], *frames[29:]])
    untimed = [atoms.copy() for atoms in frames]
    for atoms in untimed:
        atoms.info.clear()
    ase.io.write(folder / "untimed.extxyz", untimed)
    ase.io.write(folder / "one.extxyz", untimed[0])
    reordered = [*untimed[:7], untimed[7][::-1]]
    ase.io.write(folder / "reordered.extxyz", reordered)
    ase.io.write(folder / "grown.extxyz", [*untimed[:3], untimed[3] + Atoms("H")])
    ase.io.write(folder / "water.xyz", [molecule("H2O")] * 3)
    lost = untimed[2].copy()
    lost.positions[4, 1] = np.nan
    ase.io.write(folder / "nan.traj", [*untimed[:2], lost])
    ase.io.write(folder / "salt.extxyz", [bulk("NaCl", "rocksalt", a=5.0)] * 2)
    write_dataset(folder / "toy.h5", toy_dataset())
    return folder


@pytest.mark.parametrize("name", ["walk.traj", "walk.extxyz", "toy.h5"])
@pytest.mark.parametrize("chosen", [slice(None), slice(2, 9, 3), slice(-3, None), slice(4, -2), slice(7, 70)])
def test_chosen_frames_know_their_numbers(folder, name, chosen):
    count = 12 if name == "toy.h5" else 60
    frames = read_trajectory(folder / name, chosen)
    assert [atoms.info["frame"] for atoms in frames] == list(range(count))[chosen]
    assert all(atoms.calc is None for atoms in frames)
    if count == 60:
        expected = 0.01 * np.arange(60)[chosen]
        assert times(frames) == pytest.approx(expected) and times(frames, 10.0) == pytest.approx(expected)
        with pytest.raises(UserError, match="--frame-time: the file has times"):
            times(frames, 11.0)
    else:
        assert times(frames, 10.0) == pytest.approx(0.01 * np.arange(12)[chosen])


def table(path) -> dict[str, np.ndarray]:
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return dict(zip(head, np.array(rows, float).T, strict=True))


@pytest.fixture
def at_work(folder, tmp_path, monkeypatch):
    """The folder to read from; the results go to an empty one."""
    monkeypatch.chdir(tmp_path)
    return str(folder)


def test_rdf_and_adf_are_written(at_work, capsys):
    assert main(["analyze", "rdf", f"{at_work}/salt.extxyz", "--r-max", "4", "-o", "salt"]) == 0
    text = capsys.readouterr().out
    assert "salt.extxyz: 2 frames, 2 atoms" in text and "6 Cl around Na, 6 Na around Cl" in text
    columns = table("salt.csv")
    assert list(columns)[:5] == ["r (Å)", "g total", "g Na-Na", "g Na-Cl", "g Cl-Cl"]
    assert columns["Cl around Na within r"][-1] == 6 and columns["Na around Na within r"][-1] == 12
    assert main(["analyze", "adf", f"{at_work}/water.xyz", "--triple=H-O-H", "--cutoff=1.2", "--sine"]) == 0
    assert "at each O 1 H-O-H, mean 104.0°" in capsys.readouterr().out
    columns = table("adf.csv")
    assert list(columns) == ["angle (degrees)", "H-O-H (per degree)", "H-O-H (over random)"]
    assert columns["H-O-H (per degree)"].sum() * 2 == pytest.approx(1)
    assert all(Path(name).read_bytes()[:4] == b"\x89PNG" for name in ("salt.png", "adf.png"))
    assert main(["analyze", "rdf", f"{at_work}/one.extxyz", "-o", "one"]) == 0
    assert "one.extxyz: 1 frame, 12 atoms" in capsys.readouterr().out
    assert "salt.csv: exists already" in refused(
        ["analyze", "rdf", f"{at_work}/salt.extxyz", "-o", "salt"], capsys
    )


def test_msd_is_written(at_work, capsys):
    assert main(["analyze", "msd", f"{at_work}/walk.traj", "--skip", "0.2", "--blocks", "2"]) == 0
    text = capsys.readouterr().out
    assert (
        "40 frames, 12 atoms, 0.01 ps apart" in text
        and "lags of 0.02 to 0.09 ps, error from 2 blocks" in text
    )
    columns = table("msd.csv")
    assert list(columns) == [
        "lag (ps)",
        "Li (Å²)",
        "Li standard error (Å²)",
        "S (Å²)",
        "S standard error (Å²)",
        *(f"{symbol} {axis} (Å²)" for symbol in ("Li", "S") for axis in "xyz"),
    ]
    total = sum(columns[f"Li {axis} (Å²)"] for axis in "xyz")
    assert total == pytest.approx(columns["Li (Å²)"], rel=1e-6)
    assert columns["lag (ps)"] == pytest.approx(0.01 * np.arange(20))
    every_other = ["--frames", "::2", "--frame-time", "10", "--blocks", "1", "--element", "S", "-o", "other"]
    assert main(["analyze", "msd", f"{at_work}/untimed.extxyz", *every_other]) == 0
    assert "0.02 ps apart" in capsys.readouterr().out
    assert list(table("other.csv"))[:4] == ["lag (ps)", "S (Å²)", "S standard error (Å²)", "S x (Å²)"]
    files = [f"{at_work}/walk.traj", f"{at_work}/untimed.extxyz"]
    both = ["analyze", "msd", *files, "--frames", "1:41", "-o", "both"]
    assert "--frame-time" in refused(both, capsys)
    shutil.copy(files[0], "again.traj")
    assert main(["analyze", "msd", files[0], "again.traj", "--frames", "1:41", "-o", "both"]) == 0
    said = capsys.readouterr().out
    assert "again.traj: 40 frames, 12 atoms, 0.01 ps apart" in said and "error from 2 runs" in said
    assert table("both.csv")["Li standard error (Å²)"] == pytest.approx(0)  # of a run and its copy
    assert "walk.traj: expected several runs, found one named twice" in refused(
        ["analyze", "msd", files[0], files[0], "-o", "twice"], capsys
    )


def test_msd_says_what_counts(at_work, capsys):
    ase.io.write("slab.traj", confined([1, 1, 0], frames=60))
    layered = confined([1, 1, 0], frames=60)
    for atoms in layered:
        atoms.pbc = True  # as codes for crystals have it
    ase.io.write("layered.traj", layered)
    for name, options, words in (
        (
            "slab",
            [],
            ["D = slope / 4, along xy\n", "note: periodic in 2 directions, which alone count"],
        ),
        ("slab", ["--axes", "xyz"], ["D = slope / 6, along xyz\n"]),
        (
            "layered",
            [],
            ["D = slope / 6, along xyz\n", "note: motion differs with direction; --axes"],
        ),
        ("layered", ["--axes", "yx"], ["D = slope / 4, along xy\n"]),
    ):
        assert main(["analyze", "msd", f"{name}.traj", "-o", "x", "--overwrite", *options]) == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words)
        assert ("--axes" in text) == (len(words) > 1)


def test_compare_overlays(at_work, capsys):
    paths = [f"{at_work}/walk.traj", f"{at_work}/untimed.extxyz"]
    options = ["--pair", "Li-S", "--triple", "Li-S-Li", "--cutoff", "6"]
    assert main(["analyze", "compare", *paths, *options]) == 0
    radial, angular = table("compare_rdf.csv"), table("compare_adf.csv")
    assert list(radial)[1] == "g Li-S A" and radial["g Li-S A"] == pytest.approx(radial["g Li-S B"], rel=1e-4)
    assert angular["Li-S-Li (per degree) A"].sum() * 2 == pytest.approx(1)
    assert capsys.readouterr().out.count("wrote") == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("rdf none.traj", "none.traj: expected a trajectory, found no such file"),
        ("rdf .", ".: expected a trajectory, found a folder"),
        ("rdf none.traj -o old", "none.traj: expected a trajectory, found no such file"),
        ("compare walk.traj none.traj -o old", "none.traj: expected a trajectory, found no such file"),
        ("rdf empty.extxyz", "empty.extxyz: expected a trajectory in a format that ASE reads"),
        ("rdf text.md", "text.md: expected a trajectory in a format that ASE reads"),
        ("rdf half.extxyz", "half.extxyz: frame 30: cannot be read"),
        ("rdf nan.traj", "nan.traj: frame 2, positions: expected finite numbers"),
        ("rdf water.xyz", "water.xyz: frame 0, pbc: expected a structure periodic in all three directions"),
        ("rdf salt.extxyz --pair Na-K", "salt.extxyz: expected elements of the trajectory (Na Cl), found K"),
        ("rdf salt.extxyz --pair Na", "--pair: expected element symbols as in O-H, found 'Na'"),
        (
            "rdf salt.extxyz --r-max 900",
            "salt.extxyz: frame 0: expected a distance with at most 50000000 pairs",
        ),
        ("rdf salt.extxyz --r-max inf", "inf is not in the range 0<x<=1000"),
        ("rdf salt.extxyz --r-max 0.5", "--r-max: expected pairs of atoms, found none within 0.5 Å"),
        ("rdf salt.extxyz --r-max 3 --pair Na-Na", "expected pairs Na-Na, found none within 3 Å"),
        ("adf salt.extxyz --triple Na-Cl-Na --cutoff 900", "a distance with at most 50000000 pairs"),
        ("adf salt.extxyz --triple Na-Cl-Na --cutoff 90", "a cutoff with at most 50000000 angles"),
        ("rdf salt.extxyz --bin 7", "bin width: expected a number above 0 and below 6 Å"),
        ("rdf salt.extxyz --frames 5:", "salt.extxyz: expected frames among those chosen, found none"),
        ("rdf salt.extxyz --frames 5", "expected START:STOP or START:STOP:STEP, such as 100::5, found '5'"),
        (
            "rdf salt.extxyz --skip 1",
            "salt.extxyz: time_ps: expected the time (ps) in the info of all 2 frames",
        ),
        ("rdf walk.traj --skip 1", "walk.traj: --skip: expected at most 0.59 ps, found 1"),
        ("rdf salt.extxyz -o none/x", "none/x.csv: the folder none does not exist"),
        ("rdf salt.extxyz -o /", "--output: expected a prefix of file names, found '/'"),
        ("adf water.xyz --triple H-O-H", "Missing option '--cutoff'"),
        (
            "adf water.xyz --triple H-O --cutoff 1",
            "--triple: expected element symbols as in O-P-O, found 'H-O'",
        ),
        ("adf water.xyz --triple H-O-C --cutoff 1", "expected elements of the trajectory (H O), found C"),
        ("adf water.xyz --triple H-O-H --cutoff 0.5", "expected H-O-H angles, found none within 0.5 Å"),
        (
            "adf water.xyz --triple H-O-H --cutoff x",
            "--cutoff: expected one length in Å or two joined by a comma",
        ),
        ("msd one.extxyz --frame-time 1", "one.extxyz: expected at least 2 frames, found 1"),
        (
            "msd untimed.extxyz",
            "untimed.extxyz: time_ps: expected the time (ps) in the info of all 60 frames",
        ),
        ("msd walk.traj --frame-time 7", "--frame-time: the file has times (time_ps), 10 fs"),
        (
            "msd twice.extxyz",
            "twice.extxyz: frame 30, time_ps: expected rising times, found 0.29 and then 0.29",
        ),
        (
            "msd reordered.extxyz --frame-time 1",
            "frame 7, numbers: expected atoms in the same order, found atom 0",
        ),
        ("msd grown.extxyz --frame-time 1", "frame 3, numbers: expected 12 atoms as before, found 13"),
        ("msd walk.traj --element Na", "walk.traj: expected elements of the trajectory (Li S), found Na"),
        ("msd walk.traj --blocks 31", "blocks: expected 1 to 30 for 60 frames, found 31"),
        (
            "msd walk.traj --fit 0.1:0.2",
            "fit: expected a range of at least 3 lags, 0.01 ps apart, up to 0.11 ps",
        ),
        ("msd walk.traj --axes xw", "expected some of x, y and z, such as xy, found 'xw'"),
        ("msd walk.traj --axes xx", "expected some of x, y and z, such as xy, found 'xx'"),
        ("msd walk.traj --fit 2", "expected START:STOP in ps, such as 2:10, found '2'"),
        ("compare walk.traj walk.traj", "walk.traj: expected two trajectories, found the same one twice"),
        ("compare walk.traj salt.extxyz", "salt.extxyz: expected the pairs of walk.traj"),
        ("compare walk.traj salt.extxyz --cutoff 2", "angles need both --triple and --cutoff"),
        ("compare walk.traj salt.extxyz --sine", "angles need both --triple and --cutoff"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(arguments, words, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    assert words in refused(["analyze", *arguments.split()], capsys)
    assert set(folder.iterdir()) == before


def test_uneven_times_are_told():
    frames = walk(frames=20)
    frames[11].info["time_ps"] += 0.004
    with pytest.raises(UserError, match="frame 11: expected frames at equal times apart, found 0.014 ps"):
        interval(frames)


def test_liquid_water(data_folder, tmp_path, capsys, monkeypatch):
    """O-O of water from path integrals: first peak near 2.75 Å, 4 to 5 neighbours; molecules are whole."""
    from eqpot.data_tools.convert import convert

    monkeypatch.chdir(tmp_path)
    convert(str(data_folder / "water_pbe0ts"), "water.h5")
    found = rdf(read_trajectory("water.h5", slice(0, 40)))
    shell = found.shell("O-O")
    assert 2.65 < shell.peak < 2.85 and 2.5 < shell.height < 3.2 and 3.8 < shell.neighbours["O around O"] < 5
    assert found.shell("H-O").neighbours == pytest.approx({"O around H": 1, "H around O": 2}, abs=0.01)


def test_readers_that_warn_are_not_heard(tmp_path, monkeypatch, recwarn):
    """Of a damaged .traj NumPy tells that a product overflows."""

    def reader(*_, **__):
        for _ in range(3):
            np.float64(1e308) * np.float64(10)
            yield Atoms("H")

    monkeypatch.setattr("ase.io.iread", reader)
    (tmp_path / "a.traj").write_bytes(b"1")
    assert len(read_trajectory(tmp_path / "a.traj")) == 3
    assert not recwarn.list
