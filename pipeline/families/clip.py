"""CLIP's text encoders read otherwise than a pipeline does by itself: in chunks, and before their last layers.

A chunk has 75 tokens between a beginning and an end of its own, and is encoded alone. The states of all chunks are
joined along the tokens; those that a prompt does not reach are of the empty prompt. compel joins them so, and ComfyUI
too, but it moves a word on that would lie in two chunks.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.families.targets import CLIP_TEXT, TargetModules


def tokens_of(tokenizer: Any, captions: list[str], num_chunks: int) -> Int[Tensor, "n b l"]:
    """The tokens of each chunk of each caption, filled up as the tokenizer does for a short one; the rest is cut."""
    length: int = tokenizer.model_max_length
    inner = length - tokenizer.num_special_tokens_to_add()
    found = torch.full((num_chunks, len(captions), length), tokenizer.pad_token_id)
    for row, tokens in enumerate(tokenizer(captions, add_special_tokens=False).input_ids):
        for chunk in range(num_chunks):
            own = tokens[chunk * inner : (chunk + 1) * inner]
            whole = [tokenizer.bos_token_id, *own, tokenizer.eos_token_id]
            found[chunk, row, : len(whole)] = torch.tensor(whole)
    return found


def outputs_of(encoder: Any, tokens: Int[Tensor, "n b l"]) -> list[Any]:
    """What an encoder makes of each chunk, with the states after each layer: each in a call of its own.

    Then a batch has a row for each caption however many chunks there are, which is what dropout counts on.
    """
    return [encoder(chunk.to(encoder.device), output_hidden_states=True) for chunk in tokens]


def joined(outputs: list[Any], left_out: int, norm: torch.nn.Module | None = None) -> Float[Tensor, "b tokens d"]:
    """The states of all chunks before the last `left_out` layers, through the encoder's last norm if it is given."""
    states = [output.hidden_states[-(left_out + 1)] for output in outputs]
    return torch.cat([state if norm is None else norm(state) for state in states], dim=1)


def last_norm(encoder: Any) -> Any:
    """The norm after the last layer; transformers 5 has no text_model around it."""
    return getattr(encoder, "text_model", encoder).final_layer_norm


def targets_before(num_layers: int, left_out: int) -> TargetModules:
    """The layers that can be adapted where the last are not read: those learn nothing."""
    unread = range(num_layers - left_out, num_layers)
    return TargetModules(CLIP_TEXT.named, tuple(f"encoder.layers.{number}.*" for number in unread))
