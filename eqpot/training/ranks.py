"""A fit by several ranks of MPI: the first one trains, all compute gradients and predictions.

The first rank has the run: its folder, clock, rates, optimizer, moving average and words, as in one process.
For a step it sends weights and frames to all; each rank computes what its share of the frames adds to the
gradient, and the first one gets the sum, in the order of ranks. So whatever is decided is decided once, and
all have the same weights even where their processors round differently.

A rank that has failed, or was asked to stop, says so when the others are done with their shares, too: then
the first one raises, and nobody waits for anybody.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.launcher import end_all
from eqpot.stops import held
from eqpot.structures.frames import Frames, Labels
from eqpot.training.validation import predict

if TYPE_CHECKING:
    from mpi4py.MPI import Comm

    from eqpot.potential import Potential

Failure = tuple[type[BaseException], str]


class Learner(Protocol):
    """What ranks take of `eqpot.training.learner.Learner`."""

    config: Config
    train: Frames
    valid: Frames
    known: Sequence[int]
    potential: "Potential"
    weights: np.ndarray
    ranks: "OneRank"

    def sums(self, mine: np.ndarray, chosen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]: ...

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]: ...


class OneRank:
    """A fit in one process."""

    size = 1

    def gradient(self, learner: Learner, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loss and its terms [4], and gradient, of the frames `chosen`."""
        values, gradients = zip(*learner.sums(chosen, chosen), strict=True)
        return in_order(values), in_order(gradients)

    def predictions(self, learner: Learner) -> Labels:
        """Of the validation frames."""
        return _predictions(learner, slice(None))


