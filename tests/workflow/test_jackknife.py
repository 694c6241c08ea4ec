"""The delete-a-group jackknife: exact for means, of nominal coverage where rows are clustered, and never over rows."""

import numpy as np
import pytest

from workflow.config.section import ConfigError
from workflow.jackknife import groups_of, jackknife_interval


def test_groups_hold_equally_many_prompts_in_the_order_of_their_first_rows() -> None:
    groups = groups_of(np.array([4, 4, 1, 1, 0, 3, 3]), 5, 2)
    assert groups.of_prompt.tolist() == [1, 0, -1, 1, 0]
    assert groups.left_out().tolist() == [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 1, 0, 1]]
    assert groups_of(np.array([4, 1, 0, 3]), 5, 20).count == 4


@pytest.mark.parametrize(("prompts", "said"), [([3, 3, 3], "at least 2 prompts; got 1"), ([0, 1, 0, 1], "stand together")])
def test_rows_that_cannot_be_grouped_are_refused(prompts: list[int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        groups_of(np.array(prompts), 4, 2)


def test_the_interval_of_a_mean_is_that_of_students_t_over_group_means() -> None:
    means = np.array([1.0, 2.0, 4.0, 9.0])
    values = np.array([means.mean(), *((means.sum() - means) / 3)])
    low, high = jackknife_interval(values, 0.95)
    reach = 3.182446305 * means.std(ddof=1) / 2
    np.testing.assert_allclose([low, high], [4 - reach, 4 + reach], rtol=1e-8)


def test_a_ratio_over_clustered_rows_is_covered_as_often_as_is_said() -> None:
    """True ratio 2; prompts differ in size and level, so that an interval over rows would be far too narrow."""
    draw, covered, worlds = np.random.default_rng(0), 0, 400
    for _ in range(worlds):
        level = draw.gamma(2.0, 0.5, 40)
        rows = draw.poisson(10, 40) + 1
        below, above = rows * level, 2 * rows * level + rows * draw.normal(0, 1, 40)
        weights = groups_of(np.repeat(np.arange(40), rows), 40, 10).left_out()
        covered += jackknife_interval((weights @ above) / (weights @ below), 0.9).contains(2.0)
    assert 0.86 <= covered / worlds <= 0.94
