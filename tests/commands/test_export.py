"""export: a file in another dialect means the same, and nothing half or wrong is left behind."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from pipeline.adapter import lora
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import kohya, peft_config, reader, writer
from pipeline.adapter.names import FILE, as_in_files
from pipeline.adapter.options import AdapterOptions
from pipeline.commands import adapters
from pipeline.errors import CheckpointError, ConfigError, UserError
from pipeline.families import miniature as miniatures
from pipeline.families import registry
from pipeline.families.meta import layer_shapes
from pipeline.families.targets import CLIP_TEXT
from tests.adapter import comfyui_rules
from tests.adapter.learnt import KINDS, learnt, outputs, same, stock, with_header
from tests.commands.handled import alike, header_of, left_in
from tests.conftest import attach

pytestmark = pytest.mark.contract
PLAIN = [kind for kind in KINDS if kind != "dora"]


@pytest.fixture(scope="module")
def plain(miniature):
    """What stock diffusers gives without an adapter."""
    return outputs(stock(miniature))


@pytest.fixture(scope="module", params=PLAIN)
def sourced(request, family, miniature, tmp_path_factory):
    """A file with its alphas in the header, as diffusers' own scripts write it, and what stock diffusers gives."""
    source = with_header(learnt(family, **KINDS[request.param]), tmp_path_factory.mktemp("source"))
    return source, outputs(stock(miniature, source))


