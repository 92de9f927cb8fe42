"""Sharing the adapter of a finished run."""

import shlex
from pathlib import Path

import pipeline
from pipeline.adapter import files
from pipeline.errors import ConfigError
from pipeline.sharing import documents, hub


def publish(folder: Path, repo: str | None, token: str | None, reason: str | None) -> list[str]:
    """Share what an output folder holds in one commit, and say what was done; a card changed by hand stays.

    `reason` says why data without a card may be shared. Raises ConfigError, CheckpointError or HubError; the last
    with the command to try again.
    """
    if reason is not None and not reason.strip():
        raise ConfigError("--allow_undocumented_data is empty; say why, for everybody to read.")
    documents.require_documented(folder, reason)
    files.read(folder / hub.ADAPTER, None)  # it may have been changed since it was proven
    name = hub.full_name(repo, folder, token)
    hub.require_access(name, token)
    said = []
    if documents.is_edited(folder):
        said.append(f"{folder / hub.CARD} was changed by hand and is shared as it is")
    else:
        documents.write_card(folder, name, reason)
    try:
        url = hub.upload(folder, name, token, f"LoRA trained with t2i-lora {pipeline.__version__}")
    except hub.HubError as error:
        raise hub.HubError(f"{error} Try again with: {command(folder, name)}") from error
    return [*said, f"Shared  {url}"]


def command(folder: Path, repo: str) -> str:
    """The command line that shares a finished run."""
    return shlex.join(["python", "-m", "pipeline", "publish", str(folder), "--repo", repo])
