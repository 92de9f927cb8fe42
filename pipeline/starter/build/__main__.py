"""Build the starter base model and dataset from nothing: python -m pipeline.starter.build --work FOLDER.

Every stage resumes where it stopped. Contrastive CLIP comes first and its text tower is then
frozen, as in Stable Diffusion; the autoencoder next; the denoiser last. The judge stands apart.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipeline import shipped
from pipeline.starter.build import autoencoder, clip, dataset, denoiser, judge, parts

log = logging.getLogger(__name__)


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for states and logs; kept between starts")
    parser.add_argument("--only", choices=["clip", "autoencoder", "denoiser", "judge", "dataset"], help="one stage")
    parser.add_argument(
        "--warm_start", action="store_true", help="start from the weights that ship, and keep their autoencoder"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    build(arguments.work, arguments.only, warm_start=arguments.warm_start)


def build(work: Path, only: str | None = None, seed: int = 0, *, warm_start: bool = False) -> None:
    """All stages, or one of them; what is finished is loaded from `work`."""
    if only in (None, "dataset"):
        dataset.build(dataset.FOLDER)
    if only in (None, "judge"):
        log.info("judge")
        judge.save(judge.train(work, seed, warm_start=warm_start))
    if only in ("judge", "dataset"):
        return
    log.info("CLIP")
    # The denoiser that ships knows the text tower that ships, and no other.
    keeps_towers = warm_start and only == "denoiser"
    towers = (
        (clip.load() if keeps_towers else clip.train(work, seed, warm_start=warm_start)).eval().requires_grad_(False)
    )
    if only == "clip":
        return
    log.info("autoencoder")
    vae = parts.load_autoencoder() if warm_start else autoencoder.train(work, seed)
    vae.eval().requires_grad_(False)
    if vae.config.latent_channels != parts.LATENT_CHANNELS:
        vae = autoencoder.compacted(vae, seed).requires_grad_(False)
    if only == "autoencoder":
        return
    log.info("denoiser")
    tokenizer = parts.build_tokenizer(work / "tokenizer")
    unet = denoiser.train(work, vae, towers, tokenizer, seed, warm_start=warm_start)
    assemble(shipped.BASE, tokenizer, towers, vae, unet)
    log.info("written to %s", shipped.BASE)


def assemble(folder: Path, tokenizer: Any, towers: clip.Towers, vae: Any, unet: Any) -> None:
    """Write the diffusers folder and, beside it, the vision tower; the licence of the pictures goes with both.

    UNet and autoencoder are kept in float16, which diffusers opens as float32; the text encoder in
    float32, for transformers opens a file in the precision it has.
    """
    from diffusers import StableDiffusionPipeline

    card = (folder / "README.md").read_text(encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    pipe = StableDiffusionPipeline(
        vae.half(), plain_text_encoder(towers), tokenizer, unet.half(), parts.build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(shipped.VISION, ignore_errors=True)
    towers.vision.half().save_pretrained(shipped.VISION)
    projection = {"weight": towers.text.text_projection.weight.detach().half().contiguous()}
    save_file(projection, shipped.VISION / "text_projection.safetensors")
    for target in (folder, shipped.VISION):
        shutil.copyfile(dataset.OFL, target / "OFL.txt")


def plain_text_encoder(towers: clip.Towers) -> Any:
    """The text tower without its projection, as a Stable Diffusion pipeline holds it."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(towers.text.config)
    wanted = encoder.state_dict()
    found = {name.removeprefix("text_model."): value for name, value in towers.text.state_dict().items()}
    encoder.load_state_dict({name: found[name.removeprefix("text_model.")] for name in wanted})
    encoder.float()
    return encoder


if __name__ == "__main__":
    main()
