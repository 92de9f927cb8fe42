"""Image-to-text models: what they say of pictures is held against prompts, or becomes the caption of a dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import CheckpointError, reason
from pipeline.evaluation.extractors.extractor import Extractor, version_of
from pipeline.hub_ids import may_be_hub_id

LETTER_KIND = "ocr"
MAX_TOKENS = 128  # of a caption
INSTRUCTION = "Describe this image in one sentence, for somebody who has to draw it."  # to a model that is talked to
LETTERS = "What is written in this image? Answer with these words alone."


@dataclass(frozen=True)
class Reader:
    """A model that says what it sees, always the same of the same picture."""

    describe: Callable[[Image.Image], str]
    name: str
    version: str  # a hash of its weights and of what it is told


def captioner(name: str) -> Extractor:
    """A model that describes pictures. Raises CheckpointError for what is none."""
    return _extractor("captioner", load(name, None, "--captioner"))


def letters(name: str) -> Extractor:
    """A model that reads what is written, TrOCR say. Raises CheckpointError for what is none."""
    return _extractor(LETTER_KIND, load(name, None, "--ocr_model", told=LETTERS))


def _extractor(kind: str, reader: Reader) -> Extractor:
    def read(images: list[Image.Image]) -> list[str]:
        return [" ".join(reader.describe(image.convert("RGB")).split()) for image in images]

    return Extractor(
        kind=kind,
        name=reader.name,
        version=reader.version,
        read=read,
        reads_letters=kind == LETTER_KIND,
        takes_distances=False,
    )


def load(name: str, instruction: str | None, flag: str, *, told: str = INSTRUCTION) -> Reader:
    """An image-to-text model of transformers, from a folder or the Hub.

    Models that follow instructions are told what to do: the instruction, or `told` where there is none. Raises
    CheckpointError for what is no such model.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    local = Path(name).is_dir()
    if not (local or may_be_hub_id(name)):
        raise CheckpointError(f"{flag} {name} is neither the folder of a model nor a Hub id.")
    try:
        processor: Any = AutoProcessor.from_pretrained(name, local_files_only=local)
        found: Any = AutoModelForImageTextToText.from_pretrained(
            name, dtype="auto", local_files_only=local, use_safetensors=True
        )
    except Exception as error:  # transformers and the Hub client raise many kinds; each means the same to the user
        raise CheckpointError(f"{flag} {name} cannot be loaded as an image-to-text model: {reason(error)}") from error
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    found.to(device).eval()
    said = instruction
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": instruction or told}]
        said = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    words = {} if said is None else {"text": [said]}

    @torch.no_grad()
    def describe(picture: Image.Image) -> str:
        inputs = processor(images=[picture], **words, return_tensors="pt").to(device, found.dtype)
        tokens = found.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0]
        asked = inputs["input_ids"][0] if "input_ids" in inputs else tokens[:0]
        if len(asked) <= len(tokens) and torch.equal(tokens[: len(asked)], asked):
            tokens = tokens[len(asked) :]  # a decoder repeats what it was told
        return str(processor.decode(tokens, skip_special_tokens=True))

    return Reader(describe, Path(name).resolve().name if local else name, version_of(found, said, MAX_TOKENS))
