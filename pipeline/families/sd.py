"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, AutoencoderKL, a convolutional UNet."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.conditioning import Conditioning
from pipeline.errors import CheckpointError
from pipeline.families.base import Family, Targets
from pipeline.objective.paths import VariancePreserving


class StableDiffusion(Family):
    """Noise or v prediction on a discrete schedule, as the checkpoint's scheduler says."""

    name = "sd"
    pipeline_class = "StableDiffusionPipeline"
    denoiser = "unet"
    targets = Targets(
        {
            "attention": ("to_q", "to_k", "to_v", "to_out.0"),
            "mlp": ("ff.net.0.proj", "ff.net.2"),
            "condition_only": ("attn2.to_k", "attn2.to_v"),
        }
    )
    size_multiple = 8
    encoders = ("tokenizer", "text_encoder")

    @functools.cached_property
    def num_times(self) -> int:
        """Length N of the discrete schedule; the UNet is called with an index below it."""
        return int(self.part_config("scheduler").get("num_train_timesteps", 1000))

    @property
    def native_pixels(self) -> int:
        """The side the UNet was trained at: its latents times the autoencoder's factor."""
        return int(self.part_config("unet")["sample_size"]) * self.factor

    @functools.cached_property
    def factor(self) -> int:
        """Pixels per latent: the autoencoder halves between two of its blocks."""
        return 1 << (len(self.part_config("vae")["block_out_channels"]) - 1)

    def latent_shape(self, pixels: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture."""
        side = pixels // self.factor
        return int(self.part_config("vae")["latent_channels"]), side, side

    def path(self) -> VariancePreserving:
        """The variance-preserving path of the checkpoint's own scheduler."""
        import diffusers

        config = self.part_config("scheduler")
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise CheckpointError(f"{self.folder} predicts {prediction!r}; epsilon and v_prediction can be trained.")
        if self.part_config("unet")["in_channels"] != self.part_config("vae")["latent_channels"]:
            raise CheckpointError(f"{self.folder} takes more than latents as input (inpainting?); give a plain model.")
        scheduler = diffusers.DDPMScheduler.from_config(config)
        return VariancePreserving(scheduler.alphas_cumprod.clone(), prediction)

    @torch.no_grad()
    def encode_text(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """The last hidden states of the text encoder, {'prompt_embeds': [l d]}."""
        states, _ = pipe.encode_prompt(caption, pipe.text_encoder.device, 1, False)
        return {"prompt_embeds": states[0]}

    @torch.no_grad()
    def encode_image(self, pipe: Any, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The posterior's mean and standard deviation, times the autoencoder's scaling factor."""
        posterior = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
        scale = pipe.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    def denoise(
        self, model: Any, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The UNet at the schedule's index of t: the unit its sampler uses."""
        index = (t * self.num_times).round().long()
        states = conditioning.tensors["prompt_embeds"]
        prediction: Tensor = model(x_t, index, encoder_hidden_states=states).sample
        return prediction
