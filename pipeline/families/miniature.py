"""Random-weight miniatures of real architectures, in seconds and offline: for tests and dry runs.

They have the real parts, names and file layout, so everything about a family can be exercised on
them except what a trained model would draw.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

SIDE_LATENTS = 16  # latent pixels; the miniature autoencoder's factor is 4
MAX_TOKENS = 77


def write(family: str, folder: Path, *, prediction: str = "epsilon", seed: int = 0) -> None:
    """Write a miniature of a family as a diffusers folder. ConfigError for an unknown family or a full folder."""
    if family not in FAMILIES:
        raise ConfigError(f"There is no miniature of {family!r}; there is {', '.join(sorted(FAMILIES))}.")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give a new folder.")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        FAMILIES[family](prediction).save_pretrained(folder)


def _sd(prediction: str) -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(16, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    denoiser = UNet2DConditionModel(
        sample_size=SIDE_LATENTS,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    return StableDiffusionPipeline(
        autoencoder,
        text_encoder,
        tokenizer,
        denoiser,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tokenizer() -> Any:
    """A CLIP tokenizer that spells: every byte is a token, none is merged."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=MAX_TOKENS)


FAMILIES: dict[str, Callable[[str], Any]] = {"sd": _sd}
