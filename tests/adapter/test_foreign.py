"""Files of other trainers add to each weight what stock diffusers adds, and what it loses of them is not lost here."""

import pytest
import torch

from pipeline.adapter.files import reader, summary
from pipeline.adapter.names import pairs
from pipeline.errors import CheckpointError
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.foreign_files import (
    DOTTED,
    KOHYA,
    XLABS,
    additions,
    as_dotted,
    as_kohya,
    assert_same,
    flux_layers,
    flux_outside,
    loaded_by_stock,
    pair,
    saved,
    sd3_layers,
    text_layers,
)
from tests.families.original import _mmdit, _mmdit_of_flux

pytestmark = pytest.mark.reference
WIDTH = 32  # of the miniatures' transformers and text encoders
DOUBLE = flux_layers(WIDTH, 2, 0)
SINGLE = {name: size for name, size in flux_layers(WIDTH, 0, 2).items() if not name.endswith("linear1")}
DIFFUSERS = {
    f"transformer_blocks.{number}.attn.{name}": (WIDTH, WIDTH) for number in (0, 1) for name in ("to_q", "to_add_out")
} | {"single_transformer_blocks.1.attn.to_v": (WIDTH, WIDTH)}


def xlabs():
    tensors = {}
    for side in "12":
        block = "double_blocks.1.processor"
        tensors |= pair(f"{block}.qkv_lora{side}", 3 * WIDTH, WIDTH, ends=XLABS)
        tensors |= pair(f"{block}.proj_lora{side}", WIDTH, WIDTH, ends=XLABS)
    tensors |= pair("single_blocks.0.processor.qkv_lora", 3 * WIDTH, WIDTH, ends=XLABS)
    return tensors | pair("single_blocks.0.processor.proj_lora", WIDTH, 5 * WIDTH, ends=XLABS)


def with_t5(tensors, value=0.0):
    name = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    return tensors | {
        f"{name}.lora_down.weight": torch.ones(4, 32),
        f"{name}.lora_up.weight": torch.full((32, 4), value),
    }


def onetrainer_of_old():
    tensors = {}
    for name, size in DIFFUSERS.items():
        stem = f"lora_transformer_{name.replace('.', '_')}"
        tensors |= pair(stem, *size) | {f"{stem}.alpha": torch.tensor(2.0)}
    return tensors


READ_BY_STOCK = {  # as it is in public threads, the format it is called, and whether stock drops other layers too
    "kohya": (lambda: as_kohya(DOUBLE | SINGLE, alpha=2.0), "kohya"),
    "kohya without alpha": (lambda: as_kohya(DOUBLE), "kohya"),
    "kohya with CLIP": (lambda: as_kohya(DOUBLE, alpha=8.0) | text_layers("lora_te1_"), "kohya"),
    "ComfyUI's": (lambda: as_dotted(DOUBLE | SINGLE, ends=KOHYA), "bfl"),
    "ComfyUI's with CLIP": (
        lambda: as_dotted(DOUBLE, ends=KOHYA) | text_layers("text_encoders.clip_l.transformer.", dot="."),
        "bfl",
    ),
    "XLabs": (xlabs, "xlabs"),
    "OneTrainer": (lambda: as_dotted(DIFFUSERS, "transformer.", KOHYA), "onetrainer"),
    "OneTrainer, older": (onetrainer_of_old, "kohya"),
    "empty T5": (lambda: with_t5(as_dotted(DIFFUSERS, "transformer.", KOHYA)), "onetrainer"),
    "T5": (lambda: with_t5(as_dotted(DIFFUSERS, "transformer.", KOHYA), 1.0), "onetrainer"),
    "ours": (lambda: as_dotted(DIFFUSERS, "transformer."), "diffusers"),
}


@pytest.fixture(scope="module")
def flux(miniature_of):
    return miniature_of("flux")


@pytest.mark.parametrize("kind", READ_BY_STOCK)
def test_the_same_is_added_as_by_a_model_that_stock_diffusers_loaded_the_file_into(flux, tmp_path, kind):
    made, format_ = READ_BY_STOCK[kind]
    path = saved(made(), tmp_path / "x.safetensors")
    expected = loaded_by_stock(flux, path)
    assert expected
    layers = layer_shapes(registry.detect(flux))
    file = reader.read(path, layers)
    assert file.format == format_
    assert_same(additions(file.tensors), expected)
    named = {name.replace(".text_model.", "."): v for name, v in additions(reader.read(path, None).tensors).items()}
    assert_same(named, expected)
    assert ("T5" in kind) == any("T5" in note for note in file.notes)


