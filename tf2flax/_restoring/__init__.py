"""Boxes of leaves to what is read, and where it goes."""
