"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, AutoencoderKL, a convolutional UNet."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.families import clip, parts
from pipeline.families.base import Family
from pipeline.families.options import ModelOptions
from pipeline.families.targets import KeySignature, TargetModules
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import VariancePreserving

OPENCLIP_WIDTH = 1024  # of the text encoder of 2.x


class StableDiffusion(Family):
    """Noise or v prediction on a discrete schedule, as the checkpoint's scheduler says."""

    name = "sd"
    pipeline_class = "StableDiffusionPipeline"
    denoiser = "unet"
    targets = parts.UNET
    perturbed_attention = parts.MIDDLE_SELF_ATTENTION
    size_multiple = 8
    tested_on = "miniature, starter base"
    encoders = ("tokenizer", "text_encoder")
    text_widths: ClassVar[dict[str, tuple[str, ...]]] = {"cross_attention_dim": ("text_encoder",)}
    trainable_encoders = ("text_encoder",)
    read_by_clip = True
    comfyui_prefixes: ClassVar[dict[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}
    key_signatures = (
        KeySignature(r"unet\.(?:down_blocks\.0\.attentions|(?:down|up)_blocks\.3)\."),
        KeySignature(r"unet\..*\.attn2\.to_[kv]$", inputs=(768, 1024)),
    )

    @property
    def architecture(self) -> str:
        """2.x has a wider text encoder than 1.x, and came in two sizes with two predictions."""
        if self.part_config("unet")["cross_attention_dim"] != OPENCLIP_WIDTH:
            return "stable-diffusion-v1"
        is_v = self.part_config("scheduler").get("prediction_type") == "v_prediction"
        return "stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512"

    def path(self, options: ObjectiveOptions) -> VariancePreserving:
        """The variance-preserving path of the checkpoint's own scheduler."""
        return parts.discrete_path(self, options)

    def targets_of(self, component: str) -> TargetModules:
        """Layers of the text encoder that --clip_skip leaves out learn nothing."""
        if component == self.denoiser or not self.options.clip_skip:
            return super().targets_of(component)
        return clip.targets_before(int(self.part_config(component)["num_hidden_layers"]), self.options.clip_skip)

    @property
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """CLIP's states."""
        return {"prompt_embeds": (self._num_clip_tokens(), int(self.part_config("unet")["cross_attention_dim"]))}

    def encode_text(self, pipe: Any, captions: list[str]) -> dict[str, Tensor]:
        """The last hidden states of the text encoder that are read, {'prompt_embeds': [b l d]}."""
        if not self.options.clip_skip and self.num_chunks == 1:
            embeddings, _ = pipe.encode_prompt(captions, pipe.text_encoder.device, 1, False)
            return {"prompt_embeds": embeddings}
        encoder, skipped = pipe.text_encoder, self.options.clip_skip or 0
        outputs = clip.outputs_of(encoder, clip.tokens_of(pipe.tokenizer, captions, self.num_chunks))
        return {"prompt_embeds": clip.joined(outputs, skipped, clip.last_norm(encoder))}

    def encode_unconditional(self, pipe: Any, count: int = 1) -> dict[str, Tensor]:
        """The empty prompt's, once for each chunk; the pipeline reads it to the last layer whatever is skipped."""
        plain = self.told(ModelOptions()).encode_text(pipe, [""] * count)
        return {name: value.repeat(1, self.num_chunks, 1) for name, value in plain.items()}

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The UNet at the schedule's index of t: the unit its sampler uses."""
        embeddings = conditioning["prompt_embeds"]
        prediction: Tensor = model(x_t, parts.timestep(self, t), encoder_hidden_states=embeddings).sample
        return prediction
