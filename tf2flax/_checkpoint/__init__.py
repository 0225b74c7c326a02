"""What `open_checkpoint` gives: names, tensors and their parts, views, reports."""
