"""A second start on what has not changed: no picture decoded, no weights hashed, a dry run without any library."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pipeline import remembered
from pipeline.adapter.names import FILE
from pipeline.run import dry_run
from tests.conftest import replaced, status
from tests.running import Running, World
from tests.sharing.loopback import Hub

pytestmark = pytest.mark.invariant


def counting():
    """In a run's process: files are old at once, and what is decoded or hashed is named."""
    from pipeline import hashing
    from pipeline.data import images, listing

    remembered.FRESH_NS = listing.FRESH_NS = 0
    examine, hash_of = images.examine, hashing._digest_once
    images.examine = lambda *given: sys.stderr.write("DECODED\n") and examine(*given)

    def hashed(path, *given):
        if path.name != FILE:  # what the run itself wrote is new each time
            sys.stderr.write(f"HASHED {path.suffix}\n")
        return hash_of(path, *given)

    hashing._digest_once = hashed


def started(argv, tmp_path, prepared=counting, **environment):
    log = tmp_path / f"log-{time.monotonic_ns()}"
    ended = Running([str(word) for word in argv], log, prepared=prepared, environment=environment).wait()
    assert ended.code == 0, ended.output
    return ended.output


def counts(output):
    """Pictures decoded before the first step, weights hashed."""
    return output.partition("step 1/")[0].count("DECODED\n"), output.count("HASHED .safetensors")


@pytest.fixture
def own(small, tmp_path):
    """A run with a cache of its own, whose two steps show every picture."""
    changed = {"train_batch_size": 4, "max_train_steps": 2, "num_validation_images": 0}
    return [*replaced(small, cache_dir=tmp_path / "cache", **changed), "--center_crop"]