@pytest.fixture(scope="module")
def written(request, family, tmp_path_factory):
    """The folder with an adapter's file, of the kind that is asked for."""
    folder = tmp_path_factory.mktemp("written")
    writer.write(folder, learnt(family, with_text=False, **KINDS[request.param]), "{}")
    return folder


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_stock_diffusers_predicts_the_same_from_what_is_exported(sourced, plain, miniature, tmp_path, to):
    source, before = sourced
    adapters.export(source, tmp_path / "out" / "x.safetensors", to, miniature)
    alike(before, outputs(stock(miniature, tmp_path / "out" / "x.safetensors")), plain)
    assert left_in(tmp_path / "out") == ["x.safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_peft_predicts_the_same_from_what_is_exported(family, miniature, plain, tmp_path, kind):
    """On the denoiser alone and, with one for it, on the text encoder."""
    adapted = learnt(family, with_text=kind != "dora", **KINDS[kind])
    writer.write(tmp_path / "source", adapted, "{}")
    adapters.export(tmp_path / "source", tmp_path / "peft", "peft", None if kind == "dora" else miniature)
    base = stock(miniature)
    expected = outputs(stock(miniature, tmp_path / "source" / FILE))
    if kind == "dora":
        assert left_in(tmp_path / "peft") == [reader.PEFT_CONFIG, reader.PEFT_FILE]
        base.unet = PeftModel.from_pretrained(base.unet, tmp_path / "peft")
    else:
        assert left_in(tmp_path / "peft") == ["text_encoder", "unet"]
        base.unet = PeftModel.from_pretrained(base.unet, tmp_path / "peft" / "unet")
        base.text_encoder = PeftModel.from_pretrained(base.text_encoder, tmp_path / "peft" / "text_encoder")
    alike(expected, outputs(base), plain)
    assert left_in(tmp_path) == ["peft", "source"]


@pytest.mark.parametrize("to", ["diffusers", "kohya", "peft"])
@pytest.mark.parametrize("source", ["kohya", "old diffusers", "diffusers", "peft"])
def test_every_dialect_becomes_every_other(every, miniature, layers, tmp_path, source, to):
    tensors, paths = every
    name = "x" if to == "peft" else "x.safetensors"
    adapters.export(paths[source], tmp_path / name, to, miniature)
    file = reader.read(tmp_path / name, layers)
    assert file.format == to
    same(file.tensors, tensors)
    assert left_in(tmp_path) == [name]


def test_the_file_for_comfyui_has_its_names_one_alpha_and_a_header(family, miniature, tmp_path):
    adapted = learnt(family, rank=4, lora_layers="all-linear+conv", rank_pattern="attn2.to_k=8,mid_block.*=2")
    writer.write(tmp_path, adapted, json.dumps({"step": 7, "trigger": "sks"}))
    adapters.export(tmp_path, tmp_path / "Sticker.safetensors", "kohya", miniature)
    tensors = load_file(tmp_path / "Sticker.safetensors")
    configs = [family.part_config(part) for part in ("unet", "text_encoder")]
    known = comfyui_rules.unet_stems(configs[0]) | comfyui_rules.clip_stems(configs[1], "clip_l")
    stems = {name.partition(".")[0] for name in tensors}
    assert len(stems) == len(adapted.layers())
    assert stems <= known.keys()
    assert {value.item() for name, value in tensors.items() if name.endswith(".alpha")} == {4.0}
    header = header_of(tmp_path / "Sticker.safetensors")
    assert json.loads(header["t2i_lora"]) == {"step": 7, "trigger": "sks"}
    assert header["modelspec.title"] == "Sticker"
    assert header["modelspec.trigger_phrase"] == "sks"
    assert header["modelspec.architecture"].endswith("/lora")
    assert header["modelspec.hash_sha256"] == kohya.digest(tensors)
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("8", "4.0")


def test_half_precision_stays_half_and_is_near_enough(every, miniature, layers, tmp_path):
    tensors = {name: value.bfloat16() for name, value in every[0].items()}
    save_file(tensors, tmp_path / "x.safetensors")
    adapters.export(tmp_path / "x.safetensors", tmp_path / "k.safetensors", "kohya", miniature)
    adapters.export(tmp_path / "k.safetensors", tmp_path / "d.safetensors", "diffusers", miniature)
    back = load_file(tmp_path / "d.safetensors")
    assert {value.dtype for value in back.values()} == {torch.bfloat16}
    same({n: v.float() for n, v in back.items()}, {n: v.float() for n, v in as_in_files(tensors).items()}, 8e-3)


def test_the_same_export_gives_the_same_bytes(every, miniature, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        adapters.export(every[1]["diffusers"], tmp_path / name / "x.safetensors", "kohya", miniature)
        adapters.export(every[1]["diffusers"], tmp_path / name / "peft", "peft", miniature)
    for name in ("x.safetensors", f"peft/unet/{reader.PEFT_FILE}", f"peft/unet/{reader.PEFT_CONFIG}"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_known_of_the_adapter_is_kept(every, miniature, tmp_path):
    note = json.dumps({"step": 40, "family": "sd"})
    save_file(every[0], tmp_path / "x.safetensors", metadata={"t2i_lora": note, "ss_dataset_dirs": "/home/mary/cats"})
    for kind, name in (("kohya", "k.safetensors"), ("diffusers", "d.safetensors"), ("peft", "p")):
        adapters.export(tmp_path / "x.safetensors", tmp_path / name, kind, miniature)
    for path in ("k.safetensors", "d.safetensors", f"p/unet/{reader.PEFT_FILE}"):
        header = header_of(tmp_path / path)
        assert header["t2i_lora"] == note
        assert "mary" not in str(header), "private entries are left behind"


def test_peft_patterns_name_no_other_layer(tmp_path, miniature):
    """'proj' is also the end of 'inner.proj': each keeps its own rank, and a layer without an adapter gets none."""
    config = peft_config.config_of({
        f"{name}.lora_{kind}.weight": torch.ones(size)
        for name, rank in (("proj", 2), ("inner.proj", 3), ("a.b", 3))
        for kind, size in (("A", (rank, 4)), ("B", (4, rank)))
    })  # fmt: skip
    assert (config["r"], config["rank_pattern"]) == (3, {"^proj": 2})
    assert config["alpha_pattern"] == config["rank_pattern"]
    for name, chosen in (("proj", True), ("inner.proj", True), ("outer.proj", False), ("axb", False), ("a.b", True)):
        assert bool(re.fullmatch(config["target_modules"], name)) is chosen, name


def test_only_a_text_encoder_makes_a_folder_of_its_own(every, miniature, layers, tmp_path):
    own = {name: value for name, value in every[0].items() if name.startswith("text_encoder.")}
    save_file(own, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="--base"):
        adapters.export(tmp_path / "x.safetensors", tmp_path / "p", "peft", None)
    adapters.export(tmp_path / "x.safetensors", tmp_path / "p", "peft", miniature)
    assert left_in(tmp_path / "p") == ["text_encoder"]
    same(reader.read(tmp_path / "p", layers).tensors, own)
    same(reader.read(tmp_path / "p" / "text_encoder", None).tensors, as_in_files(own))


@pytest.mark.parametrize("layer", ["conv_in", "time_embedding.linear_1", "mid_block.attentions.0.proj_in"])
def test_a_single_layer_is_given_back_to_the_right_model(every, tmp_path, layer):
    own = {name: value for name, value in every[0].items() if name.startswith(f"unet.{layer}.lora")}
    save_file(own, tmp_path / "x.safetensors")
    adapters.export(tmp_path / "x.safetensors", tmp_path / "text_encoder", "peft", None)
    same(reader.read(tmp_path / "text_encoder", None).tensors, own)


def test_two_text_encoders_and_a_transformer_keep_their_names(sdxl, tmp_path):
    family = registry.detect(sdxl)
    pipe = family.load("unet", "text_encoder", "text_encoder_2")
    models = {name: getattr(pipe, name).eval() for name in ("unet", "text_encoder", "text_encoder_2")}
    for name, model in models.items():
        attach(model, AdapterOptions(rank=2, lora_alpha=5.0), family.targets if name == "unet" else CLIP_TEXT)
        for number, value in enumerate(lora.parameters(model).values()):
            value.data += torch.randn(value.shape, generator=torch.Generator().manual_seed(number)) * 0.1
    path = writer.write(tmp_path, AdaptedModels(models), "{}")
    for kind, name in (("kohya", "k.safetensors"), ("peft", "p")):
        adapters.export(path, tmp_path / name, kind, sdxl)
        found = reader.read(tmp_path / name, layer_shapes(family)).tensors
        same(as_in_files(found), load_file(path))
    stems = {name.split("_text_model")[0] for name in load_file(tmp_path / "k.safetensors") if "_te" in name}
    assert stems == {"lora_te1", "lora_te2"}


def test_dora_goes_where_it_means_the_same(family, miniature, plain, tmp_path):
    adapted = learnt(family, with_text=False, **KINDS["dora"])
    writer.write(tmp_path / "s", adapted, "{}")
    adapters.export(tmp_path / "s", tmp_path / "d.safetensors", "diffusers", miniature)
    before, after = (outputs(stock(miniature, f)) for f in (tmp_path / "s" / FILE, tmp_path / "d.safetensors"))
    alike(before, after, plain)
    with pytest.raises(ConfigError, match="no equal in kohya"):
        adapters.export(tmp_path / "s", tmp_path / "k.safetensors", "kohya", miniature)
    name = "text_encoder.encoder.layers.0.self_attn.q_proj"
    text = {f"{name}.lora_A.weight": torch.ones(1, 32), f"{name}.lora_B.weight": torch.ones(32, 1)}
    save_file(text | {f"{name}.lora_magnitude_vector": torch.ones(32)}, tmp_path / "t.safetensors")
    with pytest.raises(ConfigError, match="DoRA for text encoders"):
        adapters.export(tmp_path / "t.safetensors", tmp_path / "u.safetensors", "diffusers", None)
    assert left_in(tmp_path) == ["d.safetensors", "s", "t.safetensors"]


@pytest.mark.parametrize(
    ("written", "kind", "harm"),
    [("alpha", kind, harm) for kind in ("diffusers", "kohya", "peft") for harm in ("stronger", "one layer less")]
    + [("dora", "diffusers", "another magnitude"), ("dora", "peft", "another magnitude")],
    indirect=["written"],
)
def test_what_does_not_read_back_the_same_is_not_kept(written, miniature, tmp_path, monkeypatch, kind, harm):
    write = adapters.atomic.write_tensors
    last = {"stronger": "lora_B.weight|lora_up.weight", "another magnitude": "lora_magnitude_vector"}

    def harmful(path, tensors, header):
        names = sorted(tensors)
        if harm == "one layer less":
            gone = re.split(r"\.lora_|\.alpha", names[0])[0]
            tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{gone}.")}
        else:
            name = next(name for name in names if re.search(last[harm], name))
            tensors = tensors | {name: tensors[name] * (1 + 1e-5)}
        write(path, tensors, header)

    monkeypatch.setattr(adapters.atomic, "write_tensors", harmful)
    with pytest.raises(CheckpointError, match="does not read back"):
        adapters.export(written, tmp_path / ("p" if kind == "peft" else "x.safetensors"), kind, miniature)
    assert left_in(tmp_path) == []


def test_mistakes_are_answered_in_a_sentence(every, miniature, sdxl, tmp_path):
    source = every[1]["diffusers"]
    (tmp_path / "taken.safetensors").write_bytes(b"mine")
    (tmp_path / "taken").mkdir()
    miniatures.write("flux", tmp_path / "flux")
    cases = [
        ((source, tmp_path / "taken.safetensors", "diffusers", None), "exists"),
        ((source, tmp_path / "taken", "peft", None), "exists"),
        ((source, tmp_path / "x", "kohya", miniature), "must end in .safetensors"),
        ((source, tmp_path / "x.safetensors", "peft", None), "is a folder"),
        ((source, tmp_path / "x.safetensors", "kohya", None), "--base"),
        ((every[1]["kohya"], tmp_path / "x.safetensors", "diffusers", None), "--base"),
        ((source, tmp_path / "x.safetensors", "diffusers", sdxl), "another model"),
        ((source, tmp_path / "x.safetensors", "diffusers", tmp_path / "nowhere"), "does not exist"),
        ((source, tmp_path / "x.safetensors", "diffusers", Path("user/model")), "no folder"),
        ((tmp_path / "nowhere", tmp_path / "x.safetensors", "diffusers", None), "nowhere"),
    ]
    for given, said in cases:
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            adapters.export(*given)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"
    assert left_in(tmp_path) == ["flux", "taken", "taken.safetensors"]
