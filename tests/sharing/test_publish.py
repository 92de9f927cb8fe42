"""Sharing through the whole program, against a Hub on the loopback: nothing local is ever lost."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.adapter.files import kohya
from tests.conftest import replaced, status
from tests.running import Ended, Running
from tests.sharing.loopback import TOKEN, Hub

pytestmark = pytest.mark.invariant
FILE, REPO = "pytorch_lora_weights.safetensors", "jane/tok"
REASON = "drawn for this test by its author"


@pytest.fixture
def server():
    with Hub() as found:
        yield found


@pytest.fixture
def environment(server, tmp_path):
    """The loopback Hub as the Hub."""
    given = {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return given | {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}


@pytest.fixture
def run(environment, tmp_path):
    """Run a command line in a warmed process."""
    counter = iter(range(100))

    def runner(*words: object, **more: str) -> Ended:
        log = tmp_path / f"log-{next(counter)}.txt"
        return Running([], log, program=tuple(map(str, words)), environment={**environment, **more}).wait()

    return runner


@pytest.fixture
def flags(small, tmp_path):
    more = ["--validation_prompt", "a red square", "--trigger_word", "square"]
    return [*small, *more, "--push_to_hub", "--hub_model_id", REPO, "--output_dir", str(tmp_path / "out")]


@pytest.fixture(scope="session")
def unshared(finished_run):
    """The same run, but short and not shared."""
    more = ["--validation_prompt", "a red square", "--trigger_word", "square"]
    return finished_run("--max_train_steps", "2", *more)


def test_what_is_shared_loads_from_the_hub_and_draws_the_same(run, server, environment, flags, miniature, tmp_path):
    out = tmp_path / "out"
    ended = run("train_lora.py", *flags, "--allow_undocumented_data", REASON, "--train_text_encoder")
    assert ended.code == 0, ended.output
    assert f"May share as {REPO}" in ended.output
    assert status(out)["state"] == "done"
    (commit,) = server.own_commits(REPO)
    names = set(commit.files)
    assert {FILE, "README.md", "run.toml", "comfyui/out.safetensors"} <= names
    assert {name for name in names if name.startswith("samples/")} == {
        "samples/base/0000.png", "samples/step-000012/0000.png",
    }  # fmt: skip
    card = commit.files["README.md"].decode()
    assert REASON in card
    assert 'instance_prompt: "square"' in card
    assert f"load_lora_weights('{REPO}', weight_name='{FILE}'" in card
    assert str(tmp_path) not in card + commit.files["run.toml"].decode()
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path
    code = f"""
import torch
from diffusers import StableDiffusionPipeline
def drawn(place):
    pipe = StableDiffusionPipeline.from_pretrained({str(miniature)!r})
    pipe.load_lora_weights(place, weight_name={FILE!r})
    return pipe("a red square", num_inference_steps=2, height=64, width=64, output_type="pt",
                generator=torch.Generator().manual_seed(0)).images
