"""Stable Diffusion XL: two CLIP text encoders, their pooled states, and sizes told to a larger UNet."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning, Geometry
from pipeline.errors import CheckpointError
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import Mark, Targets
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import VariancePreserving


class StableDiffusionXL(Family):
    """As Stable Diffusion, and told a picture's original size, cut and target size (Podell et al. 2023, 2.2)."""

    name = "sdxl"
    pipeline_class = "StableDiffusionXLPipeline"
    denoiser = "unet"
    targets = parts.UNET
    size_multiple = 8
    encoders = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    trainable_encoders = ("text_encoder", "text_encoder_2")
    comfyui_prefixes: ClassVar[dict[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    architecture = "stable-diffusion-xl-v1-base"
    marks = (
        Mark(r"unet\.(?:add_embedding\.|.*\.transformer_blocks\.[1-9])"),
        Mark(r"unet\..*\.attn2\.to_[kv]$", inputs=(2048,)),
        Mark(r"unet\.", beside=r"text_encoder_2\."),
    )

    def targets_of(self, component: str) -> Targets:
        """The first encoder is read before its last layer, which therefore learns nothing."""
        found = super().targets_of(component)
        if component != "text_encoder":
            return found
        last = int(self.part_config("text_encoder")["num_hidden_layers"]) - 1
        return Targets(found.named, (f"encoder.layers.{last}.*",))

    @property
    def native_pixels(self) -> int:
        """The side the UNet was trained at: its latents times the autoencoder's factor."""
        return parts.native_side(self)

    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""
        return parts.square_latents(self, pixels)

    def path(self, options: ObjectiveOptions, pixels: int) -> VariancePreserving:
        """The variance-preserving path of the checkpoint's own scheduler."""
        if self.index.get("text_encoder", [None])[0] is None or self.index.get("requires_aesthetics_score"):
            raise CheckpointError(
                f"{self.folder} is a refiner (one text encoder, aesthetic scores); give the base model."
            )
        parts.require_plain(self, self.part_config("unet")["in_channels"])
        parts.require_undistilled(self)
        return parts.discrete_path(self)

    def encode_text(self, pipe: Any, caption: str | None) -> dict[str, Tensor]:
        """Both encoders' states, {'prompt_embeds': [l d], 'pooled_prompt_embeds': [p]}.

        The null is what the pipeline takes where no negative prompt is given: zeros, if the checkpoint says so.
        """
        device = pipe.text_encoder_2.device
        states, null, pooled, pooled_null = pipe.encode_prompt(
            caption or "", device=device, do_classifier_free_guidance=caption is None
        )
        if caption is None:
            return parts.rows_of(prompt_embeds=null, pooled_prompt_embeds=pooled_null)
        return parts.rows_of(prompt_embeds=states, pooled_prompt_embeds=pooled)

    def size_states(self, geometry: Geometry) -> dict[str, Tensor]:
        """{'time_ids': [6]}: original height and width, top and left of the cut, target height and width."""
        g = geometry
        ids = [g.original_height, g.original_width, g.top, g.left, g.height, g.width]
        return {"time_ids": torch.tensor(ids, dtype=torch.float32)}

    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The posterior's mean and standard deviation, times the autoencoder's scaling factor."""
        return parts.encode_kl(pipe.vae, pixels)

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The UNet at the schedule's index of t: the unit its sampler uses."""
        states = conditioning.tensors
        prediction: Tensor = model(
            x_t,
            parts.index_of(self, t),
            encoder_hidden_states=states["prompt_embeds"],
            added_cond_kwargs={"text_embeds": states["pooled_prompt_embeds"], "time_ids": states["time_ids"]},
        ).sample
        return prediction
