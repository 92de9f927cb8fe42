"""A miniature of Stable Diffusion."""

from typing import Any

from pipeline.families.miniatures import parts

PREDICTIONS = ("epsilon", "v_prediction")  # what its scheduler may say


def build(prediction: str | None) -> Any:
    """A Stable Diffusion pipeline of a few thousand weights; `prediction` is what its scheduler says."""
    from diffusers import StableDiffusionPipeline

    tokenizer = parts.clip_tokenizer()
    return StableDiffusionPipeline(
        text_encoder=parts.clip_text(tokenizer),
        vae=parts.autoencoder(4),
        tokenizer=tokenizer,
        unet=parts.unet(),
        scheduler=parts.discrete_scheduler("DDIMScheduler", prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
