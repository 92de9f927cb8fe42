"""ComfyUI's rules for the names in a LoRA file, stated again in our own words, from a model's configuration.

This is the other side of a conversation: nothing here may come from `pipeline` or from a diffusers
model. A stem is a key up to '.lora_up.weight', '.lora_B.weight' and so on. For each stem that ComfyUI
looks for, the functions give its own weight and the shape of what the addition goes to (for q, k and v
of the newer models, a third of a fused weight).

What is restated, as of ComfyUI in 2026: in comfy/lora.py, model_lora_keys_unet and model_lora_keys_clip;
in comfy/utils.py, unet_to_diffusers, mmdit_to_diffusers and flux_to_diffusers; in comfy/weight_adapter,
what is done with the tensors. The weights and shapes are those of the models' original code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Config = dict[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """One of ComfyUI's weights, or the part of it that a stem changes."""

    name: str
    shape: Shape


def unet_stems(config: Config) -> dict[str, Weight]:
    """Stable Diffusion 1.x, 2.x and XL: under the original names and under diffusers', with underscores.

    Also diffusers' names with dots, as they were before PEFT: '.to_q' only after '.processor'.
    """
    stems = {}
    for original, diffusers, shape in Unet(config).weights():
        weight = Weight(f"diffusion_model.{original}.weight", shape)
        stems[f"lora_unet_{original.replace('.', '_')}"] = weight
        stems[f"lora_unet_{diffusers.replace('.', '_')}"] = weight
        dotted = diffusers.replace(".to_", ".processor.to_")
        stems[f"unet.{dotted.removesuffix('.0') if dotted.endswith('.to_out.0') else dotted}"] = weight
    return stems


class Unet:
    """The original UNet, walked in the order in which its blocks are numbered: (its name, diffusers', shape)."""

    def __init__(self, config: Config) -> None:
        self.channels = config["block_out_channels"]
        self.num_resnets = config["layers_per_block"]
        self.context = config["cross_attention_dim"]
        self.linear_projection = config.get("use_linear_projection", False)
        depths = config.get("transformer_layers_per_block", 1)
        depths = depths if isinstance(depths, list) else [depths] * len(self.channels)
        attends = ["CrossAttn" in kind for kind in config["down_block_types"]]
        self.depths = [depth if attend else 0 for depth, attend in zip(depths, attends, strict=True)]
        self.depth_middle = depths[-1]
        self.in_channels, self.out_channels = config["in_channels"], config["out_channels"]
        self.size_added = config.get("projection_class_embeddings_input_dim")

    def weights(self) -> Iterator[tuple[str, str, Shape]]:
        first, embedding = self.channels[0], 4 * self.channels[0]
        yield "time_embed.0", "time_embedding.linear_1", (embedding, first)
        yield "time_embed.2", "time_embedding.linear_2", (embedding, embedding)
        if self.size_added:
            yield "label_emb.0.0", "add_embedding.linear_1", (embedding, self.size_added)
            yield "label_emb.0.2", "add_embedding.linear_2", (embedding, embedding)
        yield "input_blocks.0.0", "conv_in", (first, self.in_channels, 3, 3)
        yield "out.2", "conv_out", (self.out_channels, first, 3, 3)
        yield from self.walk()

    def walk(self) -> Iterator[tuple[str, str, Shape]]:
        kept = [self.channels[0]]
        current, number = self.channels[0], 1
        for level, width in enumerate(self.channels):
            for index in range(self.num_resnets):
                ours, theirs = f"input_blocks.{number}", f"down_blocks.{level}"
                yield from self.resnet(f"{ours}.0", f"{theirs}.resnets.{index}", current, width)
                yield from self.attention(f"{ours}.1", f"{theirs}.attentions.{index}", width, self.depths[level])
                current, number = width, number + 1
                kept.append(current)
            if level < len(self.channels) - 1:
                ours, theirs = f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
                yield ours, theirs, (width, width, 3, 3)
                number += 1
                kept.append(current)

        yield from self.resnet("middle_block.0", "mid_block.resnets.0", current, current)
        yield from self.attention("middle_block.1", "mid_block.attentions.0", current, self.depth_middle)
        yield from self.resnet("middle_block.2", "mid_block.resnets.1", current, current)

        number = 0
        for block, level in enumerate(reversed(range(len(self.channels)))):
            width, depth = self.channels[level], self.depths[level]
            for index in range(self.num_resnets + 1):
                ours, theirs = f"output_blocks.{number}", f"up_blocks.{block}"
                yield from self.resnet(f"{ours}.0", f"{theirs}.resnets.{index}", current + kept.pop(), width)
                yield from self.attention(f"{ours}.1", f"{theirs}.attentions.{index}", width, depth)
                current, number = width, number + 1
            if level > 0:
                place = 2 if depth else 1
                ours, theirs = f"output_blocks.{number - 1}.{place}.conv", f"up_blocks.{block}.upsamplers.0.conv"
                yield ours, theirs, (width, width, 3, 3)

    def resnet(self, ours: str, theirs: str, before: int, after: int) -> Iterator[tuple[str, str, Shape]]:
        yield f"{ours}.in_layers.2", f"{theirs}.conv1", (after, before, 3, 3)
        yield f"{ours}.emb_layers.1", f"{theirs}.time_emb_proj", (after, 4 * self.channels[0])
        yield f"{ours}.out_layers.3", f"{theirs}.conv2", (after, after, 3, 3)
        if before != after:
            yield f"{ours}.skip_connection", f"{theirs}.conv_shortcut", (after, before, 1, 1)

    def attention(self, ours: str, theirs: str, width: int, depth: int) -> Iterator[tuple[str, str, Shape]]:
        if not depth:
            return
        square = (width, width)
        parts = {"proj_in": square if self.linear_projection else (*square, 1, 1)}
        parts["proj_out"] = parts["proj_in"]
        for number in range(depth):
            block = f"transformer_blocks.{number}"
            for name, context in (("attn1", width), ("attn2", self.context)):
                parts |= {f"{block}.{name}.to_q": square, f"{block}.{name}.to_out.0": square}
                parts |= {f"{block}.{name}.to_{part}": (width, context) for part in "kv"}
            parts |= {f"{block}.ff.net.0.proj": (8 * width, width), f"{block}.ff.net.2": (width, 4 * width)}
        for name, shape in parts.items():
            yield f"{ours}.{name}", f"{theirs}.{name}", shape


