"""Small sound files, and the cases of `fuzz`: copies of them, one damaged, and a command that reads it."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import click
import numpy as np
from ase import Atoms
from mutations import (
    LEGAL,
    NUMBERS,
    WORDS,
    choose,
    damage_bytes,
    damage_file,
    damage_hdf5,
    damage_npy,
    damage_npz,
    write_bomb,
)
from toy import MODEL, toy_dataset

from eqpot import hdf5
from eqpot.cli import cli, main
from eqpot.config import Config
from eqpot.structures.data import write_dataset

SMALL = [f"--set=model.{key}={value}" for key, value in MODEL.items()]
SHORT = [*SMALL, "--set=train.batch_size=3", "--n-valid=2", "--set=train.ema=0.9"]
TUNE = ["--set=train.batch_size=3", "--n-valid=2", "--max-epochs=1"]
ENSEMBLES = {
    "npt": ["--ensemble=npt", "--thermostat-time=10", "--barostat-time=50"],
    "nhc": ["--thermostat-time=10"],
    "langevin": ["--thermostat=langevin", "--thermostat-time=10"],
}
LEARN = ["--export=frames", "--start=4", "--frames=8"]  # no process, no fit
DYNAMICS = ["--write-every=2", "--log-every=1", "--min-distance=0", "--temperature=50"]


# ------------------------------------------------------------ sound files


def prepare() -> None:
    """Write the files that are damaged later to the present folder, in a process of its own."""
    from eqpot.training.trainer import Trainer

    Trainer.elapsed = lambda self: 1.0  # the same bytes at every start
    data = toy_dataset(8)
    data.attrs["level_of_theory"] = "Lennard-Jones"
    data.weight = np.linspace(0.5, 2, 8)
    write_dataset("data.h5", data)
    shutil.copy("data.h5", "toy.h5")
    _must(["fit", "toy.h5", "-o", "run", "--max-epochs=1", *SHORT])
    shutil.copy("run/model.h5", "model.h5")
    frames = [data.atoms(k) for k in range(len(data))]
    ase.io.write("frames.extxyz", frames, format="extxyz")
    ase.io.write("one.extxyz", frames[0], format="extxyz")
    ase.io.write("cluster.xyz", Atoms("H2O2", frames[0].positions), format="xyz")
    for name, options in ENSEMBLES.items():
        _must(["md", "model.h5", "one.extxyz", "-o", name, "--length=4", *DYNAMICS, *options])
    shutil.copytree("npt", "longer")
    _must(["md", "--resume", "-o", "longer", "--length=24"])
    shutil.copy("longer/trajectory.traj", "frames.traj")
    shutil.rmtree("longer")
    shape = (len(data), 4)
    positions, forces = data.positions.reshape(*shape, 3), data.forces.reshape(*shape, 3)
    numbers = data.numbers[:4].astype(np.int64)
    np.savez("md17.npz", R=positions, z=numbers, E=data.energy, F=forces, e_unit="kcal/mol", r_unit="Ang")
    named = {
        "pos": positions,
        "atomic_numbers": numbers,
        "cell": data.cell,
        "pbc": data.pbc,
        "forces": forces,
    }
    np.savez("named.npz", **named, energy=data.energy, stress=data.stress)
    write_bomb(Path("bomb.npz"), 5)
    system = Path("deepmd/set.000")
    system.mkdir(parents=True)
    (system.parent / "type.raw").write_text("0 0 1 1\n")
    (system.parent / "type_map.raw").write_text("H O\n")
    flat = {"coord": positions, "force": forces, "box": data.cell, "virial": data.stress}
    for name, array in flat.items():
        np.save(system / f"{name}.npy", array.reshape(len(data), -1))
    np.save(system / "energy.npy", data.energy)
    settings = Config.from_dict({"model": MODEL, "train": {"n_valid": 2, "max_epochs": 1, "batch_size": 3}})
    Path("settings.toml").write_text(settings.to_toml())


def warm_up() -> None:
    """Kernels of settings that differ are compiled here, where there is time."""
    variants = [
        *("l_max=0", "symmetry='so3'", "nonlinearity='norm'", "self_connection='residual'", "zbl=true"),
        *("filter_order=1", "filter_order=3", "node_products=false", "parity='both'"),
    ]
    for k, variant in enumerate(variants):
        for dtype in ("float32", "float64"):
            options = [*SHORT, f"--set=model.{variant}", f"--set=train.dtype={dtype}"]
            _must(["fit", "toy.h5", "-o", f"warm{k}", "--max-epochs=1", "--overwrite", *options])
        _must(["inspect", f"warm{k}/model.h5", "data.h5", "--text"])
        shutil.rmtree(f"warm{k}")


def _must(arguments: list[str]) -> None:
    sys.argv = ["eqpot", *arguments]
    if main(arguments):
        sys.exit(f"eqpot {shlex.join(arguments)}: failed on sound files")


# ------------------------------------------------------------ cases


@dataclass
class Case:
    """A command in a folder, the file that is damaged, and what of it is a failure where it is accepted."""

    arguments: list[str]
    damaged: str = ""
    said: str = ""
    own: bool = False  # one of eqpot's files, with numbers that must not change
    legal: bool | None = LEGAL  # None: damaged bytes, legal if no number changes
    results: tuple[str, ...] = ("",)  # beginnings of the names of outputs whose numbers are compared
    resumed: str = ""  # run folder that is an input and an output
    files: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        words = [word for word in self.arguments if not word.startswith("-")]
        return (
            " ".join(words[:2]) if words[:1] in (["data"], ["analyze"], ["lammps"]) else " ".join(words[:1])
        )


READ_DATA = [
    *[["data", "info", "{}"]] * 5,
    *[["data", "convert", "{}", "out.h5"]] * 3,
    *[["data", "split", "{}", "--train=2", "--valid=1", "--test=1", "-o", "part"]] * 3,
    *[["eval", "model.h5", "{}", "--json=errors.json"]] * 2,
    ["fit", "{}", "-o", "new", "--max-epochs=1", *SHORT],
    ["fit", "toy.h5", "--valid={}", "-o", "new", "--max-epochs=1", *SHORT],
    ["fit", "{}", "--from=model.h5", "-o", "new", *TUNE],
    ["fit", "toy.h5", "--from=model.h5", "--replay={}", "-o", "new", *TUNE],
    ["learning-curve", "{}", "--frames=2,4", "-o", "new", "--max-epochs=1", *SHORT],
    ["learn", "one.extxyz", "--from={}", "-o", "new", *LEARN],
    ["predict", "model.h5", "{}", "-o", "out.extxyz"],
    ["predict", "model.h5", "{}", "--against", "-o", "out.extxyz"],
    ["relax", "model.h5", "{}", "--fmax=9"],
    ["md", "model.h5", "{}", "-o", "new", "--length=2", *DYNAMICS],
    ["inspect", "model.h5", "{}", "--text"],
    ["explain", "model.h5", "{}"],
    ["analyze", "rdf", "{}", "--r-max=3"],
    ["analyze", "msd", "{}", "--frame-time=1", "--blocks=1"],
]
READ_MODEL = [
    *[["info", "{}"]] * 4,
    *[["eval", "{}", "data.h5", "--json=errors.json"]] * 3,
    ["fit", "toy.h5", "--from={}", "--freeze=radial", "-o", "new", *TUNE],
    ["learn", "one.extxyz", "--from={}", "-o", "new", *LEARN],
    ["predict", "{}", "one.extxyz", "-o", "out.extxyz"],
    ["predict", "model.h5", "{}", "one.extxyz", "-o", "out.extxyz"],
    ["relax", "{}", "one.extxyz", "--fmax=9"],
    ["md", "{}", "one.extxyz", "-o", "new", "--length=2", *DYNAMICS],
    ["inspect", "{}", "one.extxyz", "--text"],
    ["explain", "{}", "one.extxyz"],
    ["lammps", "input", "{}", "one.extxyz", "-o", "out"],
    ["check", "{}", "one.extxyz"],
]
READ_STRUCTURE = [
    ["learn", "{}", "-o", "new", *LEARN],
    ["relax", "model.h5", "{}", "--fmax=9"],
    ["predict", "model.h5", "{}", "--against", "-o", "out.extxyz"],
    ["relax", "model.h5", "{}", "--fmax=9", "--cell", "--index=0"],
    ["relax", "model.h5", "{}", "toy.h5", "--fmax=9", "--index=:"],
    ["md", "model.h5", "{}", "-o", "new", "--length=2", *DYNAMICS],
    ["inspect", "model.h5", "{}", "--text"],
    ["explain", "model.h5", "{}"],
    ["lammps", "input", "model.h5", "{}", "-o", "out"],
    ["check", "model.h5", "{}"],
    *[["analyze", "rdf", "{}", "--r-max=3"]] * 3,
    *[["analyze", "adf", "{}", "--triple=H-O-H", "--cutoff=3"]] * 2,
    *[["analyze", "msd", "{}", "--frame-time=1", "--blocks=1"]] * 3,
    *[["data", "convert", "{}", "out.h5"]] * 8,
    ["fit", "{}", "-o", "new", "--max-epochs=1", *SHORT],
    ["fit", "toy.h5", "--valid={}", "-o", "new", "--max-epochs=1", *SHORT],
    ["eval", "model.h5", "{}", "--json=errors.json"],
]


def _command(random, templates: list[list[str]], name: str) -> list[str]:
    return [word.replace("{}", name) for word in choose(random, templates)]


def data_set(random, folder: Path) -> Case:
    case = Case(_command(random, READ_DATA, "data.h5"), "data.h5", own=True)
    take(folder, case, "data.h5", "toy.h5", "model.h5")
    return _damage_own(random, folder, case, ("energy", "forces", "stress", "weight", "group"))


def model(random, folder: Path) -> Case:
    case = Case(_command(random, READ_MODEL, "model.h5"), "model.h5", own=True)
    take(folder, case, "model.h5", "data.h5", "toy.h5", "one.extxyz")
    return _damage_own(random, folder, case)


def checkpoint(random, folder: Path) -> Case:
    show = ["--show-config"] if random.random() < 0.05 else []
    case = Case(["fit", "--resume", "-o", "run", "--max-epochs=2", *show], own=True, resumed="run")
    take(folder, case, "run")
    if random.random() < 0.85:
        case.damaged = "run/checkpoint.h5"
        _damage_own(random, folder, case)
        if show and "_frames" in case.said:  # how many there are is not asked
            case.legal = case.legal or LEGAL
        return case
    return _damage_beside(random, folder, case, ("model.h5", "log.csv", "config.toml", "learning_curve.png"))


def restart(random, folder: Path) -> Case:
    run = choose(random, list(ENSEMBLES))
    case = Case(["md", "--resume", "-o", run, "--length=8"], own=True, resumed=run)
    take(folder, case, run, "model.h5", "one.extxyz")
    if random.random() < 0.8:
        case.damaged = f"{run}/restart.h5"
        return _damage_own(random, folder, case)
    return _damage_beside(random, folder, case, ("trajectory.traj", "trajectory.traj", "thermo.csv"))


def trajectory(random, folder: Path) -> Case:
    return _foreign(random, folder, choose(random, ("frames.traj", "frames.traj", "frames.extxyz")))


def xyz(random, folder: Path) -> Case:
    return _foreign(random, folder, choose(random, ("frames.extxyz", "one.extxyz", "cluster.xyz")))


def _foreign(random, folder: Path, name: str) -> Case:
    case = Case(_command(random, READ_STRUCTURE, name), name)
    take(folder, case, name, "model.h5", "toy.h5")
    case.said = damage_file(random, folder / name, text=name.endswith("xyz"))
    return case


def npz(random, folder: Path) -> Case:
    name = choose(random, ("md17.npz", "named.npz"))
    more = choose(
        random, ([], [], ["--energy-key=energy"], ["--allow-missing=energy"], ["--virial-key=stress"])
    )
    case = Case(["data", "convert", name, "out.h5", *more], name)
    if random.random() < 0.2:
        case.arguments = ["fit", name, "-o", "new", "--max-epochs=1", *more, *SHORT]
    take(folder, case, name)
    case.said = damage_npz(random, folder / name, folder.parent / "sound/bomb.npz")
    return case


def deepmd(random, folder: Path) -> Case:
    case = Case(["data", "convert", "deepmd", "out.h5"], "deepmd")
    take(folder, case, "deepmd")
    path = choose(random, sorted(p for p in (folder / "deepmd").rglob("*") if p.is_file()))
    case.damaged = str(path.relative_to(folder))
    act = random.random()
    if act < 0.1:
        path.unlink()
        said, make = choose(
            random,
            (
                ("lost", None),
                ("a folder", os.mkdir),
                ("a FIFO", os.mkfifo),
                ("a link to itself", lambda p: os.symlink(p, p)),
            ),
        )
        if make:
            make(path)
        case.said = f"{path.name}: {said}"
    elif path.suffix == ".npy" and act < 0.8:
        data, said = damage_npy(random, np.load(path))
        path.write_bytes(data)
        case.said = f"{path.name}: {said}"
    else:
        case.said = damage_file(random, path, text=path.suffix == ".raw")
    return case


def toml(random, folder: Path) -> Case:
    case = Case(["fit", "toy.h5", "-o", "new", "--config=settings.toml"], "settings.toml")
    if random.random() < 0.7:
        case.arguments.append("--show-config")
    take(folder, case, "toy.h5", "settings.toml")
    path = folder / "settings.toml"
    act = int(random.integers(12))
    if act == 0:
        nested = choose(
            random, ("a = " + "[" * 3000 + "]" * 3000, "[" + "a." * 3000 + "b]\n", "x = " + "{a=" * 3000)
        )
        path.write_text(nested)
        case.said = "nested 3000 times"
    elif act == 1:
        path.unlink()
        os.mkfifo(path)
        case.said = "a FIFO"
    elif act == 2:
        case.arguments[4] = (
            f"--config={choose(random, ('/dev/zero', '/dev/null', '/dev/full', '.', '', 'none'))}"
        )
    elif act < 7:
        key, value = _setting(random)
        table = key.split(".")[0]
        case.said = f"{key} = {value[:30]}"
        path.write_text(f"[{table}]\n{key.split('.')[-1]} = {value}\n")
        case.arguments += SMALL if random.random() < 0.3 else []
    else:
        case.said = damage_file(random, path, text=True)
    return case


SETTINGS = """true 'x' [] [1] {} {H=1} {H=nan} {H=3.5,O=1e300} 1979-05-27 10000000000 100000 65536 0.0
'1e9h' '-1s' '45m' 'inf' "\\u001b[31m" 999999999999999999999999999999"""


def _setting(random) -> tuple[str, str]:
    tables = Config().to_dict()
    table = choose(random, list(tables))
    key = choose(random, list(tables[table]))
    values = (*NUMBERS, *SETTINGS.split())
    return f"{table}.{key}", choose(random, values)


def options(random, folder: Path) -> Case:
    """Options that a command has, with values of all kinds; now and then arguments that are no files."""
    templates = READ_DATA + READ_MODEL + READ_STRUCTURE
    templates += [
        ["fit", "--resume", "-o", "run", "--max-epochs=2"],
        ["md", "--resume", "-o", "nhc", "--length=6"],
    ] * 2
    templates += [
        ["data", "recipes", "{}"],
        ["data", "convert", "named.npz", "md17.npz", "deepmd", "out.h5"],
    ] * 2
    name = choose(random, ("data.h5", "model.h5", "frames.traj", "frames.extxyz", "one.extxyz"))
    case = Case(_command(random, templates, name))
    arguments = case.arguments
    command = cli
    for word in arguments:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(None, word)
    named = [p for p in command.params if isinstance(p, click.Option)]
    for _ in range(int(random.integers(0, 4)) if named else 0):
        option = choose(random, named)
        word = choose(random, option.opts)
        if option.is_flag:
            arguments.append(word)
        elif option.name == "overrides":
            arguments.append("--set=" + choose(random, (" = ", "=")).join(_setting(random)))
        else:
            arguments += [word, _value(random, option)]
    for _ in range(int(random.integers(0, 3)) if random.random() < 0.6 else 0):
        k = int(random.integers(len(arguments)))
        act = int(random.integers(5))
        if act == 0:
            del arguments[k]
        elif act == 1:
            arguments.insert(k, choose(random, ("--zzz", "-x", "--", *PATHS.split(), *ODD_PATHS)))
        elif act == 2:
            arguments[k] = choose(random, [*PATHS.split(), *ODD_PATHS])
        elif act == 3 and "=" in arguments[k]:
            arguments[k] = (
                arguments[k].split("=")[0] + "=" + choose(random, NUMBERS + WORDS).replace("\0", "")
            )
        elif act == 4:
            arguments.insert(k, arguments[k])
        if not arguments:
            break
    case.arguments = [word.replace("\0", "") for word in arguments]
    take(folder, case, *EVERYTHING.split())
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "empty").write_bytes(b"")
    os.symlink("nowhere/at/all", folder / "dangling")
    case.resumed = "."
    return case


EVERYTHING = """data.h5 toy.h5 model.h5 frames.traj frames.extxyz one.extxyz named.npz md17.npz deepmd
settings.toml run nhc"""
# None is absolute or above: what an option names as an output stays in the folder.
PATHS = """. folder folder/new empty fifo dangling none none/at/all data.h5 model.h5 frames.traj frames.extxyz
one.extxyz named.npz settings.toml deepmd new.extxyz new.json new.png new.xyz@1 data.h5/x q[/b].h5 ü.h5
\x1b[31m.h5 \udcff.h5 -"""
ODD_PATHS = ["", " ", "a\nb.h5", "a" * 300]
TEXTS = """H-O H-O-H H- H-Xx H,O 1:3 ::2 -2: 0:0:0 0.5:1 3 1ps 5fs 1e9h 2,1 50% eV nm Bohr kbar energy
forces"""


def _value(random, option: click.Option) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return str(choose(random, (*kind.choices, "x", "", kind.choices[0].upper())))
    if random.random() < 0.3:
        return choose(random, WORDS).replace("\0", "")
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return choose(random, (*NUMBERS, "2", "7", "0.5", "100"))
    return choose(random, (*NUMBERS, *PATHS.split(), *ODD_PATHS, *TEXTS.split()))


def take(folder: Path, case: Case, *names: str) -> None:
    case.files += names
    for name in names:
        source = folder.parent / "sound" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)


def _damage_own(random, folder: Path, case: Case, optional=()) -> Case:
    path, act = folder / case.damaged, random.random()
    if act < 0.4:
        data, case.legal = path.read_bytes(), None
        if act < 0.15:  # as files of before are, whose damage may pass for other numbers
            data, case.legal = data[hdf5.BLOCK :], LEGAL
        changed, said = damage_bytes(random, data)
        path.write_bytes(changed)
        case.said = f"{path.name}{'' if case.legal is None else ', no checksum'}: {said}"
    else:
        case.said, case.legal = damage_hdf5(random, path, optional)
    return case


def _damage_beside(random, folder: Path, case: Case, names: tuple[str, ...]) -> Case:
    """A file of the run folder from which no number of the run may follow."""
    path = folder / case.resumed / choose(random, [n for n in names if (folder / case.resumed / n).exists()])
    case.damaged, case.results = f"{case.resumed}/{path.name}", ("checkpoint.h5", "restart.h5", "model.h5")
    case.said, case.legal = damage_file(random, path, text=path.suffix in (".csv", ".toml")), None
    return case


KINDS: dict[str, tuple[Callable, int]] = {
    "data set": (data_set, 16),
    "model": (model, 14),
    "checkpoint": (checkpoint, 12),
    "restart": (restart, 12),
    "trajectory": (trajectory, 8),
    "npz": (npz, 9),
    "xyz": (xyz, 10),
    "DeePMD": (deepmd, 6),
    "TOML": (toml, 6),
    "options": (options, 10),
}


def kind_of(seed: int, number: int, only: str) -> str:
    weights = np.array([weight for _, weight in KINDS.values()], float)
    return only or str(
        np.random.default_rng([seed, number, 0]).choice(list(KINDS), p=weights / weights.sum())
    )
