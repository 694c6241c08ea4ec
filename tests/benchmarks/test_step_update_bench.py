"""The benchmark of updates of step-level SAEs compares like with like."""

import pytest

from benchmarks.bench_ssae_update import point
from benchmarks.step_contenders import drawn_steps, gradient_error, model_of


@pytest.mark.parametrize(("variant", "most"), [("ours", 1e-5), ("ours, bf16", 5e-2)])
def test_both_follow_the_gradient_of_the_published_loss(variant: str, most: float) -> None:
    error = gradient_error(variant, model_of(1, vocab=400), drawn_steps(3, seed=0, vocab=400))
    assert 0 < error < most


@pytest.mark.parametrize("variant", ["published", "ours, checkpointed"])
def test_a_line_has_time_and_memory(variant: str) -> None:
    line = point(variant, steps=3, blocks=1, threads=1, repeats=1, vocab=400)
    assert line["seconds"] > 0
    assert line["peak_mib"] > 100
