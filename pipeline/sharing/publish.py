"""Sharing the adapter of a finished run."""

from pathlib import Path

import pipeline
from pipeline.errors import ConfigError
from pipeline.sharing import documents, hub


def publish(folder: Path, repo: str | None, token: str | None, reason: str | None) -> list[str]:
    """Share what an output folder holds in one commit, and say what was done; a card changed by hand stays.

    `reason` says why data without a card may be shared. Raises ConfigError, CheckpointError or HubError.
    """
    if reason is not None and not reason.strip():
        raise ConfigError("--allow_undocumented_data is empty; say why, for everybody to read.")
    documents.require_documented(folder, reason)
    name = hub.full_name(repo, folder, token)
    hub.require_access(name, token)
    said = []
    if documents.is_edited(folder):
        said.append(f"{folder / hub.CARD} was changed by hand and is shared as it is")
    else:
        documents.write_card(folder, name, reason)
    url = hub.upload(folder, name, token, f"LoRA trained with t2i-lora {pipeline.__version__}")
    return [*said, f"Shared  {url}"]
