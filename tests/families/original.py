"""The other side: a pipeline written as one file, under the names that the original code gives to its weights.

SD 1.x after CompVis/stable-diffusion, SDXL after Stability-AI/generative-models, SD3 after Stability-AI/sd3.5,
FLUX.1 after black-forest-labs/flux.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.adapter.files.ldm_names import ldm_names

PREFIX = "model.diffusion_model."
VAE_WORDS = (
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("downsamplers.0.conv", "downsample.conv"),
    ("upsamplers.0.conv", "upsample.conv"),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("mid_block.attentions.0.to_", "mid.attn_1."),
)


def write(pipe, file: Path, *, without: Iterable[str] = (), more: dict | None = None, dtype=torch.float32) -> None:
    """Write the pipeline's weights as its original code would; `more` are tensors to add or to put instead."""
    writers = {
        "StableDiffusionPipeline": _sd,
        "StableDiffusionXLPipeline": _sdxl,
        "StableDiffusion3Pipeline": _sd3,
        "FluxPipeline": _flux,
    }
    found = {part: tensors for part, tensors in writers[type(pipe).__name__](pipe).items() if part not in without}
    tensors = {name: value for part in found.values() for name, value in part.items()}
    tensors = {name: value.to(dtype).contiguous().clone() for name, value in {**tensors, **(more or {})}.items()}
    save_file(tensors, file)


