"""Names that people try first, and what to write instead: for messages alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from .names import nearest

_SYNONYMS: Final[Mapping[str, Mapping[str, str]]] = {
    "tf2flax": {
        "load": "tf2flax.open_checkpoint(path), or tf2flax.init_from_checkpoint",
        "open": "tf2flax.open_checkpoint(path)",
        "read": "tf2flax.open_checkpoint(path).read()",
        "read_checkpoint": "tf2flax.open_checkpoint(path).read()",
        "load_weights": "tf2flax.init_from_checkpoint(path, assignment_map, target)",
        "load_params": "tf2flax.init_from_checkpoint(path, assignment_map, target)",
        "load_into": "tf2flax.init_from_checkpoint(path, assignment_map, target)",
        "restore": "tf2flax.init_from_checkpoint(path, assignment_map, target)",
        "restore_checkpoint": (
            "tf2flax.init_from_checkpoint(path, assignment_map, target)"
        ),
        "init": "tf2flax.init_from_checkpoint(path, assignment_map, target)",
        "save": "tf2flax.save_checkpoint(prefix, tree)",
        "save_weights": "tf2flax.save_checkpoint(prefix, tree)",
        "list": "tf2flax.list_variables(path)",
        "ls": "tf2flax.list_variables(path), or `tf2flax ls` on the command line",
        "keys": "list(tf2flax.open_checkpoint(path))",
        "get_tensor": "tf2flax.load_variable(path, name)",
        "load_tensor": "tf2flax.load_variable(path, name)",
        "NewCheckpointReader": "tf2flax.load_checkpoint(path)",
        "CheckpointLoader": "tf2flax.load_checkpoint(path)",
        "Loader": "tf2flax.open_checkpoint(path)",
        "merge": "tf2flax.merge_checkpoints({prefix: checkpoint})",
        "make_plan": "tf2flax.plan(checkpoint, assignment_map, target)",
        "export": "tf2flax.convert(checkpoint, out)",
        "to_safetensors": "tf2flax.convert(checkpoint, 'x.safetensors')",
        "to_orbax": "tf2flax.convert(checkpoint, out, format='orbax')",
        "verify": "tf2flax.open_checkpoint(path).verify()",
        "rename": "a captured or plain entry of the assignment map",
    },
    "Checkpoint": {
        "get_tensor": "checkpoint[name].read(), or tf2flax.load_checkpoint(path)",
        "has_tensor": "name in checkpoint",
        "get_variable_to_shape_map": "tf2flax.load_checkpoint(path)",
        "get_variable_to_dtype_map": "tf2flax.load_checkpoint(path)",
        "names": "list(checkpoint)",
        "variables": "list(checkpoint)",
        "tensors": "checkpoint.items()",
        "list_variables": "list(checkpoint), or tf2flax.list_variables(path)",
        "shapes": "{name: tensor.shape for name, tensor in checkpoint.items()}",
        "load": "checkpoint.read()",
        "read_all": "checkpoint.read()",
        "to_dict": "checkpoint.read()",
        "restore": "tf2flax.init_from_checkpoint(checkpoint, assignment_map, target)",
        "plan": "tf2flax.plan(checkpoint, assignment_map, target)",
        "save": "tf2flax.save_checkpoint(prefix, checkpoint)",
        "convert": "tf2flax.convert(checkpoint, out)",
        "path": "checkpoint.prefix",
        "close": "nothing: no file of a checkpoint stays open",
        "step": 'checkpoint["global_step"].read()',
    },
    "StoredTensor": {
        "numpy": "tensor.read()",
        "value": "tensor.read()",
        "load": "tensor.read()",
        "get": "tensor.read()",
        "array": "tensor.read()",
        "item": "tensor.read().item()",
        "tolist": "tensor.read().tolist()",
        "astype": "tensor.read().astype(dtype)",
        "T": "tensor.read().T; in a map, tf2flax.src(name).T",
        "transpose": "tensor.read().transpose(); in a map, tf2flax.src(name).T",
        "reshape": "tensor.read().reshape(shape); in a map, tf2flax.src(name).reshape",
        "mean": "tensor.read().mean(), or `tf2flax stats` on the command line",
        "sum": "tensor.read().sum()",
        "max": "tensor.read().max()",
        "min": "tensor.read().min()",
    },
    "Expression": {
        "squeeze": ".reshape(shape), or [0] for an axis of length 1",
        "unsqueeze": ".reshape(shape), or .rearrange('d -> 1 d')",
        "expand_dims": ".reshape(shape), or .rearrange('d -> 1 d')",
        "flatten": ".reshape(-1)",
        "ravel": ".reshape(-1)",
        "view": ".reshape(shape)",
        "swapaxes": ".transpose(axes), all axes in their new order",
        "moveaxis": ".transpose(axes), all axes in their new order",
        "permute": ".transpose(axes)",
        "mT": ".transpose(axes), all axes in their new order",
        "t": ".T",
        "astype": ".cast(dtype)",
        "to": ".cast(dtype)",
        "concat": "tf2flax.concat(first, second, axis=axis)",
        "concatenate": "tf2flax.concat(first, second, axis=axis)",
        "stack": "tf2flax.stack(first, second, axis=axis)",
        "chunk": "expression[start:stop], once for each part",
        "slice": "expression[start:stop]",
        "read": "tf2flax.open_checkpoint(path)[name].read(): expressions read nothing",
        "numpy": "tf2flax.open_checkpoint(path)[name].read(): expressions read nothing",
        "shape": "tf2flax.open_checkpoint(path)[name].shape: expressions have none",
        "dtype": "tf2flax.open_checkpoint(path)[name].dtype: expressions have none",
    },
}


def synonym_of(owner: str, name: str) -> str:
    """What to write instead of a name that people try first; "" if it is not known.

    Examples:
        >>> synonym_of("Expression", "astype")
        '.cast(dtype)'
    """
    return _SYNONYMS[owner].get(name, "")


def missing_attribute(
    subject: str, owner: str, name: str, names: Collection[str]
) -> AttributeError:
    """The error for a name that does not exist: says what to write instead.

    Args:
        subject: What has no such attribute, as Python says it.
        owner: Whose synonyms are known: "tf2flax", "Checkpoint", "StoredTensor" or
            "Expression".
        name: The name.
        names: The names that there are.

    Returns:
        The error.

    Examples:
        >>> print(missing_attribute("module 'tf2flax'", "tf2flax", "open", []))
        module 'tf2flax' has no attribute 'open'. Write tf2flax.open_checkpoint(path).
    """
    message = f"{subject} has no attribute {name!r}"
    # Python itself asks for names with underscores, and reads no message.
    if name.startswith("_"):
        return AttributeError(message)
    if synonym := synonym_of(owner, name):
        return AttributeError(f"{message}. Write {synonym}.")
    close = nearest(name, names, count=1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    return AttributeError(f"{message}{hint}")
