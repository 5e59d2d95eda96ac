"""Operators of the model: NumPy reference, and forward and hand-derived derivative kernels for CPU and GPU.

The docstring of a CUDA kernel ends with what a thread takes, the registers of a thread (ptxas, float32,
compute capability 9.0), and for each number, edge or atom the bytes that it reads and writes, but for what
the threads of a warp read in the same place, and the operations: a function is one, a multiplication and an
addition are two.
"""
