"""What the CUDA kernels do together, in Numba's simulator or on a GPU, against the NumPy reference; and every
kernel through the compiler, which needs no GPU.

The simulator checks no types, the compiler no numbers: together they leave what only a card can show.
"""

import ctypes
import importlib
import itertools
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from checks import loss_of
from numpy.lib.stride_tricks import as_strided
from operator_cases import TYPICAL, Walks, layout
from potentials import STRUCTURES, batch, crystal, molecule, structure
from potentials import TINY as SMALL
from potentials import TINY_SETTINGS as SETTINGS
from tolerances import MODEL, OPERATOR, check_close
from toy import toy_dataset

import eqpot
import eqpot.kernels as kernel_package
from eqpot import backend as backends
from eqpot.benchmark import machine
from eqpot.commands.bench import table
from eqpot.config import Config
from eqpot.engines import fused, recorded
from eqpot.engines.recorded import Places, RecordedCalls, room_for
from eqpot.errors import UserError
from eqpot.kernels import convolution, dense, reference
from eqpot.kernels import cuda as gpu
from eqpot.kernels.convolution import convolution_bwd_cuda, convolution_fwd_cuda
from eqpot.kernels.dense import add_matmul
from eqpot.kernels.embedding import embedding_fwd_cuda
from eqpot.potential import Potential
from eqpot.structures.data import Dataset, write_dataset
from eqpot.structures.frames import Frames
from eqpot.structures.gpu_graph import GpuVerletList
from eqpot.structures.graph import VerletList
from eqpot.training import soap
from eqpot.training.adam import Adam, MovingAverage
from eqpot.training.finetune import Parent
from eqpot.training.gpu_steps import GpuFrames
from eqpot.training.learner import Diverged
from eqpot.training.soap import Place, Soap
from eqpot.training.trainer import Trainer

usable = pytest.mark.skipif(
    bool(backends.obstacle()), reason=f"{backends.obstacle()}; `make test-sim` runs it in the simulator"
)
compiled = pytest.mark.skipif(gpu.SIMULATED, reason="the simulator compiles nothing")


def there(array):
    return backends.to_device(array, "cuda")


def pair(dtype="float64", **settings) -> tuple[Potential, Potential]:
    """The same potential on a GPU and on the reference."""
    made = Potential.create(species=[1, 6, 8], dtype=dtype, **SMALL | settings)
    made.scale[:], made.shift[:] = [0.8, 1.0, 1.3], [-1.0, 2.0, 0.5]
    made.mean_neighbours = 5.0
    reference = made.cast("float64", "ref")
    return made.to("cuda"), reference


@usable
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_energy_forces_stress(settings):
    for dtype in ("float64", "float32"):
        potential, reference = pair(dtype, **settings)
        graph = batch(potential, *STRUCTURES)
        got, expected = (p.predict(graph, forces=True, stress=True) for p in (potential, reference))
        for name in ("energies", "energy", "forces"):
            check_close(getattr(got, name), getattr(expected, name), MODEL[dtype], what=name)
        periodic = ~np.isnan(graph.volume)
        check_close(got.stress[periodic], expected.stress[periodic], MODEL[dtype], what="stress")


@usable
@pytest.mark.parametrize("name", ["o3", "norm", "zbl", "isolated atoms", "second order"])
def test_loss_gradient(name):
    potential, reference = pair(**SETTINGS[name])
    graph = batch(potential, *STRUCTURES)
    found = []
    for p in (potential, reference):
        loss = loss_of(backends.moved(graph, p.backend))
        (value, *_), gradient = p.loss_gradient(graph, loss, stress=True)
        found.append((value, backends.to_host(gradient).copy()))
    (value, gradient), (expected_value, expected) = found
    check_close(value, expected_value, MODEL["float64"], what="loss")
    for name, array in reference.params.split(expected).items():
        got = reference.params.split(gradient)[name]
        check_close(got, array, MODEL["float64"], scale=np.abs(expected).max(), what=name)


