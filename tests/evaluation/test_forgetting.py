"""What forgetting says of features and predictions, against closed forms."""

import math

import pytest
import torch

from pipeline.evaluation import forgetting
from pipeline.evaluation.forgetting import Asked
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.statistics import Interval, mean_of
from pipeline.evaluation.validation import NUM_LEVELS
from pipeline.report import forgetting_page

pytestmark = pytest.mark.unit


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(angles: torch.Tensor) -> torch.Tensor:
    """Directions in a plane: 1 - cosine of two is known."""
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_how_far_pictures_move_is_held_against_another_seed():
    groups = torch.arange(20).repeat_interleave(2)
    base = torch.tensor([0.0, 0.4]).repeat(20)  # two seeds, 0.4 apart
    angles = 0.1 + 0.02 * torch.arange(20.0).repeat_interleave(2)  # what the adapter turns each caption's pictures by
    apart = forgetting.distances(turned(base), turned(base + angles))
    assert apart.tolist() == pytest.approx((1 - angles.cos()).tolist(), abs=1e-6)
    moved, another, share = forgetting.moved(turned(base), apart, groups)
    each = 1 - angles[::2].double().cos()
    assert (moved.low, moved.value, moved.high) == pytest.approx(
        (lambda one: (one.low, one.value, one.high))(mean_of(each)), abs=1e-6
    )
    assert another.value == pytest.approx(1 - math.cos(0.4), abs=1e-6)
    assert share.value == pytest.approx(each.mean().item() / (1 - math.cos(0.4)), abs=1e-5)
    # the other seed is the same for all, so the share varies as the distance does
    assert share.high - share.low == pytest.approx((moved.high - moved.low) / another.value, rel=0.02)


def predictions(errors: torch.Tensor, seed: int) -> forgetting.Predictions:
    """For each example and level a prediction that misses its target by so much everywhere."""
    targets = normal(*errors.shape, 2, 3, 3, seed=seed)
    return [(target + error[:, None, None, None], target) for target, error in zip(targets, errors, strict=True)]


def test_each_level_is_a_share_of_the_bases_error_there():
    n, scale = 6, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    of_level = scale.repeat(n, 1)

    def ask(missed: float, missed_shuffled: float, missed_without: float) -> Asked:
        kinds = (missed, missed_shuffled, missed_without)
        return Asked(*(predictions(of_level * kind, seed) for seed, kind in enumerate(kinds)))

    found = forgetting.levels(ask(1.0, 2.0, 3.0), ask(1.5, 1.75, 2.0))
    assert [level.t for level in found] == [0.125, 0.375, 0.625, 0.875]
    for level in found:
        assert level.moved.value == pytest.approx(0.25)  # 0.5 apart, squared, against 1
        assert level.moved_unconditional.value == pytest.approx(1.0)
        assert (level.gain_base.value, level.gain.value) == pytest.approx((9 - 1, 4 - 2.25))
        assert (level.shuffle_gain_base.value, level.shuffle_gain.value) == pytest.approx((4 - 1, 1.75**2 - 2.25))
        assert level.moved.n == n


def test_a_model_that_is_never_asked_without_a_caption_has_no_such_columns():
    errors = torch.ones(3, NUM_LEVELS, dtype=torch.float64)
    asked = Asked(predictions(errors, 0), predictions(2 * errors, 1), None)
    for level in forgetting.levels(asked, asked):
        assert (level.moved.value, level.moved_unconditional, level.gain, level.gain_base) == (0, None, None, None)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Interval(5.0, 4.0, 6.0, 60), "more than another seed does"),
        (Interval(0.5, 0.4, 0.6, 60), "50% [40%, 60%] of what another seed does"),
        (Interval(0.5, -0.1, 1.1, 60), "50% [-10%, 110%] of what another seed does"),
        (Interval(0.1, 0.05, 0.15, 60), "nearly as it was"),
    ],
)
def test_the_words_go_by_the_interval(share, said):
    assert said in found_with(share).words()


def found_with(share: Interval) -> forgetting.Forgetting:
    nothing = Interval(0.0, 0.0, 0.0, 1)
    rest = {"adapter": "", "extractor": "", "levels": (), "worst": (), "evaluation": Evaluation(1, {}, {})}
    return forgetting.Forgetting(moved=nothing, another_seed=nothing, share=share, **rest)


def test_advice_is_of_what_the_run_did_not_do():
    moved, little = found_with(Interval(0.5, 0.4, 0.6, 60)), found_with(Interval(0.1, 0.05, 0.15, 60))
    plain = {"rank": 16, "with_prior_preservation": False, "preservation_weight": 0.0}
    word, preserved, low = forgetting_page.advice(moved, plain)
    assert "--caption_prefix" in word
    assert "71% with --with_prior_preservation and by 40% with --preservation_weight 1" in preserved
    assert "17% at rank 4 than at 64" in low
    cared = {"rank": 4, "preservation_weight": 0.5, "trigger_word": "ohwx"}
    assert forgetting_page.advice(moved, cared) == []
    assert forgetting_page.advice(little, plain) == []  # nothing to be mended
    assert forgetting_page.advice(moved, {}) == []  # nothing is known of its training
