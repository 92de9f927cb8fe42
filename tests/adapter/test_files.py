"""Adapters in every dialect: what they mean once read, and the files that are refused."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from pipeline.adapter import files, formats, kohya, lora, resize
from pipeline.adapter.adapted import Adapted
from pipeline.adapter.ldm_names import ldm_names
from pipeline.adapter.options import AdapterOptions
from pipeline.errors import CheckpointError, ConfigError
from pipeline.families import miniature as miniatures
from pipeline.families import registry
from pipeline.families.targets import CLIP_TEXT
from tests.adapter.test_kohya import MODELS, SD, old_dialect, published
from tests.conftest import attach

pytestmark = pytest.mark.contract
PATTERNS = {"rank_pattern": "attn2.to_k=8,mid_block.*=2", "alpha_pattern": "to_v=3,attn1.to_v=5"}
KINDS = {
    "alpha": {"rank": 4, "lora_alpha": 10.0},
    "patterns": {"rank": 4, "lora_alpha": 6.0, **PATTERNS},
    "rslora": {"rank": 4, "lora_alpha": 3.0, "use_rslora": True, **PATTERNS},
    "convolutions": {"rank": 3, "lora_alpha": 5.0, "lora_layers": "all-linear+conv"},
    "dora": {"rank": 4, "lora_alpha": 7.0, "use_dora": True, "lora_layers": "all-linear+conv", **PATTERNS},
}


def learnt(family, with_text: bool = True, seed: int = 2, **options) -> Adapted:
    """A miniature's denoiser, and its text encoder, with random adapters on them."""
    pipe = family.load(family.denoiser, *(["text_encoder"] if with_text else []))
    models = {family.denoiser: getattr(pipe, family.denoiser).eval()}
    attach(models[family.denoiser], AdapterOptions(**options), family.targets)
    if with_text:
        models["text_encoder"] = pipe.text_encoder.eval()
        attach(models["text_encoder"], AdapterOptions(rank=3, lora_alpha=2.0), CLIP_TEXT)
    generator = torch.Generator().manual_seed(seed)
    for value in Adapted(models).parameters().values():
        value.data += torch.randn(value.shape, generator=generator) * 0.1
    return Adapted(models)


def outputs(pipe) -> torch.Tensor:
    """What the text encoder and the denoiser of a Stable Diffusion give for fixed inputs, in one row."""
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(2, 4, 16, 16, generator=generator)
    tokens = torch.randint(0, 200, (2, 77), generator=generator)
    with torch.no_grad():
        states = pipe.text_encoder(tokens)[0]
        prediction = pipe.unet(x_t, torch.tensor([10, 900]), states).sample
    return torch.cat([states.flatten(), prediction.flatten()])


def stock(folder: Path, file: Path | None = None) -> StableDiffusionPipeline:
    """Plain diffusers with an adapter."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    if file is not None:
        pipe.load_lora_weights(file.parent, weight_name=file.name)
    return pipe


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).norm() <= tolerance * second[name].norm(), name


@pytest.fixture(scope="module")
def family(miniature):
    return registry.detect(miniature)


@pytest.fixture(scope="module")
def layers(family):
    return files.shapes_of(family)


@pytest.fixture(scope="module")
def wide(family) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in formats.canonical(learnt(family, **KINDS["convolutions"])).items()}


def with_header(adapted: Adapted, folder: Path) -> Path:
    """As diffusers' own scripts save it: B as it was trained, alphas in the header."""
    states = {f"{name}_lora_layers": lora.state(model) for name, model in adapted.models.items()}
    StableDiffusionPipeline.save_lora_weights(folder, **states, **_collate_lora_metadata(adapted.models))
    return folder / formats.FILE


@pytest.mark.parametrize("given", [True, False], ids=["base given", "no base"])
@pytest.mark.parametrize("kind", KINDS)
def test_our_file_is_read_as_it_is(family, layers, tmp_path, kind, given):
    adapted = learnt(family, with_text=kind != "dora", **KINDS[kind])
    path = formats.write(tmp_path, adapted, '{"step": 3}')
    for place in (path, tmp_path):
        file = files.read(place, layers if given else None)
        assert (file.dialect, file.header, file.path) == ("diffusers", {"t2i_lora": '{"step": 3}'}, path)
        written = formats.canonical(adapted)
        assert file.tensors.keys() == written.keys()
        assert all(torch.equal(file.tensors[name], value) for name, value in written.items())
        assert file.alphas == {name: float(len(a)) for name, (a, _) in resize.pairs(written).items()}


