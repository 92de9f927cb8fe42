"""Nothing private leaves with a shared folder: tokens, private paths and mail addresses are found in every file."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from tests.sharing.loopback import TOKEN
from tests.sharing.sending import ADAPTER, CARD, REPO, SHARED, failure, share

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # how huggingface_hub calls its client
]


def notes(folder: Path, name: str, text: str) -> None:
    """Put a text into a file, where its kind keeps texts."""
    if name.endswith(".safetensors"):
        save_file({"unet.a": np.zeros(2, dtype=np.float32)}, folder / name, metadata={"note": text})
    elif name.endswith(".png"):
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", text)
        Image.new("RGB", (8, 8)).save(folder / name, pnginfo=info)
    else:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


@pytest.mark.parametrize("name", sorted(set(SHARED) - {"run.toml"}))
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("a Hub token", "hf_" + "Ab3" * 8),
        ("a Hub token", "x" + TOKEN),
        ("the path of your home folder", '"HOME/pictures"'),
        ("the path of your home folder", "file://HOME"),
        ("the path of your home folder", json.dumps({"a": "b\nHOME"})),
        ("the path of this folder", "see OUT/cache"),
    ],
)
def test_secrets_and_private_paths_are_found_in_every_file(server, out, name, kind, text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    text = text.replace("HOME", "/home/jane").replace("OUT", str(out))
    notes(out, name, text)
    sentence = failure(server, out)
    assert re.search(rf"  - {re.escape(name)}(, line \d+)?: {kind}$", sentence, re.MULTILINE)
    assert text not in sentence
    assert server.requests == []


def test_of_the_settings_only_what_is_not_private_leaves(server, out, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    given = {"hub_token": TOKEN, "train_data_dir": "/home/jane/pictures", "output_dir": str(out), "trigger_word": "tok"}
    (out / "run.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items()))
    before = (out / "run.toml").read_bytes()
    share(server, out)
    (commit,) = server.own_commits(REPO)
    shared = tomllib.loads(commit.files["run.toml"].decode())
    assert shared == {"train_data_dir": "pictures", "output_dir": out.name, "trigger_word": "tok"}
    assert (out / "run.toml").read_bytes() == before


@pytest.mark.parametrize("name", sorted(set(SHARED) - {"run.toml"}))
def test_mail_addresses_are_found(server, out, name):
    notes(out, name, "by jane.doe@mail.example.org")
    assert re.search(rf"  - {re.escape(name)}(, line 6)?: an e-mail address$", failure(server, out))


def test_a_mail_address_in_the_settings_is_the_prompt_of_somebody(server, out):
    notes(out, "run.toml", 'validation_prompt = "a sign that says me@home.org"')
    share(server, out)


def test_every_leak_is_named_at_once_with_its_line(server, out):
    notes(out, CARD, f"{TOKEN}\njane@example.org")
    notes(out, "run.toml", f"hub_token = '{TOKEN}'")  # which does not leave
    assert failure(server, out).splitlines()[1:] == [
        "  - README.md, line 6: a Hub token",
        "  - README.md, line 7: an e-mail address",
    ]


def test_the_token_in_use_is_found_whatever_it_looks_like(server, out):
    notes(out, CARD, "password: swordfish-9")
    assert "README.md, line 6: a Hub token" in failure(server, out, token="swordfish-9")


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download(repo)",
        "/home/janet/x",
        "s3://bucket/home/jane",
        "git@github.com:jane/x.git",
        "diffusers@v0.42.1",
    ],
)
def test_what_only_looks_private_is_shared(server, out, text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    notes(out, CARD, text)
    share(server, out)
    assert len(server.own_commits(REPO)) == 1


@pytest.mark.parametrize("kept", [slice(40), slice(8, None)])
@pytest.mark.parametrize("name", [ADAPTER, "samples/step-000004/0.png"])
def test_a_damaged_file_is_not_shared(server, out, name, kept):
    (out / name).write_bytes((out / name).read_bytes()[kept])
    assert f"{name} cannot be read" in failure(server, out)
    assert server.requests == []
