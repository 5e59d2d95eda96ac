"""The command line: what it prints, what it writes, and one line with exit status 2 for every mistake."""

import contextlib
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from runs import refused
from toy import MODEL, toy_dataset

from eqpot import cli
from eqpot.backend import obstacle
from eqpot.cli import _Listened, main
from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.potential import Potential
from eqpot.stops import answering, interrupt
from eqpot.structures.data import read_dataset, write_dataset
from eqpot.structures.frames import Labels
from eqpot.training.validation import Errors, errors, report

SMALL = [f"--set=model.{key}={value}" for key, value in MODEL.items()]
SHORT = [*SMALL, "--set=train.batch_size=4", "--max-epochs=2", "--n-valid=3"]
KEYS = {
    *(f"{q}_{kind}" for q in ("energy", "energy_per_atom", "forces", "stress") for kind in ("mae", "rmse")),
    "per_element",
    "per_group",
    "doubts",
    "frames",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """toy.h5 and a run on it."""
    folder = tmp_path_factory.mktemp("cli")
    write_dataset(folder / "toy.h5", toy_dataset())
    assert main(["fit", str(folder / "toy.h5"), "-o", str(folder / "run"), *SHORT]) == 0
    return folder


def test_help_is_quick_and_version_is_told():
    code = "import sys; from eqpot.cli import main; main(['fit', '--help']); print(set(sys.modules))"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--show-config" in text
    assert not any(f"'{name}'" in text for name in ("numpy", "numba", "ase", "matplotlib", "h5py"))
    run = subprocess.run(
        [sys.executable, "-m", "eqpot", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("eqpot, version ")


def test_show_config_is_the_complete_file(capsys, tmp_path):
    assert main(["fit", "--show-config"]) == 0
    assert Config.from_dict(tomllib.loads(capsys.readouterr().out)) == Config()
    (tmp_path / "a.toml").write_text("[model]\ncutoff = 4.5\n[loss]\nenergy = 2\n")
    options = [
        "--config",
        str(tmp_path / "a.toml"),
        "--set",
        "loss.energy=3",
        "--seed",
        "7",
        "--max-time",
        "2h",
    ]
    assert main(["fit", "--show-config", *options]) == 0
    config = Config.from_dict(tomllib.loads(capsys.readouterr().out))
    expected = {"model": {"cutoff": 4.5}, "loss": {"energy": 3}, "train": {"seed": 7, "max_time": "2h"}}
    assert config == Config.from_dict(expected)


def test_presets(folder, tmp_path, capsys):
    assert main(["fit", "--show-config", "--preset", "paper", "--set", "model.blocks=3"]) == 0
    config = Config.from_dict(tomllib.loads(capsys.readouterr().out))
    assert config == Config.from_dict({"preset": "paper", "model": {"blocks": 3}})
    file = tmp_path / "a.toml"
    file.write_text('preset = "paper"\n[model]\nblocks = 3\n')
    for option in ([], ["--preset", "paper"]):
        assert main(["fit", "--show-config", "--config", str(file), *option]) == 0
        assert Config.from_dict(tomllib.loads(capsys.readouterr().out)) == config
    assert main(["fit", "--show-config", "--config", str(file), "--preset", "default"]) == 2
    assert f"--preset: expected paper, as {file} has it, found default" in capsys.readouterr().err
    assert main(["fit", str(folder / "toy.h5"), "-o", str(tmp_path / "run"), *SHORT]) == 0
    capsys.readouterr()
    assert main(["fit", "--resume", "-o", str(tmp_path / "run"), "--preset", "paper"]) == 2
    assert "--preset: expected no preset with --resume" in capsys.readouterr().err


def test_fit_tells_how_to_go_on(folder, tmp_path, capsys):
    assert main(["fit", str(folder / "toy.h5"), "-o", str(tmp_path / "run"), *SHORT]) == 0
    text = capsys.readouterr().out
    assert "errors shown: validation RMSE" in text and "* marks the best" in text
    head, *lines = text[text.index("    epoch") :].splitlines()[:3]
    assert [line.split()[0] for line in lines] == ["1", "2"] and lines[0].endswith(" *")
    assert {len(line.removesuffix(" *")) for line in lines} == {len(head)}
    assert "note: the training frames have 1 independent composition of 2 elements" in text
    assert "errors on the 3 validation frames" in text
    assert f"eqpot eval {tmp_path / 'run/model.h5'}" in text
    assert (tmp_path / "run/learning_curve.png").stat().st_size > 5000
    assert main(["fit", "--resume", "-o", str(tmp_path / "run"), "--max-epochs", "3"]) == 0
    text = capsys.readouterr().out
    assert "\n        3  " in text and "\n        2  " not in text
    assert main(["fit", "--resume", "-o", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "already ended: max_epochs = 3 reached" in text and "--max-epochs N" in text
    assert "done:" not in text and "* marks" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(number, folder, tmp_path, capsys, monkeypatch):
    from eqpot.training.trainer import Trainer

    step = Trainer.step

    def stop(trainer, chosen):
        if trainer.state.epoch == 1:
            signal.raise_signal(number)
        return step(trainer, chosen)

    monkeypatch.setattr(Trainer, "step", stop)
    run = tmp_path / "run"
    before = signal.signal(number, signal.default_int_handler)  # a job in the background ignores SIGINT
    try:
        assert main(["fit", str(folder / "toy.h5"), "-o", str(run), *SHORT]) == 130
    finally:
        signal.signal(number, before)
    assert f"stopped in epoch 2; continue with: eqpot fit --resume -o {run}" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["fit", "--resume", "-o", str(run)]) == 0


def test_eval_writes_json_and_pictures(folder, tmp_path, capsys):
    options = ["--json", str(tmp_path / "e.json"), "--plots", str(tmp_path / "plots")]
    assert main(["eval", str(folder / "run/model.h5"), str(folder / "toy.h5"), *options]) == 0
    content = json.loads((tmp_path / "e.json").read_text())
    assert content.keys() == KEYS
    assert content["frames"] == 12 and content["per_element"].keys() == {"H", "O"}
    assert content["per_group"].keys() == {"cold", "warm"}
    assert content["energy_mae"] == pytest.approx(4 * content["energy_per_atom_mae"])
    assert "none.h5: expected a model file" in refused(["eval", "none.h5", "none.h5", *options], capsys)
    wrong = ["eval", str(folder / "run/model.h5"), "none.h5", *options]
    assert "none.h5: expected a data set file" in refused(wrong, capsys)
    wrong[2] = str(folder / "toy.h5")
    assert "e.json: exists already" in refused(wrong, capsys)
    assert main(["eval", str(folder / "run/model.h5"), str(folder / "toy.h5"), *options, "--overwrite"]) == 0
    names = {p.name for p in (tmp_path / "plots").iterdir()}
    assert names == {"energy.png", "forces.png", "stress.png"}
    text = capsys.readouterr().out
    assert "force components" in text and f"{1000 * content['forces_rmse']:.4g}" in text


def test_errors_by_hand():
    data = toy_dataset(2)
    prediction = Labels(data.energy + [2.0, 6.0], data.forces.copy(), data.stress + 0.5)
    prediction.forces[0, 0] += 3.0  # a hydrogen of frame 0
    found = report(data, prediction)
    assert found["energy_mae"] == pytest.approx(4.0)
    assert found["energy_rmse"] == pytest.approx(np.sqrt(20.0))
    assert found["energy_per_atom_mae"] == pytest.approx(1.0)
    assert found["forces_mae"] == pytest.approx(3.0 / 24)
    assert found["forces_rmse"] == pytest.approx(np.sqrt(9.0 / 24))
    assert found["stress_mae"] == found["stress_rmse"] == pytest.approx(0.5)
    assert found["per_element"]["H"] == pytest.approx(
        {"forces_mae": 0.25, "forces_rmse": np.sqrt(9 / 12), "atoms": 4}
    )
    assert found["per_element"]["O"]["forces_rmse"] == pytest.approx(0.0)
    assert found["per_group"]["warm"]["energy_mae"] == pytest.approx(6.0)
    assert found["per_group"]["warm"]["forces_mae"] == pytest.approx(0.0)


def test_errors_leave_unknown_labels_out_but_not_nan_predictions():
    data = toy_dataset(3)
    prediction = Labels(data.energy + 1.0, data.forces + 2.0, data.stress + 3.0)
    data.energy[0], data.forces[:4], data.stress[1:] = np.nan, np.nan, np.nan
    found = errors(data, prediction)
    assert (found["energy_mae"], found["forces_mae"], found["stress_mae"]) == pytest.approx((1.0, 2.0, 3.0))
    found = errors(replace(data, stress=None), prediction)
    assert found["stress_mae"] is None and found["stress_rmse"] is None
    for number in (np.inf, np.nan):
        prediction.forces[5, 0] = number
        found = errors(data, prediction)
        assert found["forces_mae"] == found["forces_rmse"] == np.inf
        prediction.forces[:] = number  # not as if nothing were labelled
        assert errors(data, prediction)["forces_rmse"] == np.inf


def test_errors_of_frames_in_parts_are_those_of_all():
    data, random = toy_dataset(7), np.random.default_rng(0)
    data.energy[2], data.forces[4:8], data.stress[1:] = np.nan, np.nan, np.nan
    noise = [random.normal(size=x.shape) for x in (data.energy, data.forces, data.stress)]
    prediction = Labels(*(x + y for x, y in zip((data.energy, data.forces, data.stress), noise, strict=True)))
    prediction = Labels(
        *(np.nan_to_num(x) for x in (prediction.energy, prediction.forces, prediction.stress))
    )
    found = Errors()
    for frames in ([0], [1, 2, 3], [4, 5], [6]):
        atoms = np.isin(data.frame_of_atom, frames)
        part = Labels(prediction.energy[frames], prediction.forces[atoms], prediction.stress[frames])
        found.add(data.subset(np.array(frames)), part)
    expected = report(data, prediction)
    assert found.report().keys() == expected.keys() and found.report()["frames"] == 7
    for key, value in found.report().items():
        if not isinstance(value, dict):
            assert value == pytest.approx(expected[key]), key
            continue
        assert list(value) == list(expected[key]), key
        for name, row in value.items():
            assert row == pytest.approx(expected[key][name]), name


@pytest.mark.parametrize("command", [[], ["data"], ["analyze"]])
def test_a_group_alone_shows_what_there_is(command, capsys):
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "Usage: " in shown.out and "Commands:" in shown.out and not shown.err


def test_info(folder, capsys):
    assert main(["info", str(folder / "run/model.h5")]) == 0
    text = capsys.readouterr().out
    for words in ("cutoff = 3.5", "parameters", "data hash", "command", "seed", "version", "H O"):
        assert words in text
    pairs = re.search(r"closest +H-H (\d\.\d{3}) Å  H-O \d\.\d{3} Å  O-O \d\.\d{3} Å\n", text)
    assert pairs and 1.0 < float(pairs[1]) < 3.0


def test_bench_times_a_structure_and_writes_json(folder, capsys, tmp_path):
    from ase.build import molecule

    structure, out = tmp_path / "water.xyz", tmp_path / "bench.json"
    molecule("H2O").write(structure)
    model = str(folder / "run/model.h5")
    assert main(["bench", model, str(structure), "--threads=1", "--seconds=0", f"--json={out}"]) == 0
    assert "ns/day" in capsys.readouterr().out
    content = json.loads(out.read_text())
    (row,) = content["results"]
    assert (row["atoms"], row["threads"]) == (3, 1) and 0 < row["seconds"] < 60
    assert row["force_error"] <= 2e-5 and content["machine"]["cores"] >= 1


def test_inspect_prints_tables_and_writes_json(folder, tmp_path, capsys):
    model, out = str(folder / "run/model.h5"), tmp_path / "found.json"
    frame = [str(folder / "toy.h5"), "--index=3"]
    assert main(["inspect", model, *frame, "--text", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    content = json.loads(out.read_text())
    energy = Potential.load(model).cast("float64").evaluate(read_dataset(folder / "toy.h5").atoms(3)).energy
    assert content["energy"] == pytest.approx(energy, rel=1e-12)
    shares = sum(p["energy_share"] for p in content["paths"])
    assert shares + content["energy_rest"] == pytest.approx(energy, rel=1e-11)
    assert f"{content['energy_rest']:.4f}" in text and "4 atoms" in text and f"wrote {out}" in text
    assert list(tmp_path.iterdir()) == [out], "no report unless asked for"


def test_explain(folder, tmp_path, capsys):
    model = str(folder / "run/model.h5")
    assert main(["explain", model]) == 0
    text = capsys.readouterr().out
    assert "self_in.s" in text and f"{len(Potential.load(model).params.flat):,}" in text
    assert "one force call" not in text
    assert main(["explain", model, str(folder / "toy.h5")]) == 0
    text = capsys.readouterr().out
    assert "self_in.s" in text and "4 atoms" in text and "1x1->0" in text and "100.0" in text
    frames = [ase.Atoms(f"O{n}", [[2 * k, 0, 0] for k in range(n)]) for n in (2, 3, 4)]
    ase.io.write(tmp_path / "[o].xyz", frames)  # a name that rich would take for markup
    for index, words in (
        ([], "[o].xyz: 4 atoms, 6 edges"),
        (["--index=1"], "[o].xyz, frame 1: 3 atoms, 4"),
        (["--index=-3"], "[o].xyz, frame -3: 2 atoms, 2"),
    ):
        assert main(["explain", model, str(tmp_path / "[o].xyz"), *index]) == 0
        assert words in capsys.readouterr().out.replace("\n", "")
    assert "--index: expected a STRUCTURE" in refused(["explain", model, "--index=1"], capsys)


@pytest.mark.slow
def test_bench_on_what_it_brings_along(capsys):
    assert main(["bench", "--training", "--threads=1", "--seconds=0"]) == 0
    text = capsys.readouterr().out
    assert all(words in text for words in ("ethanol", "512 H2O", "training, 5 ethanol"))


@pytest.mark.parametrize("structure", ["at rest", "alone"])
def test_bench_takes_structures_without_forces(structure, folder, tmp_path):
    from ase import Atoms
    from ase.build import bulk

    atoms = bulk("O", "fcc", a=3.8) if structure == "at rest" else Atoms("O")
    atoms.write(tmp_path / "o.xyz")
    assert main(["bench", str(folder / "run/model.h5"), str(tmp_path / "o.xyz"), "--seconds=0"]) == 0


def test_water_of_the_benchmark_is_as_dense_as_water():
    from eqpot.benchmark import water

    atoms = water(4)
    distances = atoms.get_all_distances(mic=True) + 10 * np.eye(len(atoms))
    assert len(atoms) == 192 and distances.min() > 0.9
    grams = atoms.get_masses().sum() / 6.02214e23
    assert grams / (atoms.get_volume() * 1e-24) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "none.h5"], "none.h5: expected a model file, found no such file"),
        (["bench", "carbon_model.h5"], "carbon_model.h5: expected a STRUCTURE too"),
        (["bench", "run/model.h5", "none.xyz"], "none.xyz: expected a structure, found no such file"),
        (["bench", "run/model.h5", "text.md"], "text.md: expected a structure in a format that ASE reads"),
        (["bench", "run/model.h5", "run"], "run: expected a structure, found a folder"),
        (["bench", "run/model.h5", "empty.xyz"], "empty.xyz: expected a structure"),
        (["bench", "--threads", "0"], "--threads: expected numbers from 1 to"),
        (["bench", "--threads", "two"], "found 'two'"),
        (["fitt"], "No such command 'fitt'"),
        (["fit"], "expected a data set"),
        (["fit", "toy.h5", "--max-epoch", "3"], "--max-epochs"),
        (["fit", "toy.h5", "--n-train", "few"], "'few' is not a valid integer"),
        (["fit", "toy.h5", "--set", "model.cutof=4"], "did you mean 'cutoff'"),
        (["fit", "toy.h5", "--set", "train.lr=0.1"], "did you mean 'learning_rate'"),
        (["fit", "toy.h5", "--set", "train.rate=0.1"], "did you mean 'learning_rate'"),
        (["fit", "toy.h5", "--set", "model.num_layers=4"], "did you mean 'blocks'"),
        (["md", "run/model.h5", "toy.h5", "300"], "300: expected a structure, found no such file"),
        (["fit", "toy.h5", "--set", "cutoff=4"], "expected table.key=value"),
        (["fit", "toy.h5", "--max-time", "long"], 'found "long"'),
        (
            ["fit", "toy.h5", "--max-epochs", "-1"],
            "train.max_epochs: expected an integer at least 0 and at most",
        ),
        (["fit", "toy.h5", "--config", "none.toml"], "none.toml: no such file"),
        (["fit", "toy.h5", "--resume", "--overwrite"], "exclude each other"),
        (["fit", "none.h5", "-o", "new"], "none.h5"),
        (["fit", "text.h5", "-o", "new"], "text.h5: not an HDF5 file: expected a data set"),
        (["fit", "half.h5", "-o", "new"], "half.h5"),
        (["fit", "foreign.h5", "-o", "new"], "foreign.h5: expected"),
        (["fit", "bare.h5", "-o", "new"], "bare.h5: forces: expected forces"),
        (["fit", "toy.h5", "-o", "run"], "run: the folder already holds a run"),
        (["fit", "toy.h5", "-o", "text.h5/new"], "text.h5/new: cannot be written"),
        (["fit", "toy.h5", "-o", "text.h5"], "text.h5: cannot be written: it is not a folder"),
        (["fit", "toy.h5", "-o", ""], "expected the name of a folder to write to, found an empty one"),
        (["fit", "toy.h5", "-o", "new", "--valid", "carbon.h5"], "carbon.h5"),
        (["fit", "toy.h5", "-o", "new", "--n-train", "13"], "at most the 12 frames"),
        (["fit", "--resume", "-o", "new"], "new/checkpoint.h5: nothing to resume"),
        (["eval", "run/model.h5"], "Missing argument 'DATA...'"),
        (["eval", "none.h5", "toy.h5"], "none.h5"),
        (
            ["eval", "toy.h5", "toy.h5"],
            "toy.h5: this is a data set, not a model; try `eqpot data info toy.h5`",
        ),
        (["eval", "run/checkpoint.h5", "toy.h5"], "run/checkpoint.h5: this is a checkpoint, not a model"),
        (["eval", "run/model.h5", "run/model.h5"], "model.h5: this is a model, not a data set"),
        (["eval", "run/model.h5", "half.h5"], "half.h5"),
        (["eval", "run/model.h5", "carbon.h5"], "carbon.h5"),
        (["eval", "run/model.h5", "unlabelled.h5"], "unlabelled.h5: expected energy, forces or stress"),
        # told before the model is looked at
        (
            ["eval", "run/model.h5", "toy.h5", "--json", "none/e.json"],
            "none/e.json: the folder none does not exist",
        ),
        (["eval", "run/model.h5", "toy.h5", "--json", "run"], "run: expected the name of a file"),
        (["eval", "run/model.h5", "toy.h5", "--json", "run/model.h5"], "run/model.h5: expected another file"),
        (
            ["eval", "run/model.h5", "toy.h5", "--json", "toy.h5"],
            "toy.h5: expected another file than",
        ),
        (["eval", "run/model.h5", "toy.h5", "--json", "/dev/null"], "/dev/null: expected the name of a file"),
        (["bench", "--json", "toy.h5"], "toy.h5: exists already; give --overwrite"),
        (["bench", "--index", "3"], "--index: expected a STRUCTURE"),
        (["bench", "run/model.h5", "run/model.h5"], "run/model.h5: this is a model, not a data set"),
        (
            ["bench", "run/model.h5", "lone.xyz"],
            "lone.xyz: numbers: expected elements trained on",
        ),
        (["eval", "run/model.h5", "toy.h5", "--plots", "text.h5/a/b"], "text.h5/a/b: cannot be written"),
        (["eval", "run/model.h5", "toy.h5", "--plots", "pictures"], "pictures/energy.png: exists already"),
        (["info", "none.h5"], "none.h5: expected a model file, found no such file"),
        (["info", "run"], "run: expected a model file, found a folder"),
        (["info", "text.h5"], "text.h5: not an HDF5 file: expected a model, made by `eqpot fit`, found text"),
        (["info", "half.h5"], "half.h5: expected a model, found a damaged or truncated HDF5 file"),
        (["info", "foreign.h5"], "foreign.h5: expected a model, found an HDF5 file that eqpot did not write"),
        (["inspect", "none.h5", "toy.h5", "--text"], "none.h5: expected a model file, found no such file"),
        (["inspect", "none.h5", "toy.h5", "--json", "toy.h5"], "toy.h5: expected another file than"),
        (["inspect", "none.h5", "toy.h5", "-o", "text.md"], "text.md: expected a name that ends in .html"),
        (["inspect", "none.h5", "toy.h5", "-o", "new/r.html"], "new/r.html: the folder new does not exist"),
        (["inspect", "run/model.h5", "none.xyz", "--text"], "none.xyz: expected a structure, found no such"),
        (["inspect", "run/model.h5", "empty.xyz", "--text"], "empty.xyz: expected a structure"),
        (["inspect", "run/model.h5", "text.md", "--text"], "text.md: expected a structure in a format"),
        (["inspect", "run/model.h5", "run/model.h5", "--text"], "this is a model, not a data set"),
        (
            ["inspect", "run/model.h5", "lone.xyz", "--text"],
            "lone.xyz: numbers: expected elements trained on",
        ),
        (
            ["inspect", "run/model.h5", "toy.h5", "--text", "--index=12"],
            "toy.h5: --index: expected the number of one",
        ),
        (["explain", "none.h5"], "none.h5: expected a model file, found no such file"),
        (["explain", "run/model.h5", "none.xyz"], "none.xyz: expected a structure, found no such file"),
        (["explain", "run/model.h5", "lone.xyz"], "lone.xyz: numbers: expected elements trained on"),
        (["explain", "run/model.h5", "toy.h5", "--index", "last"], "'last' is not a valid integer"),
        (["data", "convert", "toy.h5"], "at least one source and the file to write: eqpot data convert SRC"),
        (["data", "convert", "text.md", "new.h5"], "text.md: the format is not recognised"),
        (["data", "convert", "text.of", "new.h5"], "text.of: the format is not recognised"),
    ],
)
def test_mistakes_get_one_line(arguments, words, bad_files, capsys, monkeypatch):
    monkeypatch.chdir(bad_files)
    assert words in refused(arguments, capsys)
    assert not list(bad_files.glob("new*"))
    assert not list(bad_files.glob("**/.*"))


@pytest.mark.skipif(not obstacle(), reason="there is a GPU, or the simulator")
@pytest.mark.parametrize(
    "line",
    [
        "fit toy.h5 -o new",
        "fit --resume -o run",
        "eval run/model.h5 toy.h5",
        "relax run/model.h5 lone.xyz -o new.xyz",
        "md run/model.h5 lone.xyz -o new",
        "check run/model.h5 lone.xyz",
        "bench",
        "bench run/model.h5 lone.xyz",
    ],
)
def test_no_gpu_gets_one_line(line, bad_files, capsys, monkeypatch):
    """Every command that computes with a model, before it does anything."""
    monkeypatch.chdir(bad_files)
    assert refused([*line.split(), "--device", "cuda"], capsys).startswith("error: device: cuda: ")
    assert not list(bad_files.glob("new*"))


@pytest.fixture(scope="module")
def bad_files(folder):
    toy = folder / "toy.h5"
    for name in ("text.h5", "text.md", "text.of"):  # ASE takes md for CASTEP, and knows no "of"
        (folder / name).write_text("no HDF5 at all\n")
    (folder / "empty.xyz").write_text("")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "energy.png").write_text("")
    (folder / "lone.xyz").write_text("1\n\nXe 0 0 0\n")
    (folder / "half.h5").write_bytes(toy.read_bytes()[: toy.stat().st_size // 2])
    import h5py

    with h5py.File(folder / "foreign.h5", "w") as file:
        file["x"] = [1.0]
    data = read_dataset(toy)
    write_dataset(folder / "bare.h5", replace(data, forces=None))
    write_dataset(folder / "unlabelled.h5", replace(data, energy=None, forces=None, stress=None))
    Potential.create(["C"], **MODEL).save(folder / "carbon_model.h5")
    data.numbers[9] = 6
    write_dataset(folder / "carbon.h5", data)
    return folder


def test_full_disk_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    text = refused(["fit", folder / "toy.h5", "-o", tmp_path / "run", *SHORT], capsys)
    assert "checkpoint.h5: cannot be written: No space left on device" in text
    assert not list((tmp_path / "run").iterdir())


def test_debug_shows_the_traceback(capsys):
    for arguments in (["--debug", "fit", "none.h5"], ["fit", "none.h5", "--debug"]):
        assert main(arguments) == 2
        assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def relaxing(folder, tmp_path, monkeypatch):
    """`eqpot relax` on a frame of the toy set, in a folder of its own."""
    frame, data = tmp_path / "frame.xyz", toy_dataset(1)
    atoms = ase.Atoms(data.numbers, data.positions, cell=data.cell[0], pbc=True)
    ase.io.write(frame, atoms, format="extxyz")
    atoms.pbc = False
    ase.io.write(tmp_path / "free.xyz", atoms, format="extxyz")
    ase.io.write(tmp_path / "iron.xyz", ase.Atoms("Fe"))
    write_dataset(tmp_path / "toy.h5", toy_dataset())
    monkeypatch.chdir(tmp_path)
    return ["relax", str(folder / "run" / "model.h5")]


def test_relax(relaxing, capsys):
    assert main([*relaxing, "frame.xyz", "--fmax", "1000"]) == 0
    head, row, wrote = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "energy,", "eV", "force,", "eV/Å"] and wrote == "wrote relaxed.extxyz"
    atoms = ase.io.read("relaxed.extxyz")
    assert float(row.split()[1]) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert "relaxed.extxyz: exists already" in refused([*relaxing, "frame.xyz"], capsys)
    assert main([*relaxing, "frame.xyz", "--fmax", "1000", "--cell", "--overwrite"]) == 0
    head, row, _ = capsys.readouterr().out.splitlines()
    assert "stress, eV/Å³" in head
    stress = np.abs(ase.io.read("relaxed.extxyz").get_stress()).max()
    assert float(row.split()[3]) == pytest.approx(stress, rel=1e-3)


def test_an_unfinished_relaxation_is_an_error_that_keeps_what_was_reached(relaxing, tmp_path, capsys):
    text = refused([*relaxing, "frame.xyz", "-o", "r.cif", "--fmax", "1e-9", "--steps", "2"], capsys)
    assert "frame.xyz: not relaxed after 2 steps: expected no force above 1e-09 eV/Å, found" in text
    text = refused(
        [*relaxing, "frame.xyz", "--cell", "--overwrite", "--fmax", "1e-9", "--steps", "2"], capsys
    )
    assert "and no stress above" in text and "eV/Å³; " in text
    before, after = ase.io.read("frame.xyz"), ase.io.read("r.cif")
    assert len(after) == len(before) and not np.allclose(after.positions, before.positions, atol=1e-6)


def test_a_relaxation_below_the_rounding_writes_the_best_step(relaxing, capsys, monkeypatch):
    from potentials import Rounded

    monkeypatch.setattr("eqpot.calculator.EqpotCalculator", lambda _: Rounded())
    ase.io.write("cu.xyz", ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.5]]))
    text = refused([*relaxing, "cu.xyz", "--fmax", "1e-9"], capsys)
    found = re.search(
        r"lost its way after step \d+ \(.*\); step (\d+) is kept: expected no force above", text
    )
    assert found and "that is the rounding of float32: give a larger --fmax" in text
    assert np.isfinite(ase.io.read("relaxed.extxyz").positions).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.xyz"], "none.xyz: expected a structure, found no such file"),
        (["iron.xyz"], "iron.xyz: numbers: expected elements trained on (H O), found Fe"),
        (["free.xyz", "--cell"], "free.xyz: --cell: expected a structure periodic in all three directions"),
        (["frame.xyz", "-o", "out.what"], "out.what: expected a name that tells the format"),
        (["frame.xyz", "-o", "out"], "out: expected a name that tells the format"),
        (["frame.xyz", "-o", "out.out"], "out.out: expected a format that ASE writes, found espresso-out"),
        (["frame.xyz", "-o", "none/out.xyz"], "none/out.xyz: the folder none does not exist"),
        (["frame.xyz", "--fmax", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_mistakes_of_relax_leave_nothing(arguments, words, relaxing, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    assert words in refused([*relaxing, *arguments], capsys)
    assert set(tmp_path.iterdir()) == before


def test_md(relaxing, folder, capsys):
    model = str(folder / "run" / "model.h5")
    assert main(["md", model, "frame.xyz", "--length", "10fs", "--temperature", "50", "--seed", "1"]) == 0
    about, head, first, *rows, done, wrote = capsys.readouterr().out.splitlines()
    assert about == "4 atoms, NVT (Nosé-Hoover chain), 50 K, 20 steps of 0.5 fs, run folder md"
    assert head.endswith("ns/day") and len(rows) == 19 and float(rows[-1].split()[0]) == 0.01
    assert {len(line) for line in (first, *rows)} == {len(head)}
    assert done.startswith("done: 0.01 ps; mean temperature ") and "pressure" in done
    assert wrote == "trajectory: md/trajectory.traj, log: md/thermo.csv, picture: md/thermo.png"
    assert {p.name for p in Path("md").iterdir()} == {
        "trajectory.traj",
        "thermo.csv",
        "thermo.png",
        "restart.h5",
    }
    text = refused(["md", model, "frame.xyz"], capsys)
    assert "md: the folder already holds a run (trajectory.traj); give --resume" in text
    assert main(["md", "--resume"]) == 0
    assert (
        "nothing was done, the run ended at step 20; to go on: eqpot md --resume" in capsys.readouterr().out
    )
    assert main(["md", model, "frame.xyz", "--resume", "--length", "25"]) == 0
    assert "5 steps of 0.5 fs from step 20" in capsys.readouterr().out
    assert main(["md", "--resume", "--length", "26"]) == 0
    assert "1 step of 0.5 fs from step 25" in capsys.readouterr().out
    assert main(["md", model, model, "frame.xyz", "--overwrite", "--length=2", "--max-deviation=1"]) == 0


def test_a_frame_of_a_data_set_is_a_structure(relaxing, folder, capsys, monkeypatch):
    from eqpot.dynamics import check

    monkeypatch.setattr(check, "STEPS", 8)
    model, data = str(folder / "run" / "model.h5"), read_dataset("toy.h5")
    for index in (-1, 3):
        which = [model, "toy.h5", f"--index={index}", "--overwrite"]
        expected = pytest.approx(data.atoms(index).positions, abs=1e-7)
        assert main(["relax", *which, "--fmax=1000"]) == 0
        assert ase.io.read("relaxed.extxyz").positions == expected
        assert main(["md", *which, "--length=1", "--temperature=1"]) == 0
        assert ase.io.read("md/trajectory.traj", 0).positions == expected
    text = refused(["md", "--resume", "--index=2"], capsys)
    assert "md/restart.h5: --index: expected 3 as the run began, found 2" in text
    main(["check", model, "toy.h5", "--index=3"])
    assert "toy.h5, frame 3, 4 atoms" in capsys.readouterr().out.replace("\n", "")
    assert main(["bench", model, "toy.h5", "--index=3", "--seconds=0", "--threads=1"]) == 0
    assert "toy.h5, frame 3" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_md_stopped_by_a_signal(number, relaxing, folder, capsys, monkeypatch):
    from eqpot.dynamics.simulation import Simulation

    words = [str(folder / "run" / "model.h5"), "frame.xyz", "--length=20"]
    assert main(["md", *words, "-o", "whole"]) == 0
    capsys.readouterr()
    fault = Simulation.fault

    def stop(simulation):
        if simulation.dynamics.nsteps == 7:
            signal.raise_signal(number)
        return fault(simulation)

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "fault", stop)
        before = signal.signal(number, signal.default_int_handler)  # a job in the background ignores SIGINT
        try:
            assert main(["md", *words, "-o", "run"]) == 130
            assert signal.getsignal(number) is signal.default_int_handler
        finally:
            signal.signal(number, before)
    assert "stopped at step 7; continue with: eqpot md --resume -o run" in capsys.readouterr().out
    assert main(["md", "--resume", "-o", "run"]) == 0
    for name in ("trajectory.traj", "thermo.csv"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()


def test_md_past_a_limit_is_drawn(relaxing, folder, capsys):
    model = folder / "run" / "model.h5"
    text = refused(["md", model, "frame.xyz", "--length=20", "--temperature-band=1.0000001"], capsys)
    assert "frame.xyz: step 1: expected 300 to 300 K" in text
    assert Path("md", "thermo.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frame.xyz"], "expected one model or more and a structure: eqpot md MODEL.h5 STRUCTURE"),
        (["--resume", "frame.xyz"], "expected one model or more and a structure"),
        (["none.h5", "frame.xyz"], "none.h5: expected a model file, found no such file"),
        (["frame.xyz", "frame.xyz"], "frame.xyz: not an HDF5 file: expected a model"),
        (["MODEL", "none.xyz"], "none.xyz: expected a structure, found no such file"),
        (
            ["MODEL", "iron.xyz"],
            "iron.xyz: numbers: expected elements trained on (H O), found Fe",
        ),
        (["MODEL", "empty.xyz"], "empty.xyz: expected a structure"),
        (["MODEL", "lone.xyz"], "lone.xyz: expected atoms that can move against each other, found 1"),
        (["MODEL", "MODEL"], "model.h5: this is a model, not a data set"),
        (["MODEL", "toy.h5", "--index=12"], "toy.h5: --index: expected the number of one of its frames"),
        (
            ["MODEL", "free.xyz", "--ensemble=npt"],
            "free.xyz: --ensemble: expected a structure periodic in all",
        ),
        (["MODEL", "frame.xyz", "--ensemble=nvvt"], "'nvvt' is not one of 'nve', 'nvt', 'npt'"),
        (["MODEL", "frame.xyz", "--length=20m"], "--length: expected a number of steps above 0, or a time"),
        (["MODEL", "frame.xyz", "--length=0"], "--length: expected a number of steps above 0, or a time"),
        (["MODEL", "frame.xyz", "--temperature=0"], "--temperature: expected a number greater than 0"),
        (["MODEL", "frame.xyz", "--temperature=nan"], "--temperature: expected a number greater than 0"),
        (["MODEL", "frame.xyz", "--temperature-band=0.5"], "--temperature-band: expected a factor above 1"),
        (["MODEL", "frame.xyz", "--pressure=5"], "--pressure: expected ensemble npt, found nvt"),
        (["MODEL", "frame.xyz", "--end-temperature=5"], "--end-temperature: expected thermostat langevin"),
        (["MODEL", "frame.xyz", "--max-deviation=1"], "--max-deviation: expected more than one model"),
        (["MODEL", "frame.xyz", "--keep-velocities"], "frame.xyz: --keep-velocities: expected velocities"),
        (["MODEL", "frame.xyz", "-o", "frame.xyz"], "frame.xyz: cannot be written: it is not a folder"),
        (["--resume"], "md/restart.h5: nothing to resume: no such file"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--resume", "-o", "foreign"], "foreign/restart.h5: this is a model, not a checkpoint of dynamics"),
    ],
)
def test_mistakes_of_md_leave_nothing(arguments, words, relaxing, folder, tmp_path, capsys):
    model = folder / "run" / "model.h5"
    ase.io.write("lone.xyz", ase.Atoms("H"))
    Path("empty.xyz").write_text("")
    Path("foreign").mkdir()
    Path("foreign/restart.h5").write_bytes(model.read_bytes())
    before = set(tmp_path.rglob("*"))
    assert words in refused(["md", *(model if a == "MODEL" else a for a in arguments)], capsys)
    assert set(tmp_path.rglob("*")) == before


def test_check(relaxing, folder, capsys, monkeypatch):
    from eqpot.dynamics import check

    monkeypatch.setattr(check, "STEPS", 8)
    potential = Potential.load(folder / "run" / "model.h5")
    potential.scale[:] = 30  # eV: two epochs taught hardly any forces
    model = str(folder / "model.h5")
    potential.save(model)
    status = main(["check", model, "frame.xyz"])
    shown = capsys.readouterr()
    failed = shown.out.count("FAIL")
    assert status == (2 if failed else 0) and shown.out.count("pass") + failed == 11
    assert (f"model.h5: {failed} of 11 checks failed on frame.xyz" in shown.err) == bool(failed)
    attracted = any("attract at distances" in line and "FAIL" in line for line in shown.out.splitlines())
    assert ("--set model.zbl=true adds repulsion there" in shown.err) == attracted
    assert "stress against slope of energy" in shown.out and "ns/day" in shown.out
    text = refused(["check", model, "iron.xyz"], capsys)
    assert "iron.xyz: numbers: expected elements trained on (H O), found Fe" in text


def test_output_closed_at_the_other_end():
    """As by `| head`: the work goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        out = _Listened(stream)
        for _ in range(2):
            out.write("a line\n")
            out.flush()
        assert out.fault is None


EQPOT = shlex.join([sys.executable, "-m", "eqpot"])


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ("fit --show-config >/dev/full", 2, "", "error: standard output: cannot be written: No space left"),
        ("fit --help >/dev/full", 2, "", "error: standard output: cannot be written: No space left"),
        ("fit --show-config >&-", 0, "", ""),
        ("fit none.h5 >&-", 2, "", "error: none.h5: "),
        ("fit none.h5 2>&-", 2, "", ""),
        ("fit none.h5 2>/dev/full", 2, "", ""),
        ("fit none.h5 <&- >&- 2>&-", 2, "", ""),
    ],
)
def test_outputs_that_take_nothing(line, status, out, err):
    run = subprocess.run(f"{EQPOT} {line}", shell=True, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (status, out)
    assert run.stderr.startswith(err) and run.stderr.count("\n") == bool(err)


def test_results_are_written_with_every_stream_closed(folder, tmp_path):
    """HDF5 would else get the number of one of them, and what is printed."""
    model, data = folder / "run" / "model.h5", folder / "toy.h5"
    for name, streams, status in (("open", "", 0), ("closed", "<&- >&- 2>&-", 0), ("full", ">/dev/full", 2)):
        line = f"{EQPOT} eval {model} {data} --json {tmp_path / name} {streams}"
        assert subprocess.run(line, shell=True, capture_output=True).returncode == status
    assert len({(tmp_path / name).read_bytes() for name in ("open", "closed", "full")}) == 1


def test_an_output_of_ascii_only(folder, tmp_path):
    ase.io.write(tmp_path / "o.xyz", ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.5]]))
    line = f"bench {folder / 'run' / 'model.h5'} {tmp_path / 'o.xyz'} --threads 1 --seconds 0"
    for words in (line, "relax --help", "relax none.h5 \xc5.xyz"):
        run = subprocess.run(
            [*shlex.split(EQPOT), *shlex.split(words)],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "400"},
        )
        assert run.returncode == (2 if "none" in words else 0), run.stderr
        assert b"Error" not in run.stderr and (run.stdout + run.stderr).isascii() == (words != "relax --help")
        assert b"?s/atom" in run.stdout or words != line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("a\n\x1b b"), r"internal error (ValueError: a \x1b b); please report it; --debug shows"),
        (EOFError("truncated"), "internal error (RuntimeError: EOFError: truncated); please report it"),
        (KeyError("name"), "internal error (KeyError: 'name'); please report it"),
        (AssertionError(), "internal error (AssertionError: ); please report it"),
        (MemoryError("Unable to allocate 8 TB"), "out of memory (Unable to allocate 8 TB)\n"),
        (MemoryError(), "out of memory\n"),
        (RecursionError("maximum"), "something is nested too deeply (RecursionError)"),
        (OSError(errno.EIO, "Input/output error", "a.h5"), "a.h5: Input/output error\n"),
        (OSError("Can't read data"), "internal error (OSError: Can't read data)"),
        (UserError("x" * 100_000), "x ... x"),
    ],
)
def test_the_last_resort(error, words, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(Potential, "load", fail)
    text = refused(["info", "model.h5"], capsys)
    assert words in text and len(text) < 5000
    assert main(["info", "model.h5", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_handlers_are_put_back():
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in stops], sys.unraisablehook, sys.stdout, sys.stderr
    assert main(["info", "none.h5"]) == 2
    assert before == (
        [signal.getsignal(number) for number in stops],
        sys.unraisablehook,
        sys.stdout,
        sys.stderr,
    )


@pytest.mark.parametrize("when", ["__enter__", "__exit__"])
def test_a_signal_before_or_after_the_command_ends_it_as_well(when, monkeypatch, capsys):
    class Interrupted:
        def __enter__(self):
            if when == "__enter__":
                raise KeyboardInterrupt
            return SimpleNamespace(flush=lambda: None, fault=None), None

        def __exit__(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_streams", Interrupted)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["--version"]) == 130
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc tells when a handler stands")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0, 0.05, 0.2, 0.5])
def test_a_signal_while_modules_are_imported(number, delay, folder, tmp_path):
    """From the first moment that a handler can stand on; the command would take some seconds."""
    arguments = ["fit", str(folder / "toy.h5"), "-o", str(tmp_path / "run"), *SHORT, "--max-epochs=10000"]
    command = [sys.executable, "-m", "eqpot", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed
    ) as process:
        bit = 1 << (signal.SIGHUP - 1)  # nobody else handles it
        while (
            not int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1], 16)
            & bit
        ):
            assert process.poll() is None
        time.sleep(delay)
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err.strip()) == (130, "")
    assert not list(tmp_path.glob("run/.*"))


def test_a_stop_that_code_in_c_swallows_is_asked_again(monkeypatch):
    monkeypatch.setattr("eqpot.stops.LOST", 0.1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    swallowed = 0
    try:
        with pytest.raises(KeyboardInterrupt), answering(interrupt):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            swallowed += 1
            time.sleep(30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert swallowed == 1 and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def _made_of(cause, error):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (SystemError("lost"), 130),
        (ImportError("half"), 130),
        (_made_of(SystemError("lost"), UserError("damaged")), 130),  # as h5py's locks do
        (UserError("full"), 2),
        (_made_of(OSError("full"), UserError("full")), 2),
    ],
)
def test_a_stop_that_became_another_error(raised, status, capsys, monkeypatch):
    def interrupted(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise raised from raised.__cause__

    monkeypatch.setattr("eqpot.cli.cli.main", interrupted)
    assert main(["info", "x.h5"]) == status
    assert bool(capsys.readouterr().err) == (status == 2)


def _heed() -> None:
    """A job in the background ignores some signals, and so do its children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def test_a_stop_that_a_callback_swallows_comes_again():
    with pytest.raises(KeyboardInterrupt), answering(interrupt):
        thing = type("Thing", (), {})()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
        del thing
        assert reference() is None
        time.sleep(1)


class _HalfBuilt:
    """Its finaliser needs what a stop in its constructor kept from being set, as llvmlite's objects do."""

    def __init__(self, stop: bool = True):
        if stop:
            signal.raise_signal(signal.SIGTERM)
        self.whole = True

    def __del__(self):
        assert self.whole


def test_a_stop_leaves_half_built_objects_in_silence(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with answering(lambda: None):
        thing = _HalfBuilt()
        del thing.whole, thing
    assert len(told) == 1  # an answer that raises nothing leaves nothing half built
    with pytest.raises(KeyboardInterrupt), answering(interrupt):
        try:
            _HalfBuilt()
        except KeyboardInterrupt as error:
            error.__traceback__ = None
            raise
    assert len(told) == 1


def test_a_stop_waits_for_an_import(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGTERM)\ndone = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), answering(interrupt):
        import slow_module

        assert slow_module.done
        time.sleep(1)


def test_ignored_signals_stay_ignored():
    """As with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with answering(interrupt):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
