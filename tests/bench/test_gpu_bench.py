"""`bench gpu` at toy size on a CPU, and its parts: the work it counts, the time a GPU idles, what it leaves out."""

import dataclasses
import json

import pytest
import torch

from pipeline.argv import bare
from pipeline.bench import flops, gpu, lanes, made_up, plain, published, watching
from pipeline.bench.gpu import Wanted
from pipeline.bench.lanes import Case, Lane
from pipeline.bench.published import MODELS
from pipeline.config import KINDS
from pipeline.geometry import Size

pytestmark = pytest.mark.unit
QUICK = Wanted(models=("sd15",), lanes=("eager", lanes.PLAIN), batches=(1,), axes=False, steps=1, toy=True)


def test_every_lane_is_measured_or_says_why_not(monkeypatch):
    """A lane that fails and one that finds no memory leave the others as they are."""
    monkeypatch.setitem(lanes.LANES, "broken", Lane("broken", ("--adam_beta1", "7")))
    monkeypatch.setattr(plain, "train", lambda *args, **kwargs: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    kept = []
    wanted = dataclasses.replace(QUICK, lanes=("eager", "broken", lanes.PLAIN))
    found = gpu.compare(wanted, "command", kept.append)
    first, broken, full = found.rows
    assert first.about == {"model": "SD 1.5 @512, toy", "lane": "eager", "batch": "1", "rank": "16", "changed": ""}
    assert first.found["samples_per_s"][0] == pytest.approx(1e3 / first.found["step_ms"][0])
    assert 0 < first.found["mfu"][0] < 1
    assert {"host_ms", "first_step_s"} < set(first.found)
    assert "launches" not in first.found  # there is no GPU to launch on
    assert broken.found == {}
    assert "--adam_beta1 is 7" in broken.note
    assert full.note == "out of memory"
    assert [len(one.rows) for one in kept] == [1, 2, 3]


def test_the_plain_loop_trains_what_ours_trains():
    (row,) = gpu.compare(dataclasses.replace(QUICK, lanes=(lanes.PLAIN,)), "", lambda found: None).rows
    assert row.found["samples_per_s"][0] > 0
    assert row.note == ""


def test_a_model_of_published_widths_is_made_up_and_cut_short(tmp_path, monkeypatch):
    """Its weights are nowhere on the disk; what the whole would do in a second is told from its work."""
    (tmp_path / "flux_dev.json").write_text(
        json.dumps({**published.config("flux_dev"), "num_attention_heads": 1, "num_layers": 2, "num_single_layers": 4})
    )
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    small = dataclasses.replace(MODELS["flux_dev"], size=32)
    monkeypatch.setitem(MODELS, "flux_dev", small)
    wanted = dataclasses.replace(QUICK, models=("flux_dev",), toy=False, num_blocks=3)
    assert small.num_blocks == 6
    ours, theirs = gpu.compare(wanted, "", lambda found: None).rows
    for row in (ours, theirs):
        assert row.note == "3 of 6 blocks; samples/s of all extrapolated"
        assert row.found["samples_per_s"][0] < 0.9 * 1e3 / row.found["step_ms"][0]


def test_made_up_weights_are_not_zero(tmp_path):
    made_up.write_model(MODELS["sd15"], tmp_path / "model", None, toy=True)
    family = made_up.family_of(tmp_path / "model", made=True)
    model = family.load("unet", dtype=torch.bfloat16).unet
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert all(value.any() for value in model.parameters())


def test_the_work_of_a_step_is_as_counted_elsewhere(tmp_path):
    """With another counter: 2.15 times the 0.80 TFLOP of the forward, for SD 1.5's configuration."""
    made_up.write_model(MODELS["sd15"], tmp_path / "model", None, toy=False)
    assert flops.of_step(tmp_path / "model", Size.square(512)) == pytest.approx(1.72e12, rel=0.005)


def test_cutting_short_keeps_the_width():
    flux, sd3 = MODELS["flux_dev"], MODELS["sd35_medium"]
    cut = flux.config(12)
    assert (cut["num_layers"], cut["num_single_layers"]) == (4, 8)
    assert cut | {"num_layers": 19, "num_single_layers": 38} == flux.config()
    assert sd3.config(6)["dual_attention_layers"] == [0, 1, 2, 3, 4, 5]
    assert MODELS["sdxl"].num_blocks == 0


def test_a_gpu_idles_where_no_kernel_runs():
    """Two of ten units: between the overlapping ones and the last."""
    assert watching.idle_share([(0.0, 4.0), (3.0, 6.0), (5.0, 5.5), (8.0, 10.0)]) == pytest.approx(0.2)
    assert watching.idle_share([(1.0, 2.0)]) == 0.0


def test_every_lane_says_what_it_is_without():
    assert Case(lanes.LANES["eager"]).flags[:3] == ["--no-compile", "--cuda_graphs", "off"]
    assert Case(lanes.LANES["graphs"]).flags[:3] == ["--no-compile", "--cuda_graphs", "on"]
    assert Case(lanes.LANES["compiled"]).flags[:3] == ["--compile", "--cuda_graphs", "off"]
    assert Case(lanes.LANES["compiled, graphs"]).flags[:3] == ["--compile", "--cuda_graphs", "on"]
    words = [word for lane in lanes.LANES.values() for word in lane.flags if word.startswith("--")]
    assert {bare(word) for word in words} <= KINDS.keys()


def test_the_cases_of_a_model_change_one_thing_each():
    found = lanes.cases_of(("eager", "graphs"), (1, 8), axes=True)
    told = [(case.lane.name, case.batch, case.rank, case.changed) for case in found]
    assert told[:3] == [("eager", 1, 16, ""), ("graphs", 1, 16, ""), ("eager", 8, 16, "")]
    assert told[3:] == [
        *(("eager", 1, rank, "") for rank in (4, 64, 128)),
        ("eager", 1, 16, "checkpointing"),
        ("eager", 1, 16, "not deterministic"),
    ]
    assert [case.batch for case in lanes.at_batch(("eager", "graphs"), 8)] == [8]
