"""What `bench/gpu.py` asks of a card: parts, each a list of questions whose answers are rows of numbers.

A row that has "failed" in it says what was expected and found. Where a question ends by an exception, the
others of its part are asked all the same. In Numba's simulator models, structures and repeats are tiny.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc110, molecule
from force_call import SETTINGS as OF_PAPERS
from operators import ARGUMENTS, call, check, operations, workloads
from operators import TOLERANCE as OF_KERNELS
from recording import gpu_limits, gpu_seconds, wait
from workloads import HERE, is_here, structure

from eqpot import EqpotCalculator, Potential
from eqpot.backend import array_module, moved, to_host
from eqpot.benchmark import TOLERANCE, machine, water
from eqpot.config import Config, LossConfig
from eqpot.engines import by_blocks, fused, recorded
from eqpot.engines.observables import Prediction
from eqpot.errors import UserError
from eqpot.kernels import dense
from eqpot.kernels.cuda import RECORDED_ROWS, SIMULATED
from eqpot.network.ops import SIGNATURES, WALKS
from eqpot.network.steps import operations as operations_of_call
from eqpot.structures.data import Dataset
from eqpot.structures.frames import Frames
from eqpot.structures.gpu_graph import GpuVerletList
from eqpot.structures.graph import Batch, VerletList, collate
from eqpot.timing import median_time, seconds_of
from eqpot.training.loss import loss_and_gradient
from eqpot.training.trainer import Trainer

sys.path.append(str(HERE.parent / "tests"))
from operator_cases import CASES, TYPICAL, Walks  # noqa: E402
from tolerances import MODEL, OPERATOR, relative_error  # noqa: E402

Row = dict[str, Any]
Question = tuple[str, Callable[[], Row]]

REPEATS = 2 if SIMULATED else 20  # calls that must give the same bits
SECONDS = 0.0 if SIMULATED else 0.7  # for each time
MODELS = {
    "default": {},
    "of the papers": OF_PAPERS,
    "so3, isolated atoms, ZBL": {"symmetry": "so3", "isolated_atoms": True, "zbl": True},
    "norm": {"nonlinearity": "norm"},
    "scalars": {"l_max": 0},
}
TINY: dict[str, Any] = {}
ATOMS = (15, 52, 83, 192, 1536, 12288, 98304)  # of force calls on CPU and GPU
BATCH = (15, 52, 192)  # atoms of the structures that are asked for together, beside a lone atom
TRAINED = {15: 5, 192: 1}  # atoms of a frame -> frames of a step
OPTIMIZERS = ("adam", "soap")
ONE_BOX = 192  # atoms of a box that larger ones repeat
WHOLE = 1536  # atoms of a box that is evaluated as a whole and by blocks
BOXES = (8, 12, 16, 20, 24, 28, 32, 36, 40)  # ** 3 times ONE_BOX
KERNELS_ON = 12288  # atoms
if SIMULATED:
    MODELS = {"default": {}}
    TINY = {"features": 2, "blocks": 2, "cutoff": 3.0, "basis_size": 2, "radial_width": 2}
    TINY |= {"parity": "both", "filter_order": 1, "node_products": False}
    ATOMS, BATCH, TRAINED, OPTIMIZERS, BOXES = (3,), (3,), {3: 1}, ("adam",), (1,)
    ONE_BOX = WHOLE = KERNELS_ON = 3
DEVICES = ("cuda",) if SIMULATED else ("cuda", "cpu")  # compiling for the CPU takes minutes
PUBLISHED = {15: "acac_15", 52: "formate_cu110_52", 83: "lips_83"}


# ------------------------------------------------------------ structures and potentials


def workload(atoms: int) -> tuple[str, Atoms]:
    """A structure of so many atoms and what it is: of a published data set, or made where that is missing."""
    name = PUBLISHED.get(atoms, f"water_{atoms}")
    if not SIMULATED and is_here(name):
        return name, structure(name)
    if atoms == 52:
        slab, formate = fcc110("Cu", (4, 4, 3), vacuum=6.0), molecule("HCOOH")
        del formate[[a.index for a in formate if a.symbol == "H"][0]]
        add_adsorbate(slab, formate, 2.0, "ontop")
        return "HCOO on Cu(110), made", slab
    if atoms == 83:
        return "Cu with a vacancy, made", bulk("Cu").repeat((4, 3, 7))[1:]
    box = water(max(2, round((atoms / 3) ** (1 / 3))))
    if len(box) == atoms:
        return f"{atoms // 3} H2O in a box, made", box
    cluster = box[:atoms]
    cluster.pbc = False
    return f"{atoms // 3} H2O, made", cluster


def shaken(atoms: int) -> tuple[str, Atoms]:
    name, found = workload(atoms)
    found.rattle(0.1, seed=0)
    return name, found


def potential(species, dtype: str = "float32", **settings) -> Potential:
    """Untrained, on the CPU; its scales and shifts tell the elements apart."""
    made = Potential.create(sorted(set(map(int, species))), seed=0, dtype=dtype, **{**settings, **TINY})
    made.scale[:] = np.linspace(0.8, 1.3, len(made.species))
    made.shift[:] = np.linspace(-1.0, 1.0, len(made.species))
    made.mean_neighbours = 30.0
    return made


@cache
def several() -> list[Atoms]:
    """A molecule, a surface, a box and a lone atom, to be taken as one batch."""
    return [*(shaken(n)[1] for n in BATCH), Atoms("O")]


def batch_of(made: Potential, structures: list[Atoms]) -> Batch:
    return collate([made.graph(atoms) for atoms in structures], len(made.species))


@cache
def known(model: str) -> tuple[Potential, Batch, Prediction]:
    """A potential of MODELS in float32, a batch, and what the NumPy reference finds in float64."""
    made = potential(np.concatenate([a.numbers for a in several()]), **MODELS[model])
    batch = batch_of(made, several())
    return made, batch, made.cast("float64", "ref").predict(batch, forces=True, stress=True)


def on_gpu(model: str, dtype: str) -> Potential:
    return known(model)[0].cast(dtype, "cuda")


# ------------------------------------------------------------ rows


def judged(row: Row, errors: Mapping[str, float], tolerance: float, same: bool = True) -> Row:
    """The row with its errors, and with "failed" where they are too large or bits differ."""
    row = {**row, **{f"error of {name}": error for name, error in errors.items()}, "tolerance": tolerance}
    if not all(error <= tolerance for error in errors.values()):
        row["failed"] = f"expected errors up to {tolerance:g}, found {max(errors.values()):.3g}"
    elif not same:
        row["failed"] = f"expected the same bits in {REPEATS} calls, found others"
    return row


def errors(got: Prediction, expected: Prediction) -> dict[str, float]:
    """Relative errors of energies of atoms, forces and stress."""
    periodic = ~np.isnan(expected.stress[:, 0, 0])
    pairs = {
        "energies": (got.energies, expected.energies),
        "forces": (got.forces, expected.forces),
        "stress": (got.stress[periodic], expected.stress[periodic]),
    }
    return {name: relative_error(*pair) for name, pair in pairs.items()}


def same(first: Prediction, *others: Prediction) -> bool:
    """Whether all have the same bits."""
    return all(
        np.array_equal(getattr(first, name), getattr(other, name), equal_nan=True)
        for other in others
        for name in ("energies", "forces", "stress")
    )


def synced(action: Callable[[], object]) -> Callable[[], None]:
    """The action, and all that it started on the GPU."""

    def done() -> None:
        action()
        wait()

    return done


def pool_bytes() -> int | None:
    """Of the GPU's memory that CuPy holds."""
    return None if SIMULATED else array_module("cuda").get_default_memory_pool().total_bytes()


