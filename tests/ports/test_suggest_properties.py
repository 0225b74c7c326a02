"""A random renaming, splitting and stacking of a random model is suggested back."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
from random_models import random_model
from suggesting import judge, target_of, weights_of


@hypothesis.settings(max_examples=12)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_a_random_model_is_suggested_back(seed: int) -> None:
    model = random_model(seed)
    verdict = judge(weights_of(model.tensors), target_of(model.leaves), model.truth)
    assert verdict.wrong == []  # never a wrong map, complete or not
    assert verdict.result.unmatched == ()
    assert set(verdict.places.values()) <= {0, 1}


def test_most_random_models_are_complete() -> None:
    verdicts = [
        judge(weights_of(m.tensors), target_of(m.leaves), m.truth)
        for m in map(random_model, range(12))
    ]
    assert sum(verdict.is_complete for verdict in verdicts) >= 9
