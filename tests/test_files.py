"""Own files: whole or not there, read by rules, and nothing let in that is not in the file."""

import json
import math
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.io import read
from toy import MODEL, toy_dataset, unsealed

from eqpot import files, hdf5
from eqpot.cli import main
from eqpot.config import Config, DynamicsConfig
from eqpot.dynamics.restart import check_head
from eqpot.dynamics.simulation import Simulation
from eqpot.errors import UserError
from eqpot.files import replacing
from eqpot.potential import Potential
from eqpot.runs import LOCK, Hold, Watch
from eqpot.structures.data import Dataset, read_dataset, write_dataset
from eqpot.training.checkpoint import checkpoint_of
from eqpot.training.trainer import Trainer

OLD = Path(__file__).parent / "version_0_1"
SETTINGS = Config.from_dict(
    {
        "model": MODEL,
        "train": {"batch_size": 3, "max_epochs": 2, "n_valid": 3, "optimizer": "adam", "amsgrad": True},
    }
)
READERS = {
    "toy.h5": read_dataset,
    "fit/model.h5": Potential.load,
    "fit/checkpoint.h5": lambda path: checkpoint_of(path.parent),
    "md/restart.h5": lambda path: Simulation.resume(path.parent).atoms,
}
over_readers = pytest.mark.parametrize("name", READERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set, a fit and a run of dynamics, of this version."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "toy.h5", toy_dataset())
    Trainer.start(SETTINGS, folder / "toy.h5", folder / "fit").run()
    shutil.copy(OLD / "start.xyz", folder)
    settings = DynamicsConfig(ensemble="npt", length="10", log_every=2, write_every=2, temperature=50.0)
    Simulation.start(settings, [folder / "fit/model.h5"], folder / "start.xyz", folder / "md").run()
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(name: str, folder: Path, words: str) -> None:
    """One line that names the file, and no file is touched."""
    before = contents(folder)
    with pytest.raises(UserError, match=words) as caught:
        READERS[name](folder / name)
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)
    assert contents(folder) == before


def edit(path: Path, change) -> None:
    """Change an own file as a stranger would, by h5py, and without a checksum."""
    with h5py.File(unsealed(path), "r+") as file:
        change(file)


# ---------------------------------------------------------------- checksum


