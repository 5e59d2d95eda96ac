"""`eqpot learn`: the loop on atoms of Lennard and Jones, its stages one by one, and how it goes on after a
stop."""

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from command_lines import blocks, commands_in
from runs import refused, same_arrays
from toy import MODEL, toy_dataset

from eqpot.cli import main
from eqpot.errors import UserError
from eqpot.learning import explore, folder, log, reference, rounds
from eqpot.learning.calibration import Measured, by_deviation, latest, scaled_by_the_others
from eqpot.learning.choose import choose, farthest, features
from eqpot.learning.exchange import imported_labels
from eqpot.learning.forecast import Forecast
from eqpot.learning.frames import identity, labelled, shaken, unlabelled, weights
from eqpot.learning.settings import LearnConfig
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.structures.data import first_alike, read_dataset

KILLS = int(os.environ.get("EQPOT_KILLS", 3))
PAGE = Path(__file__).resolve().parents[1] / "docs/guide/learn.md"
# Each frame that is begun has a line in `begun`, beside the file.
REFERENCE = """
from pathlib import Path
from ase.calculators.lj import LennardJones

HERE = Path(__file__).parent

class Counted(LennardJones):
    def calculate(self, atoms, *rest):
        with open(HERE / "begun", "a") as file:
            file.write(f"{atoms.positions.tobytes().hex()}\\n")
        super().calculate(atoms, *rest)

def lj():
    return Counted(sigma=1.9, epsilon=0.1, rc=3.4, smooth=True)

class Blind(LennardJones):
    implemented_properties = ["energy", "forces"]

blind = Blind(sigma=1.9, epsilon=0.1, rc=3.4, smooth=True)

def fails():
    raise RuntimeError("no convergence\\nafter 100 steps")

class Dies(LennardJones):
    def calculate(self, atoms, *rest):
        if atoms.positions[0, 0] > 1:
            import os
            os._exit(3)
        super().calculate(atoms, *rest)

number = 3
"""
SMALL = [*(f"--set=model.{key}={value}" for key, value in MODEL.items()), "--set=train.batch_size=3"]
SMALL += [
    "--set=train.ema=0.9",
    "--set=loss.stress=1",
    "--members=2",
    "--start=6",
    "--per-round=6",
    "--fit-steps=60",
    "--final-fit=2",
    "--length=60",
]
LEARN = ["learn", "toy.xyz", "--reference=reference.py:lj", "--temperature=100", "--frames=18", *SMALL]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a structure and a reference."""
    monkeypatch.chdir(tmp_path)
    write_files()
    return tmp_path


def write_files() -> None:
    toy_dataset(1).atoms(0).write("toy.xyz", format="extxyz")
    Path("reference.py").write_text(REFERENCE)


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    path, before = tmp_path_factory.mktemp("learned"), os.getcwd()
    os.chdir(path)
    try:
        write_files()
        assert main([*LEARN, "-o", "run"]) == 0
    finally:
        os.chdir(before)
    return path


def begun(path: Path) -> list[str]:
    return (path / "begun").read_text().split()


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------ the whole


def test_all_is_in_one_folder(learned):
    run = learned / "run"
    data = read_dataset(run / "data.h5")
    groups = [str(group) for group in data.group]
    count = 18 - int(rows(run)[-1]["failed"])
    assert groups[:6] == ["round 0, shaken"] * 6 and len(data) == count >= 15
    for k, drawn in ((1, 2), (2, 1)):
        reasons = [group.removeprefix(f"round {k}, ") for group in groups if group.startswith(f"round {k}")]
        assert reasons[:drawn] == ["random"] * drawn and "random" not in reasons[drawn:]
        assert set(reasons[drawn:]) <= {"threshold", "uncertain", "held out"}
    assert groups[-3:] == ["round 2, held out"] * 3 and groups.count("round 2, held out") == 3
    assert (first_alike(data) == np.arange(count)).all()
    assert data.known("energy").all() and data.known("forces").all() and data.known("stress").all()
    assert [row["frames"] for row in rows(run)] == ["6", "12", "15", "18"]
    assert rows(run)[-1]["round"] == "final"
    for name in ("log.png", "calibration.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"
    models = [Potential.load(run / f"model_{m}.h5") for m in (1, 2)]
    assert models[0].provenance["n_train"] == count - 3 - 2 and "parent" in models[0].provenance
    assert not list(run.glob("round_*/md_*")) and not list(run.glob("**/fit_*"))
    assert len(begun(learned)) == 18


def test_frames_of_large_forces_weigh_less(learned):
    """By those drawn at random: nine tenths of them weigh 1."""
    data = read_dataset(learned / "run/data.h5")
    square = np.array([np.mean(atoms.get_forces() ** 2) for atoms in map(data.atoms, range(len(data)))])
    drawn = np.array([str(group).endswith((", random", ", held out")) for group in data.group])
    assert drawn.sum() == 6
    usual = np.quantile(square[drawn], 0.9)
    assert np.allclose(data.weight, np.minimum(1, usual / square), rtol=1e-12)
    assert 0 < data.weight.min() < 0.5 and (data.weight[drawn] == 1).sum() == 5


def test_without_random_frames_all_weigh_the_same():
    data = toy_dataset(3)
    data.forces[: data.sizes[0]] = 0
    nobody = np.zeros(3, bool)
    assert (weights(data, nobody) == 1).all()
    found = weights(data, np.array([False, True, False]))
    assert found[0] == found[1] == 1 and 0 < found[2] <= 1


def test_labels_are_those_of_the_reference(learned):
    from ase.calculators.lj import LennardJones

    data = read_dataset(learned / "run/data.h5")
    for k in (0, 7, len(data) - 1):
        atoms = data.atoms(k)
        expected = atoms.copy()
        expected.calc = LennardJones(sigma=1.9, epsilon=0.1, rc=3.4, smooth=True)
        assert atoms.get_potential_energy() == expected.get_potential_energy()
        assert np.array_equal(atoms.get_forces(), expected.get_forces())
        assert np.allclose(atoms.get_stress(), expected.get_stress(), rtol=0, atol=1e-15)


def test_tested_before_they_are_trained_on(learned):
    """Errors of round 1 are those that the committee of round 0 has on its random frames."""
    run = learned / "run"
    data = read_dataset(run / "data.h5")
    drawn = data.subset(data.group == "round 1, random")
    models = [Potential.load(run / f"round_0/model_{m}.h5") for m in (1, 2)]
    assert models[0].provenance["n_train"] == 5
    forces = np.array([np.concatenate([m.evaluate(drawn.atoms(k)).forces for k in range(2)]) for m in models])
    row = rows(run)[1]
    error = np.sqrt(np.mean((forces.mean(axis=0) - drawn.forces) ** 2))
    assert float(row["forces_rmse"]) == pytest.approx(error, rel=1e-5)
    assert float(row["deviation_rms"]) == pytest.approx(np.sqrt(forces.var(axis=0).mean()), rel=1e-5)
    assert row["tested"] == "2"


def test_held_out_at_the_end(learned):
    """Nothing was fitted to them; they tell how good the finished committee is."""
    run = learned / "run"
    data = read_dataset(run / "data.h5")
    held = data.subset(data.group == "round 2, held out")
    models = [Potential.load(run / f"model_{m}.h5") for m in (1, 2)]
    forces = np.array([np.concatenate([m.evaluate(held.atoms(k)).forces for k in range(3)]) for m in models])
    row = rows(run)[-1]
    error = np.sqrt(np.mean((forces.mean(axis=0) - held.forces) ** 2))
    assert float(row["forces_rmse"]) == pytest.approx(error, rel=1e-5)
    assert float(row["deviation_rms"]) == pytest.approx(np.sqrt(forces.var(axis=0).mean()), rel=1e-5)
    learning = rounds.Learning.resume(run)
    assert learning.tested().factor == pytest.approx(error / float(row["deviation_rms"]), rel=1e-5)
    learning.hold.close()


def test_it_goes_on_with_more_frames(learned, monkeypatch, capsys, tmp_path):
    """As if they had been asked for at the beginning; without more of anything nothing is done."""
    monkeypatch.chdir(learned)
    before = Path("run/data.h5").read_bytes()
    assert main(["learn", "--resume", "-o", "run"]) == 0
    assert "--frames 18 are computed" in capsys.readouterr().out
    assert Path("run/data.h5").read_bytes() == before and len(begun(learned)) == 18
    assert "learn.json" in refused(["fit", "run/data.h5", "-o", "run"], capsys)


def test_what_was_held_out_is_fitted_to_once_it_goes_on(learned, here):
    shutil.copytree(learned / "run", "run")
    assert main(["learn", "--resume", "--frames=26", "-o", "run"]) == 0
    found = rows(Path("run"))
    assert [row["round"] for row in found] == ["0", "1", "2", "final", "3", "final"]
    assert [row["frames"] for row in found] == ["6", "12", "15", "18", "22", "26"]
    groups = [str(group) for group in read_dataset("run/data.h5").group]
    assert groups.count("round 2, held out") == 3 and groups.count("round 3, held out") == 4
    assert Potential.load("run/round_2/model_1.h5").provenance["n_train"] == 16
    assert main(["learn", "--resume", "-o", "run"]) == 0
    assert len(begun(here)) == 8


def test_the_target_ends_it(here, capsys):
    """Where nothing is beyond the threshold only random frames are computed."""
    words = [*LEARN, "--target=1e5", "--frames=40"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "the target is reached" in said and len(rows(Path("learn"))) == 3
    assert ", below the target of 100000" in said
    groups = [str(group) for group in read_dataset("learn/data.h5").group]
    assert groups.count("round 1, random") == 2
    assert main(["learn", "--resume", "--max-rounds=5", "-o", "learn"]) == 0
    assert "the target is reached" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-rounds=1", "--held-out=0"], "--max-rounds 1 are over"),
        (["--max-time=1s"], "--max-time 1s is over"),
    ],
)
def test_limits(more, said, here, capsys):
    assert main([*LEARN, *more]) == 0
    assert f": {said}" in capsys.readouterr().out
    assert Path("learn/model_2.h5").exists()
    held_out = any("held out" in str(group) for group in read_dataset("learn/data.h5").group)
    assert held_out == ("--held-out=0" not in more)


def test_times_of_stages_outlive_a_stop(learned, here, capsys):
    """What a round took is known to the process that goes on, so that a limit of time holds."""
    shutil.copytree(learned / "run", "run")
    clock = json.loads(Path("run/clock.json").read_text())
    assert clock["seconds"] > clock["round"] > clock["fit"] > 0
    Path("run/clock.json").write_text(json.dumps(clock | {"round": 1000.0}))
    assert main(["learn", "--resume", "--frames=60", "--max-time=100s", "-o", "run"]) == 0
    assert "--max-time 100s is over" in capsys.readouterr().out
    assert rows(Path("run"))[-1]["frames"] == "18" and not Path("begun").exists()


def test_the_page_runs(here):
    """Its first command and the one that goes on, with a small model and few frames."""
    shown = "".join(blocks(PAGE.read_text()))
    learn = next(line for line in commands_in(shown) if "--reference emt" in line)
    resume = next(line for line in commands_in(shown) if "--resume" in line)
    bulk("Cu", cubic=True).write("cu.xyz", format="extxyz")
    assert main([*shlex.split(learn)[1:], *SMALL, "--frames=12"]) == 0
    assert main([*shlex.split(resume)[1:], "--frames=14"]) == 0
    assert rows(Path("cu"))[-1]["frames"] == "14"


# ------------------------------------------------------------ stopped, killed, exported


class Stop(Watch):
    """Ctrl-C after some steps of fits and dynamics."""

    def __init__(self, left: int):
        self.left = left

    def step_done(self, *_):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_held_out_is_tested_before_anything_is_fitted_to_it(learned, here, capsys):
    """Where its computation was broken off and the run goes on for longer."""
    shutil.copytree(learned / "run", "run")
    final = folder.final_folder(Path("run"), 2)
    expected = (final / folder.TESTED).read_text()
    drawn = folder.read_chosen(final)[0]
    (final / folder.TESTED).unlink()
    log.label_path(Path("run"), drawn.atoms(1)).unlink()
    assert main(["learn", "--resume", "--frames=20", "-o", "run"]) == 0
    assert (final / folder.TESTED).read_text() == expected
    assert [row["round"] for row in rows(Path("run"))] == ["0", "1", "2", "final", "3", "final"]
    assert rows(Path("run"))[-1]["frames"] == "20"


def test_no_label_of_what_is_held_out(learned, here, capsys):
    """The run ends as if none had been, and goes on."""
    shutil.copytree(learned / "run", "run")
    final = folder.final_folder(Path("run"), 2)
    drawn = folder.read_chosen(final)[0]
    (final / folder.TESTED).unlink()
    (Path("run") / folder.DATA).unlink()
    for k in range(3):
        log.label_path(Path("run"), drawn.atoms(k)).write_text('{"failed": "no convergence"}')
    assert main(["learn", "--resume", "-o", "run"]) == 0
    assert "0 frames held out" in capsys.readouterr().out
    assert rows(Path("run"))[-1]["tested"] == "0" and len(read_dataset("run/data.h5")) == 15


@pytest.mark.parametrize("steps", [5, 70, 200])
def test_stopped_and_gone_on_with(steps, learned, here, monkeypatch, capsys):
    started = rounds.Learning.__init__

    def watched(self, *words):
        started(self, *words)
        self.watch = Stop(steps)

    monkeypatch.setattr(rounds.Learning, "__init__", watched)
    stops, spent = 0, 0.0
    status = main([*LEARN, "-o", "run"])
    while status == 130:
        stops += 1
        assert "continue with: eqpot learn --resume -o" in capsys.readouterr().out
        spent, before = json.loads(Path("run/clock.json").read_text())["seconds"], spent
        assert spent > before  # what was stopped counts as well
        steps = int(1.3 * steps) + 20  # dynamics go back to their last checkpoint
        status = main(["learn", "--resume", "-o", "run"])
    assert status == 0 and stops >= 1
    assert same_arrays("run/data.h5", learned / "run/data.h5")
    for m in (1, 2):
        assert same_arrays(f"run/model_{m}.h5", learned / f"run/model_{m}.h5")
    assert sorted(begun(here)) == sorted(begun(learned))
    assert Path("run/log.csv").read_bytes() == (learned / "run/log.csv").read_bytes()


CODE = """
import sys
from eqpot.dynamics import simulation as md
from eqpot.cli import main
md.RESTART_SECONDS = 0.01
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_at_random_moments(learned, here):
    """The same data set and models; no more frames are begun than there are, and one for each kill."""
    Path("code.py").write_text(CODE)
    moments, kills = random.Random(0), 0
    shortest = 1.0
    while True:
        held = Path("run/learn.json").exists()
        words = ["learn", "--resume", "-o", "run"] if held else [*LEARN, "-o", "run"]
        process = subprocess.Popen([sys.executable, "code.py", *words], stdout=subprocess.DEVNULL)
        try:
            code = process.wait(None if kills >= KILLS else moments.uniform(shortest, 3 * shortest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert code == 0
        if kills >= KILLS:
            break
        shortest *= 0.8
        subprocess.run(["rm", "-rf", "run", "begun"], check=True)
    assert same_arrays("run/data.h5", learned / "run/data.h5")
    for m in (1, 2):
        assert same_arrays(f"run/model_{m}.h5", learned / f"run/model_{m}.h5")
    assert set(begun(here)) == set(begun(learned))
    assert len(begun(here)) <= 18 + kills


def test_processes_end_with_the_one_that_started_them(here):
    """A kill leaves none behind, not even one in the middle of a long calculation."""
    code = """
import os, sys
sys.path.insert(0, ".")
from pathlib import Path
from ase import Atoms
from eqpot.learning import reference
if __name__ == "__main__":
    Path("slow.py").write_text('''
import os, time
from pathlib import Path
def slow():
    Path("../pid").write_text(str(os.getpid()))
    time.sleep(60)
''')
    here = Path.cwd()
    list(reference.compute_all(f"{here}/slow.py:slow", [(here / "x.json", Atoms("H"))], 1, here))
"""
    Path("code.py").write_text(code)
    process = subprocess.Popen([sys.executable, "code.py"])
    end = time.monotonic() + 300
    while not (Path("pid").exists() and Path("pid").read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    worker = int(Path("pid").read_text())
    process.kill()
    process.wait()
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{worker}/stat").read_text().split(")")[-1].split()[0] == "Z":
            break  # ended, and not waited for by whoever inherits it here
        time.sleep(0.05)
    else:
        pytest.fail("the process that computes goes on")
    assert not Path("x.json").exists()


def test_exported_and_imported(learned, here, capsys):
    """The same frames as with a reference at hand; one that comes back without labels has failed."""
    words = [word for word in LEARN if not word.startswith("--reference")]
    assert main([*words, "--export=to_compute", "-o", "run"]) == 0
    assert "round_0.extxyz: 6 frames to be computed" in capsys.readouterr().out
    source = reference.maker(str(here / "reference.py") + ":lj")
    for name, count in (("round_0", 6), ("round_1", 6), ("round_2", 3), ("final_2", 3)):
        frames = ase.io.read(f"to_compute/{name}.extxyz", ":")
        assert len(frames) == count
        for atoms in frames:
            atoms.calc = source()
            atoms.get_stress()
        ase.io.write(f"labels_{name}.extxyz", frames[::-1])
        assert main(["learn", "--resume", "-o", "run", f"--import=labels_{name}.extxyz"]) == 0
    assert "--frames 18 are computed" in capsys.readouterr().out
    found, expected = read_dataset("run/data.h5"), read_dataset(learned / "run/data.h5")
    assert [str(g) for g in found.group] == [str(g) for g in expected.group]
    # later ones follow from labels that are rounded
    one, other = found.subset(slice(6)), expected.subset(slice(6))
    assert np.array_equal(one.positions, other.positions)
    assert np.allclose(one.forces, other.forces, rtol=0, atol=1e-5)


def test_labels_that_are_there_are_not_exported_again(here, capsys):
    words = [word for word in LEARN if not word.startswith("--reference")]
    assert main([*words, "--export=to_compute", "-o", "run"]) == 0
    chosen = folder.read_chosen(folder.round_folder(Path("run"), 0))[0]
    log.label_path(Path("run"), chosen.atoms(2)).write_text('{"failed": "no convergence"}')
    assert main(["learn", "--resume", "-o", "run"]) == 0
    assert "round_0.extxyz: 5 frames to be computed" in capsys.readouterr().out
    left = ase.io.read("to_compute/round_0.extxyz", ":")
    assert np.allclose(
        [atoms.positions for atoms in left], chosen.positions.reshape(6, -1, 3)[[0, 1, 3, 4, 5]]
    )


def test_what_is_imported(here):
    data = toy_dataset(4)
    frames = [data.atoms(k) for k in (2, 0)]
    data.path = "labels.h5"
    labels = imported_labels(data, frames, "")
    assert [label["energy"] for label in labels] == data.energy[[2, 0]].tolist()
    assert labels[0]["stress"] == data.stress[2].tolist()
    labels = imported_labels(data.subset([0, 1]), frames, "")
    assert labels[0] == {"failed": "labels.h5: not there with energy and forces"} and "energy" in labels[1]
    with pytest.raises(UserError, match="labels.h5: expected labels of the 2 frames of x.extxyz, found none"):
        imported_labels(data.subset([1, 3]), frames, "x.extxyz")


# ------------------------------------------------------------ where it begins


def test_from_a_data_set_and_models(learned, here, capsys):
    """The structures alone are computed to begin with, and models are fitted on."""
    model = learned / "run/model_1.h5"
    data = learned / "run/data.h5"
    assert main([*LEARN, "--frames=8", f"--from={data}", f"--from={model}", "-o", "run"]) == 0
    found = read_dataset("run/data.h5")
    groups = [str(group) for group in found.group]
    before = read_dataset(data)
    assert groups[:18] == [str(group) for group in before.group]
    assert np.array_equal(found.weight[:18], before.weight)  # of given frames, as they are
    assert groups[18:] and groups[18].startswith("round 1")  # the structure was among them already
    provenance = Potential.load("run/round_0/model_2.h5").provenance
    assert provenance["parent"] == "run/given_1.h5"
    said = refused([*LEARN, f"--from={model}", "--set=model.features=8", "-o", "other"], capsys)
    assert "model.features: expected 4, as" in said and not Path("other").exists()


def test_shaken():
    crystal = bulk("Cu", cubic=True).repeat((1, 1, 2))
    crystal.pbc = [True, True, False]
    crystal.set_constraint(FixAtoms([0]))
    frames = shaken(crystal, 9, 0.1, 0.05, np.random.default_rng(0))
    assert len(frames) == 9 and np.array_equal(frames[0].positions, crystal.positions)
    for atoms in frames[1:]:
        change = np.linalg.solve(crystal.cell[:], atoms.cell[:]) - np.eye(3)
        assert 0 < abs(change).max() <= 0.05
        assert np.allclose(change[2], 0) and np.allclose(change[:, 2], 0)
        rest = atoms.positions - crystal.positions @ (np.eye(3) + change)
        assert np.allclose(rest[0], 0) and 0.01 < np.abs(rest[1:]).max() < 0.4
    assert np.std(frames[-1].positions - crystal.positions) > np.std(frames[1].positions - crystal.positions)
    assert len({identity(atoms) for atoms in frames}) == 9


def test_pressure(here, capsys):
    """Cells change where it is given; without stress there is none to be had."""
    words = [word for word in LEARN if "reference" not in word]
    words += ["--pressure=1e4", "--frames=12"]
    assert "expected a reference that gives stress" in refused(
        [*words, "--reference=reference.py:blind", "-o", "blind"], capsys
    )
    assert main([*words, "--reference=reference.py:lj", "-o", "run"]) == 0
    data = read_dataset("run/data.h5")
    cells = data.cell[data.group == "round 1, random"]
    change = cells[:, 0, 0] / 6
    assert (abs(change - 1) > 1e-6).all()
    assert np.allclose(cells, change[:, None, None] * 6 * np.eye(3), rtol=0, atol=1e-9)  # isotropic


# ------------------------------------------------------------ the reference


def test_labels_of_ases_own(here):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    found = reference.compute(reference.maker("emt"), atoms)
    atoms.calc = EMT()
    assert found["energy"] == atoms.get_potential_energy()
    assert np.array_equal(found["forces"], atoms.get_forces())
    assert np.array_equal(found["stress"], atoms.get_stress(voigt=False))


def test_what_fails_is_skipped(here):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])
    source = f"{here}/reference.py"
    found = reference.compute(reference.maker(f"{source}:fails"), atoms)
    assert found == {"failed": "RuntimeError: no convergence after 100 steps"}
    atoms.positions[1, 2] = 0.5
    assert (
        "expected forces up to 100 eV/Å, found"
        in reference.compute(reference.maker(f"{source}:blind"), atoms)["failed"]
    )
    nan = reference.compute(lambda: Stub(np.nan), atoms)
    assert nan == {"failed": "expected finite energy, forces and stress, found NaN or infinity"}


