"""Every command of the README is run, with the model replaced by a miniature and the lengths by small ones."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_colours
from tests.sharing.loopback import TOKEN, Hub

pytestmark = pytest.mark.invariant
ROOT = Path(__file__).parent.parent
CARD = """---
license: cc0-1.0
source: drawn by a test
rights_basis: own work
people: {identifiable: false}
sensitive_content: none
intended_use: tests
---
"""
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks() -> dict[str, str]:
    return {name: text for name, _, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}


def test_the_readme_in_order(miniature, tmp_path):
    """Train, dry run, resume, load, verbs, publish: as written, one after the other, in one folder."""
    found = blocks()
    assert list(found) == ["train", "dry", "resume", "load", "verbs", "files", "publish"]
    for name in ("train_lora.py", "pipeline"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_colours(tmp_path / "my_pictures")
    (tmp_path / "data_cards").mkdir()
    (tmp_path / "data_cards" / "my_pictures.md").write_text(CARD, encoding="utf-8")
    replaced = {
        "python ": f"{sys.executable} ",
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(miniature),
        "--resolution 512": "--resolution 64 --num_inference_steps 2 --cache_dir cache",
        "--max_train_steps 1000": "--max_train_steps 6",
        "--validation_steps 250": "--validation_steps 3",
        "accelerate launch": f"{sys.executable} -m accelerate.commands.launch --cpu --num_processes 1",
        "--repo user/": "--repo jane/",
        "--num_images 4": "--num_images 1 --num_inference_steps 2",
        "generator=": "height=64, width=64, num_inference_steps=2, generator=",
    }
    with Hub() as server:
        given = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        for name, text in found.items():
            for before, after in replaced.items():
                text = text.replace(before, after)
            words = [sys.executable, "-c", text] if name == "load" else ["bash", "-ec", text]
            environment = {**os.environ, **(given if name == "publish" else {})}
            ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
            assert ended.returncode == 0, f"{name}:\n{ended.stdout}\n{ended.stderr}"
        (commit,) = server.own_commits("jane/lighthouses")
    assert b"drawn by a test" in commit.files["README.md"]
    assert (tmp_path / "lighthouse.png").is_file()
    assert (tmp_path / "outputs" / "mine" / "drawn" / "tuned" / "0000.png").is_file()


def test_every_command_is_tested_except_set_up():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fenced = re.findall(r"```(?:bash|python)\n(.*?)```", text, re.DOTALL)
    untested = [block for block in fenced if block not in blocks().values()]
    assert all("make demo" in block or "pip install" in block for block in untested), untested
    assert len(text.splitlines()) <= 250


def test_the_tree_in_the_readme_is_the_real_one():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```\ntrain_lora.py ")[1].split("```")[0]
    named = set(re.findall(r"[\w.]+(?:\.py|/)", tree)) | {"train_lora.py"}
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "pipeline" / name).exists() or (ROOT / "tests" / name).exists(), name
    rooms = {path.name + "/" for path in (ROOT / "pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= named, rooms - named


def test_demo_and_test_need_nothing_but_make():
    assert shutil.which("make")
    dry = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "accelerate launch" in dry
    assert "--output_dir outputs/demo --overwrite_output_dir" in dry
