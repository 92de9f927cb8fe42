"""The Python API: light to import, and a run leaves nothing behind in the process."""

import fcntl
import os
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import pipeline
from pipeline import config
from pipeline.errors import ConfigError, DataError
from pipeline.run.typed import as_typed
from tests.conftest import in_pairs, small_flags, status
from tests.running import SPAWNER

pytestmark = pytest.mark.invariant


def of_the_process() -> dict[str, Any]:
    """What a run could leave changed."""
    noisy = (diffusers.utils.logging, transformers.utils.logging)
    return {
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "verbosity": [library.get_verbosity() for library in noisy],
        "bars": [library.is_progress_bar_enabled() for library in noisy],
        "torch": torch.get_rng_state().tolist(),
        "numpy": [str(part) for part in np.random.get_state()],
        "random": random.getstate(),
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def is_free(folder: Path) -> bool:
    """Whether another run may write to a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@pytest.fixture
def run(miniature, colours, tmp_path):
    return pipeline.Run().replaced(
        pretrained_model_name_or_path=miniature, train_data_dir=colours, cache_dir=tmp_path / "cache", resolution=64,
        rank=2, max_train_steps=3, train_batch_size=2, validation_prompt=["a red square"], num_validation_images=1,
        num_inference_steps=2,
    )  # fmt: skip


def test_the_package_is_light_until_it_is_used():
    """Neither torch nor cyclopts, nor anything outside the standard library."""
    code = "import sys; before = set(sys.modules); import pipeline; print(*(set(sys.modules) - before))"
    words = [sys.executable, "-c", code]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert "pipeline" in loaded
    assert {name.split(".")[0] for name in loaded} - sys.stdlib_module_names == {"pipeline"}
    assert {"Run", "train"} <= set(pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = pipeline.fit


def train_twice(run: pipeline.Run, folders: dict[str, Path]) -> list[set[str]]:
    """Runs of different precision, one after the other; what each left changed in the process."""
    changed = []
    for precision, out in folders.items():
        before = of_the_process()
        result = pipeline.train(run.replaced(mixed_precision=precision, output_dir=out))
        now = of_the_process()
        changed.append({name for name in before if now[name] != before[name]})
        assert result.folder == out
        assert result.exit_code == 0
        assert result.result is not None
        assert result.result.verification.num_layers == 40
        assert is_free(out)
    return changed


def test_two_runs_of_different_precision_leave_the_process_as_it_was(run, tmp_path):
    """In a process of their own: the type checker of the tests draws random numbers too."""
    folders = {name: tmp_path / name for name in ("no", "bf16")}
    with ProcessPoolExecutor(1, SPAWNER) as child:
        assert child.submit(train_twice, run, folders).result() == [set(), set()]
    assert all(status(folder)["state"] == "done" for folder in folders.values())
    first, second = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in folders.values())
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_run_from_python_is_the_run_from_the_command_line(run, trainer, tmp_path):
    pipeline.train(run.replaced(output_dir=tmp_path / "python"))
    ended = trainer("--config", tmp_path / "python" / "run.toml", "--output_dir", tmp_path / "typed")
    assert ended.code == 0, ended.output
    first, second = (tmp_path / name / "pytorch_lora_weights.safetensors" for name in ("python", "typed"))
    assert first.read_bytes() == second.read_bytes()


def test_mistakes_are_raised(run, tmp_path):
    with pytest.raises(ConfigError, match='did you mean "max_train_steps"'):
        run.replaced(max_train_step=3)
    with pytest.raises(ConfigError, match="--rank is 0, but must be at least 1"):
        pipeline.train(run.replaced(rank=0, output_dir=tmp_path / "out"))
    with pytest.raises(DataError, match="does not exist"):
        pipeline.train(run.replaced(train_data_dir="nowhere", output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr_scheduler": "cosin"}, 'Invalid value "cosin"'),
        ({"keep": "bset"}, 'Did you mean "best"'),
        ({"rank": True}, "rank"),
        ({"rank": None}, "rank: None is no value"),
        ({"lora_layers": ["to_q", "to_k"]}, "lora_layers"),
        ({"max_train_steps": 2.5}, "max_train_steps = 2.5 must be a whole number"),
        ({"learning_rate": -1.0}, "--learning_rate"),
        ({"source": {"train_data_dir": "a"}}, "source takes a list of tables"),
    ],
)
def test_what_no_flag_takes_is_refused_before_anything_is_made(values, said, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=re.escape(said)):
        pipeline.train(pipeline.Run().replaced(train_data_dir=tmp_path, output_dir=out, **values))
    assert not out.exists()
    with pytest.raises(ConfigError, match="takes a Run"):
        pipeline.train({"train_data_dir": "x"})


def test_what_a_notebook_writes_is_what_the_command_line_reads(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    numbers = {"learning_rate": np.float32(0.5), "max_train_steps": np.int64(2), "validation_prompt": "a cat"}
    found = as_typed(pipeline.Run().replaced(output_dir="~/out", **numbers))
    assert (found.optim.learning_rate, found.train.max_train_steps) == (0.5, 2)
    assert found.preview.validation_prompt == ("a cat",)
    assert found.train.output_dir == str(tmp_path / "out")


def test_a_run_in_a_thread_trains(miniature, colours, cache, tmp_path):
    """Where no signal is heard: the handlers stay those of the program."""
    values = dict(in_pairs(small_flags(miniature, colours, cache)))
    run = config.parse([word for pair in values.items() for word in pair] + ["--output_dir", str(tmp_path / "out")]).run
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(pipeline.train, run.replaced(max_train_steps=1)).result()
    assert result.exit_code == 0
