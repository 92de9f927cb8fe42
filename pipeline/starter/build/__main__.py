"""Build the starter base model and dataset from nothing: python -m pipeline.starter.build --work FOLDER.

Every stage resumes where it stopped. The text tower of contrastive CLIP is frozen for the denoiser, as in Stable
Diffusion, which comes last, in the latents of the autoencoder. The judge stands apart.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline import shipped
from pipeline.starter.build import autoencoder, clip, dataset, denoiser, judge, parts, plans
from pipeline.starter.build.plans import Ground

log = logging.getLogger(__name__)

STAGES = ("dataset", "judge", "autoencoder", "clip", "denoiser", "assemble")
WARM = ("judge", "clip", "denoiser")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for states and logs; kept between starts")
    parser.add_argument("--only", choices=STAGES, help="one stage; those before it are loaded from the work folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; each has a length of its own (plans.py)")
    parser.add_argument("--share", type=float, default=1.0, help="of that length; 0.01 shows whether everything runs")
    parser.add_argument("--seconds", type=float, help="at most so long for one stage, its rate falling to zero by then")
    parser.add_argument(
        "--warm_start", nargs="*", default=[], choices=WARM, help="parts that go on from the weights that ship"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.device != "cpu":
        plans.quick_kernels()
    ground = plans.Ground(torch.device(arguments.device), arguments.share, arguments.seconds)
    # A trial at a share of the length must not take the place of what ships.
    target = shipped.STARTER if arguments.share == 1 else arguments.work / "starter"
    build(arguments.work, target, ground, arguments.only, frozenset(arguments.warm_start))


def build(
    work: Path, target: Path, ground: Ground, only: str | None = None, warm: frozenset[str] = frozenset()
) -> None:
    """All stages or one; what those before it finished is taken from `work`, or warm towers from what ships.

    Dataset, judge, base and vision tower are written to `target`, in place of those that are there.
    """
    wanted = STAGES if only is None else (only,)
    if "dataset" in wanted:
        dataset.build(target / dataset.FOLDER.name)
    if "judge" in wanted:
        log.info("judge")
        judge.save(judge.train(work, ground, warm_start="judge" in warm), target / "judge")
    if "autoencoder" in wanted:
        log.info("autoencoder")
        autoencoder.compacted(autoencoder.train(work, ground), ground).save_pretrained(work / "vae")
    if "clip" in wanted:
        log.info("CLIP")
        tokenizer = parts.load_tokenizer() if "clip" in warm else parts.build_tokenizer(work / "tokenizer")
        clip.save(clip.train(work, tokenizer, ground, warm_start="clip" in warm), tokenizer, work / "clip")
    if not {"denoiser", "assemble"} & set(wanted):
        return
    towers, tokenizer = clip.load(None if "clip" in warm and not (work / "clip").exists() else work / "clip")
    vae = parts.load_autoencoder(work / "vae")
    if "denoiser" in wanted:
        log.info("denoiser")
        unet = denoiser.train(work, vae, towers, tokenizer, ground, warm_start="denoiser" in warm)
        unet.half().save_pretrained(work / "unet")
    if "assemble" in wanted:
        assemble(target, tokenizer, towers, vae, parts.load_denoiser(work / "unet"))
        log.info("written to %s", target)


def assemble(target: Path, tokenizer: Any, towers: clip.Towers, vae: Any, unet: Any) -> None:
    """Write the base, a diffusers folder, and the vision tower; the licence of the pictures goes with both.

    UNet and autoencoder are kept in float16, which diffusers opens as float32; the text encoder in
    float32, for transformers opens a file in the precision it has.
    """
    from diffusers import StableDiffusionPipeline

    card = (shipped.BASE / "README.md").read_text(encoding="utf-8")
    base, vision = target / shipped.BASE.name, target / shipped.VISION.name
    for folder in (base, vision):
        shutil.rmtree(folder, ignore_errors=True)
    pipe = StableDiffusionPipeline(
        vae.half(), clip.plain_text_encoder(towers), tokenizer, unet.half(), parts.build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(base)
    (base / "README.md").write_text(card, encoding="utf-8")
    clip.save_vision(towers, vision)
    for folder in (base, vision):
        shutil.copyfile(dataset.OFL, folder / "OFL.txt")


if __name__ == "__main__":
    main()
