"""eqpot: equivariant interatomic potentials from hand-derived kernels."""
