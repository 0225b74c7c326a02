"""What `make checks` measures: names, sizes, comments, and the walk of one leaf."""
