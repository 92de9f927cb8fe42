"""DoRA outside diffusers: whole differences or a product with its error printed, compared with the merged weights."""

import re

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.adapter.files import arithmetic, reader, writer
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import pairs
from pipeline.commands import adapters
from pipeline.errors import ConfigError
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from tests.adapter.foreign_files import additions, assert_same
from tests.adapter.learnt import KINDS, learnt
from tests.commands.handled import left_in
from tests.conftest import make_colours, prepared, replaced, small_flags

pytestmark = pytest.mark.contract
DORA = {**KINDS["dora"], "rank_pattern": None, "alpha_pattern": None}


def trained(base, folder, *, with_text: bool = False):
    """A DoRA adapter's file, and by layer what PEFT itself adds to the weights when it merges it."""
    family = registry.detect(base)
    adapted = learnt(family, with_text=with_text, **DORA)
    writer.write(folder, adapted, "{}")
    merged = {}
    for name, layer in adapted.denoiser.named_modules():
        if "default" in getattr(layer, "lora_A", {}):
            before = layer.get_base_layer().weight.detach().clone()
            layer.merge()
            merged[f"{family.denoiser}.{name}"] = layer.get_base_layer().weight.detach() - before
    return family, merged


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "sd3"])
def test_comfyui_gets_whole_differences_that_are_those_of_the_merged_weights(miniature_of, tmp_path, name):
    base = miniature_of(name)
    family, expected = trained(base, tmp_path / "s", with_text=name == "sd")
    adapters.export(tmp_path / "s", tmp_path / "x.safetensors", "comfyui", base)
    found = load_file(tmp_path / "x.safetensors")
    names = ldm_names(layer_shapes(family)["unet"]) if name == "sdxl" else {}
    for layer, value in expected.items():
        component, _, own = layer.partition(".")
        stem = layer if component == "transformer" else f"lora_unet_{names.get(own, own).replace('.', '_')}"
        assert (found.pop(f"{stem}.diff") - value).norm() <= 1e-5 * value.norm(), layer
    assert all(key.startswith("lora_te_") for key in found), "what is no DoRA stays a product"
    assert bool(found) == (name == "sd")


@pytest.mark.parametrize(
    ("name", "kind"), [("sd", "comfyui"), ("sd", "kohya"), ("flux", "bfl"), ("lumina2", "comfyui")]
)
def test_a_product_says_what_it_loses(miniature_of, tmp_path, capsys, name, kind):
    base = miniature_of(name)
    family, expected = trained(base, tmp_path / "s")
    expected = {layer: value.flatten(1) for layer, value in expected.items()}
    adapters.export(tmp_path / "s", tmp_path / "x.safetensors", kind, base, rank=6)
    said = dict(re.findall(r"^  (\S+) +([\d.]+)% lost$", capsys.readouterr().out, flags=re.MULTILINE))
    found = additions(reader.read(tmp_path / "x.safetensors", layer_shapes(family)).tensors)
    assert found.keys() == expected.keys()
    assert said
    for block, percent in said.items():
        own = [layer for layer in expected if f"{layer}.".startswith(f"{block}.")]
        lost, size = (sum(float((x[n]).norm()) ** 2 for n in own) for x in
                      ({n: found[n] - expected[n] for n in own}, expected))  # fmt: skip
        assert float(percent) == pytest.approx(100 * (lost / size) ** 0.5, abs=0.02), block
    adapters.export(tmp_path / "s", tmp_path / "y.safetensors", kind, base, rank=4096)
    assert_same(additions(reader.read(tmp_path / "y.safetensors", layer_shapes(family)).tensors), expected, 1e-4)


def test_what_dora_adds_is_not_known_without_the_base(miniature, miniature_of, tmp_path):
    trained(miniature, tmp_path / "s")
    for rank in (None, 4):
        with pytest.raises(ConfigError, match="give its folder with --base"):
            adapters.export(tmp_path / "s", tmp_path / "x.safetensors", "comfyui", None, rank)
    trained(miniature_of("lumina2"), tmp_path / "l")
    with pytest.raises(ConfigError, match="give --rank"):
        adapters.export(tmp_path / "l", tmp_path / "x.safetensors", "comfyui", miniature_of("lumina2"))
    assert left_in(tmp_path) == ["l", "s"]


