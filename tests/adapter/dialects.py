"""How others name an adapter's tensors: kohya's prefixes, and the names that diffusers 0.2x wrote."""

import torch

SD = {"unet": "lora_unet", "text_encoder": "lora_te"}
SDXL = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def old_dialect(canonical: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What diffusers 0.2x wrote: processors in the UNet, linear layers of its own in the text encoder."""
    kinds = {".lora_A.weight": "down.weight", ".lora_B.weight": "up.weight"}
    old = {}
    for name, value in canonical.items():
        layer, ending = name[: -len(".lora_A.weight")], kinds[name[-len(".lora_A.weight") :]]
        layer = layer.replace("text_encoder.encoder", "text_encoder.text_model.encoder")
        if ".attn" in layer and ".to_" in layer:
            key = f"{layer.replace('.to_', '.processor.to_').removesuffix('.0')}_lora.{ending}"
        elif layer.startswith("text_encoder"):
            key = f"{layer}.lora_linear_layer.{ending}"
        else:
            key = f"{layer}.lora.{ending}"
        old[key] = value
    return old