def test_a_second_run_decodes_and_hashes_nothing(own, colours, tmp_path):
    first = started([*own, "--output_dir", tmp_path / "one"], tmp_path)
    assert counts(first) == (16, 3)  # looked at, then encoded; denoiser, autoencoder, text encoder
    second = started([*own, "--output_dir", tmp_path / "two", "--adam_beta1", "0.8"], tmp_path)
    assert counts(second) == (0, 0)
    assert "DECODED" not in second  # nor for the page at its end
    stat = (colours / "red.png").stat()
    pixels = np.asarray(Image.open(colours / "red.png")).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(colours / "red.png")
    os.utime(colours / "red.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counts(started([*own, "--output_dir", tmp_path / "three"], tmp_path)) == (2, 0)
    one, two, three = ((tmp_path / name / FILE).read_bytes() for name in ("one", "two", "three"))
    assert len({one, two, three}) == 3


def test_of_two_processes_one_looks(own, tmp_path):
    out, argv = tmp_path / "out", [*own, "--output_dir"]
    world = World(2, [str(word) for word in [*argv, out]], tmp_path / "world", prepared=counting)
    ended = world.wait()
    assert [process.code for process in ended] == [0, 0], ended[0].output + ended[1].output
    assert counts("".join(process.output for process in reversed(ended))) == (16, 3)  # the main one speaks of steps


def test_a_dry_run_again_says_the_same_without_torch(own, colours, tmp_path):
    out, begun = tmp_path / "out", time.time()
    argv = [str(word) for word in [*own, "--output_dir", out, "--dry_run"]]
    first = started(argv, tmp_path)
    assert dry_run.DONE in first
    assert counts(first)[1] == 0  # weights are not read for a plan
    time.sleep(max(0, begun + remembered.FRESH_NS / 1e9 - time.time()))  # a process of its own trusts no younger file
    again = subprocess.run(
        [sys.executable, "-X", "importtime", "train_lora.py", *argv], capture_output=True, text=True, check=True
    ).stderr
    imported = {line.rpartition("|")[2].strip() for line in again.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "diffusers", "transformers", "datasets", "accelerate"}
    said = [line for line in again.splitlines() if not line.startswith("import time:")]
    assert said == [
        *(line for line in first.splitlines() if line[:6] in ("Plan", "") or line[:2] == "  "),
        dry_run.AGAIN,
    ]
    assert not out.exists()
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def test_a_dry_run_of_something_else_is_done_in_full(own, colours, miniature, tmp_path):
    argv = [*own, "--output_dir", tmp_path / "out", "--dry_run"]
    assert dry_run.DONE in started(argv, tmp_path)
    assert dry_run.AGAIN in started(argv, tmp_path)
    assert dry_run.DONE in started([*argv, "--adam_beta1", "0.8"], tmp_path)
    assert dry_run.DONE in started(argv, tmp_path, ACCELERATE_MIXED_PRECISION="bf16")
    assert dry_run.DONE in started(argv, tmp_path, prepared=without_room)
    rows = (colours / "metadata.jsonl").read_text()
    (colours / "metadata.jsonl").write_text(rows.replace("a red", "the red"))
    assert dry_run.DONE in started(argv, tmp_path)
    assert dry_run.AGAIN in started(argv, tmp_path)
    started(replaced([word for word in argv if word != "--dry_run"], output_dir=tmp_path / "run"), tmp_path)
    assert status(tmp_path / "run")["state"] == "done"


def without_room():
    import shutil

    remembered.FRESH_NS, usage, calls = 0, shutil.disk_usage, iter([True])
    shutil.disk_usage = lambda place: usage(place)._replace(free=0) if next(calls, False) else usage(place)


@pytest.fixture
def server(miniature):
    with Hub() as hub:
        files = {p.relative_to(miniature).as_posix(): p.read_bytes() for p in miniature.rglob("*") if p.is_file()}
        hub.commit("jane/tiny", "weights", {**files, "README.md": b"---\nlicense: mit\n---\n"})
        yield hub


def hub_at(server, tmp_path):
    return {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


def looking_there():
    """In a run's process: the client was imported before its environment was said."""
    from huggingface_hub import hf_api

    hf_api.api.endpoint = os.environ["HF_ENDPOINT"]


def test_a_dry_run_downloads_no_weights(own, server, tmp_path):
    argv = [*replaced(own, pretrained_model_name_or_path="jane/tiny"), "--output_dir", tmp_path / "out"]
    where = hub_at(server, tmp_path)
    assert dry_run.DONE in started([*argv, "--dry_run"], tmp_path, looking_there, **where)
    assert fetched(server) == []
    started(argv, tmp_path, looking_there, **where)
    assert len(fetched(server)) == len(set(fetched(server))) == 3
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


def test_a_dry_run_that_would_go_on_downloads_and_hashes_nothing_either(own, server, tmp_path):
    """What only the weights would say differs from nothing; what is known does."""
    argv = [*replaced(own, pretrained_model_name_or_path="jane/tiny"), "--output_dir", tmp_path / "out"]
    where = hub_at(server, tmp_path)
    started(argv, tmp_path, looking_there, **where)
    number = len(fetched(server))
    again = [*replaced(argv, cache_dir=tmp_path / "empty"), "--resume_from_checkpoint", "latest", "--dry_run"]
    assert dry_run.DONE in started(again, tmp_path, looking_there, **where)
    other = [str(word) for word in [*again, "--seed", "7"]]
    ended = Running(other, tmp_path / "log", prepared=looking_there, environment=where).wait()
    assert "belongs to another run" in ended.output
    assert "base_model" not in ended.output
    assert len(fetched(server)) == number


def test_of_two_processes_one_downloads(own, server, tmp_path):
    argv = [*replaced(own, pretrained_model_name_or_path="jane/tiny"), "--output_dir", tmp_path / "out"]
    where = hub_at(server, tmp_path)
    argv = [str(word) for word in argv]
    ended = World(2, argv, tmp_path / "world", environment=where, prepared=looking_there).wait()
    assert [process.code for process in ended] == [0, 0], ended[0].output + ended[1].output
    assert len(fetched(server)) == len(set(fetched(server))) == 3


def fetched(server):
    """The weights that were asked for."""
    return [line for line in server.requests if line.startswith("GET") and line.endswith(".safetensors")]
