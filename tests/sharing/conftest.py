"""A Hub on the loopback, a client that does not wait for it, a folder with something to share, and a finished run."""

import getpass
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from PIL import Image
from safetensors.numpy import save_file

from tests.sharing.loopback import Hub


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Plain LFS, no token of this machine, no real waiting inside the client."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def server(quiet):
    with Hub() as running:
        yield running


@pytest.fixture
def out(quiet, tmp_path):
    """An output folder with what may be shared and what may not."""
    from tests.sharing.sending import ADAPTER, CARD  # not before the hook that checks shapes is in place

    folder = tmp_path / "out"
    for name in ("samples/step-000004", "comfyui", "checkpoint-4", "cache"):
        (folder / name).mkdir(parents=True)
    weights = {"unet.a.lora_B.weight": np.arange(2000, dtype=np.float32)}
    for name in (ADAPTER, "comfyui/paper.safetensors", f"checkpoint-4/{ADAPTER}", "checkpoint-4/optimizer.safetensors"):
        save_file(weights, folder / name, metadata={"t2i_lora": name})
    for name in ("samples/step-000004/0.png", "samples/step-000004/1.png", "cache/photo.png"):
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(folder / name)
    (folder / CARD).write_text(
        "---\ntags: [lora]\n---\n# Paper\n![dusk](samples/step-000004/0.png)\n", encoding="utf-8"
    )
    (folder / "run.toml").write_text('output_dir = "outputs/paper"\n', encoding="utf-8")
    (folder / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
    (folder / "status.json").write_text("{}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished(finished_run):
    """The output folder of a run called squares; its prompts are as odd as they get. Not to be changed."""
    from tests.sharing.carded import ODD, PRIVATE

    prompts = [word for prompt in ("a red square", ODD, PRIVATE) for word in ("--validation_prompt", prompt)]
    more = ["--validation_split", "0.5", "--trigger_word", "square"]
    return finished_run(*prompts, *more, name="squares")


@pytest.fixture
def squares(finished, tmp_path):
    """A copy of it to work on."""
    return Path(shutil.copytree(finished, tmp_path / "squares", ignore=shutil.ignore_patterns("checkpoint-*")))


@pytest.fixture
def jane(monkeypatch):
    """An account whose name, home, host and token are known."""
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("MY_TOKEN", "swordfish-1234")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    monkeypatch.setattr(socket, "gethostname", lambda: "workbench.lan")
