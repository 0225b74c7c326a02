"""Reads TensorFlow checkpoints without TensorFlow and puts them into Flax models.

Every public name is loaded when it is first used: who lists a checkpoint imports what
lists, and neither JAX, Flax nor the map language; and the command line begins at once,
so that it ends quietly where it is interrupted while modules are loaded.
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
    from ._base.tuning import Tuning
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
    "Tuning",
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

# Modules, and the public names that each of them has.
_HOMES: Final = {
    "_assignment.language.aliases": ("FLAX_ALIASES",),
    "_assignment.language.expressions": ("Expression",),
    "_assignment.language.making": ("concat", "first_of", "src", "stack"),
    "_assignment.language.rows": ("Rows",),
    "_assignment.plans.inverse": ("InverseAssignment", "InversePlan"),
    "_assignment.plans.plan": ("PlacementReport", "Replicated"),
    "_assignment.resolution.assignments": ("Assignment", "Gap"),
    "_base.errors": (
        "AssignmentError",
        "CheckpointError",
        "CheckpointNotFoundError",
        "DamagedError",
        "ExistsError",
        "NotFoundError",
        "ReadError",
        "TensorNotFoundError",
        "UnsupportedError",
    ),
    "_base.progress": ("Progress",),
    "_base.tuning": ("Tuning",),
    "_checkpoint.checkpoint": ("Checkpoint",),
    "_checkpoint.opening": (
        "list_variables",
        "load_variable",
        "merge_checkpoints",
        "open_checkpoint",
    ),
    "_checkpoint.reader": ("CheckpointReader", "load_checkpoint"),
    "_checkpoint.state": ("checkpoint_exists", "latest_checkpoint"),
    "_checkpoint.stored_tensor": ("StoredTensor",),
    "_checkpoint.verifying": ("Damage", "VerificationReport"),
    "_checkpoint.watching": ("checkpoints_iterator",),
    "_export.convert": ("ConversionReport", "convert"),
    "_jax.init": ("init_from_checkpoint", "warm_start"),
    "_jax.optimizer_plan": ("optimizer_plan", "optimizer_state"),
    "_jax.partition_rules": ("from_partitions", "partition_rules"),
    "_jax.plan": ("Plan", "plan"),
    "_jax.plan_cost": ("PlanCost", "ProcessCost"),
    "_porting.compare": ("compare_outputs",),
    "_porting.comparison": ("Comparison",),
    "_porting.suggest": ("Suggestion", "suggest"),
    "_writing.map_files": ("load_map", "save_map"),
    "_writing.save": ("save_checkpoint",),
    "_writing.vocabularies": ("vocabulary",),
}
_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    is_module = name == "optax"  # not in __all__: `import *` would hide optax itself
    if name not in _HOME_OF and not is_module:
        from ._base.synonyms import missing_attribute

        raise missing_attribute(f"module {__name__!r}", "tf2flax", name, __all__)
    module = importlib.import_module(f".{_HOME_OF.get(name, name)}", __name__)
    value = module if is_module else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names."""
    return [*__all__]