def alphas_of(adapted: Adapted) -> dict[str, float]:
    tensors = formats.canonical(adapted)
    return {
        f"{component}.{name}": scale * len(tensors[f"{component}.{name}.lora_A.weight"])
        for component, model in adapted.models.items()
        for name, scale in lora.scales(model).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_diffusers_notes_in_the_header_is_honoured(family, layers, tmp_path, kind):
    adapted = learnt(family, with_text=kind != "dora", **KINDS[kind])
    path = with_header(adapted, tmp_path)
    assert not torch.equal(
        *(tensors["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"]
          for tensors in (load_file(path), formats.canonical(adapted)))
    )  # fmt: skip
    file = files.read(path, layers)
    same(file.tensors, formats.canonical(adapted))
    assert file.alphas == pytest.approx(alphas_of(adapted))
    assert files.read(path, None).alphas == file.alphas


def test_diffusers_predicts_the_same_from_its_own_file_and_from_what_we_read(family, layers, tmp_path):
    path = with_header(learnt(family, **KINDS["rslora"]), tmp_path)
    (tmp_path / "b").mkdir()
    save_file(files.read(path, layers).tensors, tmp_path / "b" / "read.safetensors")
    base, own, read = (outputs(stock(family.folder, f)) for f in (None, path, tmp_path / "b" / "read.safetensors"))
    assert (own - base).norm() > 0.05 * base.norm()
    assert (own - read).norm() <= 1e-5 * (own - base).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_peft_is_read(family, layers, tmp_path, kind):
    """Saved by PEFT itself, with everything of a LoraConfig that changes the strength."""
    adapted = learnt(family, with_text=False, **KINDS[kind])
    expected, alphas = formats.canonical(adapted), alphas_of(adapted)
    config = adapted.denoiser.peft_config["default"]
    plain = family.load("unet").unet
    model = get_peft_model(plain, LoraConfig(**{
        field: getattr(config, field)
        for field in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "use_dora")
    }))  # fmt: skip
    trained = lora.parameters(adapted.denoiser)
    for name, value in lora.parameters(model).items():
        value.data = trained[name.removeprefix("base_model.model.")].data
    model.save_pretrained(tmp_path)
    for given in (layers, None):
        file = files.read(tmp_path, given)
        assert file.dialect == "peft"
        same(file.tensors, expected)
        assert file.alphas == pytest.approx(alphas)
    assert files.read(tmp_path / "adapter_model.safetensors", layers).tensors.keys() == expected.keys()
    assert json.loads(file.header["adapter_config.json"])["peft_type"] == "LORA"


def test_a_folder_of_peft_for_a_text_encoder_is_one(family, layers, tmp_path):
    adapted = learnt(family, **KINDS["alpha"])
    adapted.models["text_encoder"].save_pretrained(tmp_path)
    expected = {name: v for name, v in formats.canonical(adapted).items() if name.startswith("text_encoder.")}
    for given in (layers, None):
        same(files.read(tmp_path, given).tensors, expected)


def test_kohyas_names_are_read(wide, layers, tmp_path):
    alphas = {name: 0.5 + number % 7 for number, name in enumerate(resize.pairs(wide))}
    for first in ("lora_te", "lora_te1"):
        tensors = kohya.to_kohya(wide, SD | {"text_encoder": first}, alphas)
        save_file(tensors, tmp_path / "x.safetensors", metadata={"ss_steps": "7"})
        file = files.read(tmp_path / "x.safetensors", layers)
        same(file.tensors, wide)
        assert file.alphas == pytest.approx(alphas)
        assert (file.dialect, file.header) == ("kohya", {"ss_steps": "7"})
    with pytest.raises(ConfigError, match="--base"):
        files.read(tmp_path / "x.safetensors", None)


