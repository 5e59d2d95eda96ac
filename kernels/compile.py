"""How every CPU kernel is compiled: a few decorators, one set of flags, one cache.

`fastmath` lets the compiler contract a*b + c and reorder sums, so that loops over channels become SIMD; it
does not let it assume that NaN and infinity are absent, since a diverging training run must stay visible.

Compiled kernels are kept on disk. Numba compares only the file of the kernel itself, not those of the
functions that are inlined into it, so the folder is named after the content of this whole package, but for
the reference, which is never compiled: a changed kernel is never mixed with an old one. They are code, so
nobody else may write there. What is damaged is compiled anew, and where nothing can be kept kernels are
compiled by each process; both are told in a line.
"""

import ctypes
import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

# Idle threads spin for some ten microseconds, as long as a stage of a kernel waits for its last part, then
# sleep: with as many threads as cores, spinning on costs a factor of ten and more when one other process is
# busy, and waking a thread at every stage a quarter of a small force call. GNU's OpenMP, which Numba uses on
# Linux, reads this when it is loaded; nobody else is to see it.
_SPIN = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}
_unset = [name for name in _SPIN if name not in os.environ]
os.environ.update({name: _SPIN[name] for name in _unset})
if sys.platform == "linux":
    with suppress(ImportError):
        from numba.np.ufunc import omppool  # noqa: F401
for _name in _unset:
    del os.environ[_name]

import numba  # noqa: E402
from llvmlite.binding import Linkage  # noqa: E402
from numba.core import caching  # noqa: E402
from numba.core.caching import (  # noqa: E402
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    NullCache,
)
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen  # noqa: E402
from numba.core.environment import lookup_environment  # noqa: E402
from numba.np.ufunc import parallel  # noqa: E402

FAST = {"contract", "reassoc", "nsz", "arcp"}

# ---------------------------------------------------------------- the cache


def _find_cache() -> tuple[str | None, str]:
    """The folder of compiled kernels; or None, and why there is none."""
    content = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.name.startswith("reference"):
            content.update(path.read_bytes())
    try:
        folders = [_base() / content.hexdigest()[:16]]
        if not numba.config.CACHE_DIR:
            folders.insert(0, folders[0].parent)
        folders[0].parent.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
            reason = _untrusted(folder)
            if reason:
                return None, f"{folder} {reason}"
    except (OSError, RuntimeError, ValueError) as e:  # the second: there is no home
        return None, str(e)
    return str(folders[-1]), ""


def _base() -> Path:
    """NUMBA_CACHE_DIR, or a folder where XDG's rules say, by which a relative path counts for none."""
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path.home().absolute() / ".cache"
    return base / "eqpot"


def _untrusted(folder: Path) -> str:
    """What lets somebody else put code into the folder; nothing where all is well."""
    if not hasattr(os, "geteuid"):
        return ""
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {found.st_uid})"
    return "can be written by anybody" if found.st_mode & 0o002 else ""


CACHE, NO_CACHE = _find_cache()
NOT_KEPT = "compiled kernels cannot be kept ({}): each process compiles its own"


@cache
def _say(line: str) -> None:
    """Once."""
    print(f"note: {line}", file=sys.stderr, flush=True)


# Public from Numba 0.62 on.
_OfUser = getattr(caching, "UserProvidedCacheLocator", None) or caching._UserProvidedCacheLocator


class _Locator(_OfUser):
    """Our folder, which need not be one that can be written to: kernels may have been put there."""

    def __init__(self, function: Callable, file: str):
        super().__init__(function, file)
        self._cache_path = os.path.join(CACHE, self.get_suitable_cache_subpath(file))

    @classmethod
    def from_function(cls, function: Callable, file: str) -> "_Locator":
        return cls(function, file)


