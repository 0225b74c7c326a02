"""Keras weights: HDF5 files, folders, shards, and the names of layers."""
