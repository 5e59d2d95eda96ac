"""eqpot against NequIP on the same machine: force calls and training steps.

    python bench/against_nequip.py                              # parity off, all cores, three rounds
    python bench/against_nequip.py --symmetry o3 --threads 1    # parity on; the JSON file keeps both
    python bench/against_nequip.py --only acac_15 training --rounds 1
    python bench/against_nequip.py --l-max 2                    # eqpot's second order against NequIP's
    python bench/against_nequip.py --l-max 2 --eqpot-blocks 2   # eqpot's own depth against NequIP's six
    python bench/against_nequip.py --device cuda                # on a GPU; a JSON file for each card

NequIP is installed from PyPI into bench/runs/nequip-env at the first run, with the torch that pip finds; if
that is a CUDA build of gigabytes, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. On a GPU that
build is wanted, in bench/runs/nequip-env-cuda, with OpenEquivariance and a neighbour list for GPUs, NVIDIA's
ALCHEMI toolkit, where pip can install them. --nequip-python PATH takes an interpreter that has NequIP.

Both potentials have the same hyperparameters (SETTINGS), random or hardly trained weights, float32, the same
structures and the same number of threads. What differs: without parity, NequIP keeps polar vectors only and
so leaves out the path 1x1 -> 1, which eqpot's "so3" has; with parity, both have all paths in 32 even and 32
odd channels. NequIP makes its neighbour list (matscipy, its default) in each call, eqpot's calculator only
after an atom has moved by half its skin. NequIP's compiled model gives the stress with every call. And where
eqpot's self-connection has a matrix for each element, NequIP's has one for each component of its embedding of
the elements, by default as many as features: 3.6 million weights against 0.4 million. `--type-embed 3` makes
the two alike (and NequIP's first block narrower: three channels go into it). At `--l-max 2` the networks are
two: NequIP has features up to order 2, eqpot scalars and vectors, filters of order 2 and products on atoms,
of which its default has two blocks where these settings have six.

Force call: `get_forces` through each package's ASE calculator, all atoms moved a little before each call.
NequIP is compiled by `nequip-compile --mode aotinductor --target ase`, anew for each structure, which is also
the example that the compiler sees.

Training step: acetylacetone, 5 frames, energy and force loss, moving average of the weights; NequIP with
`compile_mode: compile`. Each package's own training loop runs some epochs and notes when each step ended; a
step's time is the difference to the one before in the same epoch, which counts loading and collating the next
batch, but neither validation nor files. The first epoch is left out.

On a GPU NequIP is measured twice, without and with OpenEquivariance (its modifier `enable_OpenEquivariance`),
if that can be imported, both without TF32, NequIP's own default. Its neighbours are found on the GPU where
the ALCHEMI toolkit is installed, else by matscipy, as the JSON file says. All boxes of water share a compiled
model, whose example has 1536 atoms. The host may run ahead of the GPU within an epoch, so a step's time is
that of an epoch, from the end of its first step to that of its last, over their number. A package that fails
at one size, out of memory for instance, has its error in the JSON file, and the run goes on.

The packages take turns, one process for each measurement, over several rounds; in training, which NequIP
compiles for some ten minutes each time, over one round by default, with eqpot before and after NequIP.
Reported: medians over all rounds, NequIP's over eqpot's, and the first call or step, which holds what is
compiled or loaded then. The time of `nequip-compile` is in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median

from recording import check_device, command_line, results_path
from rich.console import Console
from rich.table import Table
from workloads import HERE, acac, need

from eqpot.benchmark import cores

RUNS = HERE / "runs"
VENVS = {"cpu": RUNS / "nequip-env", "cuda": RUNS / "nequip-env-cuda"}
PACKAGES = ("torch==2.13.0", "nequip==0.19.1")
FOR_GPU = ("openequivariance", "nvalchemi-toolkit-ops[torch]")
MODIFIER = "enable_OpenEquivariance"
TITLES = {"eqpot": "eqpot", "nequip": "NequIP", "openequivariance": "NequIP with OpenEquivariance"}
RATIOS = {"nequip": "ratio", "openequivariance": "ratio_openequivariance"}

SPECIES = ["H", "C", "O"]  # of every model here, water's too
SETTINGS = {
    "features": 64,
    "blocks": 6,
    "cutoff": 4.0,
    "basis_size": 8,
    "radial_depth": 1,
    "radial_width": 8,
}
NETWORKS = {  # of eqpot, by NequIP's l_max
    1: {"parity": "both", "filter_order": 1, "node_products": False},
    2: {"parity": "both", "filter_order": 2, "node_products": True},
}
MEASUREMENTS = {"cpu": ("acac_15", "water_192", "water_1536", "training")}
MEASUREMENTS["cuda"] = (*MEASUREMENTS["cpu"], "water_12288", "water_98304")
FRAMES, VALIDATION, BATCH = 450, 50, 5
TOLERANCE = 2e-5  # float32 forces against the float64 reference, relative to the largest


def nequip_config(
    l_max: int, parity: bool, type_embed: int | None, out: Path, mode: str, epochs: int, steps: int | None
) -> dict:
    """Configuration of nequip-train, which writes best.ckpt and steps.json into `out`.

    type_embed: width of the embedding, None: NequIP's default; mode: "compile" or "eager"; steps: of training
    and of validation in an epoch, None: all there are.
    """
    metric = "val0_epoch/weighted_sum"
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": BATCH}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 0,
            "split_dataset": {"file_path": str(acac()), "train": FRAMES, "val": VALIDATION},
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": SPECIES,
                },
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": SETTINGS["cutoff"]},
            ],
            "train_dataloader": {**loader, "shuffle": True},
            "val_dataloader": loader,
            "stats_manager": {
                "_target_": "nequip.data.CommonDataStatisticsManager",
                "type_names": SPECIES,
                "dataloader_kwargs": {"batch_size": 10},
            },
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": epochs,
            "limit_train_batches": steps,
            "limit_val_batches": steps,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": str(out),
                    "filename": "best",
                    "monitor": metric,
                    "enable_version_counter": False,
                },
                {"_target_": "nequip_worker.StepTimes", "path": str(out / "steps.json")},
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.999,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": {
                "_target_": "nequip.train.EnergyForceMetrics",
                "coeffs": {"per_atom_energy_rmse": 1.0, "forces_rmse": 1.0},
            },
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": {
                "_target_": "nequip.model.NequIPGNNModel",
                "compile_mode": mode,
                "seed": 0,
                "model_dtype": "float32",
                "type_names": SPECIES,
                "r_max": SETTINGS["cutoff"],
                "num_layers": SETTINGS["blocks"],
                "l_max": l_max,
                "parity": parity,
                "num_features": SETTINGS["features"] // (2 if parity else 1),
                "type_embed_num_features": type_embed,
                "num_bessels": SETTINGS["basis_size"],
                "bessel_trainable": True,
                "polynomial_cutoff_p": 6,
                "radial_mlp_depth": SETTINGS["radial_depth"],
                "radial_mlp_width": SETTINGS["radial_width"],
                "readout_mlp_hidden_layers_depth": 1,
                "readout_mlp_hidden_layers_width": SETTINGS["features"] // 2,
                "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
                "per_type_energy_scales": "${training_data_stats:per_type_forces_rms}",
                "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
            },
        },
    }


class Failed(SystemExit):
    """A command that ended with an error: ends the run unless it is caught."""

    def __init__(self, command: list[str], output: str, status: int):
        super().__init__(f"{shlex.join(command)}\n{output}")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        self.reason = (errors or lines or [f"exit status {status}"])[-1][:300]


class Bench:
    """The measurements at one symmetry ("so3" or "o3"), order, number of threads and width of NequIP's
    embedding, on the CPU or on a GPU."""

    def __init__(self, symmetry: str, options: argparse.Namespace, python: Path):
        self.symmetry, self.type_embed, self.device = symmetry, options.type_embed, options.device
        self.l_max = options.l_max
        self.seconds, self.epochs, self.python = options.seconds, options.epochs, python
        where = f"{options.threads} threads" if self.device == "cpu" else "cuda"
        self.key = f"{symmetry}, {where}" + (f", type embedding {self.type_embed}" if self.type_embed else "")
        self.key += f", l_max {self.l_max}" if self.l_max > 1 else ""
        self.folder = RUNS / "nequip" / self.key.replace(", ", "_").replace(" ", "_")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.blocks = options.eqpot_blocks
        self.key += f", {self.blocks} blocks of eqpot" if self.blocks != SETTINGS["blocks"] else ""
        names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
        self.environment = os.environ | {f"{name}_NUM_THREADS": str(options.threads) for name in names}
        folders = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment["PYTHONPATH"] = os.pathsep.join(folders)
        self.environment["TORCHINDUCTOR_CACHE_DIR"] = str(RUNS / "nequip" / "inductor")
        self.uncompiled: dict[Path, Failed] = {}
        self.nequip = self.worker("about")
        if self.device == "cuda" and not self.nequip["cuda"]:
            sys.exit(f"error: {python}: expected a torch that sees the GPU, found {self.nequip['packages']}")

    @property
    def settings(self) -> dict:
        return {**SETTINGS, **NETWORKS[self.l_max], "symmetry": self.symmetry, "blocks": self.blocks}

    @property
    def variants(self) -> list[str]:
        """NequIP, and NequIP with the kernels of OpenEquivariance."""
        extra = self.device == "cuda" and self.nequip["openequivariance"]
        return ["nequip", "openequivariance"] if extra else ["nequip"]

    def run(self, *command: object) -> None:
        """Run a command to its end; what it printed is shown only if it fails."""
        command = [str(part) for part in command]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise Failed(command, done.stdout.decode(errors="replace"), done.returncode)

    def measured(self, file: Path, *command: object) -> dict:
        """What a command wrote to a JSON file."""
        self.run(*command)
        return json.loads(file.read_text())

    def eqpot(self, *arguments: object) -> dict:
        out = self.folder / "eqpot.json"
        return self.measured(out, sys.executable, HERE / "eqpot_worker.py", *arguments, out)

    def worker(self, *arguments: object) -> dict:
        """What NequIP's interpreter finds."""
        out = self.folder / "nequip.json"
        return self.measured(out, self.python, HERE / "nequip_worker.py", *arguments, out)

    def check(self) -> dict:
        """Relative error of eqpot's float32 forces, which ends the run if it is too large; the machine."""
        found = self.eqpot("check", json.dumps(self.settings), self.device)
        if not found["force_error"] <= TOLERANCE:
            sys.exit(
                f"forces of 15 atoms: expected a relative error below {TOLERANCE:g}, "
                f"found {found['force_error']:g}"
            )
        return found

    def in_turn(self, turns: Iterable[tuple[str, Callable[[], dict]]]) -> dict:
        """Let the packages measure one after the other; the rounds of each, compared.

        On a GPU a package that fails, out of memory for instance, has its error in place of its times, and
        the others go on.
        """
        rounds, failed = {}, {}
        for package, measure in turns:
            if package in failed:
                continue
            try:
                rounds.setdefault(package, []).append(measure())
            except Failed as e:
                if self.device == "cpu":
                    raise
                failed[package] = {"failed": e.reason}
                (self.folder / f"{package}.failed").write_text(str(e))
        return compared({p: combined(found) for p, found in rounds.items() if p not in failed} | failed)

    # ---- force calls

    def force_calls(self, name: str, rounds: int) -> dict:
        turns = [("eqpot", partial(self.eqpot_calls, name))]
        turns += [(variant, partial(self.nequip_calls, variant, name)) for variant in self.variants]
        return self.in_turn(turns * rounds)

    def eqpot_calls(self, name: str) -> dict:
        return self.eqpot("calls", name, json.dumps(self.settings), self.device, self.seconds)

    def nequip_calls(self, variant: str, name: str) -> dict:
        model = self.compiled(variant, name)
        compiling = {"compile_seconds": float(model.with_suffix(".seconds").read_text())}
        return self.worker("calls", name, model, self.device, self.seconds) | compiling

    def compiled(self, variant: str, name: str) -> Path:
        """NequIP's model, compiled unless it was before; beside it the seconds that took."""
        if self.device == "cuda" and name.startswith("water"):
            name = "water_1536"
        suffix = "" if variant == "nequip" else f".{variant}"
        model, example = self.folder / f"{name}{suffix}.nequip.pt2", self.folder / f"{name}.pth"
        checkpoint, seconds = self.folder / "untrained" / "best.ckpt", model.with_suffix(".seconds")
        if seconds.exists():
            return model
        if model in self.uncompiled:
            raise self.uncompiled[model]
        if not checkpoint.exists():
            self.nequip_train("nequip", "untrained", "eager", epochs=1, steps=1)
        worker = HERE / "nequip_worker.py"
        self.run(self.python, worker, "example", name, SETTINGS["cutoff"], ",".join(SPECIES), example)
        options = ["--mode", "aotinductor", "--device", self.device, "--target", "ase", "--no-tf32"]
        options += ["--data-path", example]
        options += ["--modifiers", MODIFIER] if variant == "openequivariance" else []
        began = time.perf_counter()
        try:
            self.run(self.python, "-m", "nequip.scripts.compile", checkpoint, model, *options)
        except Failed as e:
            self.uncompiled[model] = e
            raise
        seconds.write_text(f"{time.perf_counter() - began:.0f}")
        return model

    # ---- training steps

    def training(self, rounds: int) -> dict:
        eqpot = ("eqpot", self.eqpot_steps)
        turns = [(variant, partial(self.nequip_steps, variant)) for variant in self.variants]
        return self.in_turn([eqpot, *[*turns, eqpot] * rounds])

    def eqpot_steps(self) -> dict:
        data = RUNS / "nequip" / "acac.h5"
        if not data.exists():
            self.run(sys.executable, "-m", "eqpot", "data", "convert", acac(), data)
        train = {"batch_size": BATCH, "n_train": FRAMES, "n_valid": VALIDATION, "max_epochs": self.epochs}
        train["optimizer"] = "adam"  # as NequIP's
        config = json.dumps({"model": self.settings, "train": train})
        return self.step_times(self.eqpot("steps", data, config, self.folder / "eqpot", self.device))

    def nequip_steps(self, variant: str) -> dict:
        folder = "trained" if variant == "nequip" else f"trained_{variant}"
        return self.step_times(self.nequip_train(variant, folder, "compile", self.epochs))

    def nequip_train(
        self, variant: str, folder: str, mode: str, epochs: int, steps: int | None = None
    ) -> dict:
        """Run nequip-train; when its steps ended."""
        out = self.folder / folder
        out.mkdir(exist_ok=True)
        parity = self.symmetry == "o3"
        config = nequip_config(self.l_max, parity, self.type_embed, out, mode, epochs, steps)
        if self.device == "cuda":
            config["trainer"] |= {"accelerator": "gpu", "devices": 1}
        if variant == "openequivariance":
            module = config["training_module"]
            modified = {"_target_": "nequip.model.modify", "modifiers": [{"modifier": MODIFIER}]}
            module["model"] = modified | {"model": module["model"]}
        (out / "config.yaml").write_text(json.dumps(config, indent=2))  # JSON is YAML
        hydra = ("-cp", out, "-cn", "config", f"hydra.run.dir={out / 'hydra'}")
        return self.measured(out / "steps.json", self.python, "-m", "nequip.scripts.train", *hydra)

    def step_times(self, measured: dict) -> dict:
        """Seconds of the first step, and of the steps after the first epoch; see the module's docstring."""
        ends = measured["ends"]
        if self.device == "cuda":
            epochs = [[t for epoch, t in ends if epoch == k] for k in range(1, self.epochs)]
            times = [(epoch[-1] - epoch[0]) / (len(epoch) - 1) for epoch in epochs]
        else:
            pairs = zip(ends[:-1], ends[1:], strict=True)
            times = [b[1] - a[1] for a, b in pairs if a[0] == b[0] > 0]
        first = ends[0][1] - measured["started"]
        return {"first": first, "times": times, "parameters": measured["parameters"]}


