"""Text-to-image LoRA fine-tuning that verifies every adapter it exports.

From Python: `pipeline.train(pipeline.Run().replaced(train_data_dir="photos"))`. From a terminal: train_lora.py, and
`python -m pipeline VERB` for everything else.

How an example flows, and where each step is:

    folder | hub | parquet -> Manifest of Examples     data/            id = hash of the content
    Example -> latent mean + std, prompt embeddings    run/encode.py    encoded once, kept by data/cache.py
    position -> noise, u, crop, caption or none        data/loader.py   by rng.py: (seed, epoch, id, purpose)
    caption or none -> Conditioning                    conditioning.py  none: the unconditional embedding
    latents, noise, t -> x_t, target, log_snr          objective/       t in [0, 1], 0 = data; u becomes t
    x_t, t, Conditioning -> prediction                 families/        frozen denoiser + LoRA (adapter/)
    prediction, target -> loss per example             objective/       squared error, weighted by log_snr
    losses -> gradients -> optimizer step              training/        one step, one loop, every family
    adapter -> verified file                           run/export.py    then evaluation/, report/, sharing/

Symbols, the same everywhere:

    x_0       clean latents            [b c h w]
    noise     standard normal          [b c h w]
    x_t       alpha_t x_0 + sigma_t noise
    t         time in [0, 1]: 0 = data, 1 = noise
    u         uniform in [0, 1): the path turns it into t
    log_snr   ln(alpha_t^2 / sigma_t^2)
    b c h w   batch, channels, height, width;  l d = tokens, width of the prompt embeddings
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Run as Run
    from pipeline.run.main import train as train

__all__ = ["Run", "__version__", "train"]
__version__ = "0.1.0"

_LAZY = {"Run": "pipeline.config", "train": "pipeline.run.main"}  # imported when first asked for


def __getattr__(name: str) -> Any:
    """`Run` and `train`, without which `import pipeline` costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
