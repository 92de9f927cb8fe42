"""What of an output folder is in a commit: only what may be shared, and only what changed."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from pipeline.sharing import hub
from tests.sharing.sending import ADAPTER, CARD, REPO, SHARED, access, contents, failure, share

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # how huggingface_hub calls its client
]


def test_the_commit_holds_what_may_be_shared_and_comes_back_byte_for_byte(server, out, tmp_path):
    assert hub.chosen(out) == sorted(SHARED)
    assert share(server, out) == []
    (commit,) = server.own_commits(REPO)
    assert (commit.message, sorted(commit.changed)) == ("Paper", sorted(SHARED))
    where = {"endpoint": server.endpoint, "cache_dir": tmp_path / "downloads", "token": False}
    back = contents(Path(huggingface_hub.snapshot_download(REPO, **where)))
    assert back.pop(".gitattributes")
    assert back == {name: (out / name).read_bytes() for name in SHARED}
    one = huggingface_hub.hf_hub_download(REPO, ADAPTER, **{**where, "cache_dir": tmp_path / "one"})
    assert Path(one).read_bytes() == (out / ADAPTER).read_bytes()


def test_sharing_again_makes_no_commit_and_moves_nothing(server, out):
    share(server, out)
    server.requests.clear()
    share(server, out)
    assert len(server.own_commits(REPO)) == 1
    assert not [line for line in server.requests if line.startswith("PUT") or "/commit/" in line]


def test_only_what_changed_is_in_the_next_commit(server, out):
    share(server, out)
    (out / "run.toml").write_text("rank = 8\n", encoding="utf-8")
    share(server, out)
    assert [commit.changed for commit in server.own_commits(REPO)][1:] == [("run.toml",)]


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ({"comfyui": "comfyui/paper.safetensors"}, ["comfyui/paper.safetensors"]),
        ({"comfyui": None}, []),
        ({"comfyui": "/etc/hostname"}, []),
        ({"comfyui": "../secret"}, []),
        ({"comfyui": "checkpoint-4/optimizer.safetensors"}, []),
        ({"comfyui": ["comfyui/paper.safetensors"]}, []),
        ({}, ["comfyui/older.safetensors", "comfyui/paper.safetensors"]),
        ("null", ["comfyui/older.safetensors", "comfyui/paper.safetensors"]),
        ("no JSON", ["comfyui/older.safetensors", "comfyui/paper.safetensors"]),
    ],
)
def test_of_the_files_for_comfyui_the_runs_own_is_chosen_and_nothing_else(out, said, chosen):
    shutil.copy(out / "comfyui" / "paper.safetensors", out / "comfyui" / "older.safetensors")
    text = said if isinstance(said, str) else json.dumps(said)
    (out / "result.json").write_text(text, encoding="utf-8")
    found = hub.chosen(out)
    assert [name for name in found if name.startswith("comfyui/")] == chosen
    assert {ADAPTER, CARD, "run.toml"} <= set(found)
    assert len(set(found)) == len(found) == 4 + len(chosen)


def test_links_are_not_followed_out_of_the_folder(out, tmp_path):
    (out / "comfyui" / "linked.safetensors").symlink_to(out / "checkpoint-4" / "optimizer.safetensors")
    (out / "run.toml").unlink()
    (out / "run.toml").symlink_to(tmp_path / "elsewhere.toml")
    (tmp_path / "elsewhere.toml").write_text("x = 1\n", encoding="utf-8")
    assert hub.chosen(out) == sorted(set(SHARED) - {"run.toml"})


def test_a_folder_reached_through_a_link_is_shared(out, tmp_path):
    (tmp_path / "link").symlink_to(out)
    assert hub.chosen(tmp_path / "link") == sorted(SHARED)


def test_with_xet_installed_files_that_are_not_large_go_the_same_way(server, out, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    server.lfs_suffixes = ()
    share(server, out)
    assert [sorted(commit.changed) for commit in server.own_commits(REPO)] == [sorted(SHARED)]


def test_a_folder_without_an_adapter_is_not_shared(server, out):
    (out / ADAPTER).unlink()
    access(server)
    assert "holds no pytorch_lora_weights.safetensors" in failure(server, out)
    assert server.own_commits(REPO) == []