def test_xlabs_and_kohya_need_no_base_to_be_known_as_flux(tmp_path):
    for made in (xlabs, lambda: as_kohya(SINGLE), lambda: as_dotted(DOUBLE)):
        facts = summary.summary(reader.parse(saved(made(), tmp_path / "x.safetensors"), None))
        assert facts["family"] == "flux"


def in_original_names(found, shapes, names):
    """What is added to every weight of the original code; `names` goes from diffusers' names to its own."""
    state = {f"{name}.weight": torch.zeros(shape).flatten(1) for name, shape in shapes.items()}
    state |= {f"{name.removeprefix('transformer.')}.weight": value for name, value in found.items()}
    return {name.removesuffix(".weight"): value for name, value in names(state).items() if value.any()}


def expected_of(tensors, alpha: float | None = None):
    """up @ down of every layer of a file, by its name with dots for what was `lora_unet_` and underscores."""
    found = {}
    for name, down in tensors.items():
        if name.endswith((KOHYA[0], DOTTED[0])):
            up = tensors[name.replace("lora_down", "lora_up").replace("lora_A", "lora_B")]
            scale = 1.0 if alpha is None else alpha / len(down)
            found[name.rpartition(".lora_")[0].replace("diffusion_model.", "")] = scale * up @ down
    return found


@pytest.mark.parametrize("prefix", ["diffusion_model.", "base_model.model.", "transformer.", ""])
def test_every_layer_of_flux_under_its_original_name(flux, tmp_path, prefix):
    """ai-toolkit's and bare names: fused layers at any width, the embedders and the last layer, which stock drops."""
    sizes = flux_layers(WIDTH, 2, 2) | flux_outside(WIDTH, 64, WIDTH)
    shapes = layer_shapes(registry.detect(flux))
    file = reader.read(saved(as_dotted(sizes, prefix), tmp_path / "x.safetensors"), shapes)
    assert (file.format, len(pairs(file.tensors))) == ("bfl", len(shapes["transformer"]))
    found = in_original_names(additions(file.tensors), shapes["transformer"], _mmdit_of_flux)
    expected = expected_of(as_dotted(sizes, prefix))
    assert_same(found, {name.removeprefix(prefix): value for name, value in expected.items()})


def test_no_alpha_of_a_file_of_kohya_is_lost(flux, tmp_path):
    """Stock diffusers loses those of the last layer, and OneTrainer's."""
    sizes = flux_layers(WIDTH, 1, 1) | flux_outside(WIDTH, 64, WIDTH)
    shapes = layer_shapes(registry.detect(flux))
    file = reader.read(saved(as_kohya(sizes, alpha=1.0), tmp_path / "x.safetensors"), shapes)
    assert set(file.alphas.values()) == {1.0}
    found = in_original_names(additions(file.tensors), shapes["transformer"], _mmdit_of_flux)
    kohya = {name.replace(".", "_"): value for name, value in found.items()}
    expected = expected_of(as_kohya(sizes), alpha=1.0)
    assert_same(kohya, {name.removeprefix("lora_unet_"): value for name, value in expected.items()})
    own = as_dotted(DIFFUSERS, "transformer.", KOHYA)
    alphas = {f"transformer.{name}.alpha": torch.tensor(1.0) for name in DIFFUSERS}
    read = additions(reader.read(saved(own | alphas, tmp_path / "y.safetensors"), shapes).tensors)
    assert_same(
        read,
        {
            name: v / 4
            for name, v in additions(reader.read(saved(own, tmp_path / "z.safetensors"), shapes).tensors).items()
        },
    )


