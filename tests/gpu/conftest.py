"""Only with `pytest -m gpu`, on a machine that has one."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _on_a_gpu():
    if not torch.cuda.is_available():
        pytest.fail("these tests need a GPU")
