"""Opening a file of tensors: safetensors alone, no pickle, and what is no such file is called what it is."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.adapter.names import ALPHA
from pipeline.errors import CheckpointError, listed

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")


def opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file. Raises CheckpointError for anything else."""
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}; give the .safetensors file of an adapter, or its folder.")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is no .safetensors file; .bin, .pt, .ckpt are pickles, which can run programs.")
    try:
        _refuse_text(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()  # an open file cannot be iterated over itself
            header, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    odd = [name for name, v in tensors.items() if v.element_size() == 1 or not (v.is_floating_point() or ALPHA in name)]
    if odd:
        raise CheckpointError(f"{path} has other numbers than floating-point ones of 16 bits or more:\n{listed(odd)}")
    return tensors, header


def _refuse_text(path: Path) -> None:
    """Raise CheckpointError for what a failed download leaves behind."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_POINTER):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, a few lines in place of the file; run 'git lfs pull', or download the file."
        )
    if start.startswith(_PAGE):
        raise CheckpointError(
            f"{path} is a web page (HTML), not an adapter; download the file itself. On the Hub its address has "
            "/resolve/ where the page's has /blob/, and a gated one needs you to be logged in."
        )
