"""Every command of the README is run, with the model replaced by a miniature and the lengths by small ones."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import pipeline
from tests.conftest import make_colours
from tests.running import Running
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


def blocks() -> dict[str, tuple[str, str]]:
    """Language and text of every block that is tested, by its name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return {name: (language, block) for name, language, block in BLOCK.findall(text)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place to type commands in, with pictures and a card of theirs."""
    for name in ("train_lora.py", "pipeline"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_colours(tmp_path / "my_pictures")
    (tmp_path / "prompts.txt").write_text("a lighthouse in this style\na red square\n", encoding="utf-8")
    (tmp_path / "data_cards").mkdir()
    (tmp_path / "data_cards" / "my_pictures.md").write_text(CARD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(language: str, text: str) -> list[list[str]]:
    """The words of every command of a block, without `python`; a block of Python is one command."""
    if language == "python":
        return [["-c", text]]
    lines = [shlex.split(line) for line in text.replace("\\\n", "").splitlines()]
    assert all(words[0] == "python" or words[:2] == ["accelerate", "launch"] for words in lines), lines
    return [words[1:] if words[0] == "python" else words for words in lines]


def run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    """In a warmed process; what `accelerate launch` makes of such a line, tests/invariants/test_pasted.py shows."""
    words = words[2:] if words[0] == "accelerate" else words
    found = Running([], folder / "log", program=tuple(words), environment=environment).wait()
    assert found.code == 0, f"{words}\n{found.output}"


def test_the_readme_in_order(miniature, folder):
    """Train, dry run, resume, notebook, load, verbs, publish: as written, one after the other, in one folder."""
    found = blocks()
    assert list(found) == ["train", "dry", "resume", "notebook", "load", "verbs", "files", "publish"]
    replaced = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(miniature),
        "--resolution 512": "--resolution 64 --num_inference_steps 2 --cache_dir cache",
        "--max_train_steps 1000": "--max_train_steps 6",
        "resolution=512": "resolution=64, num_inference_steps=2, cache_dir='cache'",
        "max_train_steps=1000": "max_train_steps=2",
        "--validation_steps 250": "--validation_steps 3",
        "--repo user/": "--repo jane/",
        "--num_images 4": "--num_images 1 --num_inference_steps 2",
        "generator=": "height=64, width=64, num_inference_steps=2, generator=",
    }
    with Hub() as server:
        given = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        for name, (language, text) in found.items():
            for before, after in replaced.items():
                text = text.replace(before, after)
            for words in commands(language, text):
                run(words, folder, given if name == "publish" else {})
        (commit,) = server.own_commits("jane/lighthouses")
    assert b"drawn by a test" in commit.files["README.md"]
    assert (folder / "lighthouse.png").is_file()
    assert (folder / "outputs" / "mine" / "drawn" / "adapted" / "0000.png").is_file()
    assert (folder / "outputs" / "notebook" / "report.html").is_file()
    assert (folder / "outputs" / "mine" / "evaluation" / "evaluation.json").is_file()
    assert (folder / "outputs" / "mine" / "compare" / "report.html").is_file()


def test_every_command_is_tested_except_set_up():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fenced = re.findall(r"```(?:bash|python)\n(.*?)```", text, re.DOTALL)
    untested = [block for block in fenced if block not in [text for _, text in blocks().values()]]
    assert all("make demo" in block or "pip install" in block for block in untested), untested
    assert len(text.splitlines()) <= 250
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_tree_in_the_readme_is_the_real_one():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```\ntrain_lora.py ")[1].split("```")[0]
    named = set(re.findall(r"[\w.]+(?:\.py|/)", tree)) | {"train_lora.py"}
    parents = [ROOT, ROOT / "tests", ROOT / "pipeline", *(ROOT / "pipeline").iterdir()]
    for name in named:
        assert any((parent / name).exists() for parent in parents), name
    rooms = {path.name + "/" for path in (ROOT / "pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= named, rooms - named


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/adding-a-family.md", "docs/data.md", "docs/starter.md"]
)
def test_what_a_page_links_to_or_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = {(ROOT / page).parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    files = {ROOT / name for name in re.findall(r"`((?:pipeline|tests|docs|accelerate_configs)/[\w./]+)`", text)}
    for path in links | files:
        assert path.exists() or "NAME" in path.name, path


def test_the_data_flow_is_the_packages_own():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    flow = text.split("## How it works")[1].split("```")[1].strip().splitlines()
    assert len(flow) == 9
    assert "\n".join(f"    {line}" for line in flow) in (pipeline.__doc__ or "")


def test_demo_and_test_need_nothing_but_make():
    assert shutil.which("make")
    dry = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "accelerate launch" in dry
    assert "--output_dir outputs/demo --overwrite_output_dir" in dry
