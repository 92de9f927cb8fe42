"""What `bench cpu` trains: the starter base on its dataset, or random weights on pictures that are made for it."""

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import shipped
from pipeline.bench import published

SUBJECTS, COLOURS = ("boat", "house", "tree", "fox"), ("red", "blue", "green", "yellow", "grey")


@dataclass(frozen=True)
class Shape:
    """A base, its pictures, and how both programs train on them; in float32 and with AdamW."""

    name: str
    title: str
    batch: int
    resolution: int
    base: str = ""  # which random weights are written; '': the starter base
    num_pictures: int = 0  # that are made; 0: those of the starter dataset
    side: int = 768  # of these, in pixels
    lengths: tuple[int, int] = (16, 64)  # steps of the short and the long run; both show, so encode, every picture
    rank: int = 16
    rate: float = 1e-4
    seed: int = 0

    def places(self, folder: Path) -> tuple[Path, Path]:
        """Where the base and the pictures lie: in a folder for both, or as they ship."""
        base = folder / "base" if self.base else shipped.BASE
        return base, folder / "pictures" if self.num_pictures else shipped.TRAIN

    def write(self, folder: Path) -> None:
        """Make those that do not ship."""
        base, pictures = self.places(folder)
        if self.base:
            write_base(self.base, base)
        if self.num_pictures:
            write_pictures(pictures, self.num_pictures, self.side)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("starter", "the starter base on the starter dataset", batch=8, resolution=64, lengths=(32, 80)),
        Shape("short", "the starter base on 32 PNGs of 768 px", 8, 64, num_pictures=32, lengths=(8, 56)),
        Shape("small", "UNet 18.2 M, VAE 5.3 M, 32 PNGs of 768 px", 2, 256, base="small", num_pictures=32),
        Shape("sd15", "SD 1.5's sizes, 8 PNGs of 768 px", 1, 256, base="sd15", num_pictures=8, lengths=(8, 14)),
        Shape("toy", "a miniature, 4 PNGs of 96 px", 2, 64, base="toy", num_pictures=4, side=96, lengths=(2, 5)),
    )
}


def write_pictures(folder: Path, number: int, side: int) -> None:
    """Square PNGs that compress as photographs do, with captions."""
    import numpy as np
    from PIL import Image, ImageFilter

    folder.mkdir(parents=True)
    chance, rows = np.random.default_rng(0), []
    for index in range(number):
        coarse = Image.fromarray(chance.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = coarse.resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
        grain = chance.integers(-6, 7, (side, side, 3))
        pixels = np.clip(np.asarray(smooth, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        text = f"a {COLOURS[index % 5]} {SUBJECTS[index % 4]} beside {index} stones, seen from afar"
        rows.append(json.dumps({"file_name": f"{index:03d}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_base(name: str, folder: Path) -> None:
    """A Stable Diffusion of random weights, always the same ones, as a diffusers folder."""
    import torch

    from pipeline.families.miniatures import parts, sd

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = sd.build(None)
        if name != "toy":
            pipe.register_modules(**{"small": _small, "sd15": _sd15}[name](parts.clip_tokenizer()))
        pipe.save_pretrained(folder)


def _small(tokenizer: Any) -> dict[str, Any]:
    from diffusers import UNet2DConditionModel

    outer = "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64, 128, 256),
        layers_per_block=2,
        down_block_types=outer,
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(outer)),
        cross_attention_dim=256,
        attention_head_dim=8,
    )
    return {"unet": unet, "vae": _autoencoder((32, 64, 128, 128)), "text_encoder": _clip(tokenizer, 256, 4)}


def _sd15(tokenizer: Any) -> dict[str, Any]:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(published.config("sd15"))
    return {"unet": unet, "vae": _autoencoder((128, 256, 512, 512)), "text_encoder": _clip(tokenizer, 768, 12)}


def _autoencoder(widths: tuple[int, ...]) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=4,
    )


def _clip(tokenizer: Any, width: int, num_layers: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    make = functools.partial(CLIPTextConfig, hidden_size=width, intermediate_size=4 * width, projection_dim=width)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = make(
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, width // 64),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.eos_token_id,
        **ends,
    )
    return CLIPTextModel(config)


if __name__ == "__main__":
    SHAPES[sys.argv[1]].write(Path(sys.argv[2]))
