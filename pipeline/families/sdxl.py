"""Stable Diffusion XL: two CLIP text encoders, their pooled states, and sizes told to a larger UNet."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning, Part
from pipeline.errors import CheckpointError
from pipeline.families import clip, parts
from pipeline.families.base import Family
from pipeline.families.targets import KeySignature, TargetModules
from pipeline.geometry import Geometry
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import VariancePreserving


class StableDiffusionXL(Family):
    """As Stable Diffusion, and told a picture's original size, cut and target size (Podell et al. 2023, 2.2)."""

    name = "sdxl"
    pipeline_class = "StableDiffusionXLPipeline"
    denoiser = "unet"
    targets = parts.UNET
    perturbed_attention = parts.MIDDLE_SELF_ATTENTION
    size_multiple = 8
    encoders = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    text_widths: ClassVar[dict[str, tuple[str, ...]]] = {"cross_attention_dim": ("text_encoder", "text_encoder_2")}
    trainable_encoders = ("text_encoder", "text_encoder_2")
    read_by_clip = True
    layers_left_out = 1
    comfyui_prefixes: ClassVar[dict[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    comfyui_knows_original_names = True
    architecture = "stable-diffusion-xl-v1-base"
    key_signatures = (
        KeySignature(r"unet\.(?:add_embedding\.|.*\.transformer_blocks\.[1-9])"),
        KeySignature(r"unet\..*\.attn2\.to_[kv]$", inputs=(2048,)),
        KeySignature(r"unet\.", beside=r"text_encoder_2\."),
    )

    def targets_of(self, component: str) -> TargetModules:
        """The first encoder is read before its last layers, which learn nothing; of the second the last is pooled."""
        if component != "text_encoder":
            return super().targets_of(component)
        return clip.targets_before(int(self.part_config(component)["num_hidden_layers"]), self._num_left_out)

    @property
    def _num_left_out(self) -> int:
        return self.layers_left_out + (self.options.clip_skip or 0)

    def path(self, options: ObjectiveOptions) -> VariancePreserving:
        """The variance-preserving path of the checkpoint's own scheduler. Raises CheckpointError for a refiner."""
        if not self.source.has("text_encoder") or self.source.index.get("requires_aesthetics_score"):
            raise CheckpointError(
                f"{self.source.folder} is a refiner (one text encoder, aesthetic scores); give the base model."
            )
        self._require_pooled()
        return parts.discrete_path(self, options)

    def _require_pooled(self) -> None:
        """Raise CheckpointError where the second encoder's summary and the six sizes do not add up to what is taken."""
        unet = self.part_config("unet")
        both, size = unet.get("projection_class_embeddings_input_dim"), unet.get("addition_time_embed_dim")
        if not self.source.has("text_encoder_2") or both is None or size is None:
            return  # which is said elsewhere
        given = self.part_config("text_encoder_2").get("projection_dim")
        if given != both - 6 * size:
            raise CheckpointError(
                f"The UNet of {self.source.folder} takes a pooled text of width {both - 6 * size}, and text_encoder_2 "
                f"gives {given}; are its text encoders exchanged?"
            )

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Both encoders' states beside each other, and the second's pooled one."""
        return {
            "prompt_embeds": (self._num_clip_tokens(), int(self.part_config("unet")["cross_attention_dim"])),
            "pooled_prompt_embeds": (int(self.part_config("text_encoder_2")["projection_dim"]),),
        }

    def encode_text(self, pipe: Any, captions: list[str]) -> dict[str, Tensor]:
        """The states of both encoders, {'prompt_embeds': [b l d], 'pooled_prompt_embeds': [b p]}.

        Of several chunks the first is pooled.
        """
        if self.num_chunks == 1:
            embeddings, _, pooled, _ = pipe.encode_prompt(
                captions,
                device=pipe.text_encoder_2.device,
                do_classifier_free_guidance=False,
                clip_skip=self.options.clip_skip,
            )
            return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}
        first, second = (
            clip.outputs_of(encoder, clip.tokens_of(tokenizer, captions, self.num_chunks))
            for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
        )
        states = [clip.joined(outputs, self._num_left_out) for outputs in (first, second)]
        return {"prompt_embeds": torch.cat(states, dim=-1), "pooled_prompt_embeds": second[0].text_embeds}

    def encode_unconditional(self, pipe: Any, count: int = 1) -> dict[str, Tensor]:
        """Zeros, if the checkpoint says so, else the empty prompt's, once for each chunk and without --clip_skip."""
        _, embeddings, _, pooled = pipe.encode_prompt(
            [""] * count, device=pipe.text_encoder_2.device, do_classifier_free_guidance=True
        )
        return {"prompt_embeds": embeddings.repeat(1, self.num_chunks, 1), "pooled_prompt_embeds": pooled}

    @property
    def text_parts(self) -> dict[str, Part]:
        """Both encoders' states lie beside each other; the second's are also pooled."""
        width = int(self.part_config("text_encoder")["hidden_size"])
        every = slice(None)
        return {
            "text_encoder": {"prompt_embeds": (every, slice(width))},
            "text_encoder_2": {"prompt_embeds": (every, slice(width, None)), "pooled_prompt_embeds": (every,)},
        }

    @staticmethod
    def size_states(geometry: Geometry) -> dict[str, Tensor]:
        """{'time_ids': [6]}: original height and width, top and left of the cut, target height and width."""
        original, size = geometry.original, geometry.size
        ids = [original.height, original.width, geometry.top, geometry.left, size.height, size.width]
        return {"time_ids": torch.tensor(ids, dtype=torch.float32)}

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The UNet at the schedule's index of t: the unit its sampler uses."""
        sizes = {"text_embeds": conditioning["pooled_prompt_embeds"], "time_ids": conditioning["time_ids"]}
        prediction: Tensor = model(
            x_t,
            parts.timestep(self, t),
            encoder_hidden_states=conditioning["prompt_embeds"],
            added_cond_kwargs=sizes,
        ).sample
        return prediction
