"""Reads TensorFlow checkpoints without TensorFlow and puts them into Flax models.

Listing and reading import neither JAX nor Flax; the names that need them are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from ._assignment.language.aliases import FLAX_ALIASES
from ._assignment.language.expressions import Expression
from ._assignment.language.making import concat, first_of, src, stack
from ._assignment.language.rows import Rows
from ._assignment.plans.inverse import InverseAssignment, InversePlan
from ._assignment.plans.plan import PlacementReport, Replicated
from ._assignment.resolution.assignments import Assignment, Gap
from ._base.errors import (
    AssignmentError,
    CheckpointError,
    CheckpointNotFoundError,
    DamagedError,
    ExistsError,
    NotFoundError,
    ReadError,
    TensorNotFoundError,
    UnsupportedError,
)
from ._base.progress import Progress
from ._base.synonyms import missing_attribute
from ._checkpoint.checkpoint import Checkpoint
from ._checkpoint.opening import (
    list_variables,
    load_variable,
    merge_checkpoints,
    open_checkpoint,
)
from ._checkpoint.reader import CheckpointReader, load_checkpoint
from ._checkpoint.state import checkpoint_exists, latest_checkpoint
from ._checkpoint.stored_tensor import StoredTensor
from ._checkpoint.verifying import Damage, VerificationReport
from ._checkpoint.watching import checkpoints_iterator
from ._writing.map_files import load_map, save_map
from ._writing.save import save_checkpoint
from ._writing.vocabularies import vocabulary

if TYPE_CHECKING:
    from . import optax as optax
    from ._export.convert import ConversionReport, convert
    from ._jax.init import init_from_checkpoint, warm_start
    from ._jax.optimizer_plan import optimizer_plan, optimizer_state
    from ._jax.partition_rules import from_partitions, partition_rules
    from ._jax.plan import Plan, plan
    from ._jax.plan_cost import PlanCost, ProcessCost
    from ._porting.compare import compare_outputs
    from ._porting.comparison import Comparison
    from ._porting.suggest import Suggestion, suggest

__version__: Final = "0.1.0"

__all__ = [
    # Reading
    "Checkpoint",
    "CheckpointReader",
    "Damage",
    "Progress",
    "StoredTensor",
    "VerificationReport",
    "checkpoint_exists",
    "checkpoints_iterator",
    "latest_checkpoint",
    "list_variables",
    "load_checkpoint",
    "load_variable",
    "merge_checkpoints",
    "open_checkpoint",
    # Maps
    "Expression",
    "FLAX_ALIASES",
    "Rows",
    "concat",
    "first_of",
    "load_map",
    "save_map",
    "src",
    "stack",
    "vocabulary",
    # Planning and restoring
    "Assignment",
    "Gap",
    "InverseAssignment",
    "InversePlan",
    "PlacementReport",
    "Plan",
    "PlanCost",
    "ProcessCost",
    "Replicated",
    "from_partitions",
    "init_from_checkpoint",
    "optimizer_plan",
    "optimizer_state",
    "partition_rules",
    "plan",
    "warm_start",
    # Porting
    "Suggestion",
    "suggest",
    "Comparison",
    "compare_outputs",
    # Writing
    "ConversionReport",
    "convert",
    "save_checkpoint",
    # Errors
    "AssignmentError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DamagedError",
    "ExistsError",
    "NotFoundError",
    "ReadError",
    "TensorNotFoundError",
    "UnsupportedError",
    "__version__",
]

# Public names that need JAX, or that few need -> the module that has them.
_LAZY: Final = {
    "Plan": "_jax.plan",
    "PlanCost": "_jax.plan_cost",
    "ProcessCost": "_jax.plan_cost",
    "from_partitions": "_jax.partition_rules",
    "partition_rules": "_jax.partition_rules",
    "init_from_checkpoint": "_jax.init",
    "optimizer_plan": "_jax.optimizer_plan",
    "optimizer_state": "_jax.optimizer_plan",
    "plan": "_jax.plan",
    "warm_start": "_jax.init",
    "Suggestion": "_porting.suggest",
    "suggest": "_porting.suggest",
    "Comparison": "_porting.comparison",
    "compare_outputs": "_porting.compare",
    "ConversionReport": "_export.convert",
    "convert": "_export.convert",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    is_module = name == "optax"  # not in __all__: `import *` would hide optax itself
    if name not in _LAZY and not is_module:
        raise missing_attribute(f"module {__name__!r}", "tf2flax", name, __all__)
    module = importlib.import_module(f".{_LAZY.get(name, name)}", __name__)
    value = module if is_module else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names."""
    return [*__all__]