def clip_stems(config: Config, encoder: str) -> dict[str, Weight]:
    """A CLIP text encoder: `encoder` is ComfyUI's clip_l or clip_h (lora_te, lora_te1), or clip_g beside it (lora_te2).

    Under kohya's names, and under diffusers' as transformers 4 has them.
    """
    prefixes = {"clip_l": ("lora_te", "lora_te1"), "clip_h": ("lora_te", "lora_te1"), "clip_g": ("lora_te2",)}[encoder]
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    stems = {}
    for prefix in prefixes:
        for number in range(min(32, config["num_hidden_layers"])):
            for part, shape in shapes.items():
                stem = f"{prefix}_text_model_encoder_layers_{number}_{part.replace('.', '_')}"
                name = f"{encoder}.transformer.text_model.encoder.layers.{number}.{part}.weight"
                stems[stem] = Weight(name, shape)
                number_of = "_2" if encoder == "clip_g" else ""
                stems[f"text_encoder{number_of}.text_model.encoder.layers.{number}.{part}"] = Weight(name, shape)
    if encoder == "clip_g":
        projection = Weight("clip_g.transformer.text_projection.weight", (config["projection_dim"], width))
        stems["lora_te2_text_projection"] = projection
    return stems


def sd3_stems(config: Config) -> dict[str, Weight]:
    """Stable Diffusion 3 and 3.5: diffusers' names with dots, after 'transformer.'."""
    width, last = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"] - 1
    patch, duals = config["patch_size"], config.get("dual_attention_layers", [])
    weights = {
        "pos_embed.proj": ("x_embedder.proj", (width, config["in_channels"], patch, patch)),
        "context_embedder": ("context_embedder", (width, config["joint_attention_dim"])),
        "norm_out.linear": ("final_layer.adaLN_modulation.1", (2 * width, width)),
        "proj_out": ("final_layer.linear", (patch * patch * config["out_channels"], width)),
    }
    embedders = (("timestep", "t_embedder", 256), ("text", "y_embedder", config["pooled_projection_dim"]))
    for theirs, ours, size in embedders:
        weights[f"time_text_embed.{theirs}_embedder.linear_1"] = f"{ours}.mlp.0", (width, size)
        weights[f"time_text_embed.{theirs}_embedder.linear_2"] = f"{ours}.mlp.2", (width, width)
    for number in range(config["num_layers"]):
        block, dual, square = f"joint_blocks.{number}", number in duals, (width, width)
        x, context = f"{block}.x_block", f"{block}.context_block"
        parts = {f"attn.to_{part}": (f"{x}.attn.qkv", square) for part in "qkv"}
        parts |= {f"attn.add_{part}_proj": (f"{context}.attn.qkv", square) for part in "qkv"}
        parts |= _feed_forward("ff", f"{x}.mlp.fc1", f"{x}.mlp.fc2", width)
        parts["attn.to_out.0"] = f"{x}.attn.proj", square
        parts["norm1.linear"] = f"{x}.adaLN_modulation.1", ((9 if dual else 6) * width, width)
        modulated = 2 if number == last else 6
        parts["norm1_context.linear"] = f"{context}.adaLN_modulation.1", (modulated * width, width)
        if dual:
            parts |= {f"attn2.to_{part}": (f"{x}.attn2.qkv", square) for part in "qkv"}
            parts["attn2.to_out.0"] = f"{x}.attn2.proj", square
        if number != last:  # the last block only reads the text
            parts |= _feed_forward("ff_context", f"{context}.mlp.fc1", f"{context}.mlp.fc2", width)
            parts["attn.to_add_out"] = f"{context}.attn.proj", square
        weights |= {f"transformer_blocks.{number}.{name}": value for name, value in parts.items()}
    return _dotted(weights)


