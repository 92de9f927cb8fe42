"""A miniature of Stable Diffusion XL."""

from typing import Any

from pipeline.families.miniatures import parts

PREDICTIONS = ("epsilon", "v_prediction")  # what its scheduler may say


def build(prediction: str | None) -> Any:
    """A Stable Diffusion XL pipeline of a few thousand weights; `prediction` is what its scheduler says."""
    from diffusers import StableDiffusionXLPipeline

    tokenizer = parts.clip_tokenizer()
    size_width = 8
    return StableDiffusionXLPipeline(
        vae=parts.autoencoder(4, scaling_factor=0.13025),
        text_encoder=parts.clip_text(tokenizer),
        text_encoder_2=parts.clip_text(tokenizer, parts.SECOND_WIDTH, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=parts.clip_tokenizer(),
        unet=parts.unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=parts.WIDTH + parts.SECOND_WIDTH,
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=size_width,
            projection_class_embeddings_input_dim=parts.SECOND_WIDTH + 6 * size_width,
        ),
        scheduler=parts.discrete_scheduler("EulerDiscreteScheduler", prediction),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
