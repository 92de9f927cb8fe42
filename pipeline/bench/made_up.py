"""A run of train_lora.py whose weights are made up on the device and whose cache is made up too: real sizes, no files.

Everything from the options to the step is the product's own; only what would be read or encoded is drawn at random.
"""

import contextlib
import copy
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline import config
from pipeline.bench.published import Published
from pipeline.bench.shapes import write_pictures
from pipeline.conditioning import Embeddings
from pipeline.data import cache as caches
from pipeline.engine import Engine
from pipeline.families import miniature, registry
from pipeline.families.base import Family
from pipeline.families.options import ModelOptions
from pipeline.run import context as contexts
from pipeline.run.context import RunContext
from pipeline.run.encode import captions_to_encode, views_to_encode
from pipeline.run.preflight import preflight

NUM_PICTURES = 4
TOY_SIZE = 64  # pixels
Shapes = Mapping[str, tuple[int, ...]]  # of the embeddings of a caption


def write_model(model: Published, folder: Path, num_blocks: int | None, *, toy: bool) -> None:
    """A model folder with the configurations of a published model, and none of its weights; a toy is a miniature."""
    miniature.write(model.family, folder)
    if toy:
        return
    denoiser = registry.detect(folder).denoiser
    (folder / denoiser / "config.json").write_text(json.dumps(model.config(num_blocks)), encoding="utf-8")
    for path in (folder / denoiser).glob("*.safetensors"):
        path.unlink()
    for part, values in {**model.encoders, "vae": _vae(folder, model.factor)}.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | dict(values)), encoding="utf-8")


def _vae(folder: Path, factor: int) -> dict[str, Any]:
    """The configuration of an autoencoder that makes one latent of so many pixels; its own weights are never read."""
    known = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    name = "block_out_channels" if "block_out_channels" in known else "encoder_block_out_channels"
    return {name: [128] * factor.bit_length()}


def denoiser(configuration: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A denoiser of random weights, none of them zero: products of zeros draw less power, so the clock is higher."""
    import diffusers

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = getattr(diffusers, configuration["_class_name"]).from_config(dict(configuration))
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            elif name.endswith("bias"):
                value.normal_(std=0.02)
    return model


def family_of(folder: Path, *, made: bool, on_host: bool = False) -> Family:
    """The family of a model folder; if `made`, its denoiser is made up whenever it is loaded, and moved to the host."""
    family = registry.find(ModelOptions(pretrained_model_name_or_path=str(folder)), None)
    if not made:
        return family
    other = copy.copy(family)
    vars(other)["load"] = functools.partial(_loaded, family, on_host)
    return other


def _loaded(family: Family, on_host: bool, *parts: str, dtype: torch.dtype = torch.float32) -> Any:
    """What a family loads: the denoiser made up on the device, everything else from its files."""
    if family.denoiser not in parts:
        return family.load(*parts, dtype=dtype)
    assert parts == (family.denoiser,), "no text encoder learns here"
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    made = denoiser(family.part_config(family.denoiser), device, dtype)
    if on_host:
        made.to("cpu")
    parts_made = {family.denoiser: made}
    return SimpleNamespace(components=parts_made, **parts_made)


@contextlib.contextmanager
def prepared(folder: Path, size: int, text: Shapes | None, flags: list[str], *, made: bool) -> Iterator[RunContext]:
    """A planned run on the model in FOLDER/model with a cache that holds all it asks for; `text` None: as encoded."""
    if not (folder / "pictures").exists():
        write_pictures(folder / "pictures", NUM_PICTURES, size)
    on_gpu = torch.cuda.is_available()
    given = {
        "pretrained_model_name_or_path": folder / "model", "train_data_dir": folder / "pictures",
        "output_dir": folder / "out", "cache_dir": folder / "cache", "resolution": size, "validation_split": 0,
        "num_validation_images": 0, "lora_layers": "attention", "lr_scheduler": "constant",
        "mixed_precision": "bf16" if on_gpu else "no", "checkpointing_steps": 10**9,
    }  # fmt: skip
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    command = config.parse([*words, "--center_crop", "--overwrite_output_dir", *flags])
    assert command is not None, "it asks for no help"
    run = command.run
    data = preflight(run, folder / "out")
    train = run.train
    engine = Engine(train.mixed_precision, allow_tf32=train.allow_tf32, deterministic=train.deterministic)
    try:
        family = family_of(folder / "model", made=made, on_host=run.train.offload_base)
        run = contexts.resolved(run, family, engine, folder / "out")
        path = family.path(run.objective)
        context = contexts.planned(run, engine, family, path, data=data, folder=folder / "out")
        fill(context, text)
        yield context
    finally:
        engine.release()


def fill(context: RunContext, text: Shapes | None) -> None:
    """Keep made-up latents and embeddings for everything that the run would encode."""
    generator = torch.Generator().manual_seed(0)
    shapes = text or shapes_of(context.family)
    shape = context.family.latent_shape(context.plan.size)
    for example, view in views_to_encode(context):
        mean = torch.randn(shape, generator=generator)
        context.cache.latents.put(caches.latent_key(example, view), {"mean": mean, "std": torch.full(shape, 0.1)})
    for caption in dict.fromkeys(captions_to_encode(context)):
        context.cache.texts.put(caches.text_key(caption), embeddings(shapes, generator))
    context.cache.flush()


def embeddings(shapes: Shapes, generator: torch.Generator) -> Embeddings:
    """Random embeddings of one caption, and masks that leave nothing out."""
    return {
        name: torch.ones(shape, dtype=torch.long) if "mask" in name else torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def shapes_of(family: Family) -> Shapes:
    """The shapes that the encoders of a small model make."""
    with torch.no_grad():
        found = family.embed(family.load_encoders(), "a red boat")
    return {name: tuple(value.shape) for name, value in found.items()}
