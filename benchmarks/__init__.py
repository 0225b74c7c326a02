"""What tf2flax takes in time and memory, side by side with other readers.

`python -m benchmarks` (or `make bench`) measures and writes docs/benchmarks.md.
`python -m benchmarks.accelerator` checks restores on the device that JAX has; of an
accelerator, its result is the section "Accelerators" of that page.
"""