@usable
def test_same_bits_again():
    potential, _ = pair("float32")
    first, second = (potential.evaluate(crystal(3)) for _ in range(2))
    assert np.array_equal(first.forces, second.forces) and first.energy == second.energy


@usable
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("in_use", "known"),
    [
        ((0, 1, 2, 3, 4), 5),
        ((0, 1), 5),
        ((0, 1, 2, 3, 4, 5, 6), 7),
        ((0, 1, 2, 3, 4, 5), 7),
        ((0, 1, 6), 7),
        ((0, 3), 7),
        ((0, 1, 2, 3, 4, 5, 6, 7), 8),
        ((0, 1, 6, 7), 8),
    ],
)
def test_convolution_is_dense_and_interaction(dtype, in_use, known):
    """Its values, and its derivatives by features, direction and distance, dh being any numbers."""
    rng = np.random.default_rng(3)
    graph = batch(pair()[0], molecule(6), crystal(3))
    n, C, H, first, scale = len(graph.species), 5, 3, 2, 0.7
    paths, (P0, P1, P2, P3) = layout(in_use, 8)
    P, of_vectors = len(in_use), bool({2, 3, 4, 5} & set(in_use))
    s, v = rng.normal(size=(n, C)), rng.normal(size=(n, 3, C * of_vectors))
    r = np.linalg.norm(graph.edge_vec, axis=1)
    unit = np.sqrt(3) * graph.edge_vec / r[:, None]
    # an edge and its reverse have one h and dh, as functions of r do
    a, b = rng.normal(size=(2, 2 * H))
    h, dh = np.sin(np.outer(r, a)), np.cos(np.outer(r, b))
    W = rng.normal(size=(H, P * C))
    shapes = (n, P0 * C), (n, 3, P1 * C), (n, 5, P2 * C), (n, 7, P3 * C)
    *cotangents, dmo = (rng.normal(size=shape) for shape in shapes)
    edges = graph.senders, graph.receivers, graph.receiver_ptr, graph.sender_perm, graph.sender_ptr

    w, tensor = scale * h[:, first : first + H] @ W, reference.edge_tensor_fwd(unit)
    arrays = s, v, unit, tensor, w, *edges, paths
    messages = reference.interaction2_fwd(*arrays)
    ds, dv, dunit, dtensor, dw = reference.interaction2_bwd(*cotangents, *arrays)
    dunit = dunit + reference.edge_tensor_bwd(dtensor, unit)[0]
    arrays = s, reference.edge_tensor3_fwd(unit), w, *edges, paths
    mo, more = reference.interaction3_fwd(*arrays), reference.interaction3_bwd(dmo, *arrays)
    messages, cotangents = (*messages, mo), [*cotangents, dmo]
    ds, dw = ds + more[0], dw + more[2]
    dunit = dunit + reference.edge_tensor3_bwd(more[1], unit)[0]
    dr = np.sum(dw * (scale * dh[:, first : first + H] @ W), axis=1)

    def of(*arrays):
        return [there(x.astype(dtype)) for x in arrays]

    inputs = of(s, v, unit, r, h, dh, W)
    static = there(graph.senders), there(graph.receiver_ptr), paths[:known], first, scale
    got = of(*(np.full_like(x, np.nan) for x in messages))
    convolution_fwd_cuda(*got, *inputs, *static)
    grads = of(*(np.zeros_like(x) for x in (s, v, unit, r)))
    convolution_bwd_cuda(*grads, *of(*cotangents), *inputs, *static)
    for name, x, y in zip(
        ("ms", "mv", "mt", "mo", "ds", "dv", "dunit", "dr"),
        (*got, *grads),
        (*messages, ds, dv, dunit, dr),
        strict=True,
    ):
        check_close(backends.to_host(x), y, OPERATOR[dtype], what=name)


