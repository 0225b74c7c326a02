"""`load_checkpoint`: the reader of `tf.train`, method by method.

Source: tensorflow/python/training/checkpoint_utils.py, py_checkpoint_reader.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import Checkpoint
from .opening import open_checkpoint
from .state import PathLike

if TYPE_CHECKING:
    from tf2flax._storage.requests import KvStore


class CheckpointReader:
    """What `tf.train.load_checkpoint` gives; made by `load_checkpoint`.

    Attributes:
        checkpoint: The checkpoint, which can do more.

    Examples:
        >>> import numpy as np, tf2flax
        >>> reader = tf2flax.load_checkpoint({"global_step": np.int64(7)})
        >>> reader.get_tensor("global_step")
        np.int64(7)
    """

    __slots__ = ("checkpoint",)

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Wraps a checkpoint."""
        self.checkpoint: Checkpoint = checkpoint

    def get_tensor(self, tensor_str: str) -> Any:
        """Reads one tensor.

        Args:
            tensor_str: Its name.

        Returns:
            Array; a numpy scalar, or `bytes`, where the rank is 0.

        Raises:
            TensorNotFoundError: No tensor has this name.
            CheckpointError: As `StoredTensor.read`.
        """
        return self.checkpoint[tensor_str].read()[()]

    def has_tensor(self, tensor_str: str) -> bool:
        """True if a tensor has this name."""
        return tensor_str in self.checkpoint

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        """Shapes of all tensors, as lists, by name."""
        return {name: list(spec.shape) for name, spec in self._specs()}

    def get_variable_to_dtype_map(self) -> dict[str, np.dtype[Any]]:
        """NumPy dtypes of all tensors by name; `object` for strings."""
        return {name: spec.dtype.numpy for name, spec in self._specs()}

    def _specs(self) -> Any:
        return self.checkpoint.manifest.specs()


def load_checkpoint(
    ckpt_dir_or_file: PathLike | KvStore | Checkpoint,
) -> CheckpointReader:
    """Opens a checkpoint, as `tf.train.load_checkpoint`.

    Args:
        ckpt_dir_or_file: As for `open_checkpoint`.

    Returns:
        A reader with TensorFlow's methods.

    Raises:
        CheckpointError: As `open_checkpoint`.

    Examples:
        >>> import numpy as np, tf2flax
        >>> reader = tf2flax.load_checkpoint({"kernel": np.ones((3, 2)), "step": 7})
        >>> reader.has_tensor("kernel"), reader.has_tensor("bias")
        (True, False)
        >>> reader.get_variable_to_shape_map()["kernel"]
        [3, 2]

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    return CheckpointReader(open_checkpoint(ckpt_dir_or_file))