@over_readers
def test_no_flipped_bit_is_read(name, copy):
    path, rng = copy / name, np.random.default_rng(0)
    whole = path.read_bytes()
    places = [0, 5, 40, 60, 120, 300, 511, 512, len(whole) - 1, *rng.integers(0, len(whole), 60)]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: expected .*, found a damaged or truncated.*SHA-256"):
            READERS[name](path)
    for length in (513, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or truncated|not an HDF5 file"):
            READERS[name](path)
    path.write_bytes(whole)
    READERS[name](path)


@over_readers
def test_a_file_without_checksum_is_the_same(name, copy):
    """As older versions wrote it, and as others make it by what is documented."""
    first = READERS[name](copy / name)
    unsealed(copy / name)
    again = READERS[name](copy / name)
    if name == "toy.h5":
        for key in Dataset.__dataclass_fields__:
            if key not in ("hash", "path", "attrs"):
                np.testing.assert_array_equal(getattr(first, key), getattr(again, key))
        assert first.hash != again.hash == files.sha256(copy / name)


def test_other_programs_read_what_has_a_checksum(made):
    with h5py.File(made / "toy.h5") as file:
        np.testing.assert_array_equal(file["positions"][()], toy_dataset().positions)


def test_an_edit_is_told_with_the_way_out(copy):
    path = copy / "toy.h5"
    with h5py.File(path, "r+") as file:
        file["energy"][0] = 5.0
    with pytest.raises(UserError, match=r"changed after eqpot wrote it .*`tail -c \+513 FILE > NEW`"):
        read_dataset(path)
    subprocess.run(f"tail -c +513 {path} > {path.parent}/new.h5", shell=True, check=True)
    assert read_dataset(path.parent / "new.h5").energy[0] == 5.0


def null(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.Empty("f8")


@pytest.mark.parametrize(
    ("script", "words"),
    [("kill -SEGV $$", r"HDF5 crashes on it, status -11"), ("exec sleep 60", "HDF5 spends more than 1 s")],
)
def test_hdf5_may_crash_and_hang_elsewhere(script, words, copy, monkeypatch):
    python = copy / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(hdf5, "SECONDS", 1)
    unsealed(copy / "toy.h5")
    refused("toy.h5", copy, f"expected a data set, found a damaged or truncated HDF5 file .{words}")


@pytest.mark.parametrize("seed", range(4))
@over_readers
def test_damaged_files_of_older_versions(name, seed, copy):
    """They have no checksum: in one line, or as they were but for numbers within their limits."""
    data, rng = bytearray(unsealed(copy / name).read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, len(data) if seed % 2 else 2000, 10):
        data[place] = rng.integers(256)
    (copy / name).write_bytes(data)
    try:
        READERS[name](copy / name)
    except UserError as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------- what is not in the file


def other(folder: Path) -> Path:
    path = folder / "other.h5"
    with h5py.File(path, "w") as file:
        file["energy"] = np.arange(12.0)
    return path


def external_link(file, folder):
    file["energy"] = h5py.ExternalLink(str(other(folder)), "energy")


def link_to_a_fifo(file, folder):
    os.mkfifo(folder / "fifo")
    file["energy"] = h5py.ExternalLink(str(folder / "fifo"), "energy")


def soft_link(file, folder):
    file["energy"] = h5py.SoftLink("/numbers")


def virtual(file, folder):
    layout = h5py.VirtualLayout((12,), np.float64)
    layout[:] = h5py.VirtualSource(str(other(folder)), "energy", (12,))
    file.create_virtual_dataset("energy", layout)


def virtual_without_source(file, folder):
    virtual(file, folder)
    (folder / "other.h5").unlink()


def raw(file, folder):
    (folder / "raw").write_bytes(bytes(96))
    file.create_dataset("energy", (12,), np.float64, external=[(str(folder / "raw"), 0, 96)])


def never_written(file, folder):
    file.create_dataset("energy", (1_200_000_000,), np.float64, chunks=(1000,), compression="gzip")


def one_chunk(file, folder):
    file.create_dataset("energy", (12,), np.float64, chunks=(500_000_000,), maxshape=(None,))


def zeros(file, folder):
    file.create_dataset("energy", data=np.zeros(2_000_000), compression="gzip", chunks=True)


def scale_offset(file, folder):
    file.create_dataset("energy", data=np.zeros(12), scaleoffset=3, chunks=True)


def named_type(file, folder):
    file["energy"] = np.dtype("f8")


def references(file, folder):
    file.create_dataset("energy", (12,), h5py.ref_dtype)


def groups_without_end(file, folder):
    file.create_group("energy")
    file["energy/energy"] = file["energy"]


OUTSIDE = {
    external_link: "energy: expected an array of the file's own, found a link",
    link_to_a_fifo: "energy: expected an array of the file's own, found a link",
    soft_link: "energy: expected an array of the file's own, found a link",
    virtual: "energy: expected an array stored in the file, found one that lies elsewhere",
    virtual_without_source: "energy: expected an array stored in the file, found one that lies elsewhere",
    raw: "energy: expected an array stored in the file, found one that lies elsewhere",
    never_written: "energy: expected arrays that fit a file .* found 9,600,",
    one_chunk: "energy: expected arrays that fit a file .* found 4,000,",
    zeros: r"energy: expected shape \(12,\), found \(2000000,\)",
    scale_offset: "energy: expected deflate, shuffle, fletcher32 or lzf at most",
    named_type: "energy: expected an array, found Datatype",
    references: "energy: expected numbers or texts, found object",
    groups_without_end: "expected a few arrays, found more than 10000 or groups in groups",
}


@pytest.mark.parametrize("sealed", [False, True], ids=["older", "sealed"])
@pytest.mark.parametrize("make", OUTSIDE, ids=lambda make: make.__name__)
def test_nothing_but_plain_arrays_of_a_files_own(make, sealed, copy):
    """A checksum is no signature: whoever knows how makes one."""
    path = copy / "toy.h5"

    def change(file):
        del file["energy"]
        make(file, copy)

    if sealed:
        with h5py.File(path, "r+") as file:
            change(file)
        data = bytearray(path.read_bytes())
        hdf5.seal(memoryview(data))
        path.write_bytes(data)
    else:
        edit(path, change)
    began = time.monotonic()
    refused("toy.h5", copy, OUTSIDE[make])
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("command", ["info", "data info", "eval", "fit", "relax"])
def test_a_fifo_for_a_file_is_refused(command, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    more = [str(tmp_path / "fifo")] if command in ("eval", "relax") else []
    assert main([*command.split(), str(tmp_path / "fifo"), *more]) == 2
    assert "fifo: expected a" in capsys.readouterr().err


# ---------------------------------------------------------------- rules


def attribute(key, value):
    return lambda file: file.attrs.__setitem__(key, value)


def without(key):
    return lambda file: file.attrs.__delitem__(key)


def inside(key, *path, **change):
    """Change or take out a part of an attribute's JSON."""

    def make(file):
        value = json.loads(file.attrs[key])
        table = value
        for part in path:
            table = table[part]
        table.update(change)
        for gone in [name for name, new in change.items() if new is without]:
            del table[gone]
        file.attrs[key] = json.dumps(value)

    return make


def array(name, change):
    def make(file):
        values = file[name][()]
        del file[name]
        if change is not None:
            file[name] = change(values)

    return make


def put(place, value):
    def change(values):
        values[place] = value
        return values

    return change


BAD = {
    "fit/model.h5": [
        (inside("config", cutoff=without), "model.cutoff: expected a setting, found none"),
        (array("scale", put(0, 1e300)), "scale: expected numbers at most 1e.12"),
        (
            array("params/output.1", put((0, 0), 3e38)),
            "params/output.1: expected numbers at most 1e.09, found 3e.38",
        ),
        (lambda file: null(file, "shift"), "shift: expected an array, found one without numbers or a shape"),
        (inside("config", blocks=without), "model.blocks: expected a setting, found none"),
        (inside("config", cutoff=math.nan), "model.cutoff: expected a number .* found NaN"),
        (inside("config", cutoff="3.5"), "model.cutoff: expected a number"),
        (inside("config", colour=1), "model.colour: unknown key"),
        (attribute("config", "[]"), r"config: expected a table, found \[\]"),
        (attribute("config", "{"), "config: expected JSON"),
        (attribute("config", "[" * 3000 + "]" * 3000), "config: expected JSON"),
        (attribute("config", '{"blocks": ' + "9" * 5000 + "}"), "config: expected JSON"),
        (attribute("config", 5), "attributes.config: expected a text, found 5"),
        (without("config"), "attributes.config: expected a text, found none"),
        (without("dtype"), "attributes.dtype: expected float32 or float64, found none"),
        (attribute("dtype", "float16"), "attributes.dtype: expected float32 or float64"),
        (attribute("dtype", "float64"), r"params/\S+: expected float64, found float32"),
        (without("mean_neighbours"), "attributes.mean_neighbours: expected a finite number from 0.001"),
        (attribute("mean_neighbours", 1e300), "attributes.mean_neighbours: .* to 1e.06, found 1e.300"),
        (attribute("mean_neighbours", -1.0), "attributes.mean_neighbours: .* found -1.0"),
        (attribute("mean_neighbours", math.nan), "attributes.mean_neighbours: .* found NaN"),
        (attribute("mean_neighbours", "9"), "attributes.mean_neighbours: "),
        (attribute("mean_neighbours", [9.0, 9.0]), "attributes.mean_neighbours: "),
        (inside("provenance", closest={"H-O": "near"}), "provenance: expected a table .* in which closest"),
        (inside("provenance", seed=math.nan), "provenance: expected a table of finite numbers"),
        (inside("provenance", more=[{"x": math.inf}]), "provenance: expected a table of finite numbers"),
        (
            attribute("provenance", '{"seed": 1e999}'),
            "provenance: expected JSON, .* beyond all floats, 1e999",
        ),
        (array("species", lambda z: z[::-1]), "species: expected rising numbers"),
        (array("species", put(1, 119)), "species: expected numbers at most 118, found 119"),
        (array("species", lambda z: z[:1]), r"scale: expected shape \(1,\), found \(2,\)"),
        (array("species", lambda z: z * 1.0), "species: expected integers, found float64"),
        (array("species", lambda z: z[0]), r"species: expected shape \(elements,\), found \(\)"),
        (array("scale", put(0, np.inf)), "scale: expected finite numbers"),
        (array("scale", put(0, -1.0)), "scale: expected numbers above 0, found -1"),
        (array("shift", None), "shift: expected an array of that name, found"),
        (array("params/embedding", put((0, 0), np.nan)), "params/embedding: expected finite numbers"),
        (array("params/embedding", lambda w: w[:1]), r"params/embedding: expected shape \(2, 4\)"),
        (lambda file: file.pop("params"), r"params/\S+: expected an array of that name"),
    ],
    "fit/checkpoint.h5": [
        (inside("content", state=without), "content.state: expected a table, found none"),
        (inside("content", "state", rate=0), "content.state.rate: expected a finite number above 0, found 0"),
        (inside("content", "state", epoch=1.5), "content.state.epoch: expected an integer from 0"),
        (inside("content", "state", epoch=True), "content.state.epoch: expected an integer from 0"),
        (inside("content", "state", epoch=-1), "content.state.epoch: expected an integer from 0"),
        (inside("content", "state", best_epoch=9), "state.best_epoch: expected at most epoch 2, found 9"),
        (inside("content", "state", best_rmse=math.nan), "state.best_rmse: expected a finite number"),
        (inside("content", "state", best_rmse=math.inf), "state.best_rmse: expected one of a best epoch"),
        (inside("content", "state", mood="fine"), "content.state: expected only keys that this version"),
        (inside("content", "sources", data_hash=without), "content.sources.data_hash: expected a SHA-256"),
        (inside("content", "sources", data_hash="0"), "content.sources.data_hash: expected a SHA-256"),
        (inside("content", sources=None), "content.sources: expected a table, found null"),
        (inside("content", "random", bit_generator="MT19937"), "random.bit_generator: expected PCG64"),
        (inside("content", "random", "state", inc=2**200), "content: expected JSON"),
        (inside("content", "random", state=3), "content.random.state: expected a table, found 3"),
        (inside("content", adam_steps="8"), "content.adam_steps: expected an integer"),
        (
            inside("content", "config", "model", cutoff=without),
            "model.cutoff: expected a setting, found none",
        ),
        (inside("content", "config", "train", dtype=without), "train.dtype: expected a setting, found none"),
        (inside("content", "config", loss=without), "loss.energy: expected a setting, found none"),
        (inside("content", "config", "train", amsgrad=1), "train.amsgrad: expected true or false"),
        (array("best", put(3, np.nan)), "best: expected finite numbers, found NaN"),
        (array("best", lambda w: w[0]), r"best: expected shape \(\d+,\), found \(\)"),
        (array("weights", lambda w: w[0]), r"weights: expected shape \(weights,\), found \(\)"),
        (array("weights", lambda w: w.astype("f8")), "weights: expected float32, found float64"),
        (array("average", lambda w: w[:-1]), "average: expected shape"),
        (array("average", put(0, -1e30)), "average: expected numbers at least -1e.09, found -1e.30"),
        (array("adam_m", put(0, np.inf)), "adam_m: expected finite numbers"),
        (array("adam_v", put(0, -1.0)), "adam_v: expected numbers at least 0, found -1"),
        (array("adam_v_max", None), "adam_v_max: expected an array of that name"),
        (array("scale", put(0, 0.0)), "scale: expected numbers above 0, found 0"),
        (array("mean_neighbours", lambda x: np.full(3, x)), r"mean_neighbours: expected shape \(\)"),
        (array("mean_neighbours", lambda x: 1e300), "mean_neighbours: expected numbers at most 1e.06"),
        (array("train_frames", put(0, -1)), "train_frames: expected numbers at least 0, found -1"),
        (array("train_frames", lambda k: k * 1.0), "train_frames: expected integers"),
        (array("train_frames", lambda k: k[::-1]), "train_frames: expected rising numbers"),
    ],
    "md/restart.h5": [
        (inside("content", "config", timestep=without), "--timestep: expected a setting, found none"),
        (inside("content", "config", temperature=-5), "--temperature: expected a number greater than 0"),
        (inside("content", step=-3), "content.step: expected an integer from 0"),
        (inside("content", step=without), "content.step: expected an integer from 0 .* found none"),
        (inside("content", first_conserved=None), "first_conserved: expected a number without langevin"),
        (inside("content", first_conserved="0"), "content.first_conserved: expected a finite number or null"),
        (inside("content", "sources", models=[]), "sources.models: expected one for each of model_hashes"),
        (inside("content", "sources", models=[3]), r"sources.models\[0\]: expected a text, found 3"),
        (inside("content", log_size=1.0), "content.log_size: expected an integer"),
        (inside("content", trajectory_size=0), "content.trajectory_size: expected an integer from 48"),
        (array("positions", lambda x: x[0]), r"positions: expected shape \(atoms, 3\), found \(3,\)"),
        (array("positions", put((0, 0), np.nan)), "positions: expected finite numbers"),
        (array("momenta", lambda x: x[:-1]), r"momenta: expected shape \(4, 3\), found \(3, 3\)"),
        (array("cell", put((0, 0), np.inf)), "cell: expected finite numbers"),
        (array("_thermostat._eta", lambda x: x[0]), r"_thermostat._eta: expected shape \(3,\), found \(\)"),
        (array("_eps", None), "_eps: expected an array of that name"),
        (array("trajectory_head", put(slice(0, 8), 0)), "trajectory_head: expected that of"),
        (array("trajectory_head", put(32, 200)), "trajectory_head: expected that of"),
        (array("trajectory_head", put(32, 1)), "trajectory_head: expected that of"),  # of fewer frames
        (array("trajectory_head", put(slice(40, 48), 255)), "trajectory_head: expected that of"),
        (array("trajectory_head", lambda x: x[:10]), r"trajectory_head: expected shape \(48,\)"),
    ],
}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [pytest.param(n, *case, id=f"{n} {k}") for n, cases in BAD.items() for k, case in enumerate(cases)],
)
def test_what_breaks_a_rule_is_named_and_nothing_is_touched(name, change, words, copy):
    edit(copy / name, change)
    refused(name, copy, words)


def test_the_list_of_frames_is_found_where_it_is_and_nowhere_else(copy):
    frames, restart = (copy / "md/trajectory.traj").read_bytes(), unsealed(copy / "md/restart.h5")
    place, path = int.from_bytes(frames[40:48], "little"), copy / "md/trajectory.traj"

    def head(place: int) -> np.ndarray:
        return np.frombuffer(frames[:40] + place.to_bytes(8, "little"), np.uint8)

    check_head(path, head(place), len(frames), 1, restart)
    others = [other for other in range(48, len(frames), 8) if other != place]
    for other in others:
        with pytest.raises(UserError, match="trajectory_head: expected that of"):
            check_head(path, head(other), len(frames), 1, restart)
    for other in (others[0], others[-1]):  # and so when a run is resumed
        with h5py.File(restart, "r+") as file:
            file["trajectory_head"][:] = head(other)
        with pytest.raises(UserError, match="trajectory_head: expected that of"):
            Simulation.resume(copy / "md")
    assert (copy / "md/trajectory.traj").read_bytes() == frames


@pytest.mark.parametrize("change", [array("best", put(3, np.nan)), array("weights", lambda w: w[:-1])])
def test_a_bad_checkpoint_does_not_replace_a_good_model(change, copy, capsys):
    edit(copy / "fit/checkpoint.h5", change)
    before = contents(copy)
    assert main(["fit", "--resume", "-o", str(copy / "fit"), "--max-epochs", "4"]) == 2
    assert "checkpoint.h5: " in capsys.readouterr().err
    assert contents(copy) == before


def test_all_arrays_of_a_checkpoint_may_be_too_short(copy):
    """One length, but not that of the settings."""

    def shorten(file):
        for name in ("weights", "average", "best", "adam_m", "adam_v", "adam_v_max"):
            array(name, lambda w: w[:-1])(file)

    edit(copy / "fit/checkpoint.h5", shorten)
    before = contents(copy)
    with pytest.raises(UserError, match=r"checkpoint.h5: weights: expected \d+ numbers, as the settings"):
        Trainer.resume(SETTINGS, copy / "fit")
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch,time\n1,2\n", "columns epoch, time"),
        ("{head}\n1,2\n", "found a row that is none"),
        ("{head}\n" + ",".join(["x"] * 13) + "\n", "found a row that is none"),
        ("\0\n", "found a row that is none"),
    ],
)
def test_a_damaged_log_is_told_before_anything_is_written(text, words, copy):
    log = copy / "fit/log.csv"
    log.write_text(text.replace("{head}", log.read_text().splitlines()[0]))
    before = contents(copy)
    with pytest.raises(UserError, match=f"log.csv: expected the table of the run, .*{words}"):
        Trainer.resume(SETTINGS, copy / "fit")
    assert contents(copy) == before


