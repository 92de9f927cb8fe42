"""Sums and smaller ranks, against the full matrices."""

import json

import pytest
import torch
from torch import Tensor

from pipeline.adapter.files import arithmetic, cutting, summary
from pipeline.adapter.files.reader import AdapterFile
from pipeline.adapter.names import pairs
from pipeline.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.reference
SHAPES = {"unet.a.to_q": (12, 8), "unet.conv": (6, 5, 3, 3), "text_encoder.b": (7, 9), "unet.narrow": (3, 20)}


def adapter(seed: int, ranks: dict[str, int], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, rank in ranks.items():
        outputs, inputs, *kernel = SHAPES[name]
        ones = [1] * len(kernel)
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, *kernel, generator=generator).to(dtype)
        tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, *ones, generator=generator).to(dtype)
    return tensors


def full(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: (b.double().flatten(1) @ a.double().flatten(1)).reshape(SHAPES[name])
        for name, (a, b) in pairs(tensors).items()
    }


def close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).norm() <= tolerance * second[name].norm(), name


ALL = {"unet.a.to_q": 3, "unet.conv": 4, "text_encoder.b": 2, "unet.narrow": 5}


def test_the_norm_is_that_of_the_full_matrix():
    tensors = adapter(0, ALL)
    for name, (a, b) in pairs(tensors).items():
        assert arithmetic.norm(a, b) == pytest.approx(float(full(tensors)[name].norm()), rel=1e-12)


def test_the_distance_is_that_of_the_full_matrices_even_where_it_is_small():
    tensors = adapter(0, ALL)
    other = {name: value * (1 + 1e-6) if name.endswith("B.weight") else value for name, value in tensors.items()}
    for name, pair in pairs(tensors).items():
        exact = float((full(tensors)[name] - full(other)[name]).norm())
        assert arithmetic.distance(pair, pairs(other)[name]) == pytest.approx(exact, rel=1e-6)
        assert arithmetic.distance(pair, pair) <= 1e-14 * arithmetic.norm(*pair)


def test_the_sum_is_that_of_the_full_matrices():
    """Layers that only one adapter has are in it too."""
    first, second = adapter(0, ALL), adapter(1, {"unet.a.to_q": 2, "unet.conv": 1})
    third = adapter(2, {"unet.a.to_q": 1, "unet.narrow": 2})
    total = arithmetic.merged([(first, 0.7), (second, -0.3), (third, 2.0)])
    expected = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for tensors, weight in ((first, 0.7), (second, -0.3), (third, 2.0)):
        for name, value in full(tensors).items():
            expected[name] += weight * value
    close(full(total), expected, 1e-6)
    ranks = {name: len(a) for name, (a, _) in pairs(total).items()}
    assert ranks == {"unet.a.to_q": 6, "unet.conv": 5, "text_encoder.b": 2, "unet.narrow": 7}


def test_weights_one_and_zero_give_the_first_adapter():
    first, second = adapter(0, {"unet.a.to_q": 3}), adapter(1, ALL)
    total = arithmetic.merged([(first, 1.0), (second, 0.0)])
    assert total.keys() == first.keys()
    assert all(torch.equal(total[name], value) for name, value in first.items())


def test_half_precision_is_added_up_in_float32():
    first, second = adapter(0, ALL, torch.bfloat16), adapter(1, ALL, torch.float16)
    total = arithmetic.merged([(first, 0.7), (second, 0.3)])
    assert {value.dtype for value in total.values()} == {torch.float32}
    expected = {name: 0.7 * value + 0.3 * full(second)[name] for name, value in full(first).items()}
    close(full(total), expected, 1e-6)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_weights_that_make_no_sum_are_refused(weights):
    with pytest.raises(ConfigError, match="make no sum"):
        arithmetic.merged([(adapter(0, ALL), weights[0]), (adapter(1, ALL), weights[1])])


