"""Lumina-Image 2.0: Gemma 2 states with their mask, and a transformer that counts time from noise to data."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import Mark, Targets
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow


class Lumina2(Family):
    """A rectified flow (Qin et al. 2025). Captions are read after a system prompt, the null without one."""

    name = "lumina2"
    pipeline_class = "Lumina2Pipeline"
    denoiser = "transformer"
    targets = Targets(
        {
            "attention": ("to_q", "to_k", "to_v", "to_out.0"),
            "mlp": ("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3"),
            "condition_only": ("context_refiner.*.to_k", "context_refiner.*.to_v"),
        }
    )
    size_multiple = 16
    encoders = ("tokenizer", "text_encoder")
    marks = (Mark(r"transformer\.(?:layers|noise_refiner|context_refiner)\.\d"),)

    @property
    def reader(self) -> tuple[str, int | None]:
        """Gemma, as far as the pipeline's max_sequence_length goes."""
        return "tokenizer", self.max_sequence_length

    def as_read(self, pipe: Any, caption: str) -> str:
        """The caption after the pipeline's system prompt."""
        return f"{pipe.system_prompt} <Prompt Start> {caption}"

    @property
    def native_pixels(self) -> int:
        """The side the transformer was trained at: its latents times the autoencoder's factor."""
        return parts.native_side(self)

    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""
        return parts.square_latents(self, pixels)

    def path(self, options: ObjectiveOptions, pixels: int) -> RectifiedFlow:
        """A straight path; times are shifted as the checkpoint's scheduler does."""
        return parts.patched_flow_path(self, options, pixels)

    def encode_text(self, pipe: Any, caption: str | None) -> dict[str, Tensor]:
        """{'prompt_embeds': [l d], 'prompt_attention_mask': [l]}."""
        states, mask, null, null_mask = pipe.encode_prompt(
            caption or "",
            do_classifier_free_guidance=caption is None,
            device=pipe.text_encoder.device,
            max_sequence_length=self.max_sequence_length,
        )
        if caption is None:
            return parts.rows_of(prompt_embeds=null, prompt_attention_mask=null_mask)
        return parts.rows_of(prompt_embeds=states, prompt_attention_mask=mask)

    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The posterior's mean and standard deviation, shifted and scaled."""
        return parts.encode_kl(pipe.vae, pixels)

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at time t: the transformer's own runs from noise to data, in time and in sign."""
        velocity: Tensor = model(
            hidden_states=x_t,
            timestep=1 - t,
            encoder_hidden_states=conditioning.tensors["prompt_embeds"],
            encoder_attention_mask=conditioning.tensors["prompt_attention_mask"],
        ).sample
        return -velocity