@usable
@pytest.mark.parametrize("kind", ["cluster", "slab", "tiny cell", "alone", "crystal"])
def test_neighbours(kind):
    """The same edges, in the same order, as those found on the CPU; also after a step within the skin."""
    atoms = structure(kind)
    on_gpu, on_cpu = (made([1, 6, 8], 3.0, 0.4) for made in (GpuVerletList, VerletList))
    for move in (0.0, 0.1, 0.1, 3.0):
        atoms.positions += np.random.default_rng(1).uniform(-move, move, atoms.positions.shape) / 2
        geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
        got, expected = on_gpu.batch(*geometry), on_cpu.batch(*geometry)
        for name in ("senders", "receivers", "receiver_ptr", "species", "sender_ptr"):
            assert np.array_equal(backends.to_host(getattr(got, name)), getattr(expected, name)), name
        edge_vec, perm = backends.to_host(got.edge_vec), backends.to_host(got.sender_perm)
        check_close(edge_vec, expected.edge_vec, 1e-14)
        assert np.array_equal(edge_vec[perm], -edge_vec)
        assert on_gpu.builds == on_cpu.builds


@usable
def test_neighbours_far_apart(monkeypatch):
    """Bins are bounded, however far two clusters are from each other."""
    monkeypatch.setattr("eqpot.structures.gpu_graph.MOST_BINS", 64)
    atoms = structure("cluster")
    far = atoms.copy()
    far.positions += [1e7, 0, 0]
    atoms += far
    geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
    got, expected = (made([1, 6, 8], 3.0, 0.4).batch(*geometry) for made in (GpuVerletList, VerletList))
    assert got.edge_count == expected.edge_count > 0
    check_close(backends.to_host(got.edge_vec), expected.edge_vec, 1e-14)


@usable
def test_neighbours_errors(monkeypatch):
    atoms, neighbours = structure("crystal"), GpuVerletList([1, 6, 8], 3.0, 0.4)
    atoms.positions[5] = atoms.positions[6] + atoms.cell[0]
    with pytest.raises(UserError, match="two at the same place"):
        neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
    atoms.positions[5] = np.nan
    with pytest.raises(UserError, match="finite"):
        neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)

    def out_of_memory(*_):
        raise MemoryError("Out of memory allocating 512 bytes")

    atoms.positions[5] = 0.0
    monkeypatch.setattr("eqpot.structures.gpu_graph.bins_cuda", out_of_memory)
    with pytest.raises(UserError, match="structure: 32 atoms: .* too many .Out of memory allocating 512"):
        neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)


@usable
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_and_average(amsgrad):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=37), rng.normal(size=(4, 37))
    found = []
    for backend in ("cpu", "cuda"):
        weights = backends.to_device(start.copy(), backend)
        adam, average = Adam(weights, amsgrad, backend), MovingAverage(weights, 0.9, backend)
        for gradient in gradients:
            adam.step(weights, backends.to_device(gradient, backend), 0.01)
            average.update(weights)
        found.append([backends.to_host(x) for x in (weights, average.weights, adam.v)])
    for got, expected in zip(found[1], found[0], strict=True):
        check_close(got, expected, MODEL["float64"])


@usable
def test_room_for_edges_changes_nothing():
    """A recorded call has more places than edges: not a bit differs, whatever was there before."""
    potential, _ = pair("float32", zbl=True)
    structures, moved = (crystal(3), molecule(5)), (crystal(3), molecule(5))
    for atoms in moved:
        atoms.rattle(0.2, seed=0)
    graphs = [batch(potential, *chosen) for chosen in (structures, moved)]
    assert graphs[0].edge_count != graphs[1].edge_count
    places = Places(graphs[0], graphs[0].edge_count + 7, 2 * potential.config.cutoff)
    for graph in graphs:
        places.fill(graph)
        expected = fused.compute(potential.fitted, graph, forces=True, stress=True)
        for found in (places.batch, moved_into(Places(graph, 7 + graph.edge_count, 9.0), graph)):
            got = fused.compute(potential.fitted, found, forces=True, stress=True)
            for name in ("energies", "forces", "stress"):
                same = [backends.to_host(getattr(x, name)) for x in (got, expected)]
                assert np.array_equal(*same, equal_nan=True), name


