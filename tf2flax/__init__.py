"""Reads TensorFlow checkpoints without TensorFlow and puts them into Flax models.

Every public name is loaded when it is first used: listing and reading import neither
JAX nor Flax, and the command line begins at once, so that it ends quietly where it is
interrupted while modules are loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from . import optax as optax
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
    from ._export.convert import ConversionReport, convert
    from ._jax.init import init_from_checkpoint, warm_start
    from ._jax.optimizer_plan import optimizer_plan, optimizer_state
    from ._jax.partition_rules import from_partitions, partition_rules
    from ._jax.plan import Plan, plan
    from ._jax.plan_cost import PlanCost, ProcessCost
    from ._porting.compare import compare_outputs
    from ._porting.comparison import Comparison
    from ._porting.suggest import Suggestion, suggest
    from ._writing.map_files import load_map, save_map
    from ._writing.save import save_checkpoint
    from ._writing.vocabularies import vocabulary

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

# The modules that have the public names.
_MODULES: Final = {
    "FLAX_ALIASES": "_assignment.language.aliases",
    "Expression": "_assignment.language.expressions",
    "concat": "_assignment.language.making",
    "first_of": "_assignment.language.making",
    "src": "_assignment.language.making",
    "stack": "_assignment.language.making",
    "Rows": "_assignment.language.rows",
    "InverseAssignment": "_assignment.plans.inverse",
    "InversePlan": "_assignment.plans.inverse",
    "PlacementReport": "_assignment.plans.plan",
    "Replicated": "_assignment.plans.plan",
    "Assignment": "_assignment.resolution.assignments",
    "Gap": "_assignment.resolution.assignments",
    "AssignmentError": "_base.errors",
    "CheckpointError": "_base.errors",
    "CheckpointNotFoundError": "_base.errors",
    "DamagedError": "_base.errors",
    "ExistsError": "_base.errors",
    "NotFoundError": "_base.errors",
    "ReadError": "_base.errors",
    "TensorNotFoundError": "_base.errors",
    "UnsupportedError": "_base.errors",
    "Progress": "_base.progress",
    "Checkpoint": "_checkpoint.checkpoint",
    "list_variables": "_checkpoint.opening",
    "load_variable": "_checkpoint.opening",
    "merge_checkpoints": "_checkpoint.opening",
    "open_checkpoint": "_checkpoint.opening",
    "CheckpointReader": "_checkpoint.reader",
    "load_checkpoint": "_checkpoint.reader",
    "checkpoint_exists": "_checkpoint.state",
    "latest_checkpoint": "_checkpoint.state",
    "StoredTensor": "_checkpoint.stored_tensor",
    "Damage": "_checkpoint.verifying",
    "VerificationReport": "_checkpoint.verifying",
    "checkpoints_iterator": "_checkpoint.watching",
    "ConversionReport": "_export.convert",
    "convert": "_export.convert",
    "init_from_checkpoint": "_jax.init",
    "warm_start": "_jax.init",
    "optimizer_plan": "_jax.optimizer_plan",
    "optimizer_state": "_jax.optimizer_plan",
    "from_partitions": "_jax.partition_rules",
    "partition_rules": "_jax.partition_rules",
    "Plan": "_jax.plan",
    "plan": "_jax.plan",
    "PlanCost": "_jax.plan_cost",
    "ProcessCost": "_jax.plan_cost",
    "compare_outputs": "_porting.compare",
    "Comparison": "_porting.comparison",
    "Suggestion": "_porting.suggest",
    "suggest": "_porting.suggest",
    "load_map": "_writing.map_files",
    "save_map": "_writing.map_files",
    "save_checkpoint": "_writing.save",
    "vocabulary": "_writing.vocabularies",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    is_module = name == "optax"  # not in __all__: `import *` would hide optax itself
    if name not in _MODULES and not is_module:
        from ._base.synonyms import missing_attribute  # here: it takes a while

        raise missing_attribute(f"module {__name__!r}", "tf2flax", name, __all__)
    module = importlib.import_module(f".{_MODULES.get(name, name)}", __name__)
    value = module if is_module else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names."""
    return [*__all__]
