"""A miniature of FLUX.1 dev, its guidance embedding included."""

from typing import Any

from pipeline.families.miniatures import parts


def build(prediction: str | None) -> Any:
    """The pipeline; it has no choice of prediction."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, reader = parts.clip_tokenizer(), parts.t5_tokenizer(512)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, max_shift=1.15),
        vae=parts.autoencoder(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False),
        text_encoder=parts.clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=parts.t5_text(reader),
        tokenizer_2=reader,
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=parts.WIDTH,
            pooled_projection_dim=parts.WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
    )