class _Impl(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _Files(IndexDataCacheFile):
    """A file for each signature, with a checksum: damaged machine code would run as it is.

    Numba's own index of files, read and written as a whole, mixes up two signatures that two processes
    compile at once.
    """

    def _path(self, key: tuple) -> str:
        return self._data_path(self._data_name(int(hashlib.sha256(repr(key).encode()).hexdigest()[:12], 16)))

    def load(self, key: tuple) -> object:
        try:
            content = Path(self._path(key)).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("damaged")
        stamp, held, data = pickle.loads(content[32:])
        return data if (stamp, held) == (self._source_stamp, key) else None

    def save(self, key: tuple, data: object) -> None:
        content = self._dump((self._source_stamp, key, data))
        with self._open_for_write(self._path(key)) as file:
            file.write(hashlib.sha256(content).digest() + content)


def _tell_of_compiling(when: str) -> None:
    line = f"compiling kernels for a new kind of network, {when}: about a minute"
    print(line, file=sys.stderr, flush=True)


class _Cache(FunctionCache):
    _impl_class = _Impl

    def __init__(self, function: Callable):
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, self._cache_file._source_stamp)

    announced = False  # where compiling takes long

    def load_overload(self, sig, target_context):
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except Exception as e:  # of whatever kind, as it comes from whatever bytes
            reason = getattr(e, "strerror", None) or e
            _say(f"{CACHE}: compiled kernels cannot be read ({reason}): compiling them again")
        if found is None and self.announced:
            _tell_of_compiling("kept for later" if os.access(CACHE, os.W_OK) else "in each process")
        return found

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as e:
            _say(
                f"{CACHE}: compiled kernels cannot be kept ({e.strerror or e}): each process compiles its own"
            )


class _NoCache(NullCache):
    announced = False

    def load_overload(self, sig, target_context):
        if self.announced:
            _tell_of_compiling("in each process")

    def save_overload(self, sig, data):
        _say(f"compiled kernels cannot be kept ({NO_CACHE}): each process compiles its own")


# ---------------------------------------------------------------- machine code, and the same in every process

# A kernel calls routines, these call others, and a parallel loop is a function in two wrappers. Numba makes a
# library of each, with copies of all that it calls, optimizes it, and makes machine code of it. Only the
# outermost is ever run: here machine code is made of a library when somebody asks for an address in it, and
# wrappers are optimized within the kernel that they become a part of, not before. Kernels take half as long
# to compile, and compute the same bits, with filters of order 3 the same but for round-off. (Were the loop,
# too, optimized there alone, those of order 2 would be others.)

_ours = threading.local()  # whether this thread compiles one of our kernels

_LOOP = "__numba_parfor_gufunc"  # what names of libraries of parallel loops begin with
_WRAPPERS = "<numba.np.ufunc.wrappers._GufuncWrapper", "parallelgufuncwrapper"  # and those of their wrappers
_ENVIRONMENT = "_ZN08NumbaEnv"  # and names of pointers to environments

_numbas_finalize = JITCodeLibrary._finalize_final_module
_numbas_optimize = JITCodeLibrary._optimize_final_module
_numbas_pointer = JITCodeLibrary.get_pointer_to_function
_numbas_serialize = JITCodeLibrary.serialize_using_object_code
_numbas_set_env = JITCPUCodegen.set_env


def _compiling() -> bool:
    return getattr(_ours, "compiling", False)


def _without_code(library: JITCodeLibrary) -> bool:
    return getattr(library, "eqpot_without_code", False)


def _optimize(library: JITCodeLibrary) -> None:
    if not (_compiling() and library.name.startswith(_WRAPPERS)):
        _numbas_optimize(library)


def _finalize(library: JITCodeLibrary) -> None:
    """No machine code yet, if it is one of ours and was not read from the disk.

    What a kernel calls, and its parallel loops, become its own: its library has copies of them, optimized
    once more together with it. Numba marks these so that of all copies in a process the first counts: in the
    one that compiles it is an earlier copy, in one that loads kernels from the disk that of the kernel loaded
    first, and results would differ in the last bit.
    """
    if not _compiling() or getattr(library, "_compiled_object", None):
        _numbas_finalize(library)
        return
    for function in library._final_module.functions:
        if function.linkage == Linkage.linkonce_odr and not function.is_declaration:
            function.linkage = "internal"
    library._finalized = library.eqpot_without_code = True


