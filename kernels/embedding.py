"""Species embedding: an atom's first features are its species' row of a trained table.

    s_i = table[species_i]          dtable[z] = sum over the atoms i of species z of ds_i

Linear, so the tangents are the same maps of the tangents. Shapes: table[Z, C], s[n, C], species[n] in rising
order, so that the atoms of species z are species_ptr[z] : species_ptr[z + 1]. One gather and one segmented
sum: NumPy on a CPU.
"""

from functools import partial

import numpy as np

from . import cuda as gpu

cuda = None  # see cuda.py


def embedding_fwd_cpu(s, table, species, species_ptr):
    np.take(table, species, axis=0, out=s)


def embedding_bwd_cpu(dtable, ds, table, species, species_ptr):
    if dtable is None:
        return
    present = np.flatnonzero(np.diff(species_ptr))
    if present.size:
        dtable[present] += np.add.reduceat(ds, species_ptr[present], axis=0)


@gpu.kernel(lambda s, *_: s.size)
def _fwd_cuda(s, table, species):
    """A thread takes one number of s; 30 registers; 4 bytes, and the table from the cache."""
    C = s.shape[1]
    for k in range(cuda.grid(1), s.size, cuda.gridsize(1)):
        i, c = k // C, k % C
        s[i, c] = table[species[i], c]


def embedding_fwd_cuda(s, table, species, species_ptr):
    """`species_ptr` is on the host, as for all operators on a GPU."""
    _fwd_cuda(s, table, species)


@gpu.Device
def _first(species, z):
    """The first atom of species z or above."""
    low, high = 0, species.size
    while low < high:
        middle = (low + high) // 2
        if species[middle] < z:
            low = middle + 1
        else:
            high = middle
    return low


@gpu.kernel(lambda dtable, *_: dtable.size)
def _bwd_cuda(dtable, ds, species):
    """A thread takes one number of the table; 32 registers; for each atom 4 bytes, one operation."""
    C = ds.shape[1]
    for k in range(cuda.grid(1), dtable.size, cuda.gridsize(1)):
        z, c = k // C, k % C
        total = ds.dtype.type(0)
        for i in range(_first(species, z), _first(species, z + 1)):
            total += ds[i, c]
        dtable[z, c] += total


def embedding_bwd_cuda(dtable, ds, table, species, species_ptr):
    if dtable is not None:
        _bwd_cuda(dtable, ds, species)


def _fwd_tan(fwd, ts, ttable, table, species, species_ptr):
    if ttable is None:
        ts[...] = 0
    else:
        fwd(ts, ttable, species, species_ptr)


def _bwd_tan(bwd, tdtable, tds, ttable, ds, table, species, species_ptr):
    bwd(tdtable, tds, table, species, species_ptr)


embedding_fwd_tan_cpu = partial(_fwd_tan, embedding_fwd_cpu)
embedding_fwd_tan_cuda = partial(_fwd_tan, embedding_fwd_cuda)
embedding_bwd_tan_cpu = partial(_bwd_tan, embedding_bwd_cpu)
embedding_bwd_tan_cuda = partial(_bwd_tan, embedding_bwd_cuda)