def test_the_original_names_in_kohyas_files_are_read(wide, layers, tmp_path):
    """As kohya's script for SDXL writes them."""
    original = ldm_names(layers["unet"])
    own = {}
    for name, value in wide.items():
        part, _, rest = name.partition(".")
        layer, _, kind = rest.rpartition(".lora_")
        own[f"{part}.{original[layer]}.lora_{kind}" if part == "unet" else name] = value
    save_file(kohya.to_kohya(own, SD, {}), tmp_path / "x.safetensors")
    same(files.read(tmp_path / "x.safetensors", layers).tensors, wide)


def test_the_old_names_of_diffusers_are_read(wide, layers, tmp_path):
    save_file(old_dialect(wide), tmp_path / "x.safetensors")
    file = files.read(tmp_path / "x.safetensors", layers)
    assert file.dialect == "old diffusers"
    same(file.tensors, wide)
    settings = {f"{part}.{name}": value for part in SD for name, value in (("r", 3), ("lora_alpha", 6))}
    save_file(old_dialect(wide), tmp_path / "x.safetensors", metadata={files.HEADER_CONFIG: json.dumps(settings)})
    file = files.read(tmp_path / "x.safetensors", layers)
    same(file.tensors, {name: v * 2 if name.endswith("lora_B.weight") else v for name, v in wide.items()})
    assert set(file.alphas.values()) == {6.0}
    with pytest.raises(ConfigError, match="--base"):
        files.read(tmp_path / "x.safetensors", None)


def test_of_several_patterns_the_one_that_peft_takes_counts():
    patterns = {"to_q": 1, "attn1.to_q": 2, "mid.*to_k": 3, "^a.attn1.to_k": 4, "q": 5, "a.attn1.to_.": 6, "to_v$": 7}
    strength = resize.strength_of({"r": 8, "lora_alpha": 9, "alpha_pattern": patterns})
    names = ["a.attn1.to_q", "b.attn1.to_q", "mid.x.to_k", "a.attn1.to_k", "b.attn1.to_k", "q", "a.q", "a.attn1.to_v"]
    for name in names:
        expected = patterns.get(get_pattern_key(list(patterns), name), 9)
        assert strength.alpha_of(name, 8) == expected, name
    assert [strength.alpha_of(name, 8) for name in names] == [1, 1, 3, 4, 9, 5, 5, 6]


def test_both_names_of_clips_layers_mean_the_same(wide, layers, tmp_path):
    """transformers 4 wrote text_model., transformers 5 does not."""
    older = {name.replace("text_encoder.", "text_encoder.text_model."): value for name, value in wide.items()}
    settings = {f"{part}.{name}": 3 for part in SD for name in ("r", "lora_alpha")}
    settings["text_encoder.alpha_pattern"] = {"^text_model.encoder.layers.0.self_attn.q_proj": 6}
    save_file(older, tmp_path / "x.safetensors", metadata={files.HEADER_CONFIG: json.dumps(settings)})
    read = files.read(tmp_path / "x.safetensors", layers)
    assert read.tensors.keys() == wide.keys()
    assert {name for name, alpha in read.alphas.items() if alpha == 6} == {
        "text_encoder.encoder.layers.0.self_attn.q_proj"
    }


def test_alphas_beside_diffusers_names_are_honoured(wide, layers, tmp_path):
    alphas = {f"{name}.alpha": torch.tensor(6.0) for name in resize.pairs(wide)}
    save_file(wide | alphas, tmp_path / "x.safetensors")
    file = files.read(tmp_path / "x.safetensors", layers)
    same(file.tensors, {name: v * 2 if name.endswith("lora_B.weight") else v for name, v in wide.items()})
    assert set(file.alphas.values()) == {6.0}


