"""merge: the sum is what the adapters are together, and a smaller rank says what it loses."""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.adapter.files import arithmetic, writer
from pipeline.adapter.names import as_in_files, pairs
from pipeline.commands import adapters
from pipeline.errors import CheckpointError, ConfigError, UserError
from pipeline.families import registry
from tests.adapter.learnt import KINDS, learnt, outputs, stock
from tests.commands.handled import alike, header_of, left_in

pytestmark = pytest.mark.contract


def two(family, tmp_path) -> list[Path]:
    first = learnt(family, seed=2, **KINDS["patterns"])
    second = learnt(family, seed=3, with_text=False, **KINDS["convolutions"])
    return [writer.write(tmp_path / "a", first, "{}"), writer.write(tmp_path / "b", second, "{}")]


def test_a_merged_file_is_both_adapters_at_their_weights(family, miniature, tmp_path, capsys):
    """In stock diffusers: both loaded at once, and their sum loaded alone."""
    paths = two(family, tmp_path)
    adapters.merge([(paths[0], 0.7), (paths[1], -0.4)], tmp_path / "m" / "sum.safetensors", None, None)
    pipe = stock(miniature)
    base = outputs(pipe)
    for name, path in zip("ab", paths, strict=True):
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipe.set_adapters(["a", "b"], [0.7, -0.4])
    alike(outputs(pipe), outputs(stock(miniature, tmp_path / "m" / "sum.safetensors")), base)
    assert left_in(tmp_path / "m") == ["sum.safetensors"]
    assert "2 adapters in 91 layers, rank 11 at most" in capsys.readouterr().out
    note = json.loads(header_of(tmp_path / "m" / "sum.safetensors")["t2i_lora"])
    assert note["merged_with_weights"] == [0.7, -0.4]


def test_a_smaller_rank_says_what_each_block_loses(family, tmp_path, capsys):
    paths = two(family, tmp_path)
    adapters.merge([(path, 0.5) for path in paths], tmp_path / "whole.safetensors", None, None)
    capsys.readouterr()
    adapters.merge([(path, 0.5) for path in paths], tmp_path / "small.safetensors", 4, None)
    said = dict(re.findall(r"^  (\S+) +([\d.]+)% lost$", capsys.readouterr().out, flags=re.MULTILINE))
    whole, small = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "small"))
    assert max(len(a) for a, _ in pairs(small).values()) == 4
    for block, percent in said.items():
        size = lost = 0.0
        for name, pair in pairs(whole).items():
            if f"{name}.".startswith(f"{block}."):
                full, reduced = ((b.flatten(1) @ a.flatten(1)) for a, b in (pair, pairs(small)[name]))
                size += full.double().square().sum().item()
                lost += (full - reduced).double().square().sum().item()
        assert float(percent) == pytest.approx(100 * (lost / size) ** 0.5, abs=0.011), block
    assert {"unet.down_blocks.0", "unet.up_blocks.1"} <= said.keys()
    assert float(said["unet.down_blocks.0"]) > 1
    assert "unet.conv_in" not in said, "nothing was done there"


def test_a_smaller_rank_of_one_adapter_is_a_merge_of_one(every, tmp_path, capsys):
    adapters.merge([(every[1]["diffusers"], 1.0)], tmp_path / "x.safetensors", 1, None)
    assert {len(a) for a, _ in pairs(load_file(tmp_path / "x.safetensors")).values()} == {1}
    assert "1 adapter in 91 layers" in capsys.readouterr().out


def test_every_dialect_can_be_merged(every, miniature, tmp_path):
    tensors, paths = every
    weights = (0.1, 0.2, 0.3, 0.4)
    adapters.merge(list(zip(paths.values(), weights, strict=True)), tmp_path / "x.safetensors", None, miniature)
    found = pairs(load_file(tmp_path / "x.safetensors"))
    for name, pair in pairs(as_in_files(tensors)).items():
        assert arithmetic.distance(found[name], pair) <= 1e-6 * arithmetic.norm(*pair)


def test_sums_that_make_no_sense_are_refused(every, family, sdxl, miniature, tmp_path):
    paths = every[1]
    source = paths["diffusers"]
    other = writer.write(tmp_path / "sdxl", learnt(registry.detect(sdxl), with_text=False, rank=2), "{}")
    dora = writer.write(tmp_path / "dora", learnt(family, with_text=False, **KINDS["dora"]), "{}")
    cases = [
        ([(source, 1.0), (other, 1.0)], None, "for different models"),
        ([(source, 1.0), (other, 1.0)], miniature, "another model"),
        ([(source, 1.0), (dora, 1.0)], None, "a sum of DoRA adapters is no adapter"),
        ([(source, 1.0), (paths["kohya"], 1.0)], None, "--base"),
        ([(source, 0.0)], None, "make no sum"),
        ([(source, 1.0), (source, -1.0)], None, "add nothing"),
        ([(source, 1e38)], None, "add more than can be computed with"),
        ([], None, "make no sum"),
    ]
    for parts, base, said in cases:
        with pytest.raises(UserError, match=re.escape(said)):
            adapters.merge(parts, tmp_path / "x.safetensors", None, base)
    with pytest.raises(ConfigError, match="--rank 0"):
        adapters.merge([(source, 1.0)], tmp_path / "x.safetensors", 0, None)
    assert left_in(tmp_path) == ["dora", "sdxl"]


@pytest.mark.parametrize("rank", [None, 2])
def test_a_sum_that_does_not_read_back_the_same_is_not_kept(every, tmp_path, monkeypatch, rank):
    write = adapters.atomic.write_tensors

    def harmful(path, tensors, header):
        last = max(tensors)
        write(path, tensors | {last: tensors[last] * (1 + 1e-5)}, header)

    monkeypatch.setattr(adapters.atomic, "write_tensors", harmful)
    with pytest.raises(CheckpointError, match="does not read back"):
        adapters.merge([(every[1]["diffusers"], 1.0)], tmp_path / "x.safetensors", rank, None)
    assert left_in(tmp_path) == []


def test_two_names_of_clip_are_one(every, tmp_path):
    """transformers 4 has 'text_model.' in them, transformers 5 does not; no base is needed to know that."""
    tensors, paths = every
    older = tmp_path / "older.safetensors"
    save_file({n.replace("text_encoder.", "text_encoder.text_model."): v for n, v in tensors.items()}, older)
    adapters.merge([(paths["diffusers"], 0.25), (older, 0.5)], tmp_path / "x.safetensors", None, None)
    found = pairs(load_file(tmp_path / "x.safetensors"))
    assert found.keys() == pairs(load_file(older)).keys()
    for name, (a, b) in pairs(load_file(older)).items():
        assert arithmetic.distance(found[name], (a, 0.75 * b)) <= 1e-6 * arithmetic.norm(a, b)
    both = tmp_path / "both.safetensors"
    save_file({**tensors, **load_file(older)}, both)
    with pytest.raises(CheckpointError, match="under another name"):
        adapters.merge([(both, 1.0)], tmp_path / "y.safetensors", None, None)
