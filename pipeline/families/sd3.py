"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, a transformer whose text and picture attend to each other."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning, Part
from pipeline.errors import CheckpointError
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import KeySignature, TargetModules
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow


class StableDiffusion3(Family):
    """A rectified flow (Esser et al. 2024). A model without T5 is refused."""

    name = "sd3"
    pipeline_class = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    size_multiple = 16
    encoders = ("tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "text_encoder_2", "text_encoder_3")
    text_widths: ClassVar[dict[str, tuple[str, ...]]] = {
        "joint_attention_dim": ("text_encoder_3",),
        "pooled_projection_dim": ("text_encoder.projection_dim", "text_encoder_2.projection_dim"),
    }
    key_signatures = (
        KeySignature(r"transformer\..*(?:\.attn2\.|pos_embed\.proj)"),
        KeySignature(r"transformer\..*\.(?:to_q|add_q_proj)$", outputs=(1536, 2432)),
    )

    trainable_encoders = ("text_encoder", "text_encoder_2")
    comfyui_reads_diffusers = True
    architecture = "stable-diffusion-3"

    @property
    def longest_side(self) -> int:
        """What the transformer's table of positions covers."""
        return int(self.part_config("transformer")["pos_embed_max_size"]) * self.patch_size * self.pixels_per_latent

    @property
    def targets(self) -> TargetModules:
        """Both streams of each block; of the last block's text stream nothing goes on, so its queries learn nothing."""
        last = int(self.part_config("transformer")["num_layers"]) - 1
        return TargetModules(
            {
                "attention": (
                    "to_q",
                    "to_k",
                    "to_v",
                    "to_out.0",
                    "add_q_proj",
                    "add_k_proj",
                    "add_v_proj",
                    "to_add_out",
                ),
                "mlp": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
                "condition_only": ("add_k_proj", "add_v_proj"),
            },
            without_gradient=(f"transformer_blocks.{last}.attn.add_q_proj",),
        )

    @property
    def tokenizer_limit(self) -> tuple[str, int | None]:
        """T5, as far as the pipeline's max_sequence_length goes."""
        return "tokenizer_3", self.max_sequence_length

    def path(self, options: ObjectiveOptions) -> RectifiedFlow:
        """A straight path; times are shifted as the checkpoint's scheduler does. Raises CheckpointError without T5."""
        if not self.source.has("text_encoder_3"):
            raise CheckpointError(
                f"{self.source.folder} has no T5 (text_encoder_3); give the model with all three encoders."
            )
        return parts.flow_path(self, options, self.part_config("transformer")["in_channels"])

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """CLIP's states and T5's after each other, and CLIP's pooled ones beside each other."""
        config, length = self.part_config("transformer"), self._num_clip_tokens() + (self.max_sequence_length or 0)
        return {
            "prompt_embeds": (length, int(config["joint_attention_dim"])),
            "pooled_prompt_embeds": (int(config["pooled_projection_dim"]),),
        }

    def encode_text(self, pipe: Any, captions: list[str]) -> dict[str, Tensor]:
        """{'prompt_embeds': [b l d], 'pooled_prompt_embeds': [b p]}."""
        embeddings, _, pooled, _ = pipe.encode_prompt(
            *[captions] * 3,
            device=pipe.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    @property
    def text_parts(self) -> dict[str, Part]:
        """CLIP's states lie beside each other in the first tokens, T5's in those after them; CLIP's are also pooled."""
        first, second = (self.part_config(part) for part in ("text_encoder", "text_encoder_2"))
        tokens, width = self.tokenizers.tokenizer.model_max_length, first["hidden_size"]
        both, pooled = width + second["hidden_size"], first["projection_dim"]
        read = slice(tokens)
        return {
            "text_encoder": {"prompt_embeds": (read, slice(width)), "pooled_prompt_embeds": (slice(pooled),)},
            "text_encoder_2": {
                "prompt_embeds": (read, slice(width, both)),
                "pooled_prompt_embeds": (slice(pooled, None),),
            },
            "text_encoder_3": {"prompt_embeds": (slice(tokens, None),)},
        }

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at time t, which the transformer takes in thousandths."""
        velocity: Tensor = model(
            hidden_states=x_t,
            timestep=t * 1000,
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
        ).sample
        return velocity
