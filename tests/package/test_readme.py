"""The README's example runs as it stands, and what it claims of files is there."""

from __future__ import annotations

import doctest
import re
import sys

import pytest
from repository import ROOT


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("README.md", 8),
        ("docs/index.md", 12),
        ("docs/coming-from.md", 5),
        ("docs/pods.md", 10),
        ("docs/guide.md", 16),
        ("docs/formats.md", 18),
        ("docs/maps.md", 30),
        ("docs/views.md", 10),
        ("docs/suggest.md", 8),
        ("docs/porting.md", 25),
        ("docs/optimizers.md", 14),
    ],
)
def test_examples_run_as_pasted(
    file: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # a page appends the examples to it
    text = (ROOT / file).read_text()
    parser = doctest.DocTestParser()
    test = parser.get_doctest(text, {}, file, file, 0)
    assert len(test.examples) > least
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    )
    runner.run(test)
    assert runner.failures == 0


def test_the_error_shown_is_the_error_raised() -> None:
    import jax.numpy as jnp

    import tf2flax

    text = (ROOT / "README.md").read_text()
    shown = re.search(r"^tf2flax\.AssignmentError: (.*) \.\.\.$", text, re.M)
    assert shown
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(
            ROOT / "tests/data/bert/model.ckpt",
            {"bert/poler/dense/kernel": "params/kernel"},
            {"params": {"kernel": jnp.zeros((32, 32))}},
        )
    assert str(caught.value).startswith(shown[1])


def test_links_lead_somewhere() -> None:
    for file in (
        "README.md",
        *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
    ):
        text = (ROOT / file).read_text()
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        for link in links:
            assert ((ROOT / file).parent / link).exists(), f"{file}: {link}"
