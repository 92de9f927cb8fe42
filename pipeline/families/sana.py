"""Sana 1.0 and 1.5: Gemma 2's states after an instruction, linear attention, an autoencoder without a posterior."""

import inspect
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import KeySignature, TargetModules
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow


def instruction() -> list[str]:
    """What SanaPipeline puts before each caption, but not before the empty one, unless it is told otherwise."""
    from diffusers import SanaPipeline

    found: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return found


class Sana(Family):
    """A rectified flow (Xie et al. 2024). Captions are read in lower case after an instruction."""

    name = "sana"
    pipeline_class = "SanaPipeline"
    denoiser = "transformer"
    targets = TargetModules(
        {
            "attention": ("to_q", "to_k", "to_v", "to_out.0"),
            "mlp": ("ff.conv_inverted", "ff.conv_point"),
            "condition_only": ("attn2.to_k", "attn2.to_v"),
        }
    )
    size_multiple = 32
    encoders = ("tokenizer", "text_encoder")
    text_widths: ClassVar[dict[str, tuple[str, ...]]] = {"caption_channels": ("text_encoder",)}
    key_signatures = (KeySignature(r"transformer\.transformer_blocks\.\d+\.(?:attn1\.|ff\.conv_)"),)

    @property
    def tokenizer_limit(self) -> tuple[str, int | None]:
        """Gemma, as far as the pipeline cuts instruction and caption together."""
        assert self.max_sequence_length is not None, "its pipeline has a limit"
        length = len(self.tokenizers.tokenizer.encode("\n".join(instruction())))
        return "tokenizer", length + self.max_sequence_length - 2

    def prompt_template(self, pipe: Any, caption: str) -> str:
        """The caption as the pipeline cleans it, after its instruction."""
        cleaned: list[str] = pipe._text_preprocessing(caption)
        return "\n".join(instruction()) + cleaned[0]

    def path(self, options: ObjectiveOptions) -> RectifiedFlow:
        """A straight path; times are shifted as the checkpoint's scheduler does."""
        return parts.flow_path(self, options, self.part_config("transformer")["in_channels"])

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Gemma's states, and what of them is text."""
        length, width = self.max_sequence_length or 0, int(self.part_config("transformer")["caption_channels"])
        return {"prompt_embeds": (length, width), "prompt_attention_mask": (length,)}

    def encode_text(self, pipe: Any, captions: list[str]) -> dict[str, Tensor]:
        """{'prompt_embeds': [b l d], 'prompt_attention_mask': [b l]}."""
        embeddings, mask, _, _ = self._encode(pipe, captions)
        return {"prompt_embeds": embeddings, "prompt_attention_mask": mask}

    def encode_unconditional(self, pipe: Any, count: int = 1) -> dict[str, Tensor]:
        """The empty prompt's, read without what stands before captions."""
        _, _, embeddings, mask = self._encode(pipe, [""] * count, guided=True)
        return {"prompt_embeds": embeddings, "prompt_attention_mask": mask}

    def _encode(self, pipe: Any, captions: list[str], *, guided: bool = False) -> Any:
        return pipe.encode_prompt(
            captions,
            do_classifier_free_guidance=guided,
            device=pipe.text_encoder.device,
            complex_human_instruction=instruction(),
            max_sequence_length=self.max_sequence_length,
        )

    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The latents, scaled, and a deviation of zeros, [b c h w] each: the autoencoder has no posterior."""
        latents = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent * pipe.vae.config.scaling_factor
        return latents, torch.zeros_like(latents)

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at time t, which the transformer takes in thousandths times a scale of its own."""
        velocity: Tensor = model(
            hidden_states=x_t,
            timestep=t * 1000 * model.config.timestep_scale,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
        ).sample
        return velocity
