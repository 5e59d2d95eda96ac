"""eqpot against NequIP on the same machine: force calls and training steps.

    python bench/against_nequip.py                              # parity off, all cores, three rounds
    python bench/against_nequip.py --symmetry o3 --threads 1    # parity on; the JSON file keeps both
    python bench/against_nequip.py --only acac_15 training --rounds 1

NequIP is installed from PyPI into bench/runs/nequip-env at the first run, with the torch that pip finds; if
that is a CUDA build of gigabytes, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.

Both potentials have the same hyperparameters (SETTINGS), random or hardly trained weights, float32, the same
structures and the same number of threads. What differs: without parity, NequIP keeps polar vectors only and
so leaves out the path 1x1 -> 1, which eqpot's "so3" has; with parity, both have all paths in 32 even and 32
odd channels. NequIP makes its neighbour list (matscipy, its default) in each call, eqpot's calculator only
after an atom has moved by half its skin. NequIP's compiled model gives the stress with every call. And where
eqpot's self-connection has a matrix for each element, NequIP's has one for each component of its embedding of
the elements, by default as many as features: 3.6 million weights against 0.4 million. `--type-embed 3` makes
the two alike (and NequIP's first block narrower: three channels go into it).

Force call: `get_forces` through each package's ASE calculator, all atoms moved a little before each call.
NequIP is compiled by `nequip-compile --mode aotinductor --target ase`, anew for each structure, which is also
the example that the compiler sees.

Training step: acetylacetone, 5 frames, energy and force loss, moving average of the weights; NequIP with
`compile_mode: compile`. Each package's own training loop runs some epochs and notes when each step ended; a
step's time is the difference to the one before in the same epoch, which counts loading and collating the next
batch, but neither validation nor files. The first epoch is left out.

The two take turns, one process for each measurement, over several rounds; in training, which NequIP compiles
for some ten minutes each time, over one round by default, with eqpot before and after NequIP. Reported:
medians over all rounds, NequIP's over eqpot's, and the first call or step, which holds what is compiled or
loaded then. The time of `nequip-compile` is in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from recording import command_line
from rich.console import Console
from rich.table import Table
from workloads import ACAC, HERE

from eqpot.bench import cores, machine

RUNS, RESULTS = HERE / "runs", HERE / "results" / "against_nequip.json"
VENV = RUNS / "nequip-env"
PACKAGES = ("torch==2.13.0", "nequip==0.19.1")

SPECIES = ["H", "C", "O"]  # of every model here, water's too
SETTINGS = {
    "l_max": 1,
    "features": 64,
    "blocks": 6,
    "cutoff": 4.0,
    "basis_size": 8,
    "radial_depth": 1,
    "radial_width": 8,
}
MEASUREMENTS = ("acac_15", "water_192", "water_1536", "training")
FRAMES, VALIDATION, BATCH = 450, 50, 5
TOLERANCE = 2e-5  # float32 forces against the float64 reference, relative to the largest


def nequip_config(
    parity: bool, type_embed: int | None, out: Path, mode: str, epochs: int, steps: int | None
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
            "split_dataset": {"file_path": str(ACAC), "train": FRAMES, "val": VALIDATION},
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
                "l_max": SETTINGS["l_max"],
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


class Bench:
    """The measurements at one symmetry ("so3" or "o3"), number of threads and width of NequIP's embedding."""

    def __init__(self, symmetry: str, threads: int, type_embed: int | None, seconds: float, epochs: int):
        self.symmetry, self.type_embed, self.seconds, self.epochs = symmetry, type_embed, seconds, epochs
        self.key = f"{symmetry}, {threads} threads" + (f", type embedding {type_embed}" if type_embed else "")
        self.folder = RUNS / "nequip" / self.key.replace(", ", "_").replace(" ", "_")
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
        self.environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in names}
        for waiting in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # eqpot's own choice, set by importing it
            self.environment.pop(waiting, None)
        self.environment["PYTHONPATH"] = str(HERE)
        self.environment["TORCHINDUCTOR_CACHE_DIR"] = str(RUNS / "nequip" / "inductor")

    @property
    def settings(self) -> dict:
        return {**SETTINGS, "symmetry": self.symmetry}

    def run(self, *command: object) -> None:
        """Run a command to its end; what it printed is shown only if it fails."""
        command = [str(part) for part in command]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(f"{shlex.join(command)}\n{done.stdout.decode()}")

    def measured(self, file: Path, *command: object) -> dict:
        """What a command wrote to a JSON file."""
        self.run(*command)
        return json.loads(file.read_text())

    def eqpot(self, *arguments: object) -> dict:
        out = self.folder / "eqpot.json"
        return self.measured(out, sys.executable, HERE / "eqpot_worker.py", *arguments, out)

    def check(self) -> float:
        """Relative error of eqpot's float32 forces; ends the run if it is too large."""
        error = self.eqpot("check", json.dumps(self.settings))["force_error"]
        if not error <= TOLERANCE:
            sys.exit(f"forces of 15 atoms: expected a relative error below {TOLERANCE:g}, found {error:g}")
        return error

    # ---- force calls

    def force_calls(self, name: str, rounds: int) -> dict:
        self.compiled(name)
        pairs = [(self.eqpot_calls(name), self.nequip_calls(name)) for _ in range(rounds)]
        return compared(*map(list, zip(*pairs, strict=True)))

    def eqpot_calls(self, name: str) -> dict:
        return self.eqpot("calls", name, json.dumps(self.settings), self.seconds)

    def nequip_calls(self, name: str) -> dict:
        out, python, worker = self.folder / "nequip.json", VENV / "bin" / "python", HERE / "nequip_worker.py"
        model = self.compiled(name)
        compiling = {"compile_seconds": float(model.with_suffix(".seconds").read_text())}
        return self.measured(out, python, worker, "calls", name, model, self.seconds, out) | compiling

    def compiled(self, name: str) -> Path:
        """NequIP's model, compiled for a structure unless it was before; beside it the seconds that took."""
        model, example = self.folder / f"{name}.nequip.pt2", self.folder / f"{name}.pth"
        checkpoint = self.folder / "untrained" / "best.ckpt"
        if model.exists():
            return model
        if not checkpoint.exists():
            self.nequip_train("untrained", "eager", epochs=1, steps=1)
        python, worker = VENV / "bin" / "python", HERE / "nequip_worker.py"
        self.run(python, worker, "example", name, SETTINGS["cutoff"], ",".join(SPECIES), example)
        options = ("--mode", "aotinductor", "--device", "cpu", "--target", "ase", "--data-path", example)
        began = time.perf_counter()
        self.run(VENV / "bin" / "nequip-compile", checkpoint, model, *options)
        model.with_suffix(".seconds").write_text(f"{time.perf_counter() - began:.0f}")
        return model

    # ---- training steps

    def training(self, rounds: int) -> dict:
        eqpot, nequip = [self.eqpot_steps()], []
        for _ in range(rounds):
            nequip.append(self.nequip_steps())
            eqpot.append(self.eqpot_steps())
        return compared(eqpot, nequip)

    def eqpot_steps(self) -> dict:
        data = RUNS / "nequip" / "acac.h5"
        if not data.exists():
            self.run(sys.executable, "-m", "eqpot", "data", "convert", ACAC, data)
        train = {"batch_size": BATCH, "n_train": FRAMES, "n_valid": VALIDATION, "max_epochs": self.epochs}
        config = json.dumps({"model": self.settings, "train": train})
        return step_times(self.eqpot("steps", data, config, self.folder / "eqpot"))

    def nequip_steps(self) -> dict:
        return step_times(self.nequip_train("trained", "compile", self.epochs))

    def nequip_train(self, folder: str, mode: str, epochs: int, steps: int | None = None) -> dict:
        """Run nequip-train; when its steps ended."""
        out = self.folder / folder
        out.mkdir(exist_ok=True)
        config = nequip_config(self.symmetry == "o3", self.type_embed, out, mode, epochs, steps)
        (out / "config.yaml").write_text(json.dumps(config, indent=2))  # JSON is YAML
        hydra = ("-cp", out, "-cn", "config", f"hydra.run.dir={out / 'hydra'}")
        return self.measured(out / "steps.json", VENV / "bin" / "nequip-train", *hydra)


