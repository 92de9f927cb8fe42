"""A miniature of Sana 1.5."""

from typing import Any

from pipeline.families.miniatures import parts

CHANNELS = 32  # of the latents


def build(prediction: str | None) -> Any:
    """The pipeline; it has no choice of prediction.

    What it puts before each caption is 1,200 letters, and attention to them would be most of what a test takes: its
    lines are tokens.
    """
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    from pipeline.families.sana import instruction

    tokenizer = parts.gemma_tokenizer(8192)
    tokenizer.add_tokens(instruction())
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=parts.gemma_text(tokenizer),
        vae=autoencoder(),
        transformer=SanaTransformer2DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=parts.WIDTH,
            sample_size=parts.LATENT_SIDE,  # one of the four that the pipeline knows
            qk_norm="rms_norm_across_heads",
        ),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


def autoencoder() -> Any:
    """An AutoencoderDC of eight pixels per latent, with both kinds of block.

    Its pipeline draws 512 pixels and scales them down, whatever it is asked for; with fewer it would take long.
    """
    from diffusers import AutoencoderDC

    kinds = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    widths, scales = (8, 16, 16, 32), ((), (), (), (5,))
    return AutoencoderDC(
        latent_channels=CHANNELS,
        attention_head_dim=8,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
