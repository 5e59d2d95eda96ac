"""Vectors of channels in registers, for the kernels of the force call.

LLVM turns a plain loop over channels into vector code only where it can prove that what is written overlaps
nothing that is read, and it keeps no sum in a register from one such loop to the next. Here vectors have
names: `load` and `store` move WIDTH bytes between an array and a register, + - * act lane by lane, `total`
adds the lanes. A vector holds `lanes(dtype)` numbers; LLVM splits it on machines with narrower registers.

`add_product` is a small matrix product whose result stays in registers; see there.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 64  # bytes: one AVX-512 register
FLAGS = ("contract", "reassoc", "nsz", "arcp")


def lanes(dtype: Any) -> int:
    """Numbers in one vector."""
    return WIDTH // np.dtype(dtype).itemsize


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


@intrinsic
def add_product(typingctx, y, y0, y_step, x, x0, x_step, w, w0, rows, k, vectors):
    """y += x w for y[rows, vectors · lanes], x[rows, k], w[k, vectors · lanes], all inside flat arrays.

    Row r of y starts at y0 + r y_step, of x at x0 + r x_step; those of w follow one another from w0 on.
    vectors is 4, 2 or 1. Tiles of six rows (then three, then one) and all columns stay in registers, 24 sums
    for 4 numbers of w and 6 of x. Every sum is taken in the order of k.
    """
    count = 8 * WIDTH // y.dtype.bitwidth
    align = y.dtype.bitwidth // 8
    size = types.intp

    def code(context, builder, signature, args):
        y_data, x_data, w_data = (
            context.make_array(t)(context, builder, a).data
            for t, a in ((y, args[0]), (x, args[3]), (w, args[6]))
        )
        _, y0, y_step, _, x0, x_step, _, w0, rows, k, vectors = args
        kind = ir.VectorType(y_data.type.pointee, count)

        def number(value):
            return ir.Constant(k.type, value)

        def vector(data, start, offset):
            where = builder.gep(data, [builder.add(start, number(offset))])
            return builder.bitcast(where, kind.as_pointer())

        def tile(row, R, V):
            steps = [builder.add(row, number(r)) for r in range(R)]
            y_rows = [builder.add(y0, builder.mul(y_step, step)) for step in steps]
            x_rows = [builder.add(x0, builder.mul(x_step, step)) for step in steps]
            sums = [[cgutils.alloca_once(builder, kind) for _ in range(V)] for _ in range(R)]
            for r in range(R):
                for v in range(V):
                    builder.store(builder.load(vector(y_data, y_rows[r], v * count), align=align), sums[r][v])
            with cgutils.for_range(builder, k, intp=k.type) as loop:
                start = builder.add(w0, builder.mul(loop.index, number(V * count)))
                line = [builder.load(vector(w_data, start, v * count), align=align) for v in range(V)]
                for r in range(R):
                    where = builder.gep(x_data, [builder.add(x_rows[r], loop.index)])
                    factor = _splat(builder, builder.load(where), count)
                    for v in range(V):
                        product = builder.fmul(factor, line[v], flags=FLAGS)
                        held = builder.fadd(builder.load(sums[r][v]), product, flags=FLAGS)
                        builder.store(held, sums[r][v])
            for r in range(R):
                for v in range(V):
                    held = builder.load(sums[r][v])
                    builder.store(held, vector(y_data, y_rows[r], v * count), align=align)

        for V in (4, 2, 1):
            with builder.if_then(builder.icmp_signed("==", vectors, number(V))):
                done = number(0)
                for R in (6, 3, 1):
                    tiles = builder.sdiv(builder.sub(rows, done), number(R))
                    with cgutils.for_range(builder, tiles, intp=k.type) as loop:
                        tile(builder.add(done, builder.mul(loop.index, number(R))), R, V)
                    done = builder.add(done, builder.mul(tiles, number(R)))
        return context.get_dummy_value()

    return types.void(y, size, size, x, size, size, w, size, size, size, size), code
