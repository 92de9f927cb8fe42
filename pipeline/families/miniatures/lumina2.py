"""A miniature of Lumina-Image 2.0."""

from typing import Any

from pipeline.families.miniatures import parts


def build(prediction: str | None) -> Any:
    """The pipeline; it has no choice of prediction."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = parts.gemma_tokenizer(256)
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=parts.LATENT_SIDE // 2,
            in_channels=16,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 32, 32),
            cap_feat_dim=parts.WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        # its pipeline takes eight pixels per latent for granted
        vae=parts.autoencoder(16, 4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False),
        text_encoder=parts.gemma_text(tokenizer),
        tokenizer=tokenizer,
    )
