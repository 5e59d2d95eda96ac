"""Structures: data sets, files of structures, neighbours, graphs and batches of them."""
