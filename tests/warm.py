"""Imported once by the fork server: what a run needs, so that each test's process starts in milliseconds."""

import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import diffusers
import torch
from diffusers import StableDiffusionPipeline  # noqa: F401  # resolved lazily otherwise
from transformers import CLIPTextModel  # noqa: F401  # resolved lazily otherwise

import pipeline.run.stages
from tests.offline import guard

torch.set_num_threads(1)
warnings.filterwarnings("error", module=r"(pipeline(\..+)?|train_lora)$")  # as in pyproject.toml
guard()
__all__ = ["diffusers", "pipeline"]