class Stub(EMT):
    def __init__(self, energy):
        super().__init__()
        self.energy_of_all = energy

    def calculate(self, *_):
        self.results = {"energy": self.energy_of_all, "forces": np.zeros((2, 3))}


def test_a_process_that_dies_has_failed_at_its_frame_alone(here):
    frames = [Atoms("HO", [[x, 0, 0], [x, 0, 1.9]]) for x in (0.0, 2.0, 0.5, 0.7)]
    tasks = [(here / f"{k}.json", atoms) for k, atoms in enumerate(frames)]
    done = list(reference.compute_all(f"{here}/reference.py:Dies", tasks, 2, here))
    assert sorted(done) == [path for path, _ in tasks]
    labels = [reference.read_labels(path, 2) for path, _ in tasks]
    assert labels[1] == {"failed": "its process ended with code 3"}
    assert all("energy" in labels[k] for k in (0, 2, 3))


def test_frames_that_fail_are_counted(here, capsys):
    """All in a round: an error; some: they are left out and told."""
    assert "none of 6 frames could be computed; the first: RuntimeError: no conv" in refused(
        [*LEARN[:2], "--reference=reference.py:fails", *LEARN[3:]], capsys
    )
    path = next(Path("learn/labels").iterdir())
    data = unlabelled([Atoms("H"), Atoms("H")], ["a", "b"])
    label = {"energy": -1.0, "forces": [[0, 0, 0]], "stress": None, "seconds": 0.1}
    found = labelled(data, [json.loads(path.read_text()), label])
    assert len(found) == 1 and found.group[0] == "b" and found.energy[0] == -1 and found.stress is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "energy: expected a finite number, found none"),
        ('{"energy": 1, "forces": [[0, 0]], "stress": null, "seconds": 0}', "forces: expected 1 rows of 3"),
        ('{"energy": 1, "forces": [["x"]], "stress": null, "seconds": 0}', "expected a finite number"),
        ("{", "expected JSON"),
    ],
)
def test_damaged_labels(text, said, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        reference.read_labels(path, 1)


# ------------------------------------------------------------ choosing


def test_farthest_points():
    places = np.array([[0.0], [0.1], [5.0], [5.0], [9.0], [2.0]])
    assert farthest(places, range(6), np.array([[0.0]]), 3) == [4, 2, 5]
    assert farthest(places, [1, 2, 3], np.array([[0.0]]), 3) == [2, 1]  # its own copy brings nothing
    assert farthest(places, [], np.empty((0, 1)), 3) == []


def test_reasons():
    rng = np.random.default_rng(0)
    worst, places = np.arange(40.0), rng.normal(size=(40, 3))
    beyond = worst >= 37
    found = choose(worst, beyond, places, places[:1] + 9, 12, False, np.random.default_rng(1))
    assert found.reasons[:3] == ["random"] * 3 and len(set(found.frames)) == 12
    by = {reason: [k for k, r in zip(found.frames, found.reasons, strict=True) if r == reason]
          for reason in ("random", "threshold", "uncertain")}  # fmt: skip
    assert set(by["threshold"]) == {37, 38, 39} - set(by["random"])
    assert min(by["uncertain"]) >= 24  # of the largest
    found = choose(worst, beyond, places, places[:1] + 9, 12, True, np.random.default_rng(1))
    assert "uncertain" not in found.reasons and found.reasons.count("random") == 3
    found = choose(worst, worst < 0, places, places[:1] + 9, 12, True, np.random.default_rng(1))
    assert found.reasons == ["random"] * 3
    assert len(choose(worst[:2], beyond[:2], places[:2], places[:1] + 9, 12, False, rng).frames) == 2


def test_features_do_not_depend_on_order_or_place():
    potential = Potential.create(["H", "O"], **MODEL)
    data = toy_dataset(3)
    atoms = data.atoms(1)
    turned = atoms[[3, 1, 0, 2]]
    turned.translate([1.0, 2.0, 0.5])
    turned.wrap()
    frames = unlabelled([data.atoms(0), atoms, turned, data.atoms(2)], [""] * 4)
    found = features(potential, frames)
    assert found.shape == (4, 2 * MODEL["features"])
    assert np.allclose(found[1], found[2], rtol=0, atol=1e-5)
    assert np.linalg.norm(found[1] - found[0]) > 1e-3
    assert np.allclose(features(potential, frames.subset([3])), found[3:], rtol=0, atol=1e-5)


def test_threshold_follows_the_errors(learned):
    """Four times what the round before measured, in the unit of errors; the target at least."""
    found, last = rows(learned / "run")[1:], float(rows(learned / "run")[1]["forces_rmse"])
    assert float(found[1]["threshold"]) == pytest.approx(rounds.BAND * max(0.025, last))
    factor = float(found[0]["forces_rmse"]) / float(found[0]["deviation_rms"])
    assert float(found[0]["factor"]) == 1 and float(found[1]["factor"]) == pytest.approx(factor)


def test_dynamics_end_beyond_the_threshold(learned, tmp_path):
    """Where the deviation of an atom, root mean square over its components, passes the limit."""
    run = learned / "run"
    models = [run / f"round_0/model_{m}.h5" for m in (1, 2)]
    config = LearnConfig(reference="emt", temperature="50", length="200")
    (one, *_) = explore.runs(config, 1, np.random.default_rng(1))
    starts = run / "structures.traj"
    potentials = [Potential.load(path) for path in models]
    settings = explore.dynamics(config, one, np.ones(3, bool), 1e3)
    free = explore.walk(settings, models, starts, 0, tmp_path / "free", Watch())
    assert not free.ended and len(free.frames) == 51
    found = explore.seen([free], potentials, np.inf, 100.0)
    limit = float(np.sort(found.worst)[-3])
    settings = explore.dynamics(config, one, np.ones(3, bool), limit)
    bound = explore.walk(settings, models, starts, 0, tmp_path / "bound", Watch())
    met = explore.seen([bound], potentials, np.inf, 100.0)
    assert bound.ended and met.beyond.tolist() == [False] * (len(met.worst) - 1) + [True]
    assert not found.beyond.any()
    assert explore.seen([free], potentials, limit, 100.0).beyond.sum() >= 2
    assert met.worst[-1] >= limit and (met.worst[:-1] <= limit * (1 + 1e-6)).all()
    (start,) = explore.next_starts([bound], met)
    assert np.array_equal(start.positions, met.data.atoms(len(met.worst) - 2).positions)


def test_runs_are_of_all_structures_and_temperatures():
    config = LearnConfig(reference="emt", temperature="300", seed=1)
    assert config.temperatures == (150, 300, 360)
    assert LearnConfig(reference="emt", temperature="300, 900").temperatures == (300, 900)

    def runs(structures: int, seed: int) -> list[explore.Run]:
        return explore.runs(config, structures, np.random.default_rng(seed))

    found = runs(2, 1)
    assert {(run.structure, run.temperature) for run in found} == {
        (k, kelvin) for k in (0, 1) for kelvin in config.temperatures
    }
    assert len(runs(1, 1)) == 6 and len({run.seed for run in found}) == 6
    assert found == runs(2, 1) != runs(2, 2)


# ------------------------------------------------------------ calibration


def drawn(count: int, factor: float, seed: int = 0) -> Measured:
    """Frames of 10 atoms whose errors are normal, `factor` times as wide as their deviations."""
    random = np.random.default_rng(seed)
    deviation = np.exp(random.normal(size=count)) * 0.02
    error = np.sqrt(np.mean((factor * deviation[:, None] * random.normal(size=(count, 30))) ** 2, axis=1))
    return Measured(np.full(count, 30.0), deviation, error, np.zeros(count))


def test_the_factor_is_found_and_right_in_each_quarter():
    tested = drawn(400, 2.5)
    assert tested.factor == pytest.approx(2.5, rel=0.05)
    table = by_deviation(tested, tested.factor)
    assert [count for count, *_ in table] == [100] * 4
    for _, deviation, error in table:
        assert deviation == pytest.approx(error, rel=0.1)
    assert table[0][1] < table[1][1] < table[2][1] < table[3][1]


def test_held_out_is_scaled_by_the_others():
    tested = drawn(30, 3.0)
    scaled = scaled_by_the_others(tested)
    for k in (0, 17, 29):
        others = tested.take(np.arange(30) != k)
        assert scaled.deviation[k] == pytest.approx(others.factor * tested.deviation[k], rel=1e-12)
    assert np.array_equal(scaled.error, tested.error)
    assert scaled_by_the_others(tested.take(slice(1))).deviation == tested.deviation[:1]
    assert len(scaled_by_the_others(Measured.joined([]))) == 0
    assert len(latest([drawn(5, 1), drawn(20, 1), drawn(8, 1)])) == 28
    assert Measured.joined([]).factor == 1.0 and np.isnan(Measured.joined([]).rms("error"))


def test_tested_frames(tmp_path):
    data = toy_dataset(2)
    forces = data.forces + np.repeat([0.1, 0.3], 4)[:, None]
    found = Forecast(data.energy + [0.4, -0.8], forces, np.repeat([0.2, 0.1], 4))
    tested = Measured.of(data, found)
    assert tested.error == pytest.approx([0.1, 0.3]) and tested.deviation == pytest.approx([0.2, 0.1])
    assert tested.energy_error_per_atom == pytest.approx([0.1, -0.2])
    assert tested.rms("error") == pytest.approx(np.sqrt(0.05))
    tested.write(tmp_path / "tested.csv")
    again = Measured.read(tmp_path / "tested.csv")
    assert all(np.array_equal(a, b) for a, b in zip(vars(again).values(), vars(tested).values(), strict=True))
    (tmp_path / "tested.csv").write_text("components,error\n1,2\n")
    with pytest.raises(UserError, match=r"tested.csv: expected columns components, deviation"):
        Measured.read(tmp_path / "tested.csv")


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "expected a structure: eqpot learn STRUCTURE --reference emt"),
        ("toy.xyz", "expected --reference CALCULATOR or --export DIR, found neither"),
        ("toy.xyz --reference emt --export x", "expected --reference CALCULATOR or --export DIR, found both"),
        (
            "toy.xyz --reference vasp",
            "--reference: expected emt, tblite:METHOD or FILE.py:NAME, found 'vasp'",
        ),
        ("toy.xyz --reference none.py:x", "none.py:x: expected a Python file, found no such file"),
        ("toy.xyz --reference reference.py:none", "reference.py:none: expected that name in the file, found"),
        ("toy.xyz --reference reference.py:number", "expected a calculator or a function, found a int"),
        ("none.xyz --reference emt", "none.xyz: expected a structure, found no such file"),
        ("toy.xyz --reference emt --temperature 300,x", "--temperature: expected a temperature above 0 K"),
        ("toy.xyz --reference emt --max-time soon", "--max-time: expected a time such as"),
        ("toy.xyz --reference emt --length 0", "--length: expected a number of steps above 0"),
        ("toy.xyz --reference emt --set model.cutof=3", "model.cutof: unknown key, did you mean 'cutoff'?"),
        ("toy.xyz --reference emt --from none.h5", "none.h5: expected a data set file, found no such file"),
        ("toy.xyz --reference emt -o full", "full: expected a new or an empty folder, found files in it"),
        ("toy.xyz --import x.extxyz --reference emt", "--import: expected --resume -o DIR"),
        ("--resume -o none", "none/learn.json: nothing to resume: no such file"),
        ("--resume --target 5", "--target: expected only limits and --workers with --resume"),
        ("--resume toy.xyz", "--resume: expected no structures"),
        ("toy.xyz --reference emt --workers 0", "--workers: expected an integer at least 1"),
    ],
)
def test_mistakes(line, said, here, capsys):
    Path("full").mkdir()
    Path("full/x").write_text("")
    assert said in refused(["learn", *line.split()], capsys)
    assert not Path("learn").exists() and not Path("none").exists()


def test_a_missing_package_is_told_in_a_line(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite", None)
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    said = refused(["learn", "toy.xyz", "--reference=tblite:GFN2-xTB"], capsys)
    assert "tblite cannot be imported" in said and "pip install 'eqpot[demo]'" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9}, "version: expected version 1, found 9"),
        ({"config": {}}, "learn.json: --reference: expected a setting, found none"),
        ({"parents": "x"}, "parents: expected an integer"),
    ],
)
def test_a_damaged_run_is_told(change, said, learned, here, capsys):
    content = json.loads((learned / "run/learn.json").read_text()) | change
    Path("run").mkdir()
    Path("run/learn.json").write_text(json.dumps(content))
    assert said in refused(["learn", "--resume", "-o", "run"], capsys)


def test_a_run_that_holds_another(learned, capsys):
    assert "already holds a run; give --resume" in refused(
        ["learn", str(learned / "toy.xyz"), "--reference=emt", "-o", str(learned / "run")], capsys
    )
    with pytest.raises(UserError, match="nothing to resume"):
        folder.Stored.read(learned)
