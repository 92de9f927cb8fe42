"""What a run says it will write is about what it writes, and too small a disk is named before anything is."""

import shutil
from pathlib import Path

import pytest

from pipeline.engine import Precision
from pipeline.errors import ConfigError
from pipeline.families import miniature, registry
from pipeline.run import disk
from tests.conftest import make_colours, prepared, replaced, small_flags

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("family", sorted(registry.NAMES))
def test_the_cache_takes_what_the_plan_says(family, tmp_path):
    from pipeline.run.encode import encode

    miniature.write(family, tmp_path / "model")
    flags = small_flags(tmp_path / "model", make_colours(tmp_path / "data"), tmp_path / "cache")
    context = prepared(replaced(flags, resolution=128), tmp_path / "out")
    encode(context)
    found = {
        part: sum(path.stat().st_size for path in (tmp_path / "cache" / "encoded" / part).rglob("*.safetensors"))
        for part in ("latents", "text")
    }
    said = disk.needed(
        context.run,
        context.family,
        context.data,
        seen=context.plan.seen,
        possible=context.plan.possible,
        num_steps=12,
        num_epochs=context.plan.num_epochs,
        num_trainable=context.plan.num_trainable,
        precision=context.engine.precision,
    )
    assert found["latents"] == pytest.approx(said.latents, rel=0.15)
    assert found["text"] == pytest.approx(said.embeddings, rel=0.15)
    assert said.text() in context.plan.text()


def test_half_precision_halves_the_text_states_and_learning_encoders_need_none(small, tmp_path):
    context = prepared(small, tmp_path / "out")
    plan = context.plan
    sizes = {"seen": plan.seen, "possible": plan.possible, "num_steps": 12, "num_epochs": 12, "num_trainable": 1000}

    def said(precision, **values):
        run = context.run.replaced(**values)
        return disk.needed(run, context.family, context.data, **sizes, precision=Precision(precision, ""))

    assert said("bf16").embeddings * 2 == said("no").embeddings
    assert said("no", train_text_encoder=True).embeddings == 0
    assert said("no", checkpointing_steps=1).checkpoints > said("no", checkpointing_steps=12).checkpoints
    limited = said("no", checkpointing_steps=1, checkpoints_total_limit=1)
    assert limited.checkpoints == said("no", checkpointing_steps=12).checkpoints


def test_free_room_is_rounded_down(tmp_path, monkeypatch):
    """Or a refusal would say that two megabytes are less than two."""
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(0, 0, 1_990_000))
    with pytest.raises(ConfigError, match=r"has 1\.9 MB free, and 2 MB may"):
        disk.require_space(disk.Needed(1, 1, 10**6, 10**6, 0), [(tmp_path, 1_995_000)])


def test_a_disk_without_the_room_is_named(tmp_path):
    enough = disk.Needed(1, 1, 10**6, 10**6, 10**6)
    disk.require_space(enough, disk.room_for(enough, tmp_path / "out", tmp_path / "cache"))
    for found in (disk.Needed(1, 1, 10**18, 0, 0), disk.Needed(1, 1, 0, 10**18, 0), disk.Needed(1, 1, 0, 0, 10**18)):
        with pytest.raises(ConfigError, match=r"1000000000\.0 GB may be written there"):
            disk.require_space(found, disk.room_for(found, tmp_path / "out", tmp_path / "cache"))
    free = Path("/").stat().st_dev != Path("/dev/shm").stat().st_dev and disk.shutil.disk_usage("/dev/shm").free
    if free:  # two disks: each for itself
        two = disk.Needed(1, 1, free + 10**12, 0, 10**18)
        with pytest.raises(ConfigError, match=r"(?s)/dev/shm has.*may be written there") as error:
            disk.require_space(two, disk.room_for(two, tmp_path / "out", Path("/dev/shm/cache")))
        assert str(error.value).count("may be written there") == 2
