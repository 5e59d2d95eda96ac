"""Training: loss, optimizers, the run, the errors of a fit."""
