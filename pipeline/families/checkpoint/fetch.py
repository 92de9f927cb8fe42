"""From the options to a model on this machine; from the Hub come a whole model, its configuration, an autoencoder."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError, reason
from pipeline.families.checkpoint import single_file_keys
from pipeline.families.checkpoint.source import INDEX, ModelSource, read_json
from pipeline.families.options import ModelOptions
from pipeline.remembered import cache_folder, only_one

CONFIG_FILES = ["*.json", "*.txt", "*.model"]  # of models, schedulers and tokenizers
VAE_FILES = ["config.json", "diffusion_pytorch_model*.safetensors"]


def locate(options: ModelOptions, cache_dir: str | None, *, weights: bool = True) -> ModelSource:
    """Where the model lies: what is here as it is, a Hub id after its download; without `weights` its configuration.

    Of several processes one downloads while the others wait. Raises CheckpointError for what cannot be had,
    ConfigError for options that do not go with it.
    """
    folder, vae, cache = options.local_folder, options.local_vae, cache_folder(cache_dir)
    with contextlib.ExitStack() as alone:
        if (folder or options.file) is None or (vae is None and options.pretrained_vae_model_name_or_path is not None):
            alone.enter_context(only_one(cache / "download.lock", "Waiting for another process that downloads"))
        if folder is None and options.file is None:
            folder = model(options, cache_dir, weights=weights)
        if folder is None:
            folder = configuration(options, cache_dir)
        if vae is None and options.pretrained_vae_model_name_or_path is not None:
            files = VAE_FILES if weights else VAE_FILES[:1]
            vae = autoencoder(options.pretrained_vae_model_name_or_path, cache_dir, files)
    return ModelSource(folder, options.variant, options.file, vae, cache)


def model(options: ModelOptions, cache_dir: str | None, *, weights: bool) -> Path:
    """The folder of a model, whole or without its weights. Raises CheckpointError if it is not to be had."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download, snapshot_download

    name = str(options.pretrained_model_name_or_path)
    words: dict[str, Any] = {"revision": options.revision, "cache_dir": cache_dir}
    if weights:
        found, reason = _tried(lambda: DiffusionPipeline.download(name, variant=options.variant, **words))
    else:
        found, reason = _tried(lambda: snapshot_download(name, allow_patterns=CONFIG_FILES, **words))
    if found is None:
        raise CheckpointError(f"{name} is neither a folder here nor to be had from the Hub ({reason}).")
    _tried(lambda: hf_hub_download(name, "README.md", **words))  # its license
    return found


def configuration(options: ModelOptions, cache_dir: str | None) -> Path:
    """A model's configuration without its weights, from what was downloaded before or from the Hub.

    Raises CheckpointError if it is not to be had.
    """
    from huggingface_hub import snapshot_download

    assert options.file is not None
    wanted = options.single_file_config or single_file_keys.usual_config(options.file)
    reason = ""
    for is_offline in (True, False):
        words = {"allow_patterns": CONFIG_FILES, "cache_dir": cache_dir, "local_files_only": is_offline}
        found, reason = _tried(lambda words=words: snapshot_download(wanted, **words))  # type: ignore[misc]  # no type is found
        if found is not None and _is_whole(found):
            return found
    raise CheckpointError(
        f"{options.file} holds no configuration, and that of {wanted} is not to be had from the Hub "
        f"({reason or 'parts of it are missing'}). Give the folder of a diffusers model that fits with "
        "--single_file_config; its weights may be left out."
    )


def autoencoder(name: str, cache_dir: str | None, files: list[str]) -> Path:
    """The folder of an autoencoder with the files that match. Raises CheckpointError if it is not to be had."""
    from huggingface_hub import snapshot_download

    found, reason = _tried(lambda: snapshot_download(name, allow_patterns=files, cache_dir=cache_dir))
    if found is None or not (found / "config.json").is_file():
        raise CheckpointError(
            f"--pretrained_vae_model_name_or_path {name} is neither a folder here nor to be had from the Hub "
            f"({reason or 'it has no config.json'})."
        )
    return found


def _tried(download: Callable[[], str]) -> tuple[Path | None, str]:
    """Where it lies, or the reason why it could not be had."""
    try:
        return Path(download()), ""
    except Exception as error:  # the Hub client raises many kinds; each means that it is not to be had
        return None, reason(error)


def _is_whole(folder: Path) -> bool:
    """Whether every part of a downloaded model has its folder: others may have fetched a part only."""
    if not (folder / INDEX).is_file():
        return False
    index = read_json(folder / INDEX)
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    return all((folder / part).is_dir() for part in parts)