def test_other_sizes_are_another_model_and_all_are_named():
    other = adapter(1, ALL)
    other["unet.a.to_q.lora_A.weight"] = torch.randn(3, 10)
    other["unet.conv.lora_B.weight"] = torch.randn(7, 4, 1, 1)
    with pytest.raises(CheckpointError, match="different models") as caught:
        arithmetic.merged([(adapter(0, ALL), 1.0), (other, 1.0)])
    assert "unet.a.to_q: weights of [12, 8] and [12, 10]" in str(caught.value)
    assert "unet.conv: weights of [6, 5, 3, 3] and [7, 5, 3, 3]" in str(caught.value)


def test_dora_is_refused():
    dora = adapter(0, ALL) | {"unet.a.to_q.lora_magnitude_vector": torch.ones(12)}
    with pytest.raises(ConfigError, match="a sum of DoRA adapters is no adapter"):
        arithmetic.merged([(dora, 1.0), (adapter(1, ALL), 1.0)])
    with pytest.raises(ConfigError, match=r"unet\.a\.to_q"):
        arithmetic.resized(dora, 1)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_smaller_rank_is_the_best_one_and_its_error_the_true_one(rank):
    tensors = adapter(0, ALL)
    small, errors = arithmetic.resized(tensors, rank)
    for name, matrix in full(tensors).items():
        u, s, v = torch.linalg.svd(matrix.flatten(1), full_matrices=False)
        best = (u[:, :rank] * s[:rank] @ v[:rank]).reshape(matrix.shape)
        found = full(small)[name]
        assert (found - best).norm() <= 1e-5 * matrix.norm(), name
        assert errors[name] == pytest.approx(float((found - matrix).norm() / matrix.norm()), abs=1e-6), name
    assert all(len(a) <= rank and b.shape[1] == len(a) for a, b in pairs(small).values())
    assert max(errors.values()) > 0.1
    assert {name: value.ndim for name, value in small.items()} == {name: value.ndim for name, value in tensors.items()}


def test_a_rank_that_is_large_enough_loses_nothing():
    """Of a sum of an adapter with itself, the rank on paper is twice the true one."""
    tensors = adapter(0, ALL)
    twice = arithmetic.merged([(tensors, 0.5), (tensors, 0.5)])
    small, errors = arithmetic.resized(twice, 5)
    close(full(small), full(tensors), 1e-5)
    assert max(errors.values()) < 1e-7
    assert max(len(a) for a, _ in pairs(small).values()) == 5
    assert len(pairs(small)["unet.narrow"][0]) == 3, "no more than the weight has outputs"


def test_layers_that_are_small_enough_stay_as_they_are():
    tensors = adapter(0, ALL)
    small, errors = arithmetic.resized(tensors, 4)
    for name in ("unet.a.to_q", "unet.conv", "text_encoder.b"):
        assert errors[name] == 0.0
        assert torch.equal(small[f"{name}.lora_A.weight"], tensors[f"{name}.lora_A.weight"])
    assert len(small["unet.narrow.lora_A.weight"]) == 3


def test_a_rank_below_one_is_refused():
    with pytest.raises(ConfigError, match="--rank 0"):
        arithmetic.resized(adapter(0, ALL), 0)


@pytest.mark.parametrize(
    ("note", "found"),
    [
        ('{"rank": 4, "step": 7}', {"rank": 2, "step": 7}),  # a run's own
        ('{"version": "1"}', {"version": "1"}),
        ("of somebody else", "of somebody else"),
    ],
)
def test_what_a_header_says_of_the_rank_is_true_after_a_cut(note, found, tmp_path):
    whole = AdapterFile(adapter(0, ALL), {}, "diffusers", {summary.NOTE: note, "licence": "x"}, tmp_path / "a")
    file, lost = cutting.cut(whole, 2, lambda names: {})
    assert file.header["licence"] == "x"
    assert lost
    note = file.header[summary.NOTE]
    assert (note if isinstance(found, str) else json.loads(note)) == found