class FirstRank(OneRank):
    """A fit of several ranks, at the first one; the others `serve` it until `close`.

    Its methods raise what went wrong at any rank.
    """

    def __init__(self, comm: "Comm"):
        self._comm, self.size = comm, comm.size
        self._asleep = True  # whether the others are, until the first task
        self._awaited = False  # whether the others wait to hear how it went here

    def begin(self, learner: Learner) -> None:
        """Share the work of a learner from now on; its kernels are compiled here first, for all."""
        learner.sums(np.arange(1), np.arange(1))
        _predictions(learner, slice(1))
        frames = learner.train.dataset, learner.valid.dataset
        self._tell("begin", (learner.config, *frames, learner.known, learner.contents()))
        self._finish(lambda: None)
        learner.ranks = self

    def gradient(self, learner: Learner, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._shared("gradient", learner, chosen)

    def predictions(self, learner: Learner) -> Labels:
        return self._shared("predictions", learner, None)

    def close(self) -> None:
        """Let the others go, whatever they wait for."""
        self._tell("end", None)

    def _shared(self, task: str, learner: Learner, given: Any) -> Any:
        compute, collect = TASKS[task]
        self._tell(task, given, learner.weights)
        own = compute(self._comm, learner, given)
        return self._finish(lambda: collect(self._comm, learner, own))

    def _tell(self, task: str, given: Any, weights: np.ndarray | None = None) -> None:
        with together(self._comm):
            if self._asleep:
                self._comm.Ibarrier().Wait()
                self._asleep = False
            if self._awaited:
                agreed(self._comm, (KeyboardInterrupt, ""))
            self._comm.bcast((task, given))
            if weights is not None:
                self._comm.Bcast(weights)
            self._awaited = task != "end"

    def _finish(self, collect: Callable[[], Any]) -> Any:
        with together(self._comm):
            self._awaited = False
            failures = agreed(self._comm, None)
            found = None if failures else collect()
        for kind, text in failures:
            raise kind(text)
        return found


def serve(comm: "Comm", begun: Callable[..., Learner]) -> None:
    """Do what the first rank asks for, at any other, until it needs no more.

    begun: makes a learner of what `FirstRank.begin` has sent.
    """
    learner = None
    with together(comm) as stop, np.errstate(over="ignore", invalid="ignore"):
        first_task = comm.Ibarrier()  # MPI would keep a core busy while the first rank reads and compiles
        while not first_task.Test():
            time.sleep(0.01)
        while True:
            task, given = comm.bcast(None)
            if task == "end":
                return
            if learner is not None:
                comm.Bcast(learner.weights)
            compute, collect = TASKS.get(task, (None, None))
            own, failure = None, None
            try:
                if task == "begin":
                    learner = begun(*given)
                else:
                    own = compute(comm, learner, given)
            except Exception as e:
                failure = _failure(comm, e)
            if stop.asked:
                failure = KeyboardInterrupt, ""
            if not agreed(comm, failure) and collect is not None:
                collect(comm, learner, own)


@contextmanager
def together(comm: "Comm") -> Iterator[held]:
    """What ranks do in step: a stop waits until they have, and where one cannot go on all end at once."""
    with held() as stop:
        try:
            yield stop
        except BaseException as e:
            end_all(comm, _failure(comm, e)[1])


def agreed(comm: "Comm", failure: Failure | None) -> list[Failure]:
    """What failed at any rank; each calls this with its own failure, or None."""
    return [found for found in comm.allgather(failure) if found is not None]


def _failure(comm: "Comm", error: BaseException) -> Failure:
    where = f"rank {comm.rank} on {socket.gethostname()}"
    if isinstance(error, UserError | MemoryError):
        return type(error), f"{where}: {error}"
    return RuntimeError, f"{where}: {type(error).__name__}: {error}"


def share(comm: "Comm", sizes: np.ndarray) -> slice:
    """Which of some frames of so many atoms are this rank's, in a row: all have about as many atoms."""
    middle = np.cumsum(sizes) - sizes / 2
    owner = (comm.size * middle / sizes.sum()).astype(int)
    return slice(*np.searchsorted(owner, [comm.rank, comm.rank + 1]))


def in_order(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Their sum, one added after the other."""
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


# ---------------------------------------------------------------- gradients


def _sums(comm: "Comm", learner: Learner, chosen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return learner.sums(chosen[share(comm, learner.train.dataset.sizes[chosen])], chosen)


def _added(comm: "Comm", learner: Learner, own: list[tuple]) -> tuple[np.ndarray, np.ndarray] | None:
    """The sums of all ranks, added in their order, at the first one.

    Each rank adds one slice of all gradients, which no single one had the room and the time to take in.
    """
    values = comm.allgather([value for value, _ in own])
    counts, like = np.array([len(of_rank) for of_rank in values]), learner.weights
    width = -(-len(like) // comm.size)
    sent = np.zeros((len(own), comm.size * width), like.dtype)
    for row, (_, gradient) in zip(sent, own, strict=True):
        row[: len(like)] = gradient
    sent = np.ascontiguousarray(sent.reshape(len(own), comm.size, width).swapaxes(0, 1))
    received = np.empty((counts.sum(), width), like.dtype)
    comm.Alltoallv([sent, np.full(comm.size, len(own) * width)], [received, counts * width])
    whole = np.empty(comm.size * width, like.dtype) if comm.rank == 0 else None
    comm.Gather(in_order(received), whole)
    return None if whole is None else (in_order(sum(values, [])), whole[: len(like)])


# ---------------------------------------------------------------- predictions


def _predictions(learner: Learner, part: slice) -> Labels:
    """Of a part of the validation frames; with `ordered_sums` one by one, since bits depend on the others."""
    together = {"max_edges": 1} if learner.config.train.ordered_sums else {}
    return predict(learner.potential, learner.valid, part=part, **together)


def _predicted(comm: "Comm", learner: Learner, _: None) -> Labels:
    return _predictions(learner, share(comm, learner.valid.dataset.sizes))


def _joined(comm: "Comm", learner: Learner, own: Labels) -> Labels | None:
    """The predictions of all ranks, each of its share, at the first one."""
    mine, atom_ptr = share(comm, learner.valid.dataset.sizes), learner.valid.dataset.atom_ptr
    places = {"energy": mine, "forces": slice(atom_ptr[mine.start], atom_ptr[mine.stop]), "stress": mine}
    parts = comm.gather({k: x[places[k]] for k, x in vars(own).items() if x is not None})
    return parts and Labels(**{k: np.concatenate([part[k] for part in parts]) for k in parts[0]})


TASKS = {"gradient": (_sums, _added), "predictions": (_predicted, _joined)}
