"""Moving atoms: dynamics, relaxation, and what to check before."""
