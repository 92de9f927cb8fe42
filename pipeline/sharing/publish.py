"""Sharing the adapter of a finished run."""

import shlex
from pathlib import Path

from safetensors.torch import load_file

import pipeline
from pipeline.adapter.files import reader
from pipeline.adapter.files.checks import tensor_problems
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.evaluation import memorisation
from pipeline.sharing import documents, hub


def publish(folder: Path, repo: str | None, token: str | None, reason: str | None) -> list[str]:
    """Share what an output folder holds in one commit, and say what was done; a card changed by hand stays.

    `reason` says why data without a card may be shared. Raises ConfigError, CheckpointError or HubError; the last
    with the command to try again.
    """
    if reason is not None and not reason.strip():
        raise ConfigError("--allow_undocumented_data is empty; say why, for everybody to read.")
    documents.require_documented(folder, reason)
    require_fit(folder)
    name = hub.full_name(repo, folder, token)
    hub.require_access(name, token)
    found = memorisation.of_adapter(folder)
    lines = [f"Warning: {found.words()}"] if found is not None and found.alarms else []
    if memorisation.is_of_another(folder):
        look = shlex.join(["python", "-m", "pipeline", "memorisation", str(folder)])
        lines.append(f"Note: what memorisation found there belongs to another adapter; look again with: {look}")
    if documents.is_edited(folder):
        lines.append(f"{folder / hub.CARD} was changed by hand and is shared as it is")
        if reason is not None and not _says(folder / hub.CARD, reason):
            lines.append("Note: so the reason of --allow_undocumented_data is not on it; write it there yourself")
    else:
        documents.write_card(folder, name, reason)
    try:
        url = hub.upload(folder, name, token, f"LoRA trained with t2i-lora {pipeline.__version__}")
    except hub.UploadFailed as error:
        raise hub.HubError(f"{error} Try again with: {command(folder, name, reason)}") from error
    return [*lines, f"Shared  {url}"]


def _says(path: Path, reason: str) -> bool:
    """Whether a reason stands in a text, perhaps with backslashes, as in a card of ours."""
    return reason.replace("\\", "") in path.read_text(encoding="utf-8").replace("\\", "")


def require_fit(folder: Path) -> None:
    """Raise CheckpointError for files that were changed since they were proven, and are not fit for use."""
    reader.read(folder / hub.ADAPTER, None)
    for name in hub.chosen(folder):
        if name.endswith(".safetensors") and (problems := tensor_problems(load_file(folder / name))):
            raise CheckpointError(f"{folder / name} is not fit for use:\n{listed(problems)}")


def command(folder: Path, repo: str, reason: str | None = None) -> str:
    """The command line that shares a finished run."""
    words = ["python", "-m", "pipeline", "publish", str(folder), "--repo", repo]
    return shlex.join([*words, *(["--allow_undocumented_data", reason] if reason else [])])
