"""A miniature of Stable Diffusion 3.5, dual attention and T5 included."""

from typing import Any

from pipeline.families.miniatures import parts

T5_WIDTH = 96  # more than both of CLIP together, whose states are filled up with zeros to it


def build(prediction: str | None) -> Any:
    """The pipeline; it has no choice of prediction."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer, reader = parts.clip_tokenizer(), parts.t5_tokenizer(256)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=parts.LATENT_SIDE,
            in_channels=16,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=parts.WIDTH + parts.SECOND_WIDTH,
            pos_embed_max_size=48,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts.autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False),
        text_encoder=parts.clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=parts.clip_text(tokenizer, parts.SECOND_WIDTH, projected=True),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5_text(reader, T5_WIDTH),
        tokenizer_3=reader,
    )
