"""Steps whose gradient is out of float16's range, through the whole program: only the device is another."""

import os
import signal

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

import train_lora
from tests.conftest import metrics, next_argv, replaced, status

FILE = "pytorch_lora_weights.safetensors"
SCALE = 2.0**30  # far too much for a gradient in float16: 128 times as much as it can bear here


@pytest.fixture
def float16(monkeypatch):
    """The engine as it is with --mixed_precision fp16 on a GPU, on the CPU."""
    from pipeline.engine import Engine, Precision

    start = Engine.__init__

    def changed(self, *_args, **_values):
        AcceleratorState._reset_state(reset_partial_state=True)
        start(self, "no")
        self.precision = Precision("fp16", "for this test")
        accelerator = self._accelerator
        accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=SCALE), True
        accelerator.state._mixed_precision = "fp16"

    monkeypatch.setattr(Engine, "__init__", changed)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def overflowed(folder):
    return [row["step"] for row in metrics(folder) if not np.isfinite(float(row["grad_norm"]))]


@pytest.mark.invariant
def test_a_step_that_overflows_is_left_out_and_the_scale_is_resumed(float16, small, tmp_path, monkeypatch):
    from pipeline.errors import EXIT_TERMINATED
    from pipeline.training import loop
    from pipeline.training.state import TrainState

    averaged, average = [], TrainState.update_average

    def noted(self, step):
        averaged.append(step + 1)
        average(self, step)

    monkeypatch.setattr(TrainState, "update_average", noted)
    flags = [*replaced(small, max_train_steps=20), "--use_ema"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train_lora.main([*flags, "--output_dir", str(whole)]) == 0
    assert overflowed(whole)[0] == 1
    assert 2 <= len(overflowed(whole)) <= 12
    assert sorted([*averaged, *overflowed(whole)]) == list(range(1, 21))
    calls, look = iter(range(1, 100)), loop.require_finite

    def stopped_after_10(*args, **values):
        if next(calls) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return look(*args, **values)

    monkeypatch.setattr("sys.argv", ["train_lora.py"])
    monkeypatch.setattr(loop, "require_finite", stopped_after_10)
    assert train_lora.main([*flags, "--output_dir", str(cut)]) == EXIT_TERMINATED
    assert status(cut)["step"] == 12  # step 10 is read while step 11 is under way
    assert train_lora.main(next_argv(cut)) == 0
    assert overflowed(cut) == overflowed(whole)
    assert (cut / FILE).read_bytes() == (whole / FILE).read_bytes()


@pytest.mark.unit
def test_only_the_scale_is_forgiven():
    from pipeline.errors import TrainingStopped
    from pipeline.training.guards import require_finite

    nan, inf, rest = float("nan"), float("inf"), {"learning_rate": 1e-4, "ids": ["a"]}
    for loss, norm, may_overflow in ((1.0, 1.0, False), (1.0, inf, True), (1.0, nan, True)):
        require_finite(1, loss=loss, norm=norm, may_overflow=may_overflow, **rest)
    for loss, norm, may_overflow in ((1.0, inf, False), (nan, 1.0, False), (nan, nan, True), (inf, 1.0, True)):
        with pytest.raises(TrainingStopped, match="Step 1 has loss"):
            require_finite(1, loss=loss, norm=norm, may_overflow=may_overflow, **rest)
