"""The network: its operators' order, weights, and the tape that differentiates it."""