def test_a_plain_lora_is_cut_as_in_a_merge(every, miniature, tmp_path, capsys):
    source = every[1]["diffusers"]
    adapters.export(source, tmp_path / "x.safetensors", "kohya", miniature, rank=2)
    adapters.merge([(source, 1.0)], tmp_path / "y.safetensors", 2, None)
    first, second = capsys.readouterr().out.split("y.safetensors")
    assert re.findall(r"[\d.]+% lost", first) == re.findall(r"[\d.]+% lost", second)
    found = pairs(reader.read(tmp_path / "x.safetensors", layer_shapes(registry.detect(miniature))).tensors)
    for name, pair in pairs(
        reader.read(tmp_path / "y.safetensors", layer_shapes(registry.detect(miniature))).tensors
    ).items():
        assert arithmetic.distance(found[name], pair) <= 1e-5 * arithmetic.norm(*pair)
    with pytest.raises(ConfigError, match="--rank 0"):
        adapters.export(source, tmp_path / "z.safetensors", "kohya", miniature, rank=0)


@pytest.mark.parametrize(
    ("name", "rank"), [("sd", 0), ("sd", 64), ("sdxl", 0), ("sdxl", 3), ("flux", 0), ("sd3", 3), ("lumina2", 3)]
)
def test_a_run_writes_one_for_comfyui(trainer, miniature_of, cache, tmp_path, name, rank):
    """By ComfyUI's rules it adds what stock diffusers adds when it merges the main file, but for what is said lost."""
    base, out = miniature_of(name), tmp_path / "out"
    flags = small_flags(base, make_colours(tmp_path / "data"), cache)
    flags = replaced(flags, max_train_steps=1, learning_rate=0.05, num_validation_images=0)
    ended = trainer(*flags, "--use_dora", "--comfyui_rank", rank, "--output_dir", out)
    assert ended.code == 0, ended.output
    (file,) = (out / "comfyui").glob("*.safetensors")
    assert f"For ComfyUI there is `comfyui/{file.name}`" in " ".join((out / "README.md").read_text().split())
    with safe_open(file, framework="pt") as opened:
        said = {key: value for key, value in opened.metadata().items() if key.startswith("ss_network")}
        downs = [len(value) for key, value in load_file(file).items() if key.endswith("lora_down.weight")]
    largest = max(downs) if rank == 64 else rank  # more than 64 outputs no layer of this one has
    assert said == ({} if rank == 0 else dict.fromkeys(("ss_network_dim", "ss_network_alpha"), str(largest)))
    family = registry.detect(base)
    expected, found = merged_by_diffusers(family, out), added_in_comfyui(family, file)
    assert found.keys() == expected.keys()
    size = sum(float(value.norm()) ** 2 for value in expected.values()) ** 0.5
    off = sum(float((found[layer] - value).norm()) ** 2 for layer, value in expected.items()) ** 0.5
    said = [float(percent) / 100 for percent in re.findall(r"([\d.]+)% lost", ended.output)]
    assert bool(said) == (rank == 3)
    assert off <= 2e-5 * size if rank != 3 else min(said) * size / 2 <= off <= max(said) * size * 1.01


def merged_by_diffusers(family, out):
    """What the main file adds to each weight of the denoiser, as stock diffusers merges it."""
    pipe = family.load(family.denoiser)
    model = getattr(pipe, family.denoiser)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    pipe.load_lora_weights(out, weight_name="pytorch_lora_weights.safetensors")
    layers = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = dict(model.named_parameters())
    return {name: (after[f"{name}.weight"].detach() - before[f"{name}.weight"]).flatten(1) for name in layers}


def added_in_comfyui(family, file):
    """What a file adds to each weight of the denoiser: whole differences as they are, products multiplied out."""
    tensors, shapes = load_file(file), layer_shapes(family)
    if not any(name.endswith(".diff") for name in tensors):
        found = additions(reader.read(file, shapes).tensors)
        return {name.partition(".")[2]: value for name, value in found.items()}
    assert all(name.endswith(".diff") for name in tensors)
    names = ldm_names(shapes[family.denoiser]) if family.name == "sdxl" else {}
    is_unet = family.denoiser == "unet"
    stems = {
        f"lora_unet_{names.get(name, name).replace('.', '_')}" if is_unet else f"transformer.{name}": name
        for name in shapes[family.denoiser]
    }
    return {stems[name.removesuffix(".diff")]: value.flatten(1) for name, value in tensors.items()}


def test_what_comfyui_cannot_have_is_refused_before_anything_is_loaded(miniature_of, tmp_path):
    for name, rank, said in (("sana", 4, "ComfyUI reads no adapter of sana"), ("lumina2", 0, "fused; give a rank")):
        flags = small_flags(miniature_of(name), make_colours(tmp_path / name), tmp_path / "cache")
        with pytest.raises(ConfigError, match=said):
            prepared([*flags, "--use_dora", "--comfyui_rank", str(rank)], tmp_path / "out")
