"""Where bytes lie, on this machine or in a store: the only folder with tensorstore.

Begin with `base.py`, the contracts that everything above uses.

- `base.py`: what a place of checkpoints and an index can do; no code.
- `local.py`: files of this machine.
- `stores.py`: from a path or URL to its place; stores as places of checkpoints.
- `store_files.py`: keys of a store as indexes and data files.
- `requests.py`: requests to stores, bounded in size, number and time.
- `archives.py`: compressed members of zip archives, uncompressed once; `zip_table.py`:
  the table at the end of an archive.
- `snapshots.py`: what identified local files when they were opened.
- `lazy.py`: views of tensors whose chunks are read when they are needed.
- `save_destinations.py`: where a save writes, as a contract; `local_destination.py` and
  `store_destination.py` fulfil it.
- `writing.py`, `exchanging.py`: one file, and all files of a checkpoint, replaced
  whole or not at all; `bridges.py`: the old one under second names meanwhile.
- `faults.py`: errors of systems and stores as errors of ours; `hosts.py`: hosts that
  cannot be reached, and redirects.
- `foreign.py`: the table of files of other programs.

Nothing here knows a format or a tensor, and nothing maps files into memory.
"""
