"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, AutoencoderKL, a convolutional UNet."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.families import parts
from pipeline.families.base import Family
from pipeline.families.targets import Mark
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import VariancePreserving

OPENCLIP_WIDTH = 1024  # of the text states of 2.x


class StableDiffusion(Family):
    """Noise or v prediction on a discrete schedule, as the checkpoint's scheduler says."""

    name = "sd"
    pipeline_class = "StableDiffusionPipeline"
    denoiser = "unet"
    targets = parts.UNET
    size_multiple = 8
    tested_on = "miniature, starter base"
    encoders = ("tokenizer", "text_encoder")
    trainable_encoders = ("text_encoder",)
    comfyui_prefixes: ClassVar[dict[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}
    marks = (
        Mark(r"unet\.(?:down_blocks\.0\.attentions|(?:down|up)_blocks\.3)\."),
        Mark(r"unet\..*\.attn2\.to_[kv]$", inputs=(768, 1024)),
    )

    @property
    def architecture(self) -> str:
        """2.x has a wider text encoder than 1.x, and came in two sizes with two predictions."""
        if self.part_config("unet")["cross_attention_dim"] != OPENCLIP_WIDTH:
            return "stable-diffusion-v1"
        is_v = self.part_config("scheduler").get("prediction_type") == "v_prediction"
        return "stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512"

    @property
    def native_pixels(self) -> int:
        """The side the UNet was trained at: its latents times the autoencoder's factor."""
        return parts.native_side(self)

    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""
        return parts.square_latents(self, pixels)

    def path(self, options: ObjectiveOptions, pixels: int) -> VariancePreserving:
        """The variance-preserving path of the checkpoint's own scheduler."""
        parts.require_plain(self, self.part_config("unet")["in_channels"])
        parts.require_undistilled(self)
        return parts.discrete_path(self)

    def encode_text(self, pipe: Any, caption: str | None) -> dict[str, Tensor]:
        """The last hidden states of the text encoder, {'prompt_embeds': [l d]}; the null is an empty prompt's."""
        states, _ = pipe.encode_prompt(caption or "", pipe.text_encoder.device, 1, False)
        return parts.rows_of(prompt_embeds=states)

    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The posterior's mean and standard deviation, times the autoencoder's scaling factor."""
        return parts.encode_kl(pipe.vae, pixels)

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The UNet at the schedule's index of t: the unit its sampler uses."""
        states = conditioning.tensors["prompt_embeds"]
        prediction: Tensor = model(x_t, parts.index_of(self, t), encoder_hidden_states=states).sample
        return prediction
