"""Where each element of an expression lies: strided views of tensors, and back."""
