"""Vectors of channels in registers, for the kernels of the force call.

LLVM turns a plain loop over channels into vector code only where it can prove that what is written overlaps
nothing that is read, and it keeps no sum in a register from one such loop to the next. Here vectors have
names: `load` and `store` move WIDTH bytes between an array and a register, + - * act lane by lane, `total`
adds the lanes. A vector holds `lanes(dtype)` numbers; LLVM splits it on machines with narrower registers.

`add_product` is a small matrix product whose result stays in registers; see there.

A `Dual` is a number or a vector with its tangent: + - * act by the sum and the product rule. What is asked
for, by `tangents`, is all that is computed.

Code for numbers and for vectors alike says `read`, `write` and `fill`, which do as the types have it; CUDA
kernels and plain Python know numbers alone.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, make_attribute_wrapper, models, overload, register_model

from .compile import FAST

WIDTH = 64  # bytes: one AVX-512 register
FLAGS = ("contract", "reassoc", "nsz", "arcp")


def lanes(dtype: Any) -> int:
    """Numbers in one vector."""
    return WIDTH // np.dtype(dtype).itemsize


def whole(count: int, size: int) -> int:
    """count, rounded up to a multiple of size."""
    return -(-count // size) * size


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that start where a vector may: a load across two cache lines takes twice the time."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + WIDTH, np.uint8)
    start = -room.ctypes.data % WIDTH
    return room[start : start + size].view(dtype).reshape(shape)


class Vector(types.Type):
    """Numbers of one type, side by side in a register."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        self.lanes = 8 * WIDTH // dtype.bitwidth
        super().__init__(f"Vector({dtype} x {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        scalar = manager.lookup(fe_type.dtype).get_value_type()
        super().__init__(manager, fe_type, ir.VectorType(scalar, fe_type.lanes))


def _pointer(context, builder, array_type, array, index):
    """Address of the vector that starts at array[index]; indices are never negative."""
    array = context.make_array(array_type)(context, builder, array)
    index = cgutils.unpack_tuple(builder, index)
    pointer = cgutils.get_item_pointer(context, builder, array_type, array, index)
    vector = ir.VectorType(pointer.type.pointee, 8 * WIDTH // array_type.dtype.bitwidth)
    return builder.bitcast(pointer, vector.as_pointer())


def _splat(builder, scalar, count):
    vector = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    vector = builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    )


@intrinsic
def load(typingctx, array, index):
    """The vector that starts at array[index]; index is a tuple."""

    def code(context, builder, signature, args):
        pointer = _pointer(context, builder, array, *args)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, index), code


@intrinsic
def store(typingctx, array, index, vector):
    """array[index] = vector"""

    def code(context, builder, signature, args):
        pointer = _pointer(context, builder, array, *args[:2])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, vector), code


@intrinsic
def splat(typingctx, scalar):
    """The same number in every lane."""
    vector = Vector(scalar)

    def code(context, builder, signature, args):
        return _splat(builder, args[0], vector.lanes)

    return vector(scalar), code


@intrinsic
def total(typingctx, vector):
    """Sum over the lanes."""

    def code(context, builder, signature, args):
        scalar = args[0].type.element
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{vector.dtype.bitwidth}"
        kind = ir.FunctionType(scalar, [scalar, args[0].type])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(scalar, 0.0), args[0]], fastmath=FLAGS)

    return vector.dtype(vector), code


