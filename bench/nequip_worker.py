"""NequIP's part of against_nequip.py, run by the interpreter of NequIP's own environment.

nequip_worker.py about FILE                              versions; whether there is a GPU, OpenEquivariance
nequip_worker.py example NAME CUTOFF H,C,O FILE          a structure as nequip-compile takes it (--data-path)
nequip_worker.py calls NAME MODEL DEVICE SECONDS FILE    times of force calls of a compiled model, as JSON
"""

import importlib
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path

import lightning
import torch
from nequip.data import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from workloads import run_part, structure, time_calls


class StepTimes(lightning.Callback):
    """Writes when training started and when each step ended, [epoch, seconds], to a JSON file; a GPU is
    waited for at the first and last step of an epoch."""

    def __init__(self, path: str):
        self.path = path
        self.ends = []

    def on_train_start(self, trainer, module):
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if module.device.type == "cuda" and (batch_idx == 0 or trainer.is_last_batch):
            torch.cuda.synchronize()
        self.ends.append((trainer.current_epoch, time.perf_counter()))

    def on_train_end(self, trainer, module):
        parameters = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
        content = {"started": self.started, "ends": self.ends, "parameters": parameters}
        Path(self.path).write_text(json.dumps(content))


def importable(module: str) -> bool:
    """Also false for a package whose compiled part does not load."""
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True


def about(path: str) -> None:
    content = {
        "packages": [f"{name}=={version(name)}" for name in ("torch", "nequip")],
        "cuda": torch.cuda.is_available(),
        "openequivariance": torch.cuda.is_available() and importable("openequivariance"),
    }
    Path(path).write_text(json.dumps(content))


def example(name: str, cutoff: str, species: str, path: str) -> None:
    """Save a structure with its neighbour list; cutoff in Å, species separated by commas."""
    data = from_ase(structure(name))
    for transform in (
        ChemicalSpeciesToAtomTypeMapper(model_type_names=species.split(",")),
        NeighborListTransform(r_max=float(cutoff)),
    ):
        data = transform(data)
    holder = torch.nn.Module()
    for key, value in data.items():
        holder.register_buffer(key, value)
    torch.jit.script(holder).save(path)


def calls(name: str, model: str, device: str, seconds: str, path: str) -> None:
    """Time force calls of a compiled model for about `seconds`; peak memory, of the process or on the GPU.

    Neighbours are found on the GPU where NequIP's package for that is installed, else by matscipy, its
    default.
    """
    on_gpu = device == "cuda"
    neighbours = "alchemiops" if on_gpu and importable("nvalchemiops.torch.neighbors") else "matscipy"
    calculator = NequIPCalculator.from_compiled_model(
        model, device=device, chemical_species_to_atom_type_map=True, neighborlist_backend=neighbours
    )
    first, times = time_calls(calculator, structure(name), float(seconds))
    if on_gpu:
        peak = torch.cuda.max_memory_reserved()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    content = {"first": first, "times": times, "peak_memory": peak, "threads": torch.get_num_threads()}
    Path(path).write_text(json.dumps(content | {"neighbours": neighbours}))


if __name__ == "__main__":
    run_part(about, example, calls)
