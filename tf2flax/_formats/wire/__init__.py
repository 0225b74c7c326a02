"""Bytes to values: tables, messages, checksums, numbers."""
