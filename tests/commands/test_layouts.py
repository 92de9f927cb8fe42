"""export: transformers under the names of other programs, each read back as the same weights added."""

import json

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from pipeline.adapter.files import arithmetic, reader, writer
from pipeline.adapter.names import pairs
from pipeline.commands import adapters
from pipeline.errors import ConfigError
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter import comfyui_rules, real_models
from tests.adapter.foreign_files import additions, assert_same, loaded_by_stock
from tests.adapter.learnt import KINDS, learnt, with_header
from tests.commands.handled import left_in

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def flux(miniature_of):
    return miniature_of("flux")


@pytest.mark.parametrize("kind", ["kohya", "comfyui", "bfl"])
def test_no_file_is_passed_on_unseen(flux, tmp_path, kind):
    """With alpha in the header or as PEFT's folder, ComfyUI would add something else or nothing: it is written anew."""
    family = registry.detect(flux)
    adapted = learnt(family, with_text=False, **KINDS["alpha"])
    source = with_header(adapted, tmp_path / "s")
    adapters.export(source, tmp_path / "p", "peft", flux)
    expected = writer.state_dict(adapted)
    for place in (source, tmp_path / "p"):
        for base in (flux, None):
            adapters.export(place, tmp_path / "x.safetensors", kind, base)
            tensors = load_file(tmp_path / "x.safetensors")
            same_addition(reader.read(tmp_path / "x.safetensors", None).tensors, expected)
            starts = {"kohya": "lora_unet_", "comfyui": "transformer.", "bfl": "diffusion_model."}
            assert all(name.startswith(starts[kind]) for name in tensors)
            (tmp_path / "x.safetensors").unlink()


def test_dora_of_a_transformer_has_no_other_layout(flux, tmp_path):
    writer.write(tmp_path / "s", learnt(registry.detect(flux), with_text=False, rank=2, use_dora=True), "{}")
    for kind in ("kohya", "bfl"):
        with pytest.raises(ConfigError, match="A DoRA adapter has no equal"):
            adapters.export(tmp_path / "s", tmp_path / "x.safetensors", kind, flux)
    assert left_in(tmp_path) == ["s"]


@pytest.mark.parametrize("kind", ["kohya", "comfyui", "bfl"])
def test_what_has_no_names_elsewhere_is_refused(miniature_of, tmp_path, kind):
    base = miniature_of("sana")
    writer.write(tmp_path / "s", learnt(registry.detect(base), with_text=False, rank=2), "{}")
    with pytest.raises(ConfigError, match=r"no program but diffusers has names for sana|names of FLUX"):
        adapters.export(tmp_path / "s", tmp_path / "x.safetensors", kind, base)


@pytest.mark.parametrize(
    ("name", "kind"), [("lumina2", "comfyui"), ("lumina2", "kohya"), ("sd3", "kohya"), ("sd3", "comfyui")]
)
@pytest.mark.parametrize("targets", ["attention", "all-linear", "to_q"])
def test_other_transformers_are_written_under_their_original_names(miniature_of, tmp_path, name, kind, targets):
    base = miniature_of(name)
    adapted = learnt(registry.detect(base), with_text=False, rank=2, lora_alpha=5.0, lora_layers=targets)
    writer.write(tmp_path / "s", adapted, "{}")
    adapters.export(tmp_path / "s", tmp_path / "x.safetensors", kind, base)
    file = reader.read(tmp_path / "x.safetensors", layer_shapes(registry.detect(base)))
    same_addition(file.tensors, writer.state_dict(adapted))
    if name == "lumina2":
        known = {
            f"diffusion_model.{stem}"
            for stem in comfyui_rules.lumina2_names(registry.detect(base).part_config("transformer"))
        }
        stems = {key.rpartition(".lora_")[0] for key in load_file(tmp_path / "x.safetensors") if "lora_" in key}
        if kind == "kohya":
            known = {stem.replace("diffusion_model.", "lora_unet_").replace(".", "_") for stem in known}
            stems = {stem.partition(".")[0] for stem in load_file(tmp_path / "x.safetensors")}
        assert stems <= known


def test_a_text_encoder_goes_along(flux, tmp_path):
    adapted = learnt(registry.detect(flux), rank=2, lora_layers="add_q_proj,add_v_proj,to_add_out")
    writer.write(tmp_path / "s", adapted, "{}")
    for kind in ("kohya", "bfl", "comfyui"):
        adapters.export(tmp_path / "s", tmp_path / f"{kind}.safetensors", kind, flux)
        file = reader.read(tmp_path / f"{kind}.safetensors", layer_shapes(registry.detect(flux)))
        same_addition(file.tensors, writer.state_dict(adapted))
        loaded = loaded_by_stock(flux, tmp_path / f"{kind}.safetensors")  # k, which nothing adapts, is there as zeros
        assert_same(additions(file.tensors), {name: value for name, value in loaded.items() if value.any()})


