"""Bring reference data into the data set format and look at it."""
