"""Which source fills which leaf, by the rules of TensorFlow; and what is wrong."""