def test_layers_that_were_put_together_come_apart_at_the_rank_they_had(flux, tmp_path):
    """q, k and v of rank 1, 2 and 3, one below the other: each has its own rank again."""
    ranks, total = (1, 2, 3), 6
    down, up = torch.randn(total, WIDTH), torch.zeros(3 * WIDTH, total)
    column = 0
    for row, rank in enumerate(ranks):
        up[row * WIDTH : (row + 1) * WIDTH, column : column + rank] = torch.randn(WIDTH, rank)
        column += rank
    stem = "diffusion_model.double_blocks.0.img_attn.qkv"
    file = reader.read(
        saved({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, tmp_path / "x.safetensors"), None
    )
    names = [f"transformer.transformer_blocks.0.attn.to_{which}" for which in "qkv"]
    assert tuple(len(pairs(file.tensors)[name][0]) for name in names) == ranks
    assert [file.alphas[name] for name in names] == [1.0, 2.0, 3.0]
    whole = torch.cat([additions(file.tensors)[name] for name in names])
    torch.testing.assert_close(whole, up @ down)


@pytest.mark.parametrize("kind", ["dotted", "kohya"])
def test_every_layer_in_the_blocks_of_sd3_under_its_original_name(miniature_of, tmp_path, kind):
    """Which stock diffusers does not know; the norms of the last block have scale and shift the other way round."""
    family = registry.detect(miniature_of("sd3"))
    shapes, sizes = layer_shapes(family), sd3_layers(WIDTH, 3, (0,))
    written = as_dotted(sizes) if kind == "dotted" else as_kohya(sizes, alpha=2.0)
    text = text_layers("lora_te1_") | text_layers("lora_te2_", 48) if kind == "kohya" else {}
    file = reader.read(saved(written | text, tmp_path / "x.safetensors"), shapes)
    assert summary.summary(reader.read(tmp_path / "x.safetensors", None))["family"] == "sd3"
    found = {name: v for name, v in additions(file.tensors).items() if name.startswith("transformer.")}
    found = in_original_names(found, shapes["transformer"], _mmdit)
    expected = expected_of(written, None if kind == "dotted" else 2.0)
    if kind == "kohya":
        found = {f"lora_unet_{name.replace('.', '_')}": value for name, value in found.items()}
        assert {name.partition(".")[0] for name in file.tensors} == {"transformer", "text_encoder", "text_encoder_2"}
    assert_same(found, expected)


def test_a_block_of_lumina_2_is_read_as_by_stock_diffusers(tmp_path):
    """At its own width, for stock diffusers knows no other; and at another, or with some layers only, here too."""
    from diffusers import Lumina2Pipeline

    sizes = {"attention.qkv": (3840, 2304), "attention.out": (2304, 2304), "adaLN_modulation.1": (9216, 1024)}
    sizes |= {"feed_forward.w1": (9216, 2304), "feed_forward.w2": (2304, 9216), "feed_forward.w3": (9216, 2304)}
    written = {
        key: v
        for name, size in sizes.items()
        for key, v in pair(f"diffusion_model.layers.0.{name}", *size, rank=2, ends=DOTTED).items()
    }
    expected = additions(Lumina2Pipeline.lora_state_dict(dict(written)))
    file = reader.read(saved(written, tmp_path / "x.safetensors"), None)
    assert_same(additions(file.tensors), expected)
    assert summary.family_of(file.tensors) == "lumina2"
    few = pair("diffusion_model.layers.1.attention.qkv", 64, 32, ends=DOTTED)
    found = pairs(reader.read(saved(few, tmp_path / "y.safetensors"), None).tensors)
    assert [len(b) for _, b in found.values()] == [32, 16, 16]


def test_what_is_not_understood_is_named_at_once(tmp_path):
    tensors = (
        as_kohya(DOUBLE)
        | pair("lora_unet_double_blocks_0_img_attn_qqq", 4, 4)
        | {"diffusion_model.x.diff": torch.ones(1)}
    )
    del tensors["lora_unet_double_blocks_0_img_mlp_0.lora_up.weight"]
    with pytest.raises(CheckpointError) as caught:
        reader.read(saved(tensors, tmp_path / "x.safetensors"), None)
    for text in (
        "img_attn_qqq: no layer is known",
        "img_mlp_0: lacks its lora_up.weight",
        "diffusion_model.x.diff: not",
    ):
        assert text in str(caught.value)


def test_a_file_of_flux_is_for_another_model_than_sd3(miniature_of, tmp_path):
    path = saved(as_kohya(DOUBLE), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="another model"):
        reader.read(path, layer_shapes(registry.detect(miniature_of("sd3"))))


@pytest.mark.parametrize("name", registry.NAMES)
def test_the_names_of_onetrainer_are_read_for_every_family(miniature_of, tmp_path, name):
    """diffusers' own with lora_down, lora_up and an alpha, with and without the base."""
    shapes = layer_shapes(registry.detect(miniature_of(name)))
    component, layers = next(iter(shapes.items()))
    tensors = {}
    for layer in [layer for layer, shape in layers.items() if len(shape) == 2][3:9]:
        tensors |= pair(f"{component}.{layer}", *layers[layer])
        tensors[f"{component}.{layer}.alpha"] = torch.tensor(1.0)
    path = saved(tensors, tmp_path / "x.safetensors")
    expected = {f"{component}.{layer}": value for layer, value in expected_of(tensors, alpha=1.0).items()}
    expected = {layer.replace(f"{component}.{component}.", f"{component}."): value for layer, value in expected.items()}
    for given in (shapes, None):
        assert_same(additions(reader.read(path, given).tensors), expected)
