"""The names of an adapter's tensors, in live models and in files. Nobody else spells them.

A live tensor is '<layer>.lora_A.<adapter>.weight', as PEFT has it. In diffusers' files, and so in ours, it is
'<component>.<layer>.lora_A.weight'. `A` and `B` end the names of the two halves, W + scale B A.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar

FILE = "pytorch_lora_weights.safetensors"  # which diffusers looks for in a folder
LIVE = "default"  # the adapter that is trained, in PEFT's names
A, B, MAGNITUDE, ALPHA = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".alpha"
BIASES = (".lora_A.bias", ".lora_B.bias")
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")  # of pipelines
DENOISERS = COMPONENTS[:2]
_MARK = ".lora_"
Kind = Literal["diffusers", "kohya", "bfl", "comfyui", "peft"]  # of files that can be written
Value = TypeVar("Value")


def is_adapter(name: str) -> bool:
    """Whether a tensor is an adapter's, live or in a file."""
    return _MARK in name


def belongs_to(name: str, adapter: str) -> bool:
    """Whether a tensor of a model is one of this adapter."""
    return _MARK in name and f".{adapter}." in name


def is_live(name: str) -> bool:
    """Whether a tensor of a model is one of the adapter that is trained."""
    return belongs_to(name, LIVE)


def is_a(name: str) -> bool:
    """Whether a tensor is the half that reads the layer's input."""
    return ".lora_A." in name


def is_b(name: str) -> bool:
    """Whether a tensor is the half that starts at zero."""
    return ".lora_B." in name


def is_magnitude(name: str) -> bool:
    """Whether a tensor holds DoRA's magnitudes."""
    return MAGNITUDE in name


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to."""
    return name.rpartition(_MARK)[0]


def in_file(name: str, adapter: str = LIVE) -> str:
    """The name in a file, without its component, of a tensor of a model."""
    layer, mark, half = name.replace(f".{adapter}.", ".").rpartition(_MARK)
    return f"{layer}{mark}{half.removesuffix('.weight') if half.startswith('magnitude') else half}"


def with_text_model(layer: str) -> str:
    """CLIP's older name: transformers 5 leaves 'text_model.' out of CLIPTextModel, other programs expect it."""
    return f"text_model.{layer}" if layer.startswith("encoder.layers.") else layer


def aliases(layer: str) -> tuple[str, ...]:
    """What a layer may be called: of CLIP's there are two names, with and without 'text_model.'."""
    return layer, f"text_model.{layer}", layer.removeprefix("text_model.")


def as_in_files(values: Mapping[str, Value]) -> dict[str, Value]:
    """Values by '<component>.<layer>...', with CLIP's layers called as transformers 4 does.

    ComfyUI looks for these names, and diffusers loads them with transformers 4 and 5.
    """
    parted = ((name.partition("."), value) for name, value in values.items())
    return {f"{component}.{with_text_model(layer)}": value for (component, _, layer), value in parted}


def pairs(tensors: Mapping[str, Value]) -> dict[str, tuple[Value, Value]]:
    """A and B of every layer of a file in diffusers' format, by '<component>.<layer>'."""
    layers = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    return {layer: (tensors[f"{layer}{A}"], tensors[f"{layer}{B}"]) for layer in layers}
