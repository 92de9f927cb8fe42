"""The parts of the starter base model, untrained: what each is made of, and where it ships."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipeline import shipped
from pipeline.starter import world

LATENT_CHANNELS = 4
LEVELS = 1  # halvings between a picture and its latents
MAX_TOKENS = 24
VOCABULARY = 2048  # an upper bound: with 1,624 tokens every word of the world is one token
WIDTH = 192  # of both CLIP towers and of their common space


def build_tokenizer(folder: Path) -> Any:
    """Train the small BPE on the world's captions and return it as a CLIPTokenizer saved in `folder`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(alphabet) - 2,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
        min_frequency=1,
    )
    bpe.train_from_iterator(_caption_corpus(), trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    # CLIP's order: bytes, bytes that end a word, merges, start, end.
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _caption_corpus() -> Iterator[str]:
    for concept in world.concepts():
        yield from itertools.repeat(f"{concept.name} {concept.plural}", 20)
    for index in range(4000):
        yield world.training_scene(0, index)[1]


def build_text_encoder(tokenizer: Any) -> Any:
    """CLIP's text tower with its projection (Radford et al. 2021), 3 layers.

    Words start as vectors of variance 1 instead of CLIP's 0.0004: in so short a training the layers would
    bury the words under what pairs them with pictures, and a denoiser could not tell them apart any more.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tower = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            projection_dim=WIDTH,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    torch.nn.init.normal_(tower.text_model.embeddings.token_embedding.weight)
    return tower


def build_vision_encoder() -> Any:
    """CLIP's vision tower with its projection: patches of 8 pixels, 4 layers."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=3,
            projection_dim=WIDTH,
            image_size=world.SIDE_PIXELS,
            patch_size=8,
        )
    )


def build_autoencoder(latent_channels: int = LATENT_CHANNELS) -> Any:
    """AutoencoderKL, factor 2, without attention: 64 x 64 pixels <-> latent_channels x 32 x 32.

    One norm group, for linear_start; statistics per group and picture would shift flat colours.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=1,
        sample_size=world.SIDE_PIXELS,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the compact form has mean 0 and variance 1 already
    )


def load_autoencoder(folder: Path = shipped.BASE / "vae") -> Any:
    """An autoencoder as it was saved; the one that ships unless another folder is named."""
    return _loaded(build_autoencoder(), folder)


def load_denoiser(folder: Path = shipped.BASE / "unet") -> Any:
    """A denoiser as it was saved; the one that ships unless another folder is named."""
    return _loaded(build_denoiser(), folder)


def _loaded(module: Any, folder: Path) -> Any:
    # Not by from_pretrained, which writes the folder's name into the configuration that is saved next.
    module.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return module.eval().requires_grad_(False)


def load_tokenizer() -> Any:
    """The tokenizer that ships."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(shipped.BASE / "tokenizer")


def build_denoiser() -> Any:
    """UNet2DConditionModel on 32 x 32 latents: a narrow first level, then text by cross-attention at every level."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=world.SIDE_PIXELS >> LEVELS,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 128, 192),
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=(1, 2, 4, 6),  # the number of heads: diffusers keeps this name for old files
        norm_num_groups=16,
    )


def build_scheduler() -> Any:
    """DDIM on the cosine schedule (Nichol & Dhariwal 2021, eq. 17), which suits small latents; v-prediction."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect on trailing steps; the pipeline warns of 0
    )