def same_addition(found, expected) -> None:
    assert_same(additions(found), additions(expected), 1e-5)


@pytest.mark.parametrize("targets", ["all-linear", "condition_only", "to_q,context_refiner.*.to_k"])
def test_a_run_of_lumina_2_writes_a_file_for_comfyui(miniature_of, tmp_path, targets):
    family = registry.detect(miniature_of("lumina2"))
    adapted = learnt(family, with_text=False, rank=2, lora_layers=targets, rank_pattern="to_k=1")
    writer.write_for_comfyui(tmp_path / "x.safetensors", adapted, type(family), {})
    file = reader.read(tmp_path / "x.safetensors", None)
    same_addition(file.tensors, writer.state_dict(adapted))
    assert {len(a) for name, (a, _) in pairs(file.tensors).items() if name.endswith("to_k")} == {1}


def test_the_table_of_families_says_what_comfyui_reads():
    shown = {line.split()[0]: line for line in registry.table().splitlines() if line}
    for name, said in (("sdxl", "its own file"), ("lumina2", "its own file"), ("flux", "as it is"), ("sana", " no ")):
        assert said in shown[name]


@pytest.fixture(scope="module")
def full_width(tmp_path_factory):
    """All layers of FLUX.1 dev at their published sizes, rank 2, in three layouts; exported from diffusers' one."""
    folder = tmp_path_factory.mktemp("full")
    tensors = real_models.adapter("transformer", real_models.layers(real_models.published("flux_dev")), rank=2)
    save_file({name: value.half() for name, value in tensors.items()}, folder / "diffusers.safetensors")
    for kind in ("kohya", "bfl"):
        adapters.export(folder / "diffusers.safetensors", folder / f"{kind}.safetensors", kind, None)
    return folder


def test_flux_at_full_width_is_the_same_in_three_layouts(full_width, tmp_path, capsys):
    said = {}
    for kind in ("diffusers", "kohya", "bfl"):
        adapters.inspect(full_width / f"{kind}.safetensors", None, True)
        said[kind] = json.loads(capsys.readouterr().out)
        assert (said[kind].pop("format"), said[kind]["family"]) == (kind, "flux")
        assert said[kind].pop("path")
        said[kind].pop("facts")  # what wrote it
        blocks = said[kind].pop("blocks")
        assert blocks == pytest.approx(said.setdefault("blocks", blocks), rel=1e-6)
    assert said["diffusers"] == said["kohya"] == said["bfl"]
    assert said["bfl"]["components"]["transformer"]["ranks"] == [2]
    expected = pairs(load_file(full_width / "diffusers.safetensors"))
    for source, to in (("kohya", "bfl"), ("bfl", "diffusers")):
        adapters.export(full_width / f"{source}.safetensors", tmp_path / f"{to}.safetensors", to, None)
        same_bytes = load_file(tmp_path / f"{to}.safetensors"), load_file(full_width / f"{to}.safetensors")
        assert same_bytes[0].keys() == same_bytes[1].keys()
        assert all(torch.equal(value, same_bytes[1][name]) for name, value in same_bytes[0].items())
    assert len(expected) == len(real_models.layers(real_models.published("flux_dev")))


@pytest.mark.parametrize("kind", ["kohya", "bfl"])
def test_stock_diffusers_converts_what_is_written_at_full_width(full_width, kind):
    """At this width it knows every fused layer; of those outside the blocks it forgets the component's name."""
    found = FluxPipeline.lora_state_dict(load_file(full_width / f"{kind}.safetensors"))
    found = pairs({name if name.startswith("transformer.") else f"transformer.{name}": v for name, v in found.items()})
    expected = pairs(load_file(full_width / "diffusers.safetensors"))
    assert found.keys() == expected.keys()
    for name, pair in expected.items():
        assert arithmetic.distance(found[name], pair) <= 1e-6 * arithmetic.norm(*pair), name


@pytest.mark.parametrize("name", registry.NAMES)
def test_pefts_folder_of_every_family(miniature_of, tmp_path, name):
    base = miniature_of(name)
    adapted = learnt(registry.detect(base), with_text=False, **KINDS["alpha"])
    writer.write(tmp_path / "s", adapted, "{}")
    adapters.export(tmp_path / "s", tmp_path / "p", "peft", base)
    same_addition(reader.read(tmp_path / "p", layer_shapes(registry.detect(base))).tensors, writer.state_dict(adapted))
