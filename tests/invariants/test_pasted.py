"""A command line pasted from the README of diffusers trains: only model, data, length, precision and tracker differ."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.families.miniatures.parts import clip_tokenizer
from tests.conftest import metrics, status

pytestmark = pytest.mark.invariant

# examples/text_to_image/README.md of diffusers 0.42, "Training with LoRA", as it stands there.
PASTED = """
accelerate launch --mixed_precision="fp16" train_text_to_image_lora.py \\
  --pretrained_model_name_or_path=$MODEL_NAME \\
  --dataset_name=$DATASET_NAME --caption_column="text" \\
  --resolution=512 --random_flip \\
  --train_batch_size=1 \\
  --num_train_epochs=100 --checkpointing_steps=5000 \\
  --learning_rate=1e-04 --lr_scheduler="constant" --lr_warmup_steps=0 \\
  --seed=42 \\
  --output_dir="sd-naruto-model-lora" \\
  --validation_prompt="cute dragon creature" --report_to="wandb"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Stable Diffusion in small: 512 pixels are 64 x 64 latents, attention at 32 x 32 and below, as in the real one."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer, folder = clip_tokenizer(), tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    autoencoder = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2, mid_block_add_attention=False,
    )  # fmt: skip
    denoiser = UNet2DConditionModel(
        sample_size=64, block_out_channels=(8, 16, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"), attention_head_dim=2,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    StableDiffusionPipeline(
        autoencoder, CLIPTextModel(text), tokenizer, denoiser, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_it_trains(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (600, 520, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dragon.png")
    table = datasets.Dataset.from_dict({"image": [str(tmp_path / "dragon.png")], "text": ["a dragon"]})
    table.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "data")
    replaced = {
        "accelerate launch": f"{sys.executable} -m accelerate.commands.launch --cpu --num_processes 1",
        "train_text_to_image_lora.py": "train_lora.py",
        "--num_train_epochs=100": "--num_train_epochs=2",
        "$MODEL_NAME": str(model),
        "$DATASET_NAME": str(tmp_path / "data"),
        '"fp16"': "no",
        '"wandb"': "tensorboard",
        '"sd-naruto-model-lora"': str(tmp_path / "out"),
    }
    command = PASTED.strip()
    for before, after in replaced.items():
        assert command.count(before) == 1
        command = command.replace(before, after)
    command += f" --cache_dir={tmp_path / 'cache'}"  # or the test would leave something in the home folder
    command += " --num_inference_steps=1"  # 20 pictures at 512 pixels are drawn, random ones in any case
    ended = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert str(tmp_path / "out" / "report.html") in ended.stderr.splitlines()[-1]
    assert status(tmp_path / "out")["state"] == "done"
    assert len(metrics(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    assert len(json.loads((tmp_path / "out" / "samples" / "base" / "index.json").read_text())) == 4
