"""Keras weights: HDF5 in one file, in several, in archives and folders -> a manifest.

h5py, an extra, reads the structure of a file and no element of it, since HDF5 crashes
on damaged bytes. No handle is kept open, and nothing is extracted to disk.

Begin with `format`, then `hdf5`.

- `format`: finds and opens weights; `manifest`: what all manifests of them share.
- `hdf5`, `shards`: the manifest of one file, and of several with an index.
- `file`, `archive`: the bytes of a file, and HDF5 within a zip archive.
- `hdf5_names`, `hdf5_dataset`: the datasets of a file: names; shapes and places.
- `hdf5_elements`, `hdf5_heaps`: the elements of a dataset; strings.
- `names`, `config`, `layers`: names of variables, from layers and `config.json`.
"""
