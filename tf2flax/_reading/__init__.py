"""Entries to arrays: whole, in part, one or many at once."""