def flux_stems(config: Config) -> dict[str, Weight]:
    """FLUX.1: diffusers' names with dots, after 'transformer.'."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    square, channels = (width, width), config["in_channels"]
    weights = {
        "x_embedder": ("img_in", (width, channels)),
        "context_embedder": ("txt_in", (width, config["joint_attention_dim"])),
        "norm_out.linear": ("final_layer.adaLN_modulation.1", (2 * width, width)),
        "proj_out": ("final_layer.linear", (channels, width)),
    }
    embedders = [("timestep", "time_in", 256), ("text", "vector_in", config["pooled_projection_dim"])]
    embedders += [("guidance", "guidance_in", 256)] if config["guidance_embeds"] else []
    for theirs, ours, size in embedders:
        weights[f"time_text_embed.{theirs}_embedder.linear_1"] = f"{ours}.in_layer", (width, size)
        weights[f"time_text_embed.{theirs}_embedder.linear_2"] = f"{ours}.out_layer", square
    for number in range(config["num_layers"]):
        block = f"double_blocks.{number}"
        parts = {f"attn.to_{part}": (f"{block}.img_attn.qkv", square) for part in "qkv"}
        parts |= {f"attn.add_{part}_proj": (f"{block}.txt_attn.qkv", square) for part in "qkv"}
        parts |= {
            "attn.to_out.0": (f"{block}.img_attn.proj", square),
            "attn.to_add_out": (f"{block}.txt_attn.proj", square),
        }
        parts |= _feed_forward("ff", f"{block}.img_mlp.0", f"{block}.img_mlp.2", width)
        parts |= _feed_forward("ff_context", f"{block}.txt_mlp.0", f"{block}.txt_mlp.2", width)
        for theirs, ours in (("norm1", "img_mod"), ("norm1_context", "txt_mod")):
            parts[f"{theirs}.linear"] = f"{block}.{ours}.lin", (6 * width, width)
        weights |= {f"transformer_blocks.{number}.{name}": value for name, value in parts.items()}
    for number in range(config["num_single_layers"]):
        block = f"single_blocks.{number}"
        parts = {f"attn.to_{part}": (f"{block}.linear1", square) for part in "qkv"}
        parts["proj_mlp"] = f"{block}.linear1", (4 * width, width)
        parts["proj_out"] = f"{block}.linear2", (width, 5 * width)
        parts["norm.linear"] = f"{block}.modulation.lin", (3 * width, width)
        weights |= {f"single_transformer_blocks.{number}.{name}": value for name, value in parts.items()}
    return _dotted(weights)


def lumina2_names(config: Config) -> set[str]:
    """Lumina-Image 2.0: its own names with dots, after 'diffusion_model.', as of every model that has no others."""
    names = {"x_embedder", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"}
    names |= {"final_layer.linear", "final_layer.adaLN_modulation.1"}
    for row, count in (("layers", config["num_layers"]), ("noise_refiner", config["num_refiner_layers"]),
                       ("context_refiner", config["num_refiner_layers"])):  # fmt: skip
        for number in range(count):
            parts = ["attention.qkv", "attention.out", *(f"feed_forward.w{part}" for part in (1, 2, 3))]
            parts += ["adaLN_modulation.1"] if row != "context_refiner" else []
            names |= {f"{row}.{number}.{part}" for part in parts}
    return names


def _feed_forward(theirs: str, first: str, second: str, width: int) -> dict[str, tuple[str, Shape]]:
    return {f"{theirs}.net.0.proj": (first, (4 * width, width)), f"{theirs}.net.2": (second, (width, 4 * width))}


def _dotted(weights: dict[str, tuple[str, Shape]]) -> dict[str, Weight]:
    return {
        f"transformer.{name}": Weight(f"diffusion_model.{ours}.weight", shape)
        for name, (ours, shape) in weights.items()
    }


def patched(weight: Tensor, tensors: dict[str, Tensor], stem: str) -> Tensor:
    """The weight with one stem of a file added at strength 1; without .alpha the factor is 1."""
    up, down = tensors[f"{stem}.lora_up.weight"], tensors[f"{stem}.lora_down.weight"]
    alpha = tensors.get(f"{stem}.alpha")
    factor = 1.0 if alpha is None else alpha.item() / down.shape[0]
    addition = factor * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    scale = tensors.get(f"{stem}.dora_scale")
    if scale is None:
        return weight + addition
    assert scale.shape[0] == weight.shape[0], "one number per output; the other axis is not restated"
    norm = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))  # of the base alone
    return (weight + addition) * scale / norm
