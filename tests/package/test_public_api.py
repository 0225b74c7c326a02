"""The public names, their signatures, and the tree of exceptions."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import tomllib

import pytest
from repository import ROOT

import tf2flax

NAMES = {
    "AssignmentError", "Checkpoint", "CheckpointError", "CheckpointNotFoundError",
    "DamagedError", "ExistsError", "Expression", "FLAX_ALIASES", "NotFoundError",
    "Plan", "ReadError", "concat", "load_map", "save_map", "src", "stack",
    "Damage", "StoredTensor", "TensorNotFoundError", "Tuning", "UnsupportedError",
    "VerificationReport", "checkpoints_iterator", "checkpoint_exists",
    "init_from_checkpoint", "latest_checkpoint", "list_variables", "load_variable",
    "merge_checkpoints", "open_checkpoint", "plan", "save_checkpoint", "warm_start",
    "PlanCost", "Progress", "from_partitions", "partition_rules", "Assignment", "Gap",
    "InverseAssignment", "InversePlan", "PlacementReport", "ProcessCost", "Replicated",
    "ConversionReport", "convert", "CheckpointReader", "load_checkpoint",
    "Rows", "first_of", "vocabulary", "optimizer_plan", "optimizer_state",
    "Suggestion", "suggest",
    "Comparison", "compare_outputs",
}  # fmt: skip
OPTIONS = (
    "*, aliases=mappingproxy, dtype=None, sharding=None, mesh=None, "
    "logical_axis_rules=None, strategy='auto', on_missing='error', "
    "on_mismatch='error', on_unused='ignore', on_uneven='error', verify=True, "
    "max_in_flight_bytes=1073741824, tuning=None, progress=False"
)
OF_OPTIMIZER = (
    "plan, opt_state, *, slots=None, prefix=None, betas=(0.9, 0.999), count=None, "
    "negate=None"
)
SIGNATURES = {
    "optimizer_plan": OF_OPTIMIZER,
    "optimizer_state": OF_OPTIMIZER,
    "open_checkpoint": "path, *, context=None, tuning=None",
    "list_variables": "path",
    "load_variable": "path, name",
    "latest_checkpoint": "directory",
    "load_checkpoint": "ckpt_dir_or_file",
    "merge_checkpoints": "checkpoints",
    "save_checkpoint": (
        "prefix, tree_or_mapping, *, plan=None, opt_state=None, new=None, "
        "unused='copy', averages='follow', data_files=1, overwrite=False"
    ),
    "compare_outputs": (
        "fn, variables, inputs, recorded, *, plan=None, intermediates=None, "
        "rtol=1e-05, atol=1e-05"
    ),
    "convert": (
        "checkpoint, out, *, format=None, assignment_map=None, dtype=None, "
        "data_files=1, slots=True, flat=False, overwrite=False, verify=True, "
        "by_reference=False, progress=False"
    ),
    "src": "name",
    "concat": "sources, *, axis=0, over=None",
    "stack": "sources, *, axis=0, over=None",
    "first_of": "sources",
    "vocabulary": (
        "old, new, *, axis=0, old_size=None, new_size=None, num_oov_buckets=0"
    ),
    "suggest": "checkpoint, target",
    "load_map": "path, parameters",
    "save_map": "path, assignment_map, *, overwrite=False",
    "checkpoints_iterator": (
        "checkpoint_dir, min_interval_secs=0, timeout=None, timeout_fn=None"
    ),
    "checkpoint_exists": "path",
    "partition_rules": "rules",
    "from_partitions": "axis",
    "init_from_checkpoint": f"checkpoint, assignment_map, target, {OPTIONS}",
    "plan": f"checkpoint, assignment_map, target, {OPTIONS}",
    "warm_start": f"init_fn, checkpoint, assignment_map, {OPTIONS}",
}
TREE = {
    "CheckpointError": (ValueError,),
    "NotFoundError": (tf2flax.CheckpointError,),
    "TensorNotFoundError": (tf2flax.NotFoundError, KeyError),
    "CheckpointNotFoundError": (tf2flax.NotFoundError, FileNotFoundError),
    "DamagedError": (tf2flax.CheckpointError,),
    "UnsupportedError": (tf2flax.CheckpointError,),
    "ReadError": (tf2flax.CheckpointError, OSError),
    "AssignmentError": (tf2flax.CheckpointError,),
    "ExistsError": (tf2flax.CheckpointError, FileExistsError),
}


def short(signature: inspect.Signature) -> str:
    parts: list[str] = []
    for parameter in signature.parameters.values():
        is_first_option = parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts
        parts += ["*"] if is_first_option else []
        default = parameter.default
        if default is parameter.empty:
            parts.append(parameter.name)
        elif type(default).__name__ == "mappingproxy":
            parts.append(f"{parameter.name}=mappingproxy")
        else:
            parts.append(f"{parameter.name}={default!r}")
    return ", ".join(parts)


def test_names() -> None:
    assert set(dir(tf2flax)) == {*NAMES, "__version__"} == set(tf2flax.__all__)
    assert len(tf2flax.__all__) == len(NAMES) + 1
    everything: dict[str, object] = {}
    exec("from tf2flax import *", everything)  # lazy names too
    assert everything.keys() >= NAMES
    for name in NAMES:
        assert getattr(tf2flax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'guess'"):
        _ = tf2flax.guess  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_signatures(name: str) -> None:
    assert short(inspect.signature(getattr(tf2flax, name))) == SIGNATURES[name]


@pytest.mark.parametrize("name", ["plan", "init_from_checkpoint", "warm_start"])
def test_an_unknown_option_is_refused_as_by_python(name: str) -> None:
    function = getattr(tf2flax, name)
    words = rf"^{name}\(\) got an unexpected keyword argument 'on_odd'$"
    with pytest.raises(TypeError, match=words):
        function(dict, {}, {}, on_odd="keep")
    with pytest.raises(TypeError, match=f"^{name}\\(\\) missing 1 required positional"):
        function(dict, {}, on_missing="keep")


def test_every_option_is_documented_where_its_signature_is() -> None:
    text = tf2flax.plan.__doc__ or ""
    for name in inspect.signature(tf2flax.plan).parameters:
        assert f"\n        {name}: " in text


def test_methods() -> None:
    read = inspect.signature(tf2flax.Checkpoint.read)
    assert short(read) == "self, names=None, *, verify=True, progress=False"
    assert short(inspect.signature(tf2flax.Plan.restore)) == "self, progress=False"
    cost = inspect.signature(tf2flax.Plan.cost)
    assert short(cost) == "self, processes=None, *, strategy=None"
    assert short(inspect.signature(tf2flax.StoredTensor.open)) == "self"


@pytest.mark.parametrize("name", list(TREE))
def test_exceptions(name: str) -> None:
    kind = getattr(tf2flax, name)
    assert kind.__bases__ == TREE[name]
    assert kind.__module__ == "tf2flax"
    arguments = ("a", "prefix", ("b",)) if name == "TensorNotFoundError" else ("said",)
    error = kind(*arguments)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
    with pytest.raises(ValueError, match=r"said|`a`"):
        raise error


def test_every_public_name_has_a_docstring_with_an_example() -> None:
    for name in NAMES - set(TREE) - {"FLAX_ALIASES"}:
        assert ">>>" in (getattr(tf2flax, name).__doc__ or ""), name


def test_every_folder_has_its_place() -> None:
    """In the layers of pyproject.toml; no file lies beside the folders."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["tf2flax"]
    )
    package = ROOT / "tf2flax"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert {name for layer in layers for name in layer.split(" | ")} == folders
    assert {path.name for path in package.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
    }


def test_the_change_log_has_each_heading_once() -> None:
    for release in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        headings = re.findall(r"^### .*", release, re.MULTILINE)
        assert len(set(headings)) == len(headings)