def step_times(measured: dict) -> dict:
    """Seconds of the first step, and of the steps after the first epoch; see the module's docstring."""
    ends = measured["ends"]
    pairs = zip(ends[:-1], ends[1:], strict=True)
    return {
        "first": ends[0][1] - measured["started"],
        "times": [b[1] - a[1] for a, b in pairs if a[0] == b[0] > 0],
        "parameters": measured["parameters"],
    }


def install_nequip() -> None:
    """Make NequIP's environment unless it is there."""
    if (VENV / "bin" / "nequip-compile").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    for package in PACKAGES:
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", package], check=True)


def compared(eqpot: list[dict], nequip: list[dict]) -> dict:
    """The rounds of both packages, and NequIP's time over eqpot's."""
    ours, theirs = combined(eqpot), combined(nequip)
    return {"eqpot": ours, "nequip": theirs, "ratio": theirs["seconds"] / ours["seconds"]}


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
    """A row for each measurement: eqpot, then NequIP; MB are the peak memory of the whole process."""
    found = Table(title=title, title_justify="left")
    found.add_column("")
    for heading in ("ms", "NequIP, ms", "NequIP / eqpot", "first, s", "NequIP, s", "MB", "NequIP, MB"):
        found.add_column(heading, justify="right")
    for name, row in results.items():
        ours, theirs = row["eqpot"], row["nequip"]
        memory = [f"{r['peak_memory'] / 1e6:.0f}" if "peak_memory" in r else "" for r in (ours, theirs)]
        found.add_row(
            name,
            f"{1000 * ours['seconds']:.1f}",
            f"{1000 * theirs['seconds']:.1f}",
            f"{row['ratio']:.2f}",
            f"{ours['first_seconds']:.1f}",
            f"{theirs['first_seconds']:.1f}",
            *memory,
        )
    return found