def moved_into(places: Places, graph):
    """The same from a batch that is on the GPU already."""
    places.fill(backends.moved(graph, "cuda"))
    return places.batch


@pytest.mark.parametrize("edges", [0, 1, 64, 65, 1000, 12345])
def test_room_for(edges):
    room = room_for(edges)
    assert edges <= room <= max(edges + 64, 1.125 * edges) and room_for(room) == room


@usable
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_recorded_calls_have_no_cublas(monkeypatch, settings):
    """Where atoms are as many as a recording may have."""
    potential, _ = pair("float32", **settings)
    graph = batch(potential, molecule(5), *[structure("alone")] * 20)
    most = potential.config.components * (len(graph.species) + len(graph.species_ptr) - 1)
    assert room_for(graph.edge_count) <= most
    monkeypatch.setattr(recorded, "RECORDED_ROWS", most)
    monkeypatch.setattr(dense, "OWN_ROWS", most)
    monkeypatch.setattr(dense, "add_matmul", None)
    assert recorded.takes(potential.fitted, graph, True)
    fused.compute(potential.fitted, graph, forces=True, stress=True)
    monkeypatch.setattr(recorded, "RECORDED_ROWS", most - 1)
    assert not recorded.takes(potential.fitted, graph, True)


@usable
def test_recordings_know_what_they_were_made_for():
    potential, reference = pair()
    for structures in (STRUCTURES, STRUCTURES[:1], STRUCTURES[1:], STRUCTURES):
        for scale in (1.0, 2.0):
            potential.scale[:], reference.scale[:] = scale, scale
            graph = batch(potential, *structures)
            got, expected = (p.predict(graph) for p in (potential, reference))
            check_close(got.forces, expected.forces, MODEL["float64"], what="forces")
    assert len(potential.fitted.engine(RecordedCalls).calls) == 6


def mixed_dataset():
    """Frames of different composition and size, some labels missing, one periodic in all directions."""
    one, two = toy_dataset(3), toy_dataset(3, seed=1, symbols="OHCH")
    numbers, positions = (
        np.concatenate([getattr(d, k) for d in (one, two)]) for k in ("numbers", "positions")
    )
    forces, stress = (np.concatenate([getattr(d, k) for d in (one, two)]) for k in ("forces", "stress"))
    forces[8:12] = stress[4] = np.nan
    keep = np.arange(24) != 9  # three atoms in one of them
    ptr = np.array([0, 4, 8, 11, 15, 19, 23])
    cell, pbc = np.repeat(6.0 * np.eye(3)[None], 6, axis=0), np.ones((6, 3), bool)
    pbc[1] = False
    energy = np.concatenate([one.energy, two.energy])
    return Dataset(
        ptr, numbers[keep], positions[keep], cell, pbc, energy=energy, forces=forces[keep], stress=stress
    )