def _pointer(library: JITCodeLibrary, name: str) -> int:
    """Address of a function, 0 where there is none; nobody calls a parallel loop but its kernel."""
    library._ensure_finalized()
    if _without_code(library):
        if library.name.startswith(_LOOP) or name not in {f.name for f in library.get_defined_functions()}:
            return 0
        library.eqpot_without_code = False
        _numbas_finalize(library)
        for variable in library._final_module.global_variables:
            environment = variable.name.startswith(_ENVIRONMENT) and lookup_environment(variable.name)
            if environment:
                library.codegen.set_env(variable.name, environment)
    return _numbas_pointer(library, name)


def _serialize(library: JITCodeLibrary) -> tuple:
    return library.serialize_using_bitcode() if _without_code(library) else _numbas_serialize(library)


def _set_env(codegen: JITCPUCodegen, name: str, environment: object) -> None:
    """What has no code yet has no place for it either."""
    if codegen._engine.get_global_value_address(name):
        _numbas_set_env(codegen, name, environment)


JITCodeLibrary._optimize_final_module = _optimize
JITCodeLibrary._finalize_final_module = _finalize
JITCodeLibrary.get_pointer_to_function = _pointer
JITCodeLibrary.serialize_using_object_code = _serialize
JITCPUCodegen.set_env = _set_env

# ---------------------------------------------------------------- the decorators


def _compiled(**options: object) -> Callable[[Callable], Callable]:
    def decorate(function: Callable) -> Callable:
        dispatcher = numba.njit(nogil=True, **options)(function)
        dispatcher._cache = _Cache(function) if CACHE else _NoCache()
        numbas = dispatcher.compile

        def compiled(signature):
            outer, _ours.compiling = getattr(_ours, "compiling", False), True
            try:
                return numbas(signature)
            finally:
                _ours.compiling = outer

        dispatcher.compile = compiled
        return dispatcher

    return decorate


# Outside of kernels: arithmetic as it is written.
exact = _compiled()

_fast = {"fastmath": FAST, "error_model": "numpy"}

# A loop over a fixed partition of the work, shared among threads. The partition depends on shapes alone, so
# results are the same bits for any number of threads.
kernel = _compiled(parallel=True, **_fast)

# What only kernels call: without the code by which Python would, which is a fifth of the time to compile.
PRIVATE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# What a kernel calls inside its loop. LLVM vectorises a loop over channels only if it can check that what is
# written overlaps nothing that is read, and gives up beyond a handful of arrays: so each loop writes one row.
# Neither these nor routines may allocate: so no reference to an array needs counting, which costs two atomic
# operations for every view and every array passed on, fought over by all threads.
inner = _compiled(forceinline=True, _nrt=False, **PRIVATE, **_fast)

# What several kernels call, compiled once.
routine = _compiled(_nrt=False, **PRIVATE, **_fast)

# A routine that allocates.
allocating = _compiled(**_fast)


def announce(function: Callable) -> None:
    """Have a kernel say on the terminal when it is about to be compiled, for each kind of arguments."""
    function._cache.announced = True


# ---------------------------------------------------------------- processes


def _on_one_thread() -> None:
    """A forked child has none of its parent's threads, and GNU's OpenMP, asked for them, ends it or waits for
    ever: from now on kernels ask for none, whatever number is set."""
    if parallel._is_initialized and parallel.threading_layer() == "omp":
        from numba.np.ufunc import omppool

        ctypes.CFUNCTYPE(None, ctypes.c_int)(omppool.launch_threads)(1)
        parallel._set_num_threads(1)
        parallel._set_num_threads = lambda count: None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_on_one_thread)
