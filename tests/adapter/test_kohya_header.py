"""The header of a file in kohya's dialect: what modelspec asks for, and the digest of the tensors."""

import hashlib

import pytest
from safetensors.torch import load_file, save_file

from pipeline.adapter.files import kohya
from pipeline.geometry import Size

pytestmark = pytest.mark.reference


def test_the_header_says_what_modelspec_asks_for(file, tmp_path):
    header = kohya.modelspec(
        architecture="stable-diffusion-v1",
        title="Sticker",
        size=Size.square(512),
        rank=4,
        alpha=10.0,
        trigger="a sks sticker",
        licence="CC0-1.0",
        tensors_digest=kohya.digest(file),
    )
    assert header == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "Sticker",
        "modelspec.resolution": "512x512",
        "modelspec.trigger_phrase": "a sks sticker",
        "modelspec.license": "CC0-1.0",
        "modelspec.hash_sha256": kohya.digest(file),
        "ss_network_dim": "4",
        "ss_network_alpha": "10.0",
    }
    save_file(file, tmp_path / "x.safetensors", metadata=header)
    content = (tmp_path / "x.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert kohya.digest(file) == f"0x{hashlib.sha256(content[start:]).hexdigest()}"
    assert kohya.digest(load_file(tmp_path / "x.safetensors")) == kohya.digest(dict(reversed(file.items())))


def test_what_is_not_known_is_left_out_of_the_header():
    header = kohya.modelspec(architecture="flux-1-dev/lora", title="x", size=Size.square(1024), rank=1, alpha=1.0)
    assert header["modelspec.architecture"] == "flux-1-dev/lora"
    assert not {name.partition(".")[2] for name in header} & {"trigger_phrase", "license", "hash_sha256"}