def test_half_precision_stays_half_precision(wide, layers, tmp_path):
    save_file({name: value.bfloat16() for name, value in wide.items()}, tmp_path / "x.safetensors")
    assert {value.dtype for value in files.read(tmp_path / "x.safetensors", layers).tensors.values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("name", registry.NAMES)
def test_the_shapes_are_those_of_the_loaded_models(tmp_path, name):
    miniatures.write(name, tmp_path / "model")
    family = registry.detect(tmp_path / "model")
    pipe = family.load(family.denoiser, *family.trainable_encoders)
    expected = {
        part: {
            layer: tuple(module.weight.shape)
            for layer, module in getattr(pipe, part).named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }
        for part in (family.denoiser, *family.trainable_encoders)
    }
    assert files.shapes_of(family) == expected


# What is refused.

LAYER = "unet.mid_block.attentions.0.proj_in"
NAN, INF = float("nan"), float("inf")
HARMS = {
    "renamed": (lambda t: t.update({"unet.conv_inn.lora_A.weight": t.pop("unet.conv_in.lora_A.weight")}),
                ["unet.conv_inn: lacks its lora_B.weight", "unet.conv_in: lacks its lora_A.weight"]),
    "no such layer": (lambda t: t.update({f"unet.x{n}.lora_{k}.weight": torch.ones(1, 1) for n in "12" for k in "AB"}),
                      ["unet.x1: the base has no such layer", "unet.x2: the base has no such layer"]),
    "left over": (lambda t: t.update({"vae.conv.lora_A.weight": torch.ones(1, 1), "unet.conv_in.diff": torch.ones(1)}),
                  ["vae.conv.lora_A.weight: not '<component>", "unet.conv_in.diff: not '<component>"]),
    "name left in": (lambda t: t.update({f"{LAYER}.lora_A.default.weight": t.pop(f"{LAYER}.lora_A.weight")}),
                     [f"{LAYER}.lora_A.default.weight: not", f"{LAYER}: lacks its lora_A.weight"]),
    "compiled": (lambda t: t.update({f"unet._orig_mod.{n[5:]}": t.pop(n) for n in list(t) if n.startswith(LAYER)}),
                 ["unet._orig_mod.mid_block.attentions.0.proj_in.lora_A.weight: not"]),
    "distributed": (lambda t: t.update({f"unet.module.{n[5:]}": t.pop(n) for n in list(t) if n.startswith(LAYER)}),
                    ["unet.module.mid_block.attentions.0.proj_in.lora_B.weight: not"]),
    "biases": (lambda t: t.update({f"{LAYER}.lora_B.bias": torch.ones(32)}), [f"{LAYER}.lora_B.bias: not"]),
    "two names": (lambda t: t.update({n.replace(".enc", ".text_model.enc"): v.clone() for n, v in list(t.items())}),
                  ["layers.0.self_attn.q_proj.lora_A.weight: the same layer is there under another name"]),
    "ranks": (lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(2, 32, 1, 1)}),
              [f"{LAYER}: B of [32, 3, 1, 1] does not fit A of [2, 32, 1, 1]"]),
    "B with a kernel": (lambda t: t.update({f"{LAYER}.lora_B.weight": torch.ones(32, 3, 3, 3)}), [f"{LAYER}: B of"]),
    "half a DoRA": (lambda t: t.update({f"{LAYER}.lora_magnitude_vector": torch.ones(32)}),
                    ["unet.conv_in: has no magnitude"]),
    "alphas": (lambda t: t.update({f"{LAYER}.alpha": torch.tensor(NAN), "unet.conv_in.alpha": torch.tensor(0.0)}),
               [f"{LAYER}: alpha must be", "unet.conv_in: alpha must be"]),
    "integers": (lambda t: t.update({n: t[n].to(torch.int8) for n in list(t)[:2]}), ["floating-point"]),
    "not finite": (lambda t: [t[f"{LAYER}.lora_{k}.weight"].view(-1)[:1].fill_(v) for k, v in (("A", NAN), ("B", INF))],
                   [f"{LAYER}.lora_A.weight is not finite", f"{LAYER}.lora_B.weight is not finite"]),
    "zero": (lambda t: [t[f"{n}.lora_B.weight"].zero_() for n in (LAYER, "unet.conv_in")],
             [f"{LAYER}.lora_B.weight is zero", "unet.conv_in.lora_B.weight is zero"]),
    "absurd alpha": (lambda t: t.update({f"{LAYER}.alpha": torch.tensor(1e6)}), [f"{LAYER}: alpha is 1e+06 at rank 3"]),
    "no adapter": (lambda t: [t.clear(), t.update({"down.weight": torch.ones(1)})], ["holds no LoRA"]),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_a_wrong_file_is_refused_and_every_culprit_named(wide, layers, tmp_path, harm):
    change, said = HARMS[harm]
    tensors = {name: value.clone() for name, value in wide.items()}
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as caught:
        files.read(tmp_path / "x.safetensors", layers)
    for text in (*said, str(tmp_path / "x.safetensors")):
        assert text in str(caught.value)


