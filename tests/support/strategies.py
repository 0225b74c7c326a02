"""Hypothesis strategies that several test files share."""

from __future__ import annotations

from hypothesis import strategies as st

int64s = st.integers(-(2**63), 2**63 - 1)

# Bytes of names: those that the ordered code escapes come often.
names = st.binary(max_size=30) | st.lists(
    st.sampled_from([b"\0", b"\xff", b"\x01", b"a"]), max_size=8
).map(b"".join)

# Items of a table; TensorFlow allows an empty key (the header's) and empty values.
tables = st.dictionaries(st.binary(max_size=12), st.binary(max_size=200), max_size=60)

# Elements of a string tensor; lengths of 128 and more take two bytes.
strings = st.lists(st.binary(max_size=300), max_size=20)

# Start and length of a slice along every axis; any that a file can hold.
extents = st.lists(st.tuples(st.integers(0, 2**63 - 1), int64s), max_size=8)

# The same, as partitions of variables have them: -1 is a whole axis.
small_extents = st.lists(
    st.tuples(st.integers(0, 2**13 - 1), st.integers(-1, 2**13 - 1)), max_size=8
)

# Bytes to overwrite: position (to be taken modulo the length) and new value.
damage = st.lists(
    st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8
)
