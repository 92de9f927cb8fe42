"""Adapters as other trainers write them, at random and small, and what stock diffusers loads of a file."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
KOHYA, DOTTED, XLABS = (
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("down.weight", "up.weight"),
)


def pair(
    stem: str, outputs: int, inputs: int, *, rank: int = 4, ends: tuple[str, str] = KOHYA, seed: int = 0, dot: str = "."
) -> Tensors:
    """A and B of one layer."""
    generator = torch.Generator().manual_seed(seed + sum(map(ord, stem)))
    return {
        f"{stem}{dot}{ends[0]}": torch.randn(rank, inputs, generator=generator),
        f"{stem}{dot}{ends[1]}": torch.randn(outputs, rank, generator=generator),
    }


def flux_layers(width: int, num_blocks: int, num_single: int) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the layers in FLUX's blocks, by their original names."""
    sizes = {}
    for number in range(num_blocks):
        for side in ("img", "txt"):
            block = f"double_blocks.{number}.{side}"
            sizes |= {f"{block}_attn.qkv": (3 * width, width), f"{block}_attn.proj": (width, width)}
            sizes |= {f"{block}_mlp.0": (4 * width, width), f"{block}_mlp.2": (width, 4 * width)}
            sizes[f"{block}_mod.lin"] = (6 * width, width)
    for number in range(num_single):
        block = f"single_blocks.{number}"
        sizes |= {f"{block}.linear1": (7 * width, width), f"{block}.linear2": (width, 5 * width)}
        sizes[f"{block}.modulation.lin"] = (3 * width, width)
    return sizes


def flux_outside(width: int, channels: int, text: int) -> dict[str, tuple[int, int]]:
    """The same outside the blocks."""
    sizes = {"img_in": (width, channels), "txt_in": (width, text), "final_layer.linear": (channels, width)}
    sizes["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, inputs in (("time_in", 256), ("guidance_in", 256), ("vector_in", text)):
        sizes |= {f"{name}.in_layer": (width, inputs), f"{name}.out_layer": (width, width)}
    return sizes


def sd3_layers(width: int, num_blocks: int, duals: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the layers in SD3's blocks, by their original names."""
    sizes = {}
    for number in range(num_blocks):
        for side in ("x", "context"):
            block, last = f"joint_blocks.{number}.{side}_block", number == num_blocks - 1 and side == "context"
            sizes[f"{block}.attn.qkv"] = (3 * width, width)
            sizes[f"{block}.adaLN_modulation.1"] = (
                (2 if last else 9 if number in duals and side == "x" else 6) * width,
                width,
            )
            if not last:
                sizes |= {f"{block}.attn.proj": (width, width), f"{block}.mlp.fc1": (4 * width, width)}
                sizes[f"{block}.mlp.fc2"] = (width, 4 * width)
            if number in duals and side == "x":
                sizes |= {f"{block}.attn2.qkv": (3 * width, width), f"{block}.attn2.proj": (width, width)}
    return sizes | {"final_layer.adaLN_modulation.1": (2 * width, width)}


def as_kohya(sizes: dict[str, tuple[int, int]], *, alpha: float | None = None, rank: int = 4) -> Tensors:
    tensors = {}
    for name, (outputs, inputs) in sizes.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors |= pair(stem, outputs, inputs, rank=rank)
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    return tensors


def as_dotted(
    sizes: dict[str, tuple[int, int]], prefix: str = "diffusion_model.", ends: tuple[str, str] = DOTTED
) -> Tensors:
    return {key: v for name, size in sizes.items() for key, v in pair(f"{prefix}{name}", *size, ends=ends).items()}


def text_layers(prefix: str, width: int = 32, dot: str = "_") -> Tensors:
    names = [f"text_model.encoder.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.out_proj")]
    return {key: v for name in names for key, v in pair(f"{prefix}{name.replace('.', dot)}", width, width).items()}


def additions(tensors: Tensors) -> Tensors:
    """B A of every layer of a file in diffusers' format."""
    layers = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        layer: tensors[f"{layer}.lora_B.weight"].flatten(1) @ tensors[f"{layer}.lora_A.weight"].flatten(1)
        for layer in layers
    }


def loaded_by_stock(base: Path, file: Path) -> Tensors:
    """What stock diffusers adds to every layer once it has loaded a file."""
    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="x")
    found = {}
    for component, model in pipe.components.items():
        for name, layer in model.named_modules() if isinstance(model, torch.nn.Module) else ():
            if "x" in getattr(layer, "lora_A", {}):
                a, b = layer.lora_A["x"].weight.flatten(1), layer.lora_B["x"].weight.flatten(1)
                found[f"{component}.{name}"] = (layer.scaling["x"] * b @ a).detach()
    return found


def assert_same(found: Tensors, expected: Tensors, tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm(), name


def saved(tensors: Tensors, path: Path, **header: str) -> Path:
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, path, metadata=header or None)
    return path
