"""Adapters that are no plain LoRA, called by their kind, and what files carry beside an adapter.

A Tucker decomposition is a LoRA whose A is written as two tensors, so it is read. The others are sums of other
products than B A, or need the base weight to be understood, and are refused in one sentence.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.adapter.files import lycoris
from pipeline.errors import CheckpointError

DOWN, MID = ".lora_down.weight", ".lora_mid.weight"
_NEEDS_BASE = "what it adds depends on the base weight, and programs compute it differently"
_OTHER_PRODUCT = "it is no product of two matrices; export --rank makes one of it and says what is lost"
_KINDS = (  # how names end, the kind, and why it is not read
    (r"\.lokr_\w+(?:\.weight)?", "a LoKr (Kronecker products)", _OTHER_PRODUCT),
    (r"\.hada_\w+(?:\.weight)?", "a LoHa (Hadamard products)", _OTHER_PRODUCT),
    (r"\.b?oft_\w+(?:\.weight)?", "an OFT (rotations of the base weight)", _NEEDS_BASE),
    (r"\.dora_scale", "a DoRA as kohya's scripts and LyCORIS write it", _NEEDS_BASE),
    (r"\.(?:a1|a2|b1|b2|bm1|bm2)\.weight", "a GLoRA", _NEEDS_BASE),
    (r"\.on_input|.*\.ia3_l(?:\.weight)?", "an IA3", _NEEDS_BASE),
    (r"lora_controlnet|.*\.norm\.(?:query|key)_norm\.scale", "a control LoRA", "its model takes a picture as input"),
    (r"ip_adapter.*", "an IP-Adapter", "its model takes a picture as input"),
)
_DIFFERENCE = re.compile(r".+\.(?:diff|diff_b|set_weight)")
_EMBEDDING = re.compile(r"bundle_emb\.([^.]+)\..+")
_T5 = re.compile(r"(?:text_encoders\.t5\w*\.|lora_te\d?_encoder_block_|text_encoder_\d\.encoder\.block\.).+")


def plain(path: Path, tensors: dict[str, Tensor], rank: int | None = None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a LoRA alone, and notes of what else the file carries.

    LoHa and LoKr become a LoRA where its `rank` is given. Embeddings and layers of T5 are left out: diffusers loads
    neither with an adapter. Raises CheckpointError that names the kind of an adapter that is no LoRA.
    """
    tensors, lost = (tensors, list[str]()) if rank is None else lycoris.as_lora(path, tensors, rank)
    refuse_other_kinds(path, tensors)
    embeddings = sorted({match[1] for name in tensors if (match := _EMBEDDING.fullmatch(name))})
    notes = lost + [f"the embedding {name!r}, which the file carries too, is left out" for name in embeddings]
    of_t5 = {name: value for name, value in tensors.items() if _T5.fullmatch(name)}
    if layers := {re.split(r"\.(?:lora|alpha|dora|diff)", name)[0] for name in of_t5}:
        learnt = any(value.any() for name, value in of_t5.items() if re.search(r"lora_(?:up|B)\b|\.diff\b", name))
        what = "diffusers loads none for it" if learnt else "all of them zero"
        number = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
        notes.append(f"{number} of T5, such as {min(layers)}, left out: {what}")
    kept = {name: v for name, v in tensors.items() if name not in of_t5 and not _EMBEDDING.fullmatch(name)}
    if not kept and notes:
        raise CheckpointError(f"{path} holds nothing that can be read as an adapter: {'; '.join(notes)}.")
    return with_whole_a(kept), tuple(notes)


def refuse_other_kinds(path: Path, names: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError that names the kind of an adapter which is no LoRA."""
    for pattern, kind, reason in _KINDS:
        found = [name for name in names if re.fullmatch(rf"(?:.*)(?:{pattern})", name)]
        if found:
            raise CheckpointError(
                f"{path} is {kind}, which is not read: {reason}. {len(found)} of its tensors are such, as {min(found)}."
            )
    differences = [name for name in names if _DIFFERENCE.fullmatch(name)]
    if differences and not any("lora" in name.rpartition(".")[0].partition(".")[2] for name in names):
        raise CheckpointError(
            f"{path} holds whole differences of weights, as {min(differences)}, and no LoRA; they are not read."
        )


def with_whole_a(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tucker's tensors as a LoRA's: A [rank inputs height width] is lora_mid times lora_down."""
    result = {name: value for name, value in tensors.items() if not name.endswith(MID)}
    for name, mid in tensors.items():
        down = f"{name.removesuffix(MID)}{DOWN}"
        if name.endswith(MID) and down in tensors:
            narrow = tensors[down].flatten(1)  # [rank inputs], its kernel is 1 x 1
            result[down] = torch.einsum("abhw,bi->aihw", mid, narrow.to(mid.dtype)).contiguous()
    return result