def write_results(key: str, about: dict, results: dict) -> None:
    """Add results to the JSON file, each with what it was measured on and how."""
    RESULTS.parent.mkdir(exist_ok=True)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[key] = {**found.get(key, {}), **{name: {**row, **about} for name, row in results.items()}}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--symmetry", choices=("so3", "o3"), nargs="+", default=["so3"], help="o3: parity on")
    parser.add_argument("--threads", type=int, default=cores(), help="of both packages (default: all cores)")
    parser.add_argument("--type-embed", type=int, help="width of NequIP's embedding (default: NequIP's)")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS)
    parser.add_argument("--rounds", type=int, default=3, help="of force calls")
    parser.add_argument("--training-rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of force calls in a round")
    parser.add_argument("--epochs", type=int, default=3, help="of training in a round; the first is left out")
    options = parser.parse_args()
    install_nequip()
    console = Console(width=110)
    for symmetry in options.symmetry:
        bench = Bench(symmetry, options.threads, options.type_embed, options.seconds, options.epochs)
        error = bench.check()
        console.print(f"{symmetry}: forces agree with the reference to {error:.1e}")
        results = {}
        for name in options.only:
            console.print(f"{symmetry}: {name}")
            results[name] = (
                bench.training(options.training_rounds)
                if name == "training"
                else bench.force_calls(name, options.rounds)
            )
        entry = {
            "machine": machine(),
            "threads": options.threads,
            "versions": {"nequip": list(PACKAGES)},
            "command": command_line(),
            "settings": bench.settings,
            "type_embed": options.type_embed,
            "force_error": error,
        }
        write_results(bench.key, entry, results)
        console.print(table(bench.key, results))
    console.print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
