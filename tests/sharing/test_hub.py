import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http, validate_repo_id
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from pipeline.errors import ConfigError
from pipeline.sharing import hub
from tests.sharing.loopback import TOKEN, Hub

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # how huggingface_hub calls its client
]

REPO = "jane/paper-stickers"
ADAPTER, CARD = "pytorch_lora_weights.safetensors", "README.md"
SHARED = [
    CARD,
    "comfyui/paper.safetensors",
    ADAPTER,
    "run.toml",
    "samples/step-000004/0.png",
]
COMMIT, PUT, PREUPLOAD = r"POST .*/commit/", r"PUT /lfs/", r"POST .*/preupload/"


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Plain LFS, no token of this machine, no real waiting inside the client."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def server():
    with Hub() as running:
        yield running


@pytest.fixture
def out(tmp_path):
    """An output folder with what may be shared and what may not."""
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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def access(server, repo=REPO, token=TOKEN):
    hub.require_access(repo, token, server.endpoint)


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
        hub.upload(out, REPO, token, "Paper", server.endpoint, pause=lambda seconds: None)
    assert contents(out) == before
    assert TOKEN not in str(caught.value)
    return str(caught.value)


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


@pytest.mark.parametrize("path", [COMMIT, r"GET /api/models/[^/]+/[^/]+$", "POST /api/validate-yaml"])
@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_out_of_order_is_asked_again(server, out, path, status):
    access(server)
    server.fail_next(path, status, times=3)
    assert share(server, out) == [2, 4, 8]
    assert len(server.own_commits(REPO)) == 1


def test_the_page_of_a_proxy_is_no_answer(server, out):
    access(server)
    server.fail_next("POST /api/validate-yaml", 502, body=b"<html>Bad gateway</html>")
    assert share(server, out) == [2]


def test_a_hub_out_of_order_for_ever_is_given_up(server, out):
    access(server)
    server.fail_next(COMMIT, 503, times=10**6)
    sentence = failure(server, out)
    assert "failed at attempt 5: the Hub is out of order (503)" in sentence
    assert sum("/commit/" in line for line in server.requests) == 5
    assert server.own_commits(REPO) == []


@pytest.mark.parametrize("path", [COMMIT, PUT, PREUPLOAD])
@pytest.mark.parametrize("done_first", [False, True])
def test_a_cut_connection_ends_in_one_whole_commit(server, out, path, done_first):
    access(server)
    server.cut_next(path, done_first=done_first)
    share(server, out)
    assert [sorted(commit.changed) for commit in server.own_commits(REPO)] == [sorted(SHARED)]
    assert server.repositories[REPO][-1].files[ADAPTER] == (out / ADAPTER).read_bytes()


def test_a_connection_that_stays_cut_is_given_up(server, out):
    access(server)
    server.cut_next(PUT, times=10**6)
    assert "failed at attempt 5" in failure(server, out)


def test_a_silent_connection_is_not_waited_for_for_ever(server, out, monkeypatch):
    monkeypatch.setattr(hub, "SILENCE_SECONDS", 0.1)
    access(server)
    huggingface_hub.get_session().timeout = None  # as in a process that uploads a finished run
    server.cut_next(COMMIT, silent_seconds=5.0)
    began, waits = time.monotonic(), []
    hub.upload(out, REPO, TOKEN, "Paper", server.endpoint, pause=waits.append)
    assert waits == [2]
    assert time.monotonic() - began < 2


def test_a_commit_of_somebody_else_is_built_upon(server, out):
    access(server)
    server.rivals = 1
    assert share(server, out) == [2]
    assert [commit.message for commit in server.repositories[REPO]] == ["initial commit", "rival", "Paper"]
    assert {"NOTES.md", *SHARED} <= set(server.repositories[REPO][-1].files)


def test_a_commit_of_somebody_else_each_time_is_given_up(server, out):
    access(server)
    server.rivals = 10**6
    assert "somebody else keeps committing to it (412)" in failure(server, out)


def test_a_bad_card_is_refused_by_the_hub_and_not_sent_again(server, out):
    access(server)
    (out / CARD).write_text("---\ntags: [\n---\n", encoding="utf-8")
    assert "attempt 1: the Hub refused (400): Invalid metadata in README.md. - bad front matter" in failure(server, out)


def test_a_refused_large_file_is_not_sent_again(server, out):
    access(server)
    server.fail_next(PUT, 400, times=10**6)
    assert "attempt 1: the Hub refused (400): Error while uploading" in failure(server, out)


def test_a_hub_that_takes_no_large_file_is_not_asked_again(server, out):
    access(server)
    full = {"oid": "0" * 64, "size": 1, "error": {"code": 507, "message": "the storage is full"}}
    server.fail_next("/objects/batch", 200, body=json.dumps({"objects": [full]}).encode())
    assert re.search("attempt 1: .*the storage is full", failure(server, out))


def test_what_the_hub_says_is_shown_without_the_token(server, out):
    access(server)
    server.fail_next(COMMIT, 422, body=json.dumps({"error": f"no commit with {TOKEN} today."}).encode())
    assert "attempt 1: the Hub refused (422): no commit with TOKEN today. Your files" in failure(server, out)