def free() -> None:
    """Give back what no array holds."""
    gc.collect()
    if not SIMULATED:
        array_module("cuda").get_default_memory_pool().free_all_blocks()


# ------------------------------------------------------------ parts: is it right


def card() -> Iterator[Question]:
    """Which card, driver and versions; how fast it copies and multiplies."""
    yield "machine", lambda: {**machine("cuda"), **_versions()}
    yield "nvidia-smi", _nvidia_smi
    yield "limits", gpu_limits


def _versions() -> dict[str, str]:
    wanted = ("numpy", "scipy", "ase", "llvmlite", "numba-cuda", "cupy", "cuda-", "nvidia-")
    names = sorted({(d.metadata["Name"] or "").lower() for d in metadata.distributions()})
    return {name: metadata.version(name) for name in names if name.startswith(wanted)}


def _nvidia_smi() -> Row:
    asked = "name,driver_version,memory.total,compute_cap,clocks.max.sm,power.limit,mig.mode.current"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    if not shutil.which(command[0]):
        return {"left out": "no such command"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return dict(zip(asked.split(","), (x.strip() for x in found.splitlines()[0].split(",")), strict=True))


def compiling() -> Iterator[Question]:
    """The CPU's kernels, so that nothing later waits for them."""
    if "cpu" in DEVICES:
        yield "force call", partial(force_call, ATOMS[0], "cpu", {})
        yield "step", partial(training_step, min(TRAINED), "cpu")


def operator(name: str) -> Iterator[Question]:
    """Its four functions against the reference at many shapes."""
    for dtype in ("float32", "float64"):
        for walk in WALKS:
            yield f"{walk}, {dtype}", partial(_operator, name, walk, dtype)


def _operator(name: str, walk: str, dtype: str) -> Row:
    cases = [case for case in (TYPICAL if SIMULATED else CASES) if case.operator == name]
    worst, where = 0.0, ""
    for case in cases:
        dy, tx, tdy = case.directions()
        given = {"fwd": (), "bwd": (dy,), "fwd_tan": (tx,), "bwd_tan": (tdy, tx, dy)}[walk]
        try:
            got = getattr(Walks("cuda", case, dtype), walk)(*given)
        except Exception as e:
            e.add_note(f"at {case}")
            raise
        expected = getattr(Walks("ref", case), walk)(*given)
        error = max(relative_error(*pair) for pair in zip(got, expected, strict=True))
        if not error <= worst:
            worst, where = error, str(case)
    return judged({"cases": len(cases), "worst": where}, {"numbers": worst}, OPERATOR[dtype])


def neighbours() -> Iterator[Question]:
    """Those found on the GPU against those found on the CPU, also after a step within the skin."""
    for atoms in sorted({ONE_BOX, WHOLE}):
        yield f"{atoms} atoms", partial(_neighbours, atoms)


def _neighbours(atoms: int) -> Row:
    name, found = shaken(atoms)
    lists = [kind(sorted(set(found.numbers.tolist())), 5.0, 0.5) for kind in (GpuVerletList, VerletList)]
    error, equal = 0.0, True
    for _ in range(3):
        geometry = found.numbers, found.positions, found.cell[:], found.pbc
        got, expected = (one.batch(*geometry) for one in lists)
        for array in ("senders", "receivers", "receiver_ptr", "sender_ptr"):
            equal &= np.array_equal(to_host(getattr(got, array)), getattr(expected, array))
        error = max(error, relative_error(to_host(got.edge_vec), expected.edge_vec))
        found.rattle(0.05, seed=1)
    row = judged({"structure": name, "edges": expected.edge_count}, {"vectors": error}, 1e-13)
    return row if equal else {**row, "failed": "expected the CPU's edges in the CPU's order, found others"}


def forces() -> Iterator[Question]:
    """Force calls, not recorded, against the NumPy reference in float64, and their bits."""
    for model in MODELS:
        for dtype in ("float32", "float64"):
            yield f"{model}, {dtype}", partial(_forces, model, dtype)


def _forces(model: str, dtype: str) -> Row:
    made, (_, batch, expected) = on_gpu(model, dtype), known(model)
    found = [fused.predict(made.fitted, batch, True, True) for _ in range(REPEATS)]
    row = {"atoms": len(batch.species), "edges": batch.edge_count, "calls": REPEATS}
    return judged(row, errors(found[0], expected), MODEL[dtype], same(*found))


def recordings() -> Iterator[Question]:
    """Recorded force calls against those that are recorded, bit by bit; what a launch saves."""
    dense.OWN_ROWS = RECORDED_ROWS  # in the simulator, too: NumPy's products of more rows have other bits
    for model in MODELS:
        yield model, partial(_recorded, model)


def _recorded(model: str) -> Row:
    made, (_, batch, _) = on_gpu(model, "float32"), known(model)
    for atoms in (places := [a.copy() for a in several()]):
        atoms.rattle(0.01, seed=2)
    batches = batch, batch_of(known(model)[0], places)
    equal = all(
        same(*(way.predict(made.fitted, each, True, True) for way in (fused, recorded)))
        for _ in range(REPEATS)
        for each in batches
    )
    times = {
        f"{name}_seconds": median_time(synced(partial(way.predict, made.fitted, batch, True, False)), SECONDS)
        for name, way in (("plain", fused), ("recorded", recorded))
    }
    return judged({"atoms": len(batch.species), **times}, {}, 0.0, equal)


def gradients() -> Iterator[Question]:
    """The gradient of a loss by all weights, operator by operator, against the reference."""
    for model in MODELS:
        for dtype in ("float32", "float64"):
            yield f"{model}, {dtype}", partial(_gradient, model, dtype)


def _gradient(model: str, dtype: str) -> Row:
    made = known(model)[0]
    frames = Frames(labelled(several()[0], 2), made.species, made.config.cutoff)
    batch, rows = frames.batch([0, 1])

    def gradient(of: Potential) -> tuple[float, np.ndarray]:
        there, labels = moved(batch, of.backend), frames.labels([0, 1], rows).on(of.backend)

        def loss(p: Prediction) -> tuple:
            return loss_and_gradient(LossConfig(), p, labels, there.atom_counts, volumes=there.volume)

        (value, *_), flat = of.loss_gradient(there, loss)
        return float(value), to_host(flat).copy()

    (value, flat), (expected, wanted) = gradient(on_gpu(model, dtype)), gradient(made.cast("float64", "ref"))
    found = {"loss": relative_error(value, expected), "gradient": relative_error(flat, wanted)}
    return judged({"weights": len(flat)}, found, {"float32": 1e-4, "float64": 1e-11}[dtype])


# ------------------------------------------------------------ training


def labelled(atoms: Atoms, frames: int) -> Dataset:
    """Shaken copies with random labels: only their shapes matter."""
    random, n = np.random.default_rng(0), len(atoms)
    positions = atoms.positions + random.normal(scale=0.05, size=(frames, n, 3))
    return Dataset(
        np.arange(frames + 1) * n,
        np.tile(atoms.numbers, frames),
        positions.reshape(-1, 3),
        np.repeat(atoms.cell[:][None], frames, axis=0),
        np.repeat(atoms.pbc[None], frames, axis=0),
        energy=random.normal(size=frames),
        forces=random.normal(size=(frames * n, 3)),
    )


def trainer(atoms: int, device: str, folder: Path, **train) -> tuple[str, Trainer]:
    name, found = workload(atoms)
    settings = {"batch_size": TRAINED[atoms], "n_train": 10, "n_valid": 2, **train}
    config = Config.from_dict({"model": TINY, "train": settings})
    return name, Trainer.start(config, labelled(found, 12), folder, device=device)


def steps() -> Iterator[Question]:
    """Recorded steps on frames that stay on the GPU against plain ones on batches made on the host."""
    for optimizer in OPTIMIZERS:
        yield optimizer, partial(_steps, optimizer)


def _steps(optimizer: str) -> Row:
    atoms, losses, weights = min(TRAINED), [], []
    chosen = np.random.default_rng(0).permutation(10).reshape(-1, TRAINED[atoms])[:2]
    chosen = np.concatenate([chosen] * (1 if SIMULATED else 2))
    with tempfile.TemporaryDirectory() as folder:
        for k, is_recorded in enumerate((True, True, False)):
            _, made = trainer(atoms, "cuda", Path(folder) / f"{k}", optimizer=optimizer, dtype="float64")
            made._gpu = made._gpu if is_recorded else None
            losses.append([made.step(frames)["loss"] for frames in chosen])
            weights.append(to_host(made.weights).copy())
    found = {"loss": relative_error(losses[0], losses[2])}
    if (
        optimizer == "adam"
    ):  # SOAP's first bases are those of one gradient: where it has no component, round-off
        found["weights"] = relative_error(weights[0], weights[2])
    row = judged({"atoms": atoms, "steps": len(chosen)}, found, 1e-6)
    if not np.array_equal(weights[0], weights[1]):
        return {"failed": "expected the same bits in two runs, found others", **row}
    return row


def training_step(atoms: int, device: str) -> Row:
    """Seconds of a step with the default settings."""
    with tempfile.TemporaryDirectory() as folder:
        name, made = trainer(atoms, device, Path(folder) / "run")
        chosen = np.random.default_rng(0).choice(10, TRAINED[atoms], replace=False)
        step = synced(partial(made.step, chosen)) if device == "cuda" else partial(made.step, chosen)
        row = {"structure": name, "device": device, "atoms": atoms, "batch": TRAINED[atoms]}
        return {**row, "first_seconds": seconds_of(step), "step_seconds": median_time(step, SECONDS)}


def training(atoms: int) -> Iterator[Question]:
    for device in DEVICES:
        yield device, partial(training_step, atoms, device)


# ------------------------------------------------------------ parts: how fast is it


def side_by_side(atoms: int) -> Iterator[Question]:
    """`get_forces` through `EqpotCalculator`, all atoms moved a little before each call; `predict` alone."""
    found: dict[str, np.ndarray] = {}
    for device in DEVICES:
        yield device, partial(force_call, atoms, device, found)


def force_call(n: int, device: str, found: dict[str, np.ndarray]) -> Row:
    """Times (s), operations and memory (bytes); its forces go into `found`, to be held to the other one's."""
    name, atoms = shaken(n)
    made = potential(atoms.numbers).to(device)
    atoms.calc = calculator = EqpotCalculator(made)
    start, random = atoms.positions.copy(), np.random.default_rng(0)

    def call() -> None:
        atoms.positions = start + random.normal(scale=0.003, size=start.shape)
        atoms.get_forces()

    first = seconds_of(atoms.get_forces)
    found[device] = atoms.get_forces()
    whole = median_time(call, SECONDS)
    geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
    batch = moved(calculator._list(made).batch(*geometry), device)
    row = {
        **{"structure": name, "device": device, "atoms": n, "edges": batch.edge_count},
        **{"first_seconds": first, "calculator_seconds": whole},
        "predict_seconds": median_time(lambda: made.predict(batch), SECONDS),
        "operations": operations_of_call(made.model, n, batch.edge_count),
        "memory": pool_bytes() if device == "cuda" else None,
    }
    if len(found) < 2:
        return row
    return judged(row, {"forces": relative_error(found["cuda"], found["cpu"])}, 2 * TOLERANCE)


def blocks() -> Iterator[Question]:
    """Block by block against the whole; then larger and larger boxes, to the largest that fits.

    Such a box repeats a small one, and so do its forces.
    """
    yield f"{WHOLE} atoms, whole and by blocks", _by_blocks
    for side in BOXES:
        yield f"{ONE_BOX * side**3} atoms", partial(_box, side)


def _by_blocks() -> Row:
    _, atoms = shaken(WHOLE)
    made = potential(atoms.numbers)
    batch = batch_of(made, [atoms])
    made.to("cuda")
    expected = fused.predict(made.fitted, batch, True, True)
    found = [by_blocks.predict(made.fitted, batch, True, True) for _ in range(REPEATS)]
    row = {"atoms": WHOLE, "edges": batch.edge_count, "calls": REPEATS}
    return judged(row, errors(found[0], expected), TOLERANCE, same(*found))


def _box(side: int) -> Row:
    name, one = shaken(ONE_BOX)
    atoms = one.repeat((side,) * 3)
    made = potential(one.numbers).to("cuda")
    atoms.calc = calculator = EqpotCalculator(made)
    one.calc = EqpotCalculator(potential(one.numbers).to("cuda"))
    expected = one.get_forces()
    try:
        first = seconds_of(atoms.get_forces)
    except UserError as e:  # how many would fit
        return {"atoms": len(atoms), "left out": str(e)}
    found = atoms.get_forces().reshape(-1, *expected.shape)
    error = relative_error(found, np.broadcast_to(expected, found.shape))
    calculator.reset()
    row = {"structure": name, "atoms": len(atoms), "first_seconds": first}
    row |= {"seconds": seconds_of(atoms.get_forces), "memory": pool_bytes()}
    del atoms, calculator, made
    free()
    return judged(row, {"forces": error}, TOLERANCE)


def kernels() -> Iterator[Question]:
    """Each kernel's operations and bytes a second, beside those of a matrix product and a copy."""
    limits = cache(gpu_limits)
    atoms = workload(KERNELS_ON)[1], workload(ONE_BOX)[1]
    large, small = (cache(partial(workloads, each)) for each in atoms)
    for name in ARGUMENTS:
        given = cache(lambda name=name: large()[name]())
        for walk in WALKS if name in SIGNATURES else ("fwd", "bwd"):
            yield f"{name} {walk}", partial(_kernel, name, walk, given, small, limits)


def _kernel(name: str, walk: str, given: Callable, small: Callable, limits: Callable) -> Row:
    error = check(name, "cuda", walk, *small()[name]())
    run, arrays, _ = call(name, "cuda", walk, *given(), "float32")
    seconds, counted = gpu_seconds(run, SECONDS / 2), operations(name, walk, given()[0])
    moved_bytes = sum(getattr(a, "nbytes", 0) for a in arrays)
    row = {"seconds": seconds, "GB/s": moved_bytes / seconds / 1e9}
    row["of a copy"] = moved_bytes / seconds / limits()["bytes"]
    if counted is not None:
        row |= {"Gflop/s": counted / seconds / 1e9, "of a product": counted / seconds / limits()["flops"]}
    return judged(row, {"numbers": error}, OF_KERNELS)


PARTS: dict[str, Callable[[], Iterator[Question]]] = {
    "card": card,
    "compiling for the CPU": compiling,
    **{f"operator {name}": partial(operator, name) for name in SIGNATURES},
    "neighbours": neighbours,
    "forces": forces,
    "gradients": gradients,
    "recorded calls": recordings,
    "recorded steps": steps,
    **{f"side by side, {n} atoms": partial(side_by_side, n) for n in ATOMS},
    **{f"training, {n} atoms": partial(training, n) for n in TRAINED},
    "by blocks": blocks,
    "kernels": kernels,
}
