"""The ports of the examples, for all tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from repository import ROOT


@pytest.fixture(scope="session")
def demo() -> ModuleType:
    examples = ROOT / "examples"
    sys.path.insert(0, str(examples))
    spec = importlib.util.spec_from_file_location("ports", examples / "ports_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ports"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(examples))
    return module
