"""A batch put together on a GPU from frames that stay there, as `structures.graph.collate` does on the host.

The atoms of all frames of a data set lie frame by frame, those of a frame by species, and the edges into each
of them side by side in the order of a batch. Atoms of a batch come by species, then frame: atom a, the
all_rank[a]-th of its species in its frame, becomes atom

    p = offsets[slot, all_species[a]] + all_rank[a]

of the batch, where slot counts the batch's frames. Its edges stay side by side and in order, since p rises
with a within a frame. Every edge has its reverse: as many edges go out of an atom as into it, and one ptr
serves both.

For each chosen frame frames[f], starts[f + 1] (how many atoms came before it) and offsets[f, Z]; of all
frames frame_ptr[F + 1], all_species[A], all_rank[A], all_ptr[A + 1] into the edges, and of these
all_edge_vec[E, 3] (Å), all_senders, all_receivers (atoms) and all_perm (edges out of each atom), all [E].
A thread takes one atom: 27 registers, 40 bytes; one number of ptr: 32, 8 for each atom before; or one edge:
32, some 150.
"""

from . import cuda as gpu

cuda = None  # see cuda.py


@gpu.kernel(lambda source, *_: source.size)
def atoms_cuda(source, frame, species, frames, starts, offsets, frame_ptr, all_species, all_rank):
    """source[n]: which atom of all frames each atom of the batch is; its frame[n] and species[n]."""
    for k in range(cuda.grid(1), source.size, cuda.gridsize(1)):
        slot = 0
        while starts[slot + 1] <= k:
            slot += 1
        a = frame_ptr[frames[slot]] + k - starts[slot]
        p = offsets[slot, all_species[a]] + all_rank[a]
        source[p], frame[p], species[p] = a, slot, all_species[a]


@gpu.kernel(lambda ptr, *_: ptr.size)
def ptr_cuda(ptr, source, all_ptr):
    """ptr[n + 1] of the edges into, and out of, each atom. A thread adds up all that come before its own."""
    for p in range(cuda.grid(1), ptr.size, cuda.gridsize(1)):
        total = 0
        for q in range(p):
            total += all_ptr[source[q] + 1] - all_ptr[source[q]]
        ptr[p] = total


@gpu.Device
def _atom(a, slot, offsets, all_species, all_rank):
    return offsets[slot, all_species[a]] + all_rank[a]


@gpu.kernel(lambda edge_vec, senders, *_: senders.size)
def edges_cuda(
    edge_vec,
    senders,
    receivers,
    sender_perm,
    ptr,
    source,
    frame,
    far,
    offsets,
    all_species,
    all_rank,
    all_ptr,
    all_edge_vec,
    all_senders,
    all_receivers,
    all_perm,
):
    """The edges, and beyond the last of them as many of length `far` (Å) as there is room for."""
    n = source.size
    for e in range(cuda.grid(1), senders.size, cuda.gridsize(1)):
        if e >= ptr[n]:
            edge_vec[e, 0], edge_vec[e, 1], edge_vec[e, 2] = far, 0.0, 0.0
            senders[e] = receivers[e] = sender_perm[e] = 0
            continue
        low, high = 0, n - 1
        while low < high:  # the atom p with ptr[p] <= e < ptr[p + 1]
            middle = (low + high + 1) // 2
            if ptr[middle] <= e:
                low = middle
            else:
                high = middle - 1
        p, slot = low, frame[low]
        k = all_ptr[source[p]] + e - ptr[p]
        for d in range(3):
            edge_vec[e, d] = all_edge_vec[k, d]
        receivers[e] = p
        senders[e] = _atom(all_senders[k], slot, offsets, all_species, all_rank)
        out = all_perm[k]
        to = all_receivers[out]
        sender_perm[e] = ptr[_atom(to, slot, offsets, all_species, all_rank)] + out - all_ptr[to]
