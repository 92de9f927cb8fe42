"""Sana 1.0 and 1.5: Gemma 2 states after an instruction, linear attention, an autoencoder without a posterior."""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import Mark, Targets
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow


def instruction() -> list[str]:
    """What SanaPipeline puts before each caption, but not before the null, unless it is told otherwise."""
    from diffusers import SanaPipeline

    found: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return found


class Sana(Family):
    """A rectified flow (Xie et al. 2024). Captions are read in small letters after an instruction, the null without."""

    name = "sana"
    pipeline_class = "SanaPipeline"
    denoiser = "transformer"
    targets = Targets(
        {
            "attention": ("to_q", "to_k", "to_v", "to_out.0"),
            "mlp": ("ff.conv_inverted", "ff.conv_point"),
            "condition_only": ("attn2.to_k", "attn2.to_v"),
        }
    )
    size_multiple = 32
    encoders = ("tokenizer", "text_encoder")
    marks = (Mark(r"transformer\.transformer_blocks\.\d+\.(?:attn1\.|ff\.conv_)"),)

    @property
    def reader(self) -> tuple[str, int | None]:
        """Gemma, as far as the pipeline cuts instruction and caption together."""
        assert self.max_sequence_length is not None, "its pipeline has a limit"
        length = len(self.load("tokenizer").tokenizer.encode("\n".join(instruction())))
        return "tokenizer", length + self.max_sequence_length - 2

    def as_read(self, pipe: Any, caption: str) -> str:
        """The caption as the pipeline cleans it, after its instruction."""
        cleaned: list[str] = pipe._text_preprocessing(caption)
        return "\n".join(instruction()) + cleaned[0]

    @property
    def native_pixels(self) -> int:
        """The side the transformer was trained at: its latents times the autoencoder's factor."""
        return int(self.part_config("transformer")["sample_size"]) * self._pixels_per_latent

    @property
    def _pixels_per_latent(self) -> int:
        """The autoencoder halves between two of its blocks, 32 times in all as published."""
        return 1 << (len(self.part_config("vae")["encoder_block_out_channels"]) - 1)

    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""
        side = pixels // self._pixels_per_latent
        return int(self.part_config("vae")["latent_channels"]), side, side

    def path(self, options: ObjectiveOptions, pixels: int) -> RectifiedFlow:
        """A straight path; times are shifted as the checkpoint's scheduler does."""
        return parts.patched_flow_path(self, options, pixels)

    def encode_text(self, pipe: Any, caption: str | None) -> dict[str, Tensor]:
        """{'prompt_embeds': [l d], 'prompt_attention_mask': [l]}."""
        states, mask, null, null_mask = pipe.encode_prompt(
            caption or "",
            do_classifier_free_guidance=caption is None,
            device=pipe.text_encoder.device,
            complex_human_instruction=instruction(),
            max_sequence_length=self.max_sequence_length,
        )
        if caption is None:
            return parts.rows_of(prompt_embeds=null, prompt_attention_mask=null_mask)
        return parts.rows_of(prompt_embeds=states, prompt_attention_mask=mask)

    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The latents, scaled, and no deviation: the autoencoder has no posterior."""
        latents = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent * pipe.vae.config.scaling_factor
        return latents, torch.zeros_like(latents)

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at time t, which the transformer takes in thousandths times a scale of its own."""
        velocity: Tensor = model(
            hidden_states=x_t,
            timestep=t * 1000 * model.config.timestep_scale,
            encoder_hidden_states=conditioning.tensors["prompt_embeds"],
            encoder_attention_mask=conditioning.tensors["prompt_attention_mask"],
        ).sample
        return velocity
