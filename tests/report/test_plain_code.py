"""Plain diffusers code: what a file says becomes literals, never code; what the lines leave out is said."""

import ast
from pathlib import Path

import pytest

from pipeline.geometry import Size
from pipeline.report.plain_code import Drawn, Model, plain
from pipeline.sampling.options import GuidanceOptions

pytestmark = pytest.mark.unit
EVIL = "__import__('os').getpid()"


def code_of(run, scale=1.0, guidance_scale=2.0, steps=4, pipeline_class="StableDiffusionPipeline"):
    drawn = Drawn("a 'fox'", 7, GuidanceOptions(), guidance_scale, steps, Size(64, 32), scale)
    return plain(Path("out"), Model("user/model", pipeline_class, run), drawn)


def test_what_a_file_says_is_never_code():
    text = code_of({"revision": EVIL, "max_sequence_length": EVIL}, guidance_scale=EVIL, steps=EVIL)
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert names == {"torch", "DiffusionPipeline", "pipe", "image"}
    assert repr(EVIL) in text


def test_reading_and_scale_are_in_it_and_what_is_not_is_said():
    text = code_of({"clip_skip": 1}, scale=0.5)
    assert " clip_skip=1," in text
    assert "text_encoder.__dict__['text_model']" in text
    assert 'adapter_name="lora")\npipe.set_adapters("lora", 0.5)' in text
    assert "text_model" not in code_of({"clip_skip": 1}, pipeline_class="StableDiffusionXLPipeline")
    said = code_of({"prompt_chunks": 3, "pretrained_vae_model_name_or_path": "v"})
    assert "# This run was drawn in chunks of 75 tokens and with another autoencoder: README.md" in said
    assert "#" not in code_of({"prompt_chunks": 1})
    ast.parse(said)
