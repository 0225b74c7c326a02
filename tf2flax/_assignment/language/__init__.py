"""What a map may say: names, captures, expressions, entries."""
