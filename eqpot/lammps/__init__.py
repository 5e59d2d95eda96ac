"""eqpot in LAMMPS: a pair style, the command that builds it, and the input of a first run."""
