"""What the README and the guide show: commands run one after the other, on small stand-ins for the data that
they name; Python runs as it is printed; the messages that are explained are those of the source."""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import ase.io
import numpy as np
import pytest
from command_lines import blocks, check_command, commands_in

from eqpot import EqpotCalculator, Potential
from eqpot.cli import main
from eqpot.dynamics import check
from eqpot.structures.data import read_dataset, write_dataset

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide"
MODEL = "acac/model.h5"
# What a page takes for granted, for which ethanol stands in.
PAGES = {
    ROOT / "README.md": {"train_300K.xyz", "test_MD_300K.xyz"},
    GUIDE / "first_potential.md": {"train_300K.xyz", "test_MD_300K.xyz"},
    GUIDE / "your_data.md": {"frames.extxyz", "more.extxyz"},
    GUIDE / "settings.md": {"data.h5", "acac.h5", "new.xyz", MODEL},
    GUIDE / "good_enough.md": {"acac.h5", "acac_test.h5", "relaxed.extxyz", MODEL},
    GUIDE / "run.md": {"acac_test.h5", MODEL},
}


def commands(page: Path) -> list[str]:
    return commands_in("".join(blocks(page.read_text())))


def run(text: str) -> dict:
    names: dict = {}
    exec(compile(text, "example", "exec"), names)
    return names


# ------------------------------------------------------------ commands

# Fewer frames, steps and features, and no heat: what a command does is the same.
SHORTER = [
    (r"--n-train \d+ --n-valid \d+", "--n-train 6 --n-valid 2"),
    (r"--frames [\d,]+", "--frames 2,4,6"),
    (r"--max-time \S+", "--max-epochs 1"),
    (r"train.n_replay=\d+", "train.n_replay=2"),
    (r"(?<=--length \d\d)ps", ""),
    (r"--temperature 300", "--temperature 1"),
    (r"--cutoff 1.6", "--cutoff 2"),  # bonds of the first frame that is there
    (r"(?<=^eqpot fit )(?!--from|--show)", "--set model.features=8 "),
    (r"(?<=^eqpot learning-curve )", "--set model.features=8 "),
]
# With a test of its own, or for a machine that has a card.
ELSEWHERE = re.compile("eqpot learn |eqpot fit .*--device cuda")


def stand_in(name: str) -> None:
    data = read_dataset(ROOT / "data_tools" / "ethanol.h5").subset(range(12))
    if name == MODEL:
        weak_model(Path(name))
    elif name.endswith(".h5"):
        write_dataset(name, data)
    else:
        frames = [data.atoms(k) for k in range(1 if name == "relaxed.extxyz" else 12)]
        ase.io.write(name, frames, format="extxyz")


def weak_model(path: Path) -> None:
    """Untrained, with forces that change no structure by much."""
    weak = Potential.create(["C", "H", "O"], features=8, cutoff=3.5)
    weak.scale[:] = 1e-5
    path.parent.mkdir(exist_ok=True)
    weak.save(path)


def shorter(line: str) -> str:
    for pattern, replacement in SHORTER:
        line = re.sub(pattern, replacement, line)
    return line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "STEPS", 8)
    for name in PAGES[page]:
        stand_in(name)
    lines = [line for line in commands(page) if not ELSEWHERE.match(line)]
    assert len(lines) >= 4
    for line in lines:
        command, _, file = shorter(line).partition(" > ")
        words = shlex.split(command)[1:]
        if words[:2] == ["data", "convert"]:  # a page may do so with two sets of options
            Path(next(word for word in words if word.endswith(".h5"))).unlink(missing_ok=True)
        if words[0] == "fit" and "-o" in words:
            shutil.rmtree(words[words.index("-o") + 1], ignore_errors=True)
        with redirect_stdout(open(file, "w")) if file else nullcontext():
            done = main(words)
        assert done == 0 or words[0] == "check", line
        if words[0] == "fit" and "-o" in words:  # what an epoch makes is no potential to run
            weak_model(Path(words[words.index("-o") + 1]) / "model.h5")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page: Path):
    """Also those that run elsewhere, as they are printed."""
    for line in commands(page):
        check_command(line.partition(" > ")[0])


# ------------------------------------------------------------ Python


def test_python_of_the_readme():
    (text,) = blocks((ROOT / "README.md").read_text(), "python")
    atoms = run(text)["atoms"]
    assert isinstance(atoms.calc, EqpotCalculator)
    assert np.isfinite(atoms.get_potential_energy()) and atoms.get_forces().shape == (9, 3)


def test_python_of_the_guide():
    (text,) = blocks((GUIDE / "run.md").read_text(), "python")
    result = run(text)["result"]
    assert np.isfinite(result.energy) and result.forces.shape == (9, 3) and result.stress is None
    assert np.isclose(result.energies.sum(), result.energy)


def test_kernels_alone():
    """Imports nothing of eqpot but the kernels; its forces are minus the gradient of its energy."""
    (text,) = blocks((GUIDE / "kernels.md").read_text(), "python")
    assert set(re.findall(r"(?:from|import) (eqpot\S*)", text)) == {"eqpot.kernels"}
    names = run(text)
    energy_and_forces, positions, forces = names["energy_and_forces"], names["water"], names["forces"]
    assert names["energy"] == energy_and_forces(positions)[0]
    assert np.abs(forces).max() > 0.1, "the example should show forces"
    assert np.abs(forces.sum(axis=0)).max() < 1e-12

    step, random = 1e-4, np.random.default_rng(1)
    for _ in range(4):
        moved = positions + 0.05 * random.normal(size=positions.shape)
        direction = random.normal(size=positions.shape)
        energies = [energy_and_forces(moved + k * step * direction)[0] for k in (-2, -1, 1, 2)]
        slope = np.dot(energies, [1, -8, 8, -1]) / (12 * step)
        expected = -np.sum(energy_and_forces(moved)[1] * direction)
        assert abs(slope - expected) <= 1e-8 * np.abs(forces).max()

    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turned_energy, turned_forces = energy_and_forces(positions @ turn)
    assert np.isclose(turned_energy, names["energy"], rtol=1e-12)
    assert np.allclose(turned_forces, forces @ turn, rtol=0, atol=1e-11 * np.abs(forces).max())


# ------------------------------------------------------------ messages


def test_messages_are_those_of_the_source():
    """What a user searches for in the page is what eqpot prints."""
    folders = ("eqpot", "kernels", "data_tools")
    files = [
        path for folder in folders for end in ("py", "cpp") for path in (ROOT / folder).rglob(f"*.{end}")
    ]
    sources = "".join(path.read_text() for path in files)
    explained = re.findall(r"^- `([^`]+)`", (GUIDE / "messages.md").read_text(), re.MULTILINE)
    assert len(explained) >= 40
    assert [text for text in explained if text not in sources] == []