def _lane_by_lane(sign, instruction):
    @intrinsic
    def apply(typingctx, a, b):
        vector = a if isinstance(a, Vector) else b

        def code(context, builder, signature, args):
            return getattr(builder, instruction)(*args, flags=FLAGS)

        return vector(a, b), code

    @overload(sign)
    def typed(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: apply(a, b)


for _sign, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _lane_by_lane(_sign, _instruction)


@intrinsic
def spread(typingctx, array, index):
    """array[index] in every lane."""

    def code(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0])
        index = cgutils.unpack_tuple(builder, args[1])
        pointer = cgutils.get_item_pointer(context, builder, array, data, index)
        return _splat(builder, builder.load(pointer), 8 * WIDTH // array.dtype.bitwidth)

    return Vector(array.dtype)(array, index), code


# ---- numbers with their tangents


class Dual(types.Type):
    """Two of one kind, a value and its tangent."""

    def __init__(self, part: types.Type):
        self.part = part
        super().__init__(f"Dual({part})")


@register_model(Dual)
class _DualModel(models.StructModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, [("value", fe_type.part), ("tangent", fe_type.part)])


for _part in ("value", "tangent"):
    make_attribute_wrapper(Dual, _part, _part)


def _dual(context, builder, kind, value, tangent):
    pair = cgutils.create_struct_proxy(kind)(context, builder)
    pair.value, pair.tangent = value, tangent
    return pair._getvalue()


@intrinsic
def dual(typingctx, value, tangent):
    """A number or vector with its tangent."""
    kind = Dual(value)

    def code(context, builder, signature, args):
        return _dual(context, builder, kind, *args)

    return kind(value, tangent), code


@intrinsic
def duals(typingctx, values, moved):
    """The same of each in two tuples."""
    kind = Dual(values.dtype)
    result = types.UniTuple(kind, values.count)

    def code(context, builder, signature, args):
        parts = zip(*(cgutils.unpack_tuple(builder, a) for a in args), strict=True)
        return context.make_tuple(builder, result, [_dual(context, builder, kind, *pair) for pair in parts])

    return result(values, moved), code


@intrinsic
def tangents(typingctx, pairs):
    """The tangents of a tuple of them."""
    kind = pairs.dtype
    result = types.UniTuple(kind.part, pairs.count)

    def code(context, builder, signature, args):
        found = [
            cgutils.create_struct_proxy(kind)(context, builder, pair).tangent
            for pair in cgutils.unpack_tuple(builder, args[0])
        ]
        return context.make_tuple(builder, result, found)

    return result(pairs), code


_RULES = {
    operator.add: lambda a, b: dual(a.value + b.value, a.tangent + b.tangent),
    operator.sub: lambda a, b: dual(a.value - b.value, a.tangent - b.tangent),
    operator.mul: lambda a, b: dual(a.value * b.value, a.value * b.tangent + a.tangent * b.value),
}


def _by_rule(sign, rule):
    @overload(sign, jit_options={"fastmath": FAST, "forceinline": True})
    def typed(a, b):
        if isinstance(a, Dual) and a == b:
            return rule


for _sign, _rule in _RULES.items():
    _by_rule(_sign, _rule)


# ---- numbers or vectors


def read(array, index, like):
    """array[index], or the vector that starts there, as `like` is."""
    return array[index]


def write(array, index, x):
    """array[index] = x"""
    array[index] = x


def fill(number, like):
    """A number, in every lane if `like` is a vector."""
    return number


_inlined = {"fastmath": FAST, "forceinline": True}


@overload(read, jit_options=_inlined)
def _read(array, index, like):
    if isinstance(like, Vector):
        return lambda array, index, like: load(array, index)
    return lambda array, index, like: array[index]


@overload(write, jit_options=_inlined)
def _write(array, index, x):
    if isinstance(x, Vector):
        return lambda array, index, x: store(array, index, x)

    def put(array, index, x):
        array[index] = x

    return put


@overload(fill, jit_options=_inlined)
def _fill(number, like):
    if isinstance(like, Vector):
        return lambda number, like: splat(number)
    return lambda number, like: number


# ---- matrices


@intrinsic
def add_product(typingctx, y, y0, y_step, x, x0, x_step, x_next, w, w0, w_step, rows, k, columns, factor):
    """y += factor x w for y[rows, columns], x[rows, k], w[k, columns], all inside arrays without gaps.

    Row r of y starts at number y0 + r y_step of its array, row q of w at w0 + q w_step; x[r, q] is number
    x0 + r x_step + q x_next, so that x may be a transpose. Tiles of six rows (then three, then one) and up to
    four vectors stay in registers: 24 sums for 4 numbers of w and 6 of x. Columns beyond the last whole
    vector go one by one. Every sum is taken in the order of k.
    """
    count = 8 * WIDTH // y.dtype.bitwidth
    align = y.dtype.bitwidth // 8
    size = types.intp

    def code(context, builder, signature, args):
        y_data, x_data, w_data = (
            context.make_array(t)(context, builder, a).data
            for t, a in ((y, args[0]), (x, args[3]), (w, args[7]))
        )
        _, y0, y_step, _, x0, x_step, x_next, _, w0, w_step, rows, k, columns, factor = args
        number = y_data.type.pointee
        integer = k.type

        def constant(value):
            return ir.Constant(integer, value)

        def tile(row, column, R, V):
            """R rows and V vectors from `column` on; V = 0 is a single column."""
            kind = ir.VectorType(number, count) if V else number

            def place(data, start, v):
                where = builder.gep(data, [builder.add(start, constant(v * count))])
                return builder.bitcast(where, kind.as_pointer())

            def every(scalar):
                return _splat(builder, scalar, count) if V else scalar

            places = range(max(V, 1))
            steps = [builder.add(row, constant(r)) for r in range(R)]
            y_rows = [builder.add(builder.add(y0, column), builder.mul(y_step, step)) for step in steps]
            x_rows = [builder.add(x0, builder.mul(x_step, step)) for step in steps]
            sums = [[cgutils.alloca_once(builder, kind) for _ in places] for _ in range(R)]
            for r in range(R):
                for v in places:
                    builder.store(ir.Constant(kind, [0.0] * count if V else 0.0), sums[r][v])
            with cgutils.for_range(builder, k, intp=integer) as loop:
                start = builder.add(builder.add(w0, column), builder.mul(loop.index, w_step))
                line = [builder.load(place(w_data, start, v), align=align) for v in places]
                shift = builder.mul(loop.index, x_next)
                for r in range(R):
                    x_r = every(builder.load(builder.gep(x_data, [builder.add(x_rows[r], shift)])))
                    for v in places:
                        product = builder.fmul(x_r, line[v], flags=FLAGS)
                        builder.store(
                            builder.fadd(builder.load(sums[r][v]), product, flags=FLAGS), sums[r][v]
                        )
            scale = every(factor)
            for r in range(R):
                for v in places:
                    where = place(y_data, y_rows[r], v)
                    scaled = builder.fmul(scale, builder.load(sums[r][v]), flags=FLAGS)
                    held = builder.fadd(builder.load(where, align=align), scaled, flags=FLAGS)
                    builder.store(held, where, align=align)

        column = constant(0)
        for V in (4, 2, 1, 0):
            width = max(V * count, 1)
            strips = builder.sdiv(builder.sub(columns, column), constant(width))
            with cgutils.for_range(builder, strips, intp=integer) as strip:
                here = builder.add(column, builder.mul(strip.index, constant(width)))
                done = constant(0)
                for R in (6, 3, 1) if V else (1,):
                    tiles = builder.sdiv(builder.sub(rows, done), constant(R))
                    with cgutils.for_range(builder, tiles, intp=integer) as loop:
                        tile(builder.add(done, builder.mul(loop.index, constant(R))), here, R, V)
                    done = builder.add(done, builder.mul(tiles, constant(R)))
            column = builder.add(column, builder.mul(strips, constant(width)))
        return context.get_dummy_value()

    places = (y, size, size, x, size, size, size, w, size, size, size, size, size)
    return types.void(*places, y.dtype), code
