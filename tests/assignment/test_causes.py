"""One mistake is one line, and what a message suggests can be pasted.

`python tests/assignment/test_causes.py` writes tests/data/golden/causes.txt anew; read
the change before committing it.
"""

from __future__ import annotations

import difflib
import pathlib
import random
import re
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pytest
from map_mistakes import CAUSES, check_suggestions, is_better, suggestions_in
from repository import DATA

import tf2flax
from tf2flax._base import names

GOLDEN = DATA / "golden" / "causes.txt"
# Lines of a message about one cause.
MAX_LINES = 25


def golden() -> dict[str, str]:
    parts = re.split(r"^== (.*)\n", GOLDEN.read_text(), flags=re.M)[1:]
    return {
        name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def message_of(name: str, where: pathlib.Path) -> str:
    mistake = CAUSES[name]
    return mistake.error(where, mistake.entries).replace(str(where), "WHERE")


@pytest.mark.parametrize("name", list(CAUSES))
def test_message(name: str, tmp_path: pathlib.Path) -> None:
    message = message_of(name, tmp_path)
    assert message == golden()[name]
    assert len(message.splitlines()) <= MAX_LINES


def test_every_message_is_checked() -> None:
    assert list(golden()) == list(CAUSES)


@pytest.mark.parametrize("name", list(CAUSES))
def test_suggestions_paste(name: str, tmp_path: pathlib.Path) -> None:
    check_suggestions(CAUSES[name], tmp_path)


def test_the_test_of_pasting_can_fail(tmp_path: pathlib.Path) -> None:
    mistake = CAUSES["transposed, with captures"]
    wrong = {"enc/layer_{0..2}/ffn/kernel": "layers_{i}/ffn"}
    before = mistake.error(tmp_path, mistake.entries)
    assert before
    assert not is_better(before, before)
    assert not is_better(before, mistake.error(tmp_path, wrong))


def test_almost_every_message_suggests_something() -> None:
    count = 0
    for name, mistake in CAUSES.items():
        count += any(True for _ in suggestions_in(golden()[name], mistake.pairs()))
    assert count > 0.7 * len(CAUSES)


@pytest.mark.parametrize("letters", ["ab/", "ab"])
def test_long_names_are_compared_in_bounds(
    letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = 0

    class Counting(difflib.SequenceMatcher[str]):
        def __init__(self, *texts: Any, **options: Any) -> None:
            nonlocal pairs
            super().__init__(*texts, **options)
            pairs += len(self.a) * len(self.b)

    monkeypatch.setattr(names.difflib, "SequenceMatcher", Counting)
    choose = random.Random(0)
    base = "".join(choose.choice(letters) for _ in range(8000))
    alike = [base[:i] + "x" + base[i + 1 :] for i in range(0, 8000, 200)]
    unlike = ["".join(choose.choice(letters) for _ in range(8000)) for _ in range(40)]
    names.nearest(base + "q", unlike)
    close = names.nearest(base + "q", [*alike, f"{base}qq"])
    assert close[0] == f"{base}qq"
    assert 0 < pairs <= 2 * 250_000


def test_messages_of_long_and_many_names_come_soon(tmp_path: pathlib.Path) -> None:
    choose = random.Random(0)
    base = "".join(choose.choice("ab/") for _ in range(8000)).strip("/")
    long = {
        base[:i] + "x" + base[i + 1 :]: np.zeros(1, "f4") for i in range(0, 7999, 200)
    }
    many = {
        f"m/layer_{i}/{n}/w": np.zeros(1, "f4") for i in range(200) for n in range(50)
    }
    for number, tensors in enumerate((long, many)):
        checkpoint = tf2flax.open_checkpoint(
            tf2flax.save_checkpoint(tmp_path / str(number), tensors)
        )
        some = [*tensors][:40]
        target: dict[str, Any] = {f"{name}q": np.zeros(1, "f4") for name in some}
        entries: list[Any] = [
            [(f"{name}q", f"{name}q") for name in some],
            [(f"{name}q", f"{name}z") for name in some],
            {"/": "/"},
        ]
        for entry in entries:
            start = time.perf_counter()
            with pytest.raises(tf2flax.AssignmentError):
                tf2flax.plan(checkpoint, entry, target)
            # It took 102 s; one second is the goal, and machines may be busy.
            assert time.perf_counter() - start < 10


def main() -> None:
    with GOLDEN.open("w") as file:
        for name in CAUSES:
            with tempfile.TemporaryDirectory() as where:
                message = message_of(name, pathlib.Path(where))
            file.write(f"== {name}\n{message}\n\n")


if __name__ == "__main__":
    sys.exit(main())
