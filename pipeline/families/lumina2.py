"""Lumina-Image 2.0: Gemma 2's states with their mask, and a transformer that counts time from noise to data."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import KeySignature, TargetModules
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import RectifiedFlow


class Lumina2(Family):
    """A rectified flow (Qin et al. 2025). Captions are read after a system prompt, the empty one without."""

    name = "lumina2"
    pipeline_class = "Lumina2Pipeline"
    denoiser = "transformer"
    targets = TargetModules(
        {
            "attention": ("to_q", "to_k", "to_v", "to_out.0"),
            "mlp": ("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3"),
            "condition_only": ("context_refiner.*.to_k", "context_refiner.*.to_v"),
        }
    )
    size_multiple = 16
    encoders = ("tokenizer", "text_encoder")
    text_widths: ClassVar[dict[str, tuple[str, ...]]] = {"cap_feat_dim": ("text_encoder",)}
    comfyui_knows_original_names = True
    architecture = "lumina-2"
    negates_velocity = True
    asks_in_turn = True
    renormalises_guidance = True
    key_signatures = (KeySignature(r"transformer\.(?:layers|noise_refiner|context_refiner)\.\d"),)

    @property
    def tokenizer_limit(self) -> tuple[str, int | None]:
        """Gemma, as far as the pipeline's max_sequence_length goes."""
        return "tokenizer", self.max_sequence_length

    def prompt_template(self, pipe: Any, caption: str) -> str:
        """The caption after the pipeline's system prompt."""
        return f"{pipe.system_prompt} <Prompt Start> {caption}"

    def path(self, options: ObjectiveOptions) -> RectifiedFlow:
        """A straight path; times are shifted as the checkpoint's scheduler does."""
        return parts.flow_path(self, options, self.part_config("transformer")["in_channels"])

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Gemma's states, and what of them is text."""
        length, width = self.max_sequence_length or 0, int(self.part_config("transformer")["cap_feat_dim"])
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
            max_sequence_length=self.max_sequence_length,
        )

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at time t: the transformer's own runs from noise to data, in time and in sign."""
        velocity: Tensor = model(
            hidden_states=x_t,
            timestep=1 - t,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
        ).sample
        return -velocity
