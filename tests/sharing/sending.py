"""Asking the loopback Hub for a repository and sending a folder to it: what is sent, and what is said if it is not."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.sharing import hub
from tests.sharing.loopback import TOKEN

REPO = "jane/paper-stickers"
ADAPTER, CARD = "pytorch_lora_weights.safetensors", "README.md"
SHARED = [
    CARD,
    "comfyui/paper.safetensors",
    ADAPTER,
    "run.toml",
    "samples/step-000004/0.png",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def access(server, repo=REPO, token=TOKEN):
    hub.require_access(repo, token, endpoint=server.endpoint)


def refusal(server, repo=REPO, token=TOKEN) -> str:
    with pytest.raises(ConfigError) as caught:
        access(server, repo, token)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def share(server, out, **given):
    access(server)
    waits: list[float] = []
    given = {"token": TOKEN, "endpoint": server.endpoint, "pause": waits.append, **given}
    assert hub.upload(out, REPO, message="Paper", **given) == f"{server.endpoint}/{REPO}"
    return waits


def failure(server, out, *, token=TOKEN) -> str:
    before = contents(out)
    with pytest.raises(hub.HubError) as caught:
        hub.upload(out, REPO, token, "Paper", endpoint=server.endpoint, pause=lambda seconds: None)
    assert contents(out) == before
    assert TOKEN not in str(caught.value)
    return str(caught.value)
