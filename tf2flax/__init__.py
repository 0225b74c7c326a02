"""Reads TensorFlow checkpoints without TensorFlow and puts them into Flax models.

Listing and reading import neither JAX nor Flax; the names that need them are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from ._assignment.language.aliases import FLAX_ALIASES as FLAX_ALIASES
from ._assignment.language.expressions import Expression as Expression
from ._assignment.language.making import concat as concat
from ._assignment.language.making import src as src
from ._assignment.language.making import stack as stack
from ._base.errors import AssignmentError as AssignmentError
from ._base.errors import CheckpointError as CheckpointError
from ._base.errors import CheckpointNotFoundError as CheckpointNotFoundError
from ._base.errors import DamagedError as DamagedError
from ._base.errors import ExistsError as ExistsError
from ._base.errors import NotFoundError as NotFoundError
from ._base.errors import ReadError as ReadError
from ._base.errors import TensorNotFoundError as TensorNotFoundError
from ._base.errors import UnsupportedError as UnsupportedError
from ._base.progress import Progress as Progress
from ._checkpoint.checkpoint import Checkpoint as Checkpoint
from ._checkpoint.opening import list_variables as list_variables
from ._checkpoint.opening import load_variable as load_variable
from ._checkpoint.opening import merge_checkpoints as merge_checkpoints
from ._checkpoint.opening import open_checkpoint as open_checkpoint
from ._checkpoint.state import checkpoint_exists as checkpoint_exists
from ._checkpoint.state import latest_checkpoint as latest_checkpoint
from ._checkpoint.stored_tensor import StoredTensor as StoredTensor
from ._checkpoint.verifying import Damage as Damage
from ._checkpoint.verifying import VerificationReport as VerificationReport
from ._checkpoint.watching import checkpoints_iterator as checkpoints_iterator
from ._writing.map_files import load_map as load_map
from ._writing.map_files import save_map as save_map
from ._writing.save import save_checkpoint as save_checkpoint

if TYPE_CHECKING:
    from ._jax.init import init_from_checkpoint as init_from_checkpoint
    from ._jax.init import warm_start as warm_start
    from ._jax.plan_cost import PlanCost as PlanCost
    from ._jax.restore import Plan as Plan
    from ._jax.restore import plan as plan
    from ._jax.shardings import from_partitions as from_partitions
    from ._jax.shardings import partition_rules as partition_rules

__version__: Final = "0.1.0"

# Public names that need JAX -> the module that has them.
_LAZY: Final = {
    "Plan": "_jax.restore",
    "PlanCost": "_jax.plan_cost",
    "from_partitions": "_jax.shardings",
    "partition_rules": "_jax.shardings",
    "init_from_checkpoint": "_jax.init",
    "plan": "_jax.restore",
    "warm_start": "_jax.init",
}


def __getattr__(name: str) -> Any:
    """Loads a public name that needs JAX when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names."""
    public = [name for name in globals() if not name.startswith("_")]
    hidden = {"annotations", "importlib", "TYPE_CHECKING", "Any", "Final"}
    return sorted({*public, *_LAZY, "__version__"} - hidden)
