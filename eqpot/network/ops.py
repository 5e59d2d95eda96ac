"""The table of operators: what exists, what it takes, and where each backend keeps it.

An operator maps input arrays to output arrays; everything else it needs (indices, sizes, choices) is static.
Its four functions have one shape for all operators and backends. With `x` a value, `dx` its cotangent, `tx`
its tangent and `tdx` the tangent of its cotangent:

    fwd(*outputs, *inputs, *static)                                      overwrites the outputs
    bwd(*dinputs, *doutputs, *inputs, *static)                           adds to the dinputs
    fwd_tan(*toutputs, *tinputs, *inputs, *static)                       overwrites the toutputs
    bwd_tan(*tdinputs, *tdoutputs, *tinputs, *doutputs, *inputs, *static)  adds to the tdinputs

A `dinput` or `tdinput` that is None is not wanted; a `tinput` that is None is zero.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Operator:
    """One row of the table: an operator's four functions on one backend."""

    name: str
    fwd: Callable[..., None]
    bwd: Callable[..., None]
    fwd_tan: Callable[..., None]
    bwd_tan: Callable[..., None]


@dataclass(frozen=True)
class Signature:
    """Arguments of an operator by name, in the order in which its functions take them."""

    module: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    static: tuple[str, ...]


# Sizes: n atoms, E edges, Z species, B basis functions, C features, Cv gated vector features, P paths in use,
# of which P0 make scalars and P1 vectors. K and M are columns; leading dimensions (...) count as rows, so a
# vector has three. Lengths are in Å; the network's own numbers have no unit.
#
# On a GPU arrays are CuPy's, except those by which the host decides what to launch (ON_HOST), which stay
# NumPy's.
#
# operator       outputs                        inputs
#                static
# edge_geometry  r[E], unit[E,3]                edge_vec[E,3] = r_sender - r_receiver
#                (none); unit is Y1 = sqrt(3) edge_vec / r
# radial_basis   basis[E,B]                     r[E], frequencies[B]
#                cutoff, envelope_p
# activation     y[...,K]                       x[...,K]
#                kind: 0 shifted softplus, 1 silu, 2 tanh
# dense          y[...,M]                       x[...,K], w[G,S]: a row of flat weights for each group of rows
#                row_ptr[G+1]: where the groups start
#                pieces[nb,5]: (x column, k, y column, m, offset in w) of each k x m matrix
#                scales[nb]: the matrices' factors
# embedding      s[n,C]                         table[Z,C]
#                species[n] in rising order, species_ptr[Z+1]
# interaction    ms[n,P0*C], mv[n,3,P1*C]       s[n,C], v[n,3,C] (or [n,3,0]: no vectors), unit[E,3], w[E,P*C]
#                senders[E], receivers[E] in rising order, receiver_ptr[n+1]: edges into each atom,
#                sender_perm[E], sender_ptr[n+1]: edges out of each atom,
#                paths[5,2]: (slot in w or -1, slot in ms or mv) of 0x0->0, 0x1->1, 1x0->1, 1x1->0, 1x1->1
# edge_tensor    tensor[E,6]                    unit[E,3]
#                (none); Y Y^T - 1: xx, yy, zz, xy, yz, zx
# interaction2   ms[n,P0*C], mv[n,3,P1*C],      s[n,C], v[n,3,C], unit[E,3], tensor[E,6], w[E,P*C]
#                mt[n,5,C]: xx, yy, xy, yz, zx
#                as for interaction, paths[7,2] with 1x2->1, 0x2->2
# edge_tensor3   third[E,7]                     unit[E,3]
#                (none); Y Y Y less its traces: xxx, xyy, yyy, xxy, xxz, yyz, xyz
# interaction3   mo[n,7,C]                      s[n,C], third[E,7], w[E,P*C]
#                as for interaction, paths[8,2] with 0x3->3
# node_products  ps[n,Q0*D], pv[n,3,Q1*D]       s[n,2*D], v[n,3,2*D], t[n,5,2*D], o[n,7,2*D], or 0
#                (none); Q0: 6, without o 4, without t 2, without v 1; Q1: 4, 3, 2, 0
# gate           s_out[n,C], v_out[n,3,Cv]      g[n,Cv+C]: gates, then scalars; v[n,3,Cv]
#                n_even: even scalars come first
# norm           s_out[n,C], v_out[n,3,Cv]      s[n,C], v[n,3,Cv]
#                n_even
# add            y[...,M]                       a[...,M], b[...,K]
#                col, count: b's first `count` columns are added from column col on
SIGNATURES: dict[str, Signature] = {
    "edge_geometry": Signature("edge_geometry", ("r", "unit"), ("edge_vec",), ()),
    "radial_basis": Signature("radial_basis", ("basis",), ("r", "frequencies"), ("cutoff", "envelope_p")),
    "activation": Signature("activation", ("y",), ("x",), ("kind",)),
    "dense": Signature("dense", ("y",), ("x", "w"), ("row_ptr", "pieces", "scales")),
    "embedding": Signature("embedding", ("s",), ("table",), ("species", "species_ptr")),
    "interaction": Signature(
        "interaction",
        ("ms", "mv"),
        ("s", "v", "unit", "w"),
        ("senders", "receivers", "receiver_ptr", "sender_perm", "sender_ptr", "paths"),
    ),
    "edge_tensor": Signature("edge_tensor", ("tensor",), ("unit",), ()),
    "interaction2": Signature(
        "interaction2",
        ("ms", "mv", "mt"),
        ("s", "v", "unit", "tensor", "w"),
        ("senders", "receivers", "receiver_ptr", "sender_perm", "sender_ptr", "paths"),
    ),
    "edge_tensor3": Signature("edge_tensor3", ("third",), ("unit",), ()),
    "interaction3": Signature(
        "interaction3",
        ("mo",),
        ("s", "third", "w"),
        ("senders", "receivers", "receiver_ptr", "sender_perm", "sender_ptr", "paths"),
    ),
    "node_products": Signature("node_products", ("ps", "pv"), ("s", "v", "t", "o"), ()),
    "gate": Signature("gate", ("s_out", "v_out"), ("g", "v"), ("n_even",)),
    "norm": Signature("gate", ("s_out", "v_out"), ("s", "v"), ("n_even",)),
    "add": Signature("dense", ("y",), ("a", "b"), ("col", "count")),
}
ON_HOST = {"row_ptr", "pieces", "scales", "species_ptr", "paths"}
BACKENDS = ("ref", "cpu", "cuda")
WALKS = ("fwd", "bwd", "fwd_tan", "bwd_tan")