@usable
def test_batches_made_on_the_gpu():
    """The same arrays as those collated on the host, and the labels of their atoms."""
    frames = Frames(mixed_dataset(), [1, 6, 8], 3.5)
    weights = np.random.default_rng(0).uniform(size=len(frames.dataset.numbers))
    weights_of_frames = np.random.default_rng(1).uniform(size=len(frames))
    on_gpu = GpuFrames(frames, weights, weights_of_frames)
    for chosen in ([3], [5, 0, 2], [1, 4]):
        expected, rows = frames.batch(chosen)
        plan, species_ptr = on_gpu.plan(np.array(chosen))
        E = expected.edge_count
        got, labels, of_atoms, of_frames = on_gpu.batch(there(plan), len(chosen), species_ptr, E + 3, 9.0)
        for name in (
            "frame",
            "species",
            "species_ptr",
            "atom_counts",
            "volume",
            "receiver_ptr",
            "sender_ptr",
        ):
            pair = backends.to_host(getattr(got, name)), getattr(expected, name)
            assert np.array_equal(*pair, equal_nan=True), name
        for name in ("edge_vec", "senders", "receivers", "sender_perm"):
            assert np.array_equal(backends.to_host(getattr(got, name))[:E], getattr(expected, name)), name
        assert np.array_equal(backends.to_host(got.edge_vec)[E:], [[9.0, 0, 0]] * 3)
        known = frames.labels(chosen, rows)
        for name in ("energy", "forces", "stress"):
            pair = backends.to_host(getattr(labels, name)), getattr(known, name)
            assert np.array_equal(*pair, equal_nan=True), name
        assert np.array_equal(backends.to_host(of_atoms), weights[rows])
        assert np.array_equal(backends.to_host(of_frames), weights_of_frames[chosen])


@usable
def test_soap(monkeypatch):
    """One step for each matrix on a CPU, products of many at a time on a GPU."""
    monkeypatch.setattr(soap, "RENEWED", 2)
    rng = np.random.default_rng(0)
    places = [Place(0, 3, 4, 6), Place(4, 3, 2, 6), Place(18, 3, 4, 4)]
    start, gradients = rng.normal(size=33), rng.normal(size=(6, 33))
    for still in (slice(6, 10), slice(18, 30), 31):  # a row, a matrix, a number
        gradients[2:5, still] = 0
    found = []
    for backend in ("cpu", "cuda"):
        weights = backends.to_device(start.copy(), backend)
        optimizer = Soap(weights, places, backend)
        for gradient in gradients:
            optimizer.step(weights, backends.to_device(gradient, backend), 0.01)
        found.append([backends.to_host(x) for x in (weights, optimizer.m, optimizer.v, optimizer.left)])
    for got, expected in zip(found[1], found[0], strict=True):
        check_close(got, expected, MODEL["float64"])


@usable
@pytest.mark.parametrize(
    ("optimizer", "isolated", "more"),
    [
        ({"optimizer": "adam"}, "auto", ""),
        ({"optimizer": "adam", "amsgrad": True}, True, "weights"),
        ({"optimizer": "adam"}, False, "freeze"),
        ({"optimizer": "soap"}, "auto", ""),
        ({"optimizer": "soap"}, False, "freeze"),
    ],
    ids=["adam", "amsgrad, weights", "adam, freeze", "soap", "soap, freeze"],
)
def test_training_steps(tmp_path, optimizer, isolated, more):
    """Recorded steps on frames that stay on the GPU against plain ones on batches made on the host; with
    weights of frames, with some of the model's weights that stay.

    SOAP's first bases are those of one gradient: where it has no component, round-off chooses, on some
    processors otherwise than on others: losses were 2e-6 apart on one.
    """
    same_loss, same_weights = (1e-5, 1e-2) if optimizer["optimizer"] == "soap" else (1e-9, 1e-7)
    path = tmp_path / "data.h5"
    data = mixed_dataset()
    data.weight = np.linspace(0.5, 3, 6) if more == "weights" else None
    write_dataset(path, data)
    config = Config.from_dict(
        {
            "model": {**SMALL, "features": 2, "cutoff": 2.5, "isolated_atoms": isolated},
            "loss": {"stress": 1.0, "element_weights": "balanced"},
            "train": {"dtype": "float64", "n_train": 5, "n_valid": 1, **optimizer},
        }
    )
    parent = None
    if more == "freeze":
        parent = Parent(Potential.create([1, 6], 1, "float64", **config.model.to_dict()), "parent.h5", "")
        config = config.replace({"train": {"freeze": ["embedding", "radial", "block1"]}})
    trainers = [
        Trainer.start(config, path, tmp_path / name, device="cuda", parent=parent) for name in ("host", "gpu")
    ]
    before = backends.to_host(trainers[1].weights).copy()
    used = trainers[1].potential.fitted.pool.arrays()
    assert [id(x) for x in trainers[1]._gpu._memory()] == [id(x) for x in used]
    trainers[0]._gpu = None
    for chosen in ([0, 3], [4, 1], [3, 0]):
        plain, recorded = (trainer.step(np.array(chosen)) for trainer in trainers)
        for name, value in plain.items():
            assert recorded[name] == pytest.approx(value, rel=same_loss, nan_ok=True), name
    for one, other in zip(*([t.weights, t.average.weights] for t in trainers), strict=True):
        check_close(backends.to_host(other), one, same_weights)
    if more == "freeze":
        held = backends.to_host(trainers[1]._free) == 0
        after = backends.to_host(trainers[1].weights)
        assert 0 < held.sum() < len(held) and np.array_equal(after[held], before[held])
        assert (after != before)[~held].mean() > 0.8
    trainers[1].weights[:] = np.nan
    with pytest.raises(Diverged):
        trainers[1].step(np.array([0, 1]))


