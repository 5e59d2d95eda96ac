"""The ways to compute, and what they have in common."""
