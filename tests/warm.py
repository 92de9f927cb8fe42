"""Imported once by the fork server: what a run needs, so that each test's process starts in milliseconds."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import diffusers
import torch
from diffusers import StableDiffusionPipeline  # noqa: F401  # resolved lazily otherwise
from transformers import CLIPTextModel  # noqa: F401  # resolved lazily otherwise

import pipeline.run
from tests.offline import guard

torch.set_num_threads(1)
guard()
__all__ = ["diffusers", "pipeline"]