@usable
@pytest.mark.parametrize("rows", [0, 1 << 16], ids=["cuBLAS", "own kernels"])
def test_dense_either_way(monkeypatch, rows):
    """Many rows go to cuBLAS (in the simulator, to NumPy), few to one kernel."""
    monkeypatch.setattr(dense, "OWN_ROWS", rows)
    case = next(c for c in TYPICAL if c.operator == "dense")
    dy, tx, tdy = case.directions()
    got, expected = Walks("cuda", case), Walks("ref", case)
    for found, known in (
        (got.fwd(), expected.fwd()),
        (got.bwd(dy), expected.bwd(dy)),
        (got.fwd_tan(tx), expected.fwd_tan(tx)),
        (got.bwd_tan(tdy, tx, dy), expected.bwd_tan(tdy, tx, dy)),
    ):
        for x, y in zip(found, known, strict=True):
            check_close(backends.to_host(x), y, OPERATOR["float64"])


@usable
def test_moves_and_files(tmp_path):
    """To the GPU and back; a saved model is the same wherever it was."""
    potential, _ = pair()
    path = tmp_path / "model.h5"
    potential.save(path)
    for other in (Potential.load(path, device="cuda"), eqpot.Potential.load(path)):
        flat = backends.to_host(other.params.flat)
        assert np.array_equal(flat, backends.to_host(potential.params.flat))
    flat = potential.params.flat
    assert isinstance(potential.to("cpu").params.flat, np.ndarray) and np.array_equal(
        potential.params.flat, backends.to_host(flat)
    )


@usable
def test_benchmarks_name_the_card():
    about = machine("cuda")
    assert about["gpu"] and about["gpu"] in table([], about).title


@pytest.mark.skipif(not backends.obstacle(), reason="there is a GPU, or the simulator")
def test_no_gpu_is_said():
    with pytest.raises(UserError, match="device: cuda: "):
        Potential.create(species=["H"], device="cuda")
    assert Potential.create(species=["H"], device="auto").backend == "cpu"


@compiled
def test_arrays_of_numpy_are_refused():
    """Numba would copy them to the GPU and back at each launch."""
    with pytest.raises(TypeError, match="_fwd_cuda: expected arrays on the GPU, found one of NumPy"):
        embedding_fwd_cuda(np.empty((2, 1)), np.ones((1, 1)), np.zeros(2, int), np.array([0, 2]))


# ------------------------------------------------------------ what cuBLAS is told about views


