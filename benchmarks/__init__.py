"""What tf2flax takes in time and memory, side by side with other readers.

`python -m benchmarks` (or `make bench`) measures and writes docs/benchmarks.md.
"""
