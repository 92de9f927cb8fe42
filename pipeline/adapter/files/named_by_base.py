"""Names that only a base model makes clear: kohya's, whose underscores may be dots, and those diffusers once had."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from pipeline.adapter.files import kohya
from pipeline.adapter.files.checks import require_same_model
from pipeline.adapter.files.ldm_names import ldm_names
from pipeline.adapter.names import COMPONENTS
from pipeline.errors import CheckpointError
from pipeline.families.meta import Layers, Shapes

_HALF = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](down|up|A|B)\.weight")


def named_by_base(
    path: Path, tensors: dict[str, Tensor], format_: str, layers: Layers
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors under names that the base makes clear, in diffusers' format, and the alphas if the file says them.

    Raises CheckpointError for a file of another model and for names that the base has not.
    """
    if format_ == "old diffusers":
        tensors = _with_component(tensors, layers)
    spelled = _spelled(tensors, layers)
    tensors = with_kernels_of(tensors, spelled)
    require_same_model(path, _halves(tensors), spelled)
    names = {component: list(shapes) for component, shapes in layers.items()}
    try:
        if format_ == "kohya":
            return kohya.from_kohya(tensors, _prefixes(tensors, layers), names)
        return kohya.from_old_diffusers(tensors, names), {}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _with_component(tensors: dict[str, Tensor], layers: Layers) -> dict[str, Tensor]:
    """Names as `save_attn_procs` wrote them, of the denoiser alone and without its name before them, with it."""
    denoiser = next(iter(layers))
    return {
        name if name.partition(".")[0] in COMPONENTS else f"{denoiser}.{name}": value for name, value in tensors.items()
    }


def with_kernels_of(tensors: dict[str, Tensor], base: Shapes) -> dict[str, Tensor]:
    """A and B with a kernel where the base's layer has one, and without where it has none, if that is the same."""
    result = dict(tensors)
    for name, value in tensors.items():
        match = _HALF.fullmatch(name)
        shape = base.get(match[1]) if match else None
        if match is not None and shape is not None and (value.ndim, len(shape)) in ((2, 4), (4, 2)):
            result[name] = _with_kernel(value, shape, is_b=match[2] in ("up", "B"))
    return result


def _with_kernel(value: Tensor, shape: tuple[int, ...], *, is_b: bool) -> Tensor:
    """One of A and B for a base weight of `shape`; as it is where it does not fit."""
    if value.ndim == 4:
        return value.flatten(1) if value.shape[2:].numel() == 1 else value
    if is_b:
        return value[:, :, None, None]
    fits = value.shape[1] == math.prod(shape[1:])  # the kernel's sides are among the inputs
    return value.reshape(len(value), *shape[1:]) if fits else value


def _prefixes(names: Iterable[str], layers: Layers) -> dict[str, str]:
    """kohya's prefixes; the first text encoder's has a number where there are two, and elsewhere sometimes."""
    first = "lora_te1" if any(name.startswith("lora_te1_") for name in names) else "lora_te"
    of_text = {"text_encoder": first, "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3"}
    return {component: of_text.get(component, f"lora_{component}") for component in layers}


def _spelled(keys: Iterable[str], layers: Layers) -> Shapes:
    """The shapes of the base's weights under every name that kohya and old diffusers give them."""
    prefixes, found = _prefixes(keys, layers), dict[str, tuple[int, ...]]()
    for component, shapes in layers.items():
        ldm, own = ldm_names(shapes), prefixes[component]
        for name, shape in shapes.items():
            stems = kohya.kohya_stems(name, own) | kohya.kohya_stems(ldm.get(name, name), own)
            found |= dict.fromkeys(stems | {f"{component}.{old}" for old in kohya.old_names(name)}, shape)
    return found


def _halves(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up by layer, in the formats that call them so."""
    found = [(match[1], match[2], v) for key, v in tensors.items() if (match := _HALF.fullmatch(key))]
    down, up = ({name: value for name, half, value in found if half == which} for which in ("down", "up"))
    return {name: (value, up[name]) for name, value in down.items() if name in up}