class OnGpu:
    """A matrix of NumPy's that shows what CuPy's arrays show: address, shape and strides."""

    def __init__(self, array: np.ndarray):
        self.array, self.data = array, SimpleNamespace(ptr=array.ctypes.data)
        self.shape, self.strides = array.shape, array.strides
        self.itemsize, self.dtype = array.itemsize, array.dtype

    @property
    def T(self) -> "OnGpu":
        return OnGpu(self.array.T)


def column_major_gemm(number):
    """cuBLAS's gemm on the host's memory: C = alpha op(A) op(B) + beta C, each matrix column-major, the
    distance between its columns not below its number of rows."""

    def matrix(address, rows, columns, distance):
        assert distance >= max(1, rows)
        length = distance * (columns - 1) + rows
        numbers = np.ctypeslib.as_array((number * length).from_address(address))
        return as_strided(numbers, (rows, columns), (numbers.itemsize, distance * numbers.itemsize))

    def gemm(handle, of_a, of_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        a = matrix(a, k, m, lda).T if of_a else matrix(a, m, k, lda)
        b = matrix(b, n, k, ldb).T if of_b else matrix(b, k, n, ldb)
        c = matrix(c, m, n, ldc)
        alpha, beta = (number.from_address(address).value for address in (alpha, beta))
        c[...] = alpha * (a @ b) + beta * c

    return gemm


@pytest.fixture
def cublas_on_the_host(monkeypatch):
    cublas = SimpleNamespace(
        sgemm=column_major_gemm(ctypes.c_float), dgemm=column_major_gemm(ctypes.c_double)
    )
    device = SimpleNamespace(get_cublas_handle=lambda: 0)
    cuda = SimpleNamespace(cublas=cublas, device=device)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)


VIEWS = {  # of an array of random numbers: the array's shape, and its part
    "whole": lambda rows, columns: ((rows, columns), lambda x: x),
    "part": lambda rows, columns: ((rows + 2, columns + 3), lambda x: x[1:-1, 2:-1]),
    "transposed": lambda rows, columns: ((columns, rows), lambda x: x.T),
    "part, transposed": lambda rows, columns: ((columns + 2, rows + 3), lambda x: x[1:-1, 2:-1].T),
}