def install_nequip(device: str) -> Path:
    """NequIP's environment, made unless it is there; its interpreter."""
    folder = VENVS[device]
    python = folder / "bin" / "python"
    if not (folder / "bin" / "nequip-compile").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for package in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
        for package in FOR_GPU if device == "cuda" else ():  # goes on without what cannot be built here
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=False)
    return python


def compared(packages: dict[str, dict]) -> dict:
    """What was found for each package, and the times of NequIP, with and without extras, over eqpot's."""
    seconds = {package: found["seconds"] for package, found in packages.items() if "seconds" in found}
    ours = seconds.pop("eqpot", None)
    return packages | {RATIOS[package]: theirs / ours for package, theirs in seconds.items() if ours}


def combined(rounds: list[dict]) -> dict:
    """Median over the calls of all rounds, the median of each round, and the rest of the last round."""
    last = {key: value for key, value in rounds[-1].items() if key not in ("first", "times")}
    return {
        "seconds": median(t for r in rounds for t in r["times"]),
        "rounds": [median(r["times"]) for r in rounds],
        "count": sum(len(r["times"]) for r in rounds),
        "first_seconds": median(r["first"] for r in rounds),
        **last,
    }


def table(title: str, results: dict) -> Table:
    """A row for each measurement and package; MB are the peak memory of the whole process, or on the GPU."""
    found = Table(title=title, title_justify="left")
    found.add_column("")
    found.add_column("")
    for heading in ("ms", "over eqpot's", "first, s", "MB"):
        found.add_column(heading, justify="right")
    for name, row in results.items():
        for package, called in TITLES.items():
            r = row.get(package)
            if r is None:
                continue
            if "failed" in r:
                found.add_row(name, called, "failed", "", "", "")
                continue
            ratio = row.get(RATIOS.get(package))
            found.add_row(
                *(name, called, f"{1000 * r['seconds']:.1f}", f"{ratio:.2f}" if ratio else ""),
                *(f"{r['first_seconds']:.1f}", f"{r['peak_memory'] / 1e6:.0f}" if "peak_memory" in r else ""),
            )
    return found


