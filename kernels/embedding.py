"""Species embedding: an atom's first features are its species' row of a trained table.

    s_i = table[species_i]          dtable[z] = sum over the atoms i of species z of ds_i

Linear, so the tangents are the same maps of the tangents. Shapes: table[Z, C], s[n, C], species[n] in rising
order, so that the atoms of species z are species_ptr[z] : species_ptr[z + 1]. One gather and one segmented
sum: NumPy.
"""

import numpy as np


def embedding_fwd_cpu(s, table, species, species_ptr):
    np.take(table, species, axis=0, out=s)


def embedding_bwd_cpu(dtable, ds, table, species, species_ptr):
    if dtable is None:
        return
    present = np.flatnonzero(np.diff(species_ptr))
    if present.size:
        dtable[present] += np.add.reduceat(ds, species_ptr[present], axis=0)


def embedding_fwd_tan_cpu(ts, ttable, table, species, species_ptr):
    if ttable is None:
        ts[...] = 0
    else:
        np.take(ttable, species, axis=0, out=ts)


def embedding_bwd_tan_cpu(tdtable, tds, ttable, ds, table, species, species_ptr):
    embedding_bwd_cpu(tdtable, tds, table, species, species_ptr)