def _sd(pipe) -> dict[str, dict]:
    text = _prefixed(_clip(pipe.text_encoder), "cond_stage_model.transformer.text_model.")
    text["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {"unet": _unet(pipe.unet), "vae": _vae(pipe.vae), "text_encoder": text}


def _sdxl(pipe) -> dict[str, dict]:
    first = _prefixed(_clip(pipe.text_encoder), "conditioner.embedders.0.transformer.text_model.")
    second = _prefixed(_open_clip(pipe.text_encoder_2), "conditioner.embedders.1.model.")
    return {"unet": _unet(pipe.unet), "vae": _vae(pipe.vae), "text_encoder": first, "text_encoder_2": second}


def _sd3(pipe) -> dict[str, dict]:
    """The first projection is not in such files: the original code does without."""
    first = {k: v for k, v in pipe.text_encoder.state_dict().items() if not k.startswith("text_projection")}
    return {
        "transformer": _prefixed(_mmdit(pipe.transformer.state_dict()), PREFIX),
        "vae": _vae(pipe.vae),
        "text_encoder": _prefixed(first, "text_encoders.clip_l.transformer."),
        "text_encoder_2": _prefixed(pipe.text_encoder_2.state_dict(), "text_encoders.clip_g.transformer."),
        "text_encoder_3": _prefixed(pipe.text_encoder_3.state_dict(), "text_encoders.t5xxl.transformer."),
    }


def _flux(pipe) -> dict[str, dict]:
    """Published as the denoiser alone, and then without a prefix."""
    return {"transformer": _mmdit_of_flux(pipe.transformer.state_dict())}


def _prefixed(tensors: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def _unet(unet) -> dict:
    layers = [name for name, module in unet.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    known = ldm_names(layers)
    for block in {name.rpartition(".")[0] for name in layers if ".resnets." in name}:
        known[f"{block}.norm1"] = known[f"{block}.conv1"].replace("in_layers.2", "in_layers.0")
        known[f"{block}.norm2"] = known[f"{block}.conv2"].replace("out_layers.3", "out_layers.0")
    for block in {re.match(r".*attentions\.\d+", name)[0] for name in layers if ".attentions." in name}:
        inside = known[f"{block}.proj_in"].removesuffix(".proj_in")
        names = [name.rpartition(".")[0] for name in unet.state_dict() if name.startswith(f"{block}.")]
        known |= {name: name.replace(block, inside) for name in names}
    known["conv_norm_out"] = "out.0"
    return {
        f"{PREFIX}{known[layer]}.{kind}": value
        for name, value in unet.state_dict().items()
        for layer, _, kind in [name.rpartition(".")]
    }


def _vae(vae) -> dict:
    count = len(vae.config.block_out_channels)
    tensors = {}
    for name, value in vae.state_dict().items():
        for ours, theirs in VAE_WORDS:
            name = name.replace(ours, theirs)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name).replace("down_blocks", "down")
        name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{count - 1 - int(m[1])}", name)
        name = re.sub(r"(up\.\d)\.resnets", r"\1.block", name)
        is_layer = ".attn_1." in name and name.endswith(".weight") and ".norm." not in name
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if is_layer else value
    return tensors


def _clip(encoder) -> dict:
    return {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}


def _open_clip(encoder) -> dict:
    """As OpenCLIP has it: the three projections of an attention in one, the last projection transposed."""
    state = _clip(encoder)
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    words = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    words["self_attn.out_proj"] = "attn.out_proj"
    for index in range(encoder.config.num_hidden_layers):
        there, here = f"transformer.resblocks.{index}", f"encoder.layers.{index}"
        for kind in ("weight", "bias"):
            fused = [state[f"{here}.self_attn.{which}_proj.{kind}"] for which in "qkv"]
            tensors[f"{there}.attn.in_proj_{kind}"] = torch.cat(fused)
            tensors |= {f"{there}.{word}.{kind}": state[f"{here}.{name}.{kind}"] for name, word in words.items()}
    return tensors


def _mmdit(state: dict) -> dict:
    """As Stability's MMDiT has it: projections in one, scale and shift of the last two norms the other way round."""
    outside = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    inside = {
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "attn.to_out.0": "x_block.attn.proj",
        "attn.to_add_out": "context_block.attn.proj",
        "attn2.to_out.0": "x_block.attn2.proj",
        "attn.norm_q": "x_block.attn.ln_q",
        "attn.norm_k": "x_block.attn.ln_k",
        "attn.norm_added_q": "context_block.attn.ln_q",
        "attn.norm_added_k": "context_block.attn.ln_k",
        "attn2.norm_q": "x_block.attn2.ln_q",
        "attn2.norm_k": "x_block.attn2.ln_k",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }
    fused = {"attn.to_{}": "x_block.attn", "attn.add_{}_proj": "context_block.attn", "attn2.to_{}": "x_block.attn2"}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    swapped = ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear")
    tensors, joined = {}, {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        value = torch.cat(value.chunk(2)[::-1]) if layer in swapped else value
        if not name.startswith("transformer_blocks."):
            tensors[outside[name] if name in outside else f"{outside[layer]}.{kind}"] = value
            continue
        _, index, layer = layer.split(".", 2)
        if layer in inside:
            tensors[f"joint_blocks.{index}.{inside[layer]}.{kind}"] = value
            continue
        for pattern, block in fused.items():
            for place, which in enumerate("qkv"):
                if layer == pattern.format(which):
                    joined.setdefault(f"joint_blocks.{index}.{block}.qkv.{kind}", {})[place] = value
    return tensors | {name: torch.cat([parts[place] for place in range(3)]) for name, parts in joined.items()}


def _mmdit_of_flux(state: dict) -> dict:
    """As Black Forest Labs have it: projections in one, in single blocks the first of the MLP too."""
    outside = {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    double = {
        "norm1.linear": "img_mod.lin",
        "norm1_context.linear": "txt_mod.lin",
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
    }
    single = {"norm.linear": "modulation.lin", "attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
    single["proj_out"] = "linear2"
    joined = {
        "transformer_blocks": {
            "img_attn.qkv": [f"attn.to_{which}" for which in "qkv"],
            "txt_attn.qkv": [f"attn.add_{which}_proj" for which in "qkv"],
        },
        "single_transformer_blocks": {"linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]},
    }
    rows = {"transformer_blocks": ("double_blocks", double), "single_transformer_blocks": ("single_blocks", single)}
    tensors = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        row, _, rest = layer.partition(".")
        if row not in rows:
            value = torch.cat(value.chunk(2)[::-1]) if layer == "norm_out.linear" else value
            tensors[f"{outside[layer]}.{kind}"] = value
            continue
        (there, known), (index, _, rest) = rows[row], rest.partition(".")
        if rest in known:
            kind = "scale" if known[rest].endswith("_norm") else kind
            tensors[f"{there}.{index}.{known[rest]}.{kind}"] = value
        for theirs, ours in joined[row].items():
            if rest == ours[0]:
                fused = [state[f"{row}.{index}.{part}.{kind}"] for part in ours]
                tensors[f"{there}.{index}.{theirs}.{kind}"] = torch.cat(fused)
    return tensors
