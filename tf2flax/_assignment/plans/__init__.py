"""A resolution and a checkpoint: what a restore does, as values and as text."""