def test_access_makes_the_repository_once(server):
    access(server)
    access(server)
    access(server, "studio/paper")
    assert sorted(server.repositories) == [REPO, "studio/paper"]
    assert [len(history) for history in server.repositories.values()] == [1, 1]


def test_a_token_the_hub_rejects(server, out):
    server.token_is_valid = False
    assert "the Hub does not accept the token (401)" in refusal(server)
    assert server.requests == ["GET /api/whoami-v2"]
    server.token_is_valid = True
    access(server)
    server.token_is_valid = False
    assert "attempt 1: the Hub does not accept the token (401)" in failure(server, out)
    assert not [line for line in server.requests if line.startswith("PUT") or "/commit/" in line]


def test_a_token_that_may_only_read(server, out):
    access(server)
    server.may_write = False
    assert refusal(server).startswith("The Hub token may not write to jane/paper-stickers: make one")
    assert "attempt 1: the token may not write there (403)" in failure(server, out)
    assert not [line for line in server.requests if line.startswith("PUT") or "/commit/" in line]


@pytest.mark.parametrize("exists", [False, True])
def test_an_organisation_one_is_not_in(server, exists):
    if exists:
        server.commit("acme/paper", "initial commit", {})
    sentence = refusal(server, "acme/paper")
    assert sentence == "You are jane on the Hub and not in acme: share under jane or studio."


def test_a_hub_that_is_not_there(server):
    server.__exit__()
    assert f"{server.endpoint} cannot be reached (ConnectError: [Errno 111] Connection refused): " in refusal(server)


def test_something_else_answers(server):
    server.fail_next("GET", 200, body=b"<html>Welcome to the hotel</html>")
    assert "cannot be reached (what answered is not the Hub)" in refusal(server)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("jane/paper", True), ("jane/Paper_2.0-final", True), ("_/a", True), ("jane/" + "a" * 96, True),
        ("paper", False), ("jane/paper/x", False), ("", False), ("/paper", False), ("jane/", False),
        ("jane/pa per", False), ("jane/-a", False), ("jane/a.", False), ("jane/a--b", False), ("ja..ne/a", False),
        ("jane/a.git", False), ("jane/papér", False), ("jane/" + "a" * 97, False), ("jane/a\n", False),
    ],
)  # fmt: skip
def test_names_of_repositories(server, name, valid):
    if valid:
        validate_repo_id(name)
        server.organisations = ("_",)
        access(server, name)
        assert list(server.repositories) == [name]
    else:
        assert "is no name of a repository" in refusal(server, name)
        assert server.requests == []


def test_a_token_is_needed_and_may_come_from_the_machine(server, monkeypatch):
    assert refusal(server, token=None).startswith("There is no Hub token: ")
    assert refusal(server, token="  ").startswith("There is no Hub token: ")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    access(server, token=None)
    access(server, token=f"{TOKEN}\n")


@pytest.mark.parametrize("token", [f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", f"{TOKEN}é"])
def test_a_token_no_header_can_hold(server, token):
    assert "paste it again" in refusal(server, token=token)


def test_offline_is_refused_before_any_connection(server, out, monkeypatch):
    access(server)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(server).startswith("HF_HUB_OFFLINE is set: ")
    assert failure(server, out).startswith("HF_HUB_OFFLINE is set: ")
    assert server.requests == []


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


def run_alone(server, out, **environment):
    """Share in a process of its own, for the client reads the environment when it is imported."""
    words = [
        "import sys, pathlib",
        "from pipeline.sharing import hub",
        "heavy = {'torch', 'diffusers', 'huggingface_hub', 'PIL'} & set(sys.modules)",
        "assert not heavy, heavy",
        f"hub.require_access('{REPO}', None)",
        "hub.WAITS_SECONDS = (0.0, 0.0, 0.0, 0.0)",
        f"sys.stdout.write(hub.upload(pathlib.Path(sys.argv[1]), '{REPO}', None, 'Paper'))",
    ]
    given = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(out.parent / "hf"), **environment}
    command = [sys.executable, "-c", "\n".join(words), str(out)]
    return subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=60)


def test_the_endpoint_is_that_of_the_environment(server, out):
    ended = run_alone(server, out, HF_HUB_DISABLE_XET="1")
    assert (ended.returncode, ended.stdout) == (0, f"{server.endpoint}/{REPO}"), ended.stderr
    assert [commit.message for commit in server.own_commits(REPO)] == ["Paper"]


def test_offline_by_the_environment(server, out):
    ended = run_alone(server, out, HF_HUB_OFFLINE="1")
    assert "ConfigError: HF_HUB_OFFLINE is set" in ended.stderr
    assert server.requests == []


def test_an_error_of_xet_is_said_in_a_sentence(server, out):
    """The loopback Hub has no Xet storage, and the client does not fall back to LFS."""
    ended = run_alone(server, out, HF_HUB_DISABLE_XET="0")
    assert "HubError: The upload to " in ended.stderr
    assert "failed at attempt 5: ConnectionError" in ended.stderr
    assert server.own_commits(REPO) == []
