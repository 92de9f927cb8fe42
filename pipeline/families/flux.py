"""FLUX.1 dev and schnell: T5's states, CLIP's pooled state, latents packed two by two into tokens."""

import functools
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning, Part
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import KeySignature, TargetModules
from pipeline.geometry import Size
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow

PATCH = 2  # latents per side of a token
NATIVE_LATENTS = 128  # FluxPipeline's default_sample_size


class Flux(Family):
    """A rectified flow, distilled from a guided model: its sampler compares with nothing."""

    name = "flux"
    pipeline_class = "FluxPipeline"
    denoiser = "transformer"
    targets = TargetModules(
        {
            "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            "mlp": ("net.0.proj", "net.2", "proj_mlp", "single_transformer_blocks.*.proj_out"),
            "condition_only": ("add_k_proj", "add_v_proj"),
        }
    )
    size_multiple = 16
    encoders = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    text_widths: ClassVar[dict[str, tuple[str, ...]]] = {
        "joint_attention_dim": ("text_encoder_2",),
        "pooled_projection_dim": ("text_encoder",),
    }
    trainable_encoders = ("text_encoder",)
    comfyui_reads_diffusers = True
    has_bfl_names = True
    architecture = "flux-1-dev"
    supports_cfg = False
    patch_size = PATCH  # which its pipeline packs; the transformer's own is 1
    key_signatures = (
        KeySignature(r"transformer\.single_transformer_blocks\."),
        KeySignature(r"transformer\..*\.(?:to_q|add_q_proj)$", outputs=(3072,)),
    )

    @property
    def is_told_guidance(self) -> bool:
        """dev is, schnell is not."""
        return bool(self.part_config("transformer").get("guidance_embeds", False))

    @property
    def native_size(self) -> Size:
        """The size the pipeline draws at by default."""
        return Size.square(NATIVE_LATENTS * self.pixels_per_latent)

    @property
    def tokenizer_limit(self) -> tuple[str, int | None]:
        """T5, as far as the pipeline's max_sequence_length goes."""
        return "tokenizer_2", self.max_sequence_length

    def path(self, options: ObjectiveOptions) -> RectifiedFlow:
        """A straight path; times are shifted as the checkpoint's scheduler does for a picture's tokens."""
        return parts.flow_path(self, options, self.part_config("transformer")["in_channels"] // PATCH**2)

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """T5's states, and CLIP's pooled one."""
        config = self.part_config("transformer")
        return {
            "prompt_embeds": (self.max_sequence_length or 0, int(config["joint_attention_dim"])),
            "pooled_prompt_embeds": (int(config["pooled_projection_dim"]),),
        }

    def encode_text(self, pipe: Any, captions: list[str]) -> dict[str, Tensor]:
        """{'prompt_embeds': [b l d], 'pooled_prompt_embeds': [b p]}."""
        embeddings, pooled, _ = pipe.encode_prompt(
            *[captions] * 2, device=pipe.text_encoder.device, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    @property
    def text_parts(self) -> dict[str, Part]:
        """CLIP's pooled state, and T5's states."""
        every = (slice(None),)
        return {"text_encoder": {"pooled_prompt_embeds": every}, "text_encoder_2": {"prompt_embeds": every}}

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at time t, computed on tokens of two by two latents."""
        from diffusers import FluxPipeline

        batch, channels, height, width = x_t.shape
        embeddings = conditioning["prompt_embeds"]
        ids = _places(height // PATCH, width // PATCH, x_t.device, x_t.dtype)
        guidance = torch.full((batch,), self.options.training_guidance, device=x_t.device)
        velocity = model(
            hidden_states=FluxPipeline._pack_latents(x_t, batch, channels, height, width),
            timestep=(t * 1000).to(x_t.dtype) / 1000,  # the pipeline's own rounding
            guidance=guidance if model.config.guidance_embeds else None,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            encoder_hidden_states=embeddings,
            txt_ids=torch.zeros(embeddings.shape[1], 3, device=x_t.device, dtype=x_t.dtype),
            img_ids=ids,
        ).sample
        unpacked: Tensor = FluxPipeline._unpack_latents(velocity, height, width, 1)
        return unpacked


@functools.cache
def _places(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The pipeline's places of tokens. It makes them on the host: a step copies nothing from there.

    None is ever let go, for a graph of a step reads it at its address.
    """
    from diffusers import FluxPipeline

    places: Tensor = FluxPipeline._prepare_latent_image_ids(1, height, width, device, dtype)
    return places
