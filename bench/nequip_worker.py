"""NequIP's part of against_nequip.py, run by the interpreter of NequIP's own environment.

nequip_worker.py example NAME CUTOFF H,C,O FILE    a structure as nequip-compile takes it (--data-path)
nequip_worker.py calls NAME MODEL SECONDS FILE     times of force calls of a compiled model, as JSON
"""

import json
import resource
import sys
import time
from pathlib import Path

import lightning
import torch
from nequip.data import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from workloads import structure, time_calls


class StepTimes(lightning.Callback):
    """Writes when training started and when each step ended, [epoch, seconds], to a JSON file."""

    def __init__(self, path: str):
        self.path = path
        self.ends = []

    def on_train_start(self, trainer, module):
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer, *_):
        self.ends.append((trainer.current_epoch, time.perf_counter()))

    def on_train_end(self, trainer, module):
        parameters = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
        content = {"started": self.started, "ends": self.ends, "parameters": parameters}
        Path(self.path).write_text(json.dumps(content))


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


def calls(name: str, model: str, seconds: str, path: str) -> None:
    """Time force calls of a compiled model for about `seconds`; peak memory of the process in bytes."""
    calculator = NequIPCalculator.from_compiled_model(
        model, device="cpu", chemical_species_to_atom_type_map=True
    )
    first, times = time_calls(calculator, structure(name), float(seconds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    content = {"first": first, "times": times, "peak_memory": peak, "threads": torch.get_num_threads()}
    Path(path).write_text(json.dumps(content))


if __name__ == "__main__":
    {"example": example, "calls": calls}[sys.argv[1]](*sys.argv[2:])