# Far below the round-off of any value, far above the smallest double: a complex step this small is exact.
STEP = 1e-30


@cache
def operators(backend: str) -> dict[str, Operator]:
    """All operators of a backend, by name. A function that a backend lacks says so when it is called."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "ref":
        return {name: as_kernel(name) for name in SIGNATURES}
    return {
        name: Operator(name, *(_function(signature.module, f"{name}_{walk}_{backend}") for walk in WALKS))
        for name, signature in SIGNATURES.items()
    }


def _function(module: str, name: str) -> Callable[..., None]:
    try:
        return getattr(importlib.import_module(f"eqpot.kernels.{module}"), name)
    except (AttributeError, ModuleNotFoundError) as missing:
        # Only the kernel's own absence is put off to the call; a broken import inside its file is not.
        if isinstance(missing, ModuleNotFoundError) and missing.name != f"eqpot.kernels.{module}":
            raise

    def absent(*_: object) -> None:
        raise NotImplementedError(f"there is no {name} in eqpot.kernels.{module}")

    return absent


@cache
def convolution() -> Operator:
    """The radial network's last layer and `interaction` or `interaction2` in one, for evaluation on a GPU: no
    row of the table, as its tangents do not exist. See `eqpot.kernels.convolution` for its arguments."""
    module = "convolution"
    walks = ("convolution_fwd_cuda", "convolution_bwd_cuda", "convolution_fwd_tan", "convolution_bwd_tan")
    return Operator(module, *(_function(module, name) for name in walks))


def as_kernel(name: str) -> Operator:
    """Give the reference's pure functions the table's signature; tangents come by complex step.

    For an analytic f, Im f(x + i h t) / h is the derivative along t with no difference to cancel: exact to
    round-off, and independent of the kernels' hand-derived tangents.
    """
    reference = importlib.import_module("eqpot.kernels.reference")
    fwd_pure, bwd_pure = getattr(reference, f"{name}_fwd"), getattr(reference, f"{name}_bwd")
    n_out, n_in = len(SIGNATURES[name].outputs), len(SIGNATURES[name].inputs)

    def width(outputs):
        # Only the buffer tells how many columns a dense result has after those that its last block writes.
        return {"columns": outputs[0].shape[-1]} if name == "dense" else {}

    def fwd(*args):
        outputs, inputs, static = _split(args, n_out, n_in)
        _store(outputs, _tuple(fwd_pure(*_real(inputs), *static, **width(outputs))))

    def bwd(*args):
        dinputs, doutputs, inputs, static = _split(args, n_in, n_out, n_in)
        _accumulate(dinputs, bwd_pure(*_real(doutputs), *_real(inputs), *static))

    def fwd_tan(*args):
        toutputs, tinputs, inputs, static = _split(args, n_out, n_in, n_in)
        moved = _step(inputs, tinputs)
        _store(toutputs, _derivative(_tuple(fwd_pure(*moved, *static, **width(toutputs)))))

    def bwd_tan(*args):
        tdinputs, tdoutputs, tinputs, doutputs, inputs, static = _split(args, n_in, n_out, n_in, n_out, n_in)
        moved = _step(doutputs, tdoutputs) + _step(inputs, tinputs)
        _accumulate(tdinputs, _derivative(bwd_pure(*moved, *static)))

    return Operator(name, fwd, bwd, fwd_tan, bwd_tan)


def _split(args: tuple, *counts: int) -> list[tuple]:
    """Cut an argument list into runs of the given lengths, and the rest."""
    parts, start = [], 0
    for count in counts:
        parts.append(args[start : start + count])
        start += count
    return [*parts, args[start:]]


def _tuple(result: np.ndarray | tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def _real(arrays: tuple) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in arrays]


def _step(arrays: tuple, tangents: tuple) -> list[np.ndarray]:
    pairs = zip(_real(arrays), tangents, strict=True)
    return [x if t is None else x + 1j * STEP * np.asarray(t, np.float64) for x, t in pairs]


def _derivative(results: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [np.imag(y) / STEP for y in results]


def _store(buffers: tuple, values: tuple | list) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer[...] = value


def _accumulate(buffers: tuple, values: tuple | list) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        if buffer is not None:
            buffer += value
