"""Operators of the model: NumPy reference, and forward and hand-derived derivative kernels for the CPU."""