def test_a_trajectory_of_other_atoms_is_refused(copy):
    """Species, masses and the first cell are taken from it; the checksum in the restart file knows them."""
    path = copy / "md/trajectory.traj"
    data = bytearray(path.read_bytes())
    numbers = read(copy / "start.xyz").numbers.astype(np.int64).tobytes()
    assert data.count(numbers) == 1
    place = data.index(numbers)
    for changed in (bytes(8), (7).to_bytes(8, "little")):
        data[place : place + 8] = changed
        path.write_bytes(data)
        before = contents(copy)
        with pytest.raises(UserError, match="trajectory.traj: frame 0: expected the atoms of .*restart.h5"):
            Simulation.resume(copy / "md")
        assert contents(copy) == before


def test_a_restart_whose_next_step_overflows(copy, capsys):
    edit(copy / "md/restart.h5", array("_p_eps", lambda x: 1e300))
    assert main(["md", "--resume", "-o", str(copy / "md"), "--length", "12"]) == 2
    text = capsys.readouterr().err
    assert "start.xyz: after step 10: expected finite numbers, found some out of range" in text


def test_a_trajectory_that_cannot_be_read(copy):
    path = copy / "md/trajectory.traj"
    data = bytearray(path.read_bytes())
    data[48:1200] = bytes(1152)
    path.write_bytes(data)
    with pytest.raises(UserError, match="trajectory.traj: frame 0: expected the run's, found what cannot"):
        Simulation.resume(copy / "md")


