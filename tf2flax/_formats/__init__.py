"""File families of TensorFlow checkpoints, each parsed into a `Manifest`.

No file is opened here: bytes come through what `_checkpoint` gives.
"""
