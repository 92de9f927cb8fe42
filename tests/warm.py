"""Imported once by the fork server: what a run needs, so that each test's process starts in milliseconds."""

import gc
import importlib
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import diffusers
import diffusers.guiders
import torch
import transformers
from PIL import Image

import pipeline.run.main
import pipeline.run.stages
from pipeline.audit import languages
from pipeline.evaluation import previews
from pipeline.families import registry
from pipeline.report import page, rendering
from pipeline.sharing import card
from tests.offline import guard

torch.set_num_threads(1)
warnings.filterwarnings("error", module=r"(pipeline(\..+)?|train_lora)$")  # as in pyproject.toml
guard()
PARTS = "AutoencoderKL DDPMScheduler DPMSolverMultistepScheduler FluxPipeline Lumina2Pipeline SanaPipeline"
PARTS += " StableDiffusionPipeline StableDiffusion3Pipeline StableDiffusionXLPipeline"
ENCODERS = "CLIPTextModel CLIPTokenizer Gemma2Model GemmaTokenizer T5EncoderModel T5Tokenizer"
for library, names in ((diffusers, PARTS), (transformers, ENCODERS)):
    for name in names.split():
        getattr(library, name)  # imported when asked for
Image.init()  # every format
for module in ("peft.tuners.lora.bnb", *(f"pipeline.families.{name}" for name in registry.NAMES)):
    importlib.import_module(module)
rendering.template("run.html"), card.template()  # compiled
languages.identifier()  # read

# The grid of the page in small: another guidance than the previews, the adapter off and stronger. Twelve pictures would
# be half of what a short run takes; running.whole_grid is for runs whose grid somebody looks at.
WHOLE_GRID = previews.GUIDANCE_FACTORS, previews.SCALES
previews.GUIDANCE_FACTORS, previews.SCALES = (2.0,), (0.0, 1.5)
os.fsync = lambda descriptor: None  # waits for the disk, which a kill of the process does not need; cold runs have it

gc.collect()
gc.freeze()  # or each fork's collector copies every page of the parent: a third of a short run
__all__ = ["datasets", "diffusers", "page", "pipeline"]