def test_a_model_that_could_not_be_read_is_not_written(tmp_path):
    model = Potential.create(["H", "O"], **MODEL)
    model.save(tmp_path / "model.h5")
    before = contents(tmp_path)
    model.params.flat[5] = np.nan
    with pytest.raises(UserError, match=r"model.h5: params/\S+: expected finite numbers, found NaN"):
        model.save(tmp_path / "model.h5")
    assert contents(tmp_path) == before


# ---------------------------------------------------------------- writing


def test_what_is_written_has_the_mode_of_the_umask_and_leaves_nothing_else(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.txt") as temporary:
            assert temporary.suffix == ".txt" and temporary.parent.parent == tmp_path
            assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_temporary_names_are_not_foreseen(tmp_path):
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
            names.add(temporary)
    assert len(names) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError, ValueError])
def test_what_fails_half_way_leaves_the_old_file(error, tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def half():
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            raise error("no")

    with pytest.raises(UserError if error is OSError else error):
        half()
    assert contents(tmp_path) == {str(tmp_path / "a.txt"): b"old"}


def test_a_folder_that_goes_away_is_told(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (  # noqa: PT012
        pytest.raises(UserError, match="run/a.txt: cannot be written: No such file"),
        replacing(folder / "a.txt") as temporary,
    ):
        temporary.write_text("x")
        shutil.rmtree(folder)


KILLED = """
import os, signal, sys
from eqpot.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.parent.name, flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_the_next_start_removes_what_killed_processes_left(copy):
    """And leaves what living ones are writing."""
    command = [sys.executable, "-c", KILLED, copy / "fit/model.h5"]
    living = subprocess.Popen([*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    kept = living.stdout.readline().strip()
    dead = subprocess.run([*command, "kill"], stdout=subprocess.PIPE, text=True).stdout.strip()
    with replacing(copy / "fit/own.txt") as own:
        own.write_text("x")
        ours = f".eqpot-{os.getpid()}-dead"  # of one that had the same number
        (copy / "fit" / ours).mkdir()
        assert (copy / "fit" / dead).is_dir()
        Trainer.resume(SETTINGS, copy / "fit")
        left = {path.name for path in (copy / "fit").glob(".eqpot-*")}
        assert left == {kept, own.parent.name}
    living.communicate("")


# ---------------------------------------------------------------- one process to a folder

HOLDER = """
import sys
from eqpot.runs import Hold
with Hold(sys.argv[1]):
    print(flush=True)
    sys.stdin.read()
"""


def held_elsewhere(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


@pytest.mark.parametrize(
    "line",
    [
        "fit toy.h5 -o fit",
        "fit toy.h5 -o fit --overwrite",
        "fit --resume -o fit",
        "md fit/model.h5 start.xyz -o md",
        "md fit/model.h5 start.xyz -o md --overwrite",
        "md --resume -o md",
    ],
)
def test_a_folder_in_use_is_left_alone(line, copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    folder = line.split("-o ")[1].split()[0]
    process = held_elsewhere(copy / folder)
    before = contents(copy)
    assert main(line.split()) == 2
    assert f"error: {folder}: in use by process {process.pid}; wait" in capsys.readouterr().err
    assert contents(copy) == before
    process.kill()  # the kernel gives the lock back
    process.wait()
    assert (copy / folder / LOCK).exists()
    with Hold(copy / folder) as hold:
        assert (copy / folder / LOCK).read_text() == str(os.getpid())
        hold.close()
    assert not (copy / folder / LOCK).exists()


def test_two_runs_of_one_process_on_one_folder(copy):
    first = Trainer.resume(SETTINGS, copy / "fit")
    with pytest.raises(UserError, match=f"fit: in use by process {os.getpid()};"):
        Trainer.resume(SETTINGS, copy / "fit")
    with pytest.raises(UserError, match=f"fit: in use by process {os.getpid()};"):
        Trainer.start(SETTINGS, copy / "toy.h5", copy / "fit", overwrite=True)
    first.run()
    Trainer.resume(SETTINGS, copy / "fit").run()
    Simulation.resume(copy / "md")
    second = Simulation.resume(copy / "md")  # nobody has the first any more
    second.run()
    third = Simulation.resume(copy / "md")
    assert third.finished and not (copy / "fit" / LOCK).exists()


def test_a_run_takes_no_folder_of_the_other_kind(copy, capsys):
    before = contents(copy)
    model, start = str(copy / "fit/model.h5"), str(copy / "start.xyz")
    for overwrite in ([], ["--overwrite"]):
        assert main(["md", model, start, "-o", str(copy / "fit"), *overwrite]) == 2
        assert (
            "fit: expected a folder for this run alone, found one of `eqpot fit`" in capsys.readouterr().err
        )
        assert main(["fit", str(copy / "toy.h5"), "-o", str(copy / "md"), *overwrite]) == 2
        assert "md: expected a folder for this run alone, found one of `eqpot md`" in capsys.readouterr().err
    assert contents(copy) == before


def test_a_run_holds_its_folder_until_it_ends(copy):
    class Look(Watch):
        seen = 0

        def epoch_done(self, trainer):
            with pytest.raises(UserError, match="in use by process"):
                Hold(trainer.folder).take()
            self.seen += 1

    longer, look = SETTINGS.replace({"train": {"max_epochs": 4}}), Look()
    Trainer.resume(longer, copy / "fit").run(look)
    assert look.seen == 2
    new = Trainer.start(longer, copy / "toy.h5", copy / "new")  # a folder that was not there
    with pytest.raises(UserError, match="new: in use by process"):
        Hold(copy / "new").take()
    new.run()
    assert not (copy / "new" / LOCK).exists()


def test_the_end_of_a_process_leaves_no_lock(copy):
    code = "import sys; from eqpot.runs import Hold; hold = Hold(sys.argv[1]).take()"
    subprocess.run([sys.executable, "-c", code, copy / "fit"], check=True)
    assert not (copy / "fit" / LOCK).exists()


def test_a_planted_link_is_not_followed(copy, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (copy / "fit" / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="fit: cannot be written"):
        Trainer.resume(SETTINGS, copy / "fit")
    assert (tmp_path / "victim").read_text() == "precious"


# ---------------------------------------------------------------- the version before


@pytest.fixture
def old(tmp_path):
    """Files that version 0.1 wrote before there were checksums, and what it computed from them."""
    return Path(shutil.copytree(OLD, tmp_path / "old")), json.loads((OLD / "expected.json").read_text())


def test_a_model_of_the_version_before(old):
    folder, expected = old
    atoms = read_dataset(folder / "toy.h5").atoms(0)
    result = Potential.load(folder / "fit/model.h5").evaluate(atoms)
    assert result.energy == pytest.approx(expected["energy"], rel=1e-12)
    np.testing.assert_allclose(result.forces, expected["forces"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(result.stress, expected["stress"], rtol=0, atol=1e-12)


def test_a_fit_of_the_version_before_goes_on(old, capsys):
    folder, expected = old
    run = folder / "fit"
    assert main(["fit", str(folder / "toy.h5"), "--resume", "-o", str(run), "--max-epochs", "6"]) == 0
    rows = np.genfromtxt(run / "log.csv", delimiter=",", names=True)
    wanted = expected["fit_resumed"]
    np.testing.assert_allclose(rows["valid_forces_rmse"], wanted["valid_forces_rmse"], rtol=1e-9)
    atoms = read_dataset(folder / "toy.h5").atoms(0)
    energy = Potential.load(run / "model.h5").evaluate(atoms).energy
    assert energy == pytest.approx(wanted["energy"], rel=1e-9)


def test_dynamics_of_the_version_before_go_on(old, capsys):
    folder, expected = old
    run = folder / "md"
    assert (
        main(["md", "--resume", "-o", str(run), str(folder / "fit/model.h5"), str(folder / "start.xyz")]) == 0
    )
    rows = (run / "thermo.csv").read_text().splitlines()
    assert len(rows) == len(expected["md_resumed"]["log"])
    for row, wanted in zip(rows[1:], expected["md_resumed"]["log"][1:], strict=True):
        found, wanted = ([float(x or "nan") for x in line.split(",")] for line in (row, wanted))
        np.testing.assert_allclose(found, wanted, rtol=1e-7)
    final = Simulation.resume(run, [folder / "fit/model.h5"]).atoms.positions
    np.testing.assert_allclose(final, expected["md_resumed"]["positions"], atol=1e-9)