def write_results(path: Path, key: str, about: dict, name: str, row: dict) -> None:
    """Add a measurement to the JSON file, with what it was made on and how."""
    path.parent.mkdir(exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else {}
    found[key] = {**found.get(key, {}), name: {**row, **about}}
    path.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of both packages")
    parser.add_argument("--symmetry", choices=("so3", "o3"), nargs="+", default=["so3"], help="o3: parity on")
    parser.add_argument("--l-max", type=int, choices=NETWORKS, default=1, help="of NequIP; 2: see above")
    parser.add_argument("--eqpot-blocks", type=int, default=SETTINGS["blocks"], help="default: as NequIP has")
    parser.add_argument("--threads", type=int, default=cores(), help="of both packages (default: all cores)")
    parser.add_argument("--type-embed", type=int, help="width of NequIP's embedding (default: NequIP's)")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS["cuda"], help="some (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="of force calls")
    parser.add_argument("--training-rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of force calls in a round")
    parser.add_argument("--epochs", type=int, default=3, help="of training in a round; the first is left out")
    parser.add_argument("--nequip-python", type=Path, help="interpreter of an environment that has NequIP")
    options = parser.parse_args()
    names = options.only or MEASUREMENTS[options.device]
    need("acac_15", *(name for name in names if name != "training"))
    check_device(parser, options.device)
    python = options.nequip_python or install_nequip(options.device)
    console = Console(width=110)
    for symmetry in options.symmetry:
        bench = Bench(symmetry, options, python)
        checked = bench.check()
        console.print(f"{symmetry}: forces agree with the reference to {checked['force_error']:.1e}")
        about = {
            "machine": checked["machine"],
            "threads": options.threads,
            "versions": {"nequip": bench.nequip["packages"]},
            "command": command_line(),
            "settings": bench.settings,
            "l_max": options.l_max,
            "type_embed": options.type_embed,
            "force_error": checked["force_error"],
        }
        path, results = results_path(checked["machine"].get("gpu")), {}
        for name in names:
            console.print(f"{symmetry}: {name}")
            results[name] = (
                bench.training(options.training_rounds)
                if name == "training"
                else bench.force_calls(name, options.rounds)
            )
            write_results(path, bench.key, about, name, results[name])
            for package, called in TITLES.items():
                if failed := results[name].get(package, {}).get("failed"):
                    console.print(f"{called} failed: {failed}", markup=False)
        console.print(table(bench.key, results))
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