assert torch.equal(drawn({REPO!r}), drawn({str(out)!r}))
"""
    environment = {**os.environ, **environment}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)  # it has never seen `pipeline`
    ended = run("-m", "pipeline", "publish", out, "--repo", REPO)
    assert ended.code == 0, ended.output
    assert len(server.own_commits(REPO)) == 1  # it was all there


def test_undocumented_data_is_refused_before_anything_is_done(run, server, flags, tmp_path):
    ended = run("train_lora.py", *flags)
    assert ended.code == 2
    assert "Sharing needs a card of the dataset: write data_cards/colours.md" in ended.output
    assert server.requests == []
    assert not (tmp_path / "out").exists()


def test_a_card_of_the_data_is_shown_and_one_of_other_data_refused(run, server, flags, colours, tmp_path):
    from pipeline.data.card import template
    from pipeline.data.options import DataOptions
    from pipeline.data.reading import read_manifest

    text = template("colours", read_manifest(colours, DataOptions()).fingerprint)
    path = tmp_path / "card.md"
    path.write_text(text)
    ended = run("train_lora.py", *flags, "--data_card", path)
    assert ended.code == 2
    assert all(name in ended.output for name in ("license", "source", "rights_basis", "people", "intended_use"))
    filled = {
        "license": "cc0-1.0", "source": "drawn by tests/conftest.py", "rights_basis": "own work",
        "sensitive_content": "none", "intended_use": "tests",
    }  # fmt: skip
    lines = [
        next((f"{name}: {value}" for name, value in filled.items() if line.startswith(f"{name}:")), line)
        for line in text.replace("identifiable: TODO", "identifiable: false").splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    ended = run("train_lora.py", *replaced(flags, max_train_steps=2), "--data_card", path)
    assert ended.code == 0, ended.output
    card = server.own_commits(REPO)[-1].files["README.md"].decode()
    assert "own work" in card
    (colours / "red.txt").unlink(missing_ok=True)
    rows = (colours / "metadata.jsonl").read_text().splitlines()
    (colours / "red.png").unlink()
    (colours / "metadata.jsonl").write_text("\n".join(row for row in rows if "red" not in row) + "\n")
    ended = run("train_lora.py", *flags, "--data_card", path, "--overwrite_output_dir")
    assert ended.code == 2
    assert "changed" in ended.output


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda server: setattr(server, "token_is_valid", False), "does not accept the token"),
        (lambda server: setattr(server, "may_write", False), "may not write"),
    ],
)
def test_a_hub_that_will_not_take_it_is_noticed_before_the_first_step(run, server, flags, tmp_path, harm, said):
    harm(server)
    ended = run("train_lora.py", *flags, "--allow_undocumented_data", REASON)
    assert ended.code == 2, ended.output
    assert said in ended.output
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_offline_is_noticed_at_the_start(run, server, flags):
    ended = run("train_lora.py", *flags, "--allow_undocumented_data", REASON, HF_HUB_OFFLINE="1")
    assert ended.code == 2
    assert "HF_HUB_OFFLINE is set" in ended.output


def test_a_hub_that_fails_at_the_end_costs_nothing_and_the_printed_line_shares_it(run, server, flags, tmp_path):
    server.fail_next(r"POST /api/models/jane/tok/commit.*", 404, times=1)  # gone since it was checked
    ended = run("train_lora.py", *flags, "--allow_undocumented_data", REASON)
    assert ended.code == 3, ended.output
    out = tmp_path / "out"
    said = status(out)
    assert (said["state"], said["exit_code"]) == ("incomplete", 3)
    assert f"Try again with: {said['next_command']}" in ended.output
    assert load_file(out / FILE)
    assert (out / "report.html").is_file()
    words = shlex.split(said["next_command"])
    ended = run(*words[1:])
    assert ended.code == 0, ended.output
    assert len(server.own_commits(REPO)) == 1


def test_a_card_changed_by_hand_is_shared_as_it_is_and_a_reason_is_kept(run, server, unshared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(unshared, out)
    publish = ["-m", "pipeline", "publish", out, "--repo", REPO]
    ended = run(*publish)
    assert (ended.code, "has no card" in ended.output) == (2, True)
    assert run(*publish, "--allow_undocumented_data", REASON).code == 0
    text = (out / "README.md").read_text(encoding="utf-8") + "\nDrawn for my sister.\n"
    (out / "README.md").write_text(text, encoding="utf-8")
    ended = run(*publish)
    assert ended.code == 0, ended.output
    assert "was changed by hand and is shared as it is" in ended.output
    assert (out / "README.md").read_text(encoding="utf-8") == text
    assert server.own_commits(REPO)[-1].files["README.md"].decode() == text
    assert "is not on it" not in run(*publish, "--allow_undocumented_data", REASON).output
    assert "is not on it" in run(*publish, "--allow_undocumented_data", "they are holiday pictures").output


def test_what_was_changed_after_the_run_is_not_shared_with_it(run, server, unshared, tmp_path):
    """An adapter that is no longer fit for use, and another file for ComfyUI; then the Hub fails."""
    out = tmp_path / "out"
    shutil.copytree(unshared, out)
    publish = ["-m", "pipeline", "publish", out, "--repo", REPO, "--allow_undocumented_data", REASON]
    shutil.copy(out / "comfyui" / "out.safetensors", out / "comfyui" / "older.safetensors")
    right = load_file(out / FILE)
    save_file({**right, min(right): torch.full_like(right[min(right)], torch.nan)}, out / FILE)
    ended = run(*publish)
    assert ended.code == 2
    assert f"{min(right)} is not finite" in ended.output
    save_file(right, out / FILE)
    comfyui = out / "comfyui" / "out.safetensors"
    theirs = comfyui.read_bytes()
    save_file({name: value * torch.nan for name, value in load_file(comfyui).items()}, comfyui)
    ended = run(*publish)
    assert ended.code == 2
    assert "out.safetensors is not fit for use" in ended.output
    comfyui.write_bytes(theirs)
    (out / "README.md").write_text(
        "---\ntags: [lora]\n---\nmine", encoding="utf-8"
    )  # so that the reason is noted nowhere
    server.fail_next(r"POST /api/models/jane/tok/commit.*", 404, times=1)
    ended = run(*publish)
    assert ended.code == 2
    assert not server.own_commits(REPO)
    command = ended.output.strip().partition("Try again with: python ")[2]
    assert run(*shlex.split(command)).code == 0
    (commit,) = server.own_commits(REPO)
    assert [name for name in commit.files if name.startswith("comfyui/")] == ["comfyui/out.safetensors"]


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_folder_whose_files_are_damaged_is_named(run, server, tmp_path, content):
    (tmp_path / "documents.json").write_text(content, encoding="utf-8")
    ended = run("-m", "pipeline", "publish", tmp_path, "--repo", REPO, "--allow_undocumented_data", REASON)
    assert ended.code == 2
    assert "put back what the run wrote" in ended.output
    assert "Traceback" not in ended.output


def test_the_file_for_comfyui_says_what_it_is_and_nothing_private(run, server, flags, tmp_path):
    flags = replaced(flags, max_train_steps=2)
    ended = run("train_lora.py", *flags, "--allow_undocumented_data", REASON, "--lora_alpha", 8)
    assert ended.code == 0, ended.output
    with safe_open(tmp_path / "out" / "comfyui" / "out.safetensors", "pt") as file:
        header, names = file.metadata(), set(file.keys())
        alphas = {file.get_tensor(name).item() for name in names if name.endswith(".alpha")}
    assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert header["modelspec.trigger_phrase"] == "square"
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "8.0")
    assert header["modelspec.hash_sha256"] == kohya.digest(load_file(tmp_path / "out" / "comfyui" / "out.safetensors"))
    assert str(tmp_path) not in json.dumps(header)
    assert alphas == {8.0}
    assert all(name.startswith("lora_unet_") for name in names)
