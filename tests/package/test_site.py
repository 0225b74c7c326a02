"""The site has every page and every public name; `make docs` builds it, strictly."""

from __future__ import annotations

import re

import yaml
from repository import ROOT

import tf2flax

DOCS = ROOT / "docs"


def test_every_public_name_is_in_the_reference() -> None:
    names = re.findall(r"^::: tf2flax\.(\w+)$", (DOCS / "api.md").read_text(), re.M)
    assert len(names) == len(set(names))
    assert {*names, "__version__"} == set(tf2flax.__all__)


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = re.findall(r"[\w-]+\.md", str(nav))
    assert sorted(pages) == sorted(page.name for page in DOCS.glob("*.md"))
