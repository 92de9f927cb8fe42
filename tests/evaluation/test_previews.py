import itertools

import pytest

from pipeline.evaluation.previews import spread

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("period", [2, 4, 5, 20, 60, 80])
@pytest.mark.parametrize("number", [120, 240])
def test_a_few_of_many_show_many_kinds(number, period):
    """Every so many-th picture of a set that repeats its concepts would show the same few again and again."""
    chosen = spread([place % period for place in range(number)], 12)
    assert len(chosen) == 12
    assert len(set(chosen)) >= 0.7 * min(period, 12)


@pytest.mark.parametrize("number", [1, 5, 12, 13, 17, 24, 38, 100])
def test_they_keep_their_order_and_come_from_all_over(number):
    chosen = spread(range(number), 12)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(number, 12)
    assert all(len(spread(range(number), most)) == min(number, most) for most in range(number + 2))
    edges = [-1, *chosen, number]
    assert max(after - before for before, after in itertools.pairwise(edges)) <= 2 + number / 4
