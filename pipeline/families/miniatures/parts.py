"""The parts of miniatures: tokenizers that spell, encoders and autoencoders of a few thousand weights."""

from typing import Any

MAX_TOKENS = 77
WIDTH = 32  # of the first text encoder
SECOND_WIDTH = 48  # of the second of two from CLIP: taken for the first, it does not fit
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # as tokenizers write it
LATENT_SIDE = 16  # latent pixels of a picture at the native size


def clip_tokenizer() -> Any:
    """A CLIP tokenizer that spells: every byte is a token, none is merged."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=MAX_TOKENS)


def clip_text(tokenizer: Any, width: int = WIDTH, *, projected: bool = False) -> Any:
    """A CLIP text encoder; `projected` with the projection of its pooled state."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_tokenizer(max_tokens: int) -> Any:
    """A T5 tokenizer that spells letters, digits and what stands between them."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(chr(code), -2.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=[*special, (SPACE, -2.0), *letters], extra_ids=0, model_max_length=max_tokens)


def t5_text(tokenizer: Any, width: int = WIDTH) -> Any:
    """The encoder half of a T5."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return T5EncoderModel(config)


def gemma_tokenizer(max_tokens: int) -> Any:
    """A Gemma tokenizer that spells bytes."""
    from tokenizers import processors
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=max_tokens)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return tokenizer


def gemma_text(tokenizer: Any) -> Any:
    """A Gemma 2 without its language head."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Gemma2Model(config)


def autoencoder(channels: int, num_blocks: int = 3, **values: Any) -> Any:
    """An AutoencoderKL of 2 ** (num_blocks - 1) pixels per latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16,) * (num_blocks - 1) + (32,),
        down_block_types=("DownEncoderBlock2D",) * num_blocks,
        up_block_types=("UpDecoderBlock2D",) * num_blocks,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        **values,
    )


def unet(**values: Any) -> Any:
    """A UNet of two levels, with attention to text at the outer one."""
    from diffusers import UNet2DConditionModel

    shape = {
        "sample_size": LATENT_SIDE,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**shape, **values})


def discrete_scheduler(kind: str, prediction: str | None) -> Any:
    """A scheduler of Stable Diffusion's noise levels, of the kind a family ships with."""
    import diffusers

    more: dict[str, Any] = {"set_alpha_to_one": False, "clip_sample": False} if kind == "DDIMScheduler" else {}
    return getattr(diffusers, kind)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type=prediction or "epsilon",
        **more,
    )
