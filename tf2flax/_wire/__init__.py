"""Bytes <-> values, one structure a file. Nothing here opens a file."""