@pytest.mark.parametrize("of_b", VIEWS)
@pytest.mark.parametrize("of_a", VIEWS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_add_matmul_tells_cublas_about_views(cublas_on_the_host, dtype, of_a, of_b):
    """For matrices, rows, columns and single numbers; what lies around the result stays as it is."""
    rng = np.random.default_rng(5)

    def viewed(kind, rows, columns):
        shape, part = VIEWS[kind](rows, columns)
        whole = rng.normal(size=shape).astype(dtype)
        return whole, part(whole)

    for rows, k, columns in itertools.product((1, 2, 4), (1, 3), (1, 2, 5)):
        for of_c in ("whole", "part"):
            (_, a), (_, b), (whole, c) = (
                viewed(*view) for view in ((of_a, rows, k), (of_b, k, columns), (of_c, rows, columns))
            )
            expected = whole.copy()
            VIEWS[of_c](rows, columns)[1](expected)[...] += 0.7 * (a @ b)
            add_matmul(OnGpu(c), OnGpu(a), OnGpu(b), 0.7)
            check_close(whole, expected, OPERATOR[dtype], what=f"{rows} x {k} x {columns}, {of_c}")


# ------------------------------------------------------------ compiled, not run


def signatures(monkeypatch, dtypes) -> dict[tuple, gpu.Kernel]:
    """Every kernel with the types of its arguments, from launching all of them on no GPU at all."""
    from numba import typeof

    found: dict[tuple, gpu.Kernel] = {}

    def launch(kernel, *arguments):
        kinds = [typeof(a) for a in arguments]
        found[kernel.function.__module__, kernel.__name__, tuple(kinds)] = kernel
        for a in arguments:  # numbers that all that follows can work with
            if isinstance(a, np.ndarray) and a.dtype.kind == "f":
                a[...] = 1

    with monkeypatch.context() as patched:
        patched.setattr(gpu.Kernel, "__call__", launch)
        for module in (gpu, backends):  # arrays are NumPy's
            patched.setattr(module, "SIMULATED", True)
        for dtype in dtypes:
            for case in TYPICAL:
                walks = Walks("cuda", case, dtype)
                dy, tx, tdy = case.directions()
                walks.fwd(), walks.bwd(dy), walks.fwd_tan(tx), walks.bwd_tan(tdy, tx, dy)
            potential = Potential.create(
                species=[1, 6, 8], dtype=dtype, zbl=True, filter_order=2, node_products=True
            )
            graph = batch(potential, *STRUCTURES)
            potential.to("cuda").predict(graph, forces=True, stress=True)
            weights = np.zeros(3, dtype)
            Adam(weights, backend="cuda").step(weights, weights, 0.1)
            MovingAverage(weights, 0.9, backend="cuda").update(weights)
        patched.setattr("eqpot.training.gpu_steps.array_module", lambda _: SimpleNamespace(empty=np.zeros))
        frames = GpuFrames(Frames(mixed_dataset(), [1, 6, 8], 3.5), np.ones(23))
        plan, species_ptr = frames.plan(np.array([0]))
        frames.batch(plan, 1, species_ptr, 9, 9.0)
        atoms = structure("crystal")
        patched.setattr(
            "eqpot.structures.gpu_graph._starts", lambda counts: (np.zeros(len(counts) + 1, int), 1)
        )
        neighbours = GpuVerletList([1, 6, 8], 3.0, 0.4)
        for _ in range(2):
            neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
    return found


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)], ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_every_kernel_compiles(monkeypatch, tmp_path, capability, capsys):
    """To PTX, and where there is ptxas to machine code, whose registers are printed: float32 spills none.

    float64 for one capability only: it takes a minute.
    """
    from numba import cuda
    from numba.cuda.cudadrv.error import NvvmSupportError

    device = SimpleNamespace(compute_capability=capability)  # which device functions would ask the driver for
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    kernels = signatures(monkeypatch, ("float32", "float64") if capability == (9, 0) else ("float32",))
    assert {(module, name) for module, name, _ in kernels} >= set(_all_kernels())
    lines = []
    for (module, name, kinds), kernel in kernels.items():
        try:
            ptx, _ = cuda.compile_ptx(gpu.for_cuda(kernel.function), kinds, cc=capability)
        except NvvmSupportError as e:
            pytest.skip(f"NVVM, which compiles CUDA kernels, is not installed ({e})")
        assert ".visible .entry" in ptx
        if shutil.which("ptxas"):
            lines.append(_registers(ptx, capability, tmp_path, f"{module}.{name}", kinds))
    with capsys.disabled():
        print("\n".join(lines))


def _registers(ptx: str, capability: tuple[int, int], folder, name: str, kinds) -> str:
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = ["ptxas", "-v", f"--gpu-name=sm_{capability[0]}{capability[1]}", str(source), "-o", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", said)[1])
    stack, stores, loads = map(
        int,
        re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said
        ).groups(),
    )
    dtype = "float32" if any("float32" in str(kind) for kind in kinds) else "float64"
    assert dtype == "float64" or stores == loads == 0, f"{name}: {said}"
    return f"{name:<55} {dtype} {registers:3d} registers, {stack} bytes of stack, {stores + loads} spilled"


def _all_kernels() -> Iterator[tuple[str, str]]:
    """Module and name of every CUDA kernel."""
    for found in pkgutil.iter_modules(kernel_package.__path__):
        module = importlib.import_module(f"eqpot.kernels.{found.name}")
        for value in vars(module).values():
            if isinstance(value, gpu.Kernel):
                yield module.__name__, value.__name__
    for made in (convolution._kernels, convolution._kernels2):  # anew for each number of hidden numbers
        for value in made(1):
            yield convolution.__name__, value.__name__