def test_numbers_that_are_not_fit_can_still_be_looked_at(wide, layers, tmp_path):
    tensors = {name: value.clone() for name, value in wide.items()}
    tensors[f"{LAYER}.lora_B.weight"].zero_()
    save_file(tensors, tmp_path / "x.safetensors")
    assert files.problems_of(files.parsed(tmp_path / "x.safetensors", layers).tensors) == [
        f"{LAYER}.lora_B.weight is zero: the layer adds nothing"
    ]


def plain_settings(**other) -> dict:
    settings = {f"{part}.{name}": 3 for part in SD for name in ("r", "lora_alpha")}
    return {name: value for name, value in (settings | other).items() if value is not None}


SETTINGS = {
    "half of them": ({"text_encoder.r": None, "text_encoder.lora_alpha": None}, "settings of text_encoder: r is None"),
    "another rank": ({"unet.r": 4}, "unet.conv_in is of rank 3, but its settings say 4"),
    "no number": ({"unet.lora_alpha": "much"}, "lora_alpha is 'much'"),
    "not finite": ({"unet.lora_alpha": INF}, "lora_alpha is inf"),
    "zero": ({"unet.alpha_pattern": {"to_q": 0}}, "alpha_pattern of to_q is 0"),
    "no pattern": ({"unet.rank_pattern": {"(": 3}}, "rank_pattern is no table"),
    "no table": ({"unet.rank_pattern": [3]}, "rank_pattern is no table"),
    "absurd": ({"unet.lora_alpha": 1e6}, "alpha is 1e+06 at rank 3"),
    "PiSSA": ({"unet.init_lora_weights": "pissa_niter_4"}, "changes the base as well"),
    "another kind": ({"unet.use_qalora": True}, "use_qalora is set"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_in_the_header_that_make_no_sense_are_refused(wide, layers, tmp_path, case):
    change, said = SETTINGS[case]
    save_file(wide, tmp_path / "x.safetensors", metadata={files.HEADER_CONFIG: json.dumps(plain_settings(**change))})
    with pytest.raises(CheckpointError, match=re.escape(said)):
        files.read(tmp_path / "x.safetensors", layers)


def test_a_strength_that_is_said_twice_is_refused(wide, layers, tmp_path):
    header = {files.HEADER_CONFIG: json.dumps(plain_settings())}
    save_file(kohya.to_kohya(wide, SD, {}), tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="twice"):
        files.read(tmp_path / "x.safetensors", layers)
    save_file(wide | {f"{LAYER}.alpha": torch.tensor(3.0)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=rf"{LAYER}.alpha: the settings say the strength, too"):
        files.read(tmp_path / "x.safetensors", layers)


@pytest.mark.parametrize("text", ["{", "[1]", "NaN"])
def test_settings_that_are_no_object_are_refused(wide, tmp_path, text):
    save_file(wide, tmp_path / "x.safetensors", metadata={files.HEADER_CONFIG: text})
    with pytest.raises(CheckpointError, match="JSON object"):
        files.read(tmp_path / "x.safetensors", None)


def test_other_kinds_of_peft_are_refused(tmp_path):
    for config, said in (({"peft_type": "LOKR"}, "'LOKR'; only LORA"), ({}, "only LORA"), ([], "JSON object")):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError, match=said):
            files.read(tmp_path, None)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not exist"):
        files.read(tmp_path, None)
    save_file({"base_model.model.a.lora_A.weight": torch.ones(1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"its strength is in adapter_config\.json"):
        files.read(tmp_path / "x.safetensors", None)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth", ".zip"])
def test_a_pickle_is_not_even_opened(tmp_path, suffix):
    path = tmp_path / f"lora{suffix}"
    torch.save({"unet.a.lora_A.weight": torch.ones(1, 1)}, path)
    with pytest.raises(CheckpointError, match=r"\.bin, \.pt, \.ckpt are pickles"):
        files.read(path, None)


def test_a_damaged_file_and_none_at_all_are_named(wide, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        files.read(path, None)
    save_file(wide, path)
    for content in (path.read_bytes()[:-1], b"", b"no header at all", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
            files.read(path, None)
    with pytest.raises(CheckpointError, match="holds neither"):
        files.read(tmp_path, None)


# Another model: one sentence.


@pytest.fixture(scope="module")
def other_layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "sdxl"
    miniatures.write("sdxl", folder)
    return files.shapes_of(registry.detect(folder))


WRITTEN = {
    "diffusers": lambda tensors: tensors,
    "old diffusers": old_dialect,
    "kohya": lambda tensors: kohya.to_kohya(tensors, SD, {}),
}


@pytest.mark.parametrize("only", ["unet.", "", "text_encoder."], ids=["denoiser", "both", "text encoder"])
@pytest.mark.parametrize("dialect", WRITTEN)
def test_another_model_is_one_sentence(wide, other_layers, tmp_path, dialect, only):
    own = {name: value for name, value in wide.items() if name.startswith(only)}
    save_file(WRITTEN[dialect](own), tmp_path / "x.safetensors")
    if only == "text_encoder.":  # SDXL's first is the same
        assert files.read(tmp_path / "x.safetensors", other_layers).tensors.keys() == own.keys()
        return
    with pytest.raises(CheckpointError, match="another model") as caught:
        files.read(tmp_path / "x.safetensors", other_layers)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_other_widths_are_one_sentence_with_both_numbers(wide, layers, tmp_path):
    changed = {part: dict(shapes) for part, shapes in layers.items()}
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    changed["unet"][name] = (32, 48)
    own = {"old diffusers": name.replace(".to_k", ".processor.to_k"), "kohya": name.replace(".", "_")}
    for dialect, written in WRITTEN.items():
        save_file(written(wide), tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError) as caught:
            files.read(tmp_path / "x.safetensors", changed)
        sentence = (
            rf"is for another model: it has 32 inputs at \w*unet[._]{own.get(dialect, name)} where this base has 48"
        )
        assert re.search(sentence, str(caught.value)), dialect
    changed["unet"][name], changed["unet"]["conv_in"] = (32, 32), (16, 4, 5, 5)
    with pytest.raises(CheckpointError, match=r"it has 3 x 3 kernel at lora_unet_conv_in where this base has 5 x 5"):
        files.read(tmp_path / "x.safetensors", changed)


@pytest.mark.parametrize("dialect", WRITTEN)
def test_a_model_with_none_of_the_layers_is_one_sentence(wide, layers, tmp_path, dialect):
    save_file(WRITTEN[dialect](wide), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"8 of its 8 layers, such as \S+, are not in this base\.$") as caught:
        files.read(tmp_path / "x.safetensors", {"unet": layers["unet"], "text_encoder": {"other": (1, 1)}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("targets", ["attention", "wide"])
def test_published_sd_and_sdxl_are_told_apart_in_kohyas_dialect(tmp_path, targets):
    """At the real sizes, where half of the names of one exist in the other."""
    shapes = {
        model: {
            part: {
                layer: tuple(module.weight.shape)
                for layer, module in published(name).named_modules()
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
            }
            for part, name in MODELS[model][0].items()
        }
        for model in MODELS
    }
    for model, other in (("sd15", "sdxl"), ("sdxl", "sd15")):
        tensors = {
            f"{part}.{name}.lora_{kind}.weight": torch.ones(1).expand(size)
            for part, layers in shapes[model].items()
            for name, shape in layers.items()
            if targets == "wide" or re.search(r"to_[qkv]|to_out|[qkv]_proj|out_proj", name)
            for kind, size in (("A", (1, *shape[1:])), ("B", (shape[0], 1, *[1] * len(shape[2:]))))
        }
        written = kohya.to_kohya(tensors, MODELS[model][1], {})
        save_file({name: value.half().contiguous() for name, value in written.items()}, tmp_path / "x.safetensors")
        assert files.read(tmp_path / "x.safetensors", shapes[model]).tensors.keys() == tensors.keys()
        with pytest.raises(CheckpointError, match="another model") as caught:
            files.read(tmp_path / "x.safetensors", shapes[other])
        assert "\n" not in str(caught.value)


def test_an_adapter_file_cannot_be_changed(wide, layers, tmp_path):
    save_file(wide, tmp_path / "x.safetensors")
    with pytest.raises(dataclasses.FrozenInstanceError):
        files.read(tmp_path / "x.safetensors", layers).dialect = "kohya"
