"""Files that hold no adapter, or a wrong one: refused, with every culprit named."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from pipeline.adapter.files import kohya, reader
from pipeline.adapter.files.checks import tensor_problems
from pipeline.errors import CheckpointError
from tests.adapter.dialects import SD

pytestmark = pytest.mark.contract
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
    "all zero": (lambda t: [v.zero_() for n, v in t.items() if "lora_B" in n],
                 ["each of its 91 layers is zero and adds nothing"]),
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
        reader.read(tmp_path / "x.safetensors", layers)
    for text in (*said, str(tmp_path / "x.safetensors")):
        assert text in str(caught.value)


def test_numbers_that_are_not_fit_can_still_be_looked_at(wide, layers, tmp_path):
    tensors = {name: value.clone() for name, value in wide.items()}
    tensors[f"{LAYER}.lora_B.weight"].zero_()
    save_file(tensors, tmp_path / "x.safetensors")
    assert tensor_problems(reader.parse(tmp_path / "x.safetensors", layers).tensors) == [
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
    save_file(wide, tmp_path / "x.safetensors", metadata={reader.HEADER_CONFIG: json.dumps(plain_settings(**change))})
    with pytest.raises(CheckpointError, match=re.escape(said)):
        reader.read(tmp_path / "x.safetensors", layers)


def test_a_strength_that_is_said_twice_is_refused(wide, layers, tmp_path):
    header = {reader.HEADER_CONFIG: json.dumps(plain_settings())}
    save_file(kohya.to_kohya(wide, SD, {}), tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="twice"):
        reader.read(tmp_path / "x.safetensors", layers)
    save_file(wide | {f"{LAYER}.alpha": torch.tensor(3.0)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=rf"{LAYER}.alpha: the settings say the scale, too"):
        reader.read(tmp_path / "x.safetensors", layers)


@pytest.mark.parametrize("text", ["{", "[1]", "NaN"])
def test_settings_that_are_no_object_are_refused(wide, tmp_path, text):
    save_file(wide, tmp_path / "x.safetensors", metadata={reader.HEADER_CONFIG: text})
    with pytest.raises(CheckpointError, match="JSON object"):
        reader.read(tmp_path / "x.safetensors", None)


def test_other_kinds_of_peft_are_refused(tmp_path):
    for config, said in (({"peft_type": "LOKR"}, "'LOKR'; only LORA"), ({}, "only LORA"), ([], "JSON object")):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError, match=said):
            reader.read(tmp_path, None)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not exist"):
        reader.read(tmp_path, None)
    save_file({"base_model.model.a.lora_A.weight": torch.ones(1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"its scale is in adapter_config\.json"):
        reader.read(tmp_path / "x.safetensors", None)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth", ".zip"])
def test_a_pickle_is_not_even_opened(tmp_path, suffix):
    path = tmp_path / f"lora{suffix}"
    torch.save({"unet.a.lora_A.weight": torch.ones(1, 1)}, path)
    with pytest.raises(CheckpointError, match=r"\.bin, \.pt, \.ckpt are pickles"):
        reader.read(path, None)


def test_a_damaged_file_and_none_at_all_are_named(wide, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        reader.read(path, None)
    save_file(wide, path)
    for content in (path.read_bytes()[:-1], b"", b"no header at all", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
            reader.read(path, None)
    with pytest.raises(CheckpointError, match="holds neither"):
        reader.read(tmp_path, None)
