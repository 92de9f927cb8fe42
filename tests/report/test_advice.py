"""Every piece of advice follows from its evidence, and is silent without it."""

from dataclasses import replace

import pytest

from pipeline.report.advice import advice
from pipeline.training.tracking import StepRow
from tests.rows import step_row, validation_row

pytestmark = pytest.mark.unit
RUN = {"max_grad_norm": 1.0}


def steps(num: int, norm: float = 0.5) -> list[StepRow]:
    return [step_row(step, grad_norm=norm) for step in range(1, num + 1)]


def measured(rows: list[StepRow], losses: dict[int, float], subset: float = 0.9, gain: float = 0.1) -> list[StepRow]:
    for step, loss in losses.items():
        found = validation_row(loss - 1, train_subset=subset - 1, gain=gain)
        rows[step - 1] = replace(rows[step - 1], validation=found)
    return rows


def said(rows: list[StepRow], kept: int, seconds: dict | None = None) -> str:
    return " ".join(advice(rows, kept, RUN, seconds or {"step": 100.0}))


def test_a_run_in_which_all_went_well_gets_no_advice():
    assert said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.899}), 60) == ""


def test_each_rule_with_its_evidence():
    assert "--max_train_steps 20 would do" in said(measured(steps(60), {20: 0.9, 40: 0.92, 60: 0.95}), 20)
    assert "--max_train_steps 120" in said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.8}), 60)
    assert "held-out ones by 20% of" in said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.899}, subset=0.7), 60)
    assert "less than half" in said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.899}, gain=0.01), 60)
    assert "Nothing was held out" in said(steps(60), 60)
    assert "60 of 60 gradients" in said(steps(60, norm=3.0), 60)
    assert "40% of the time" in said(steps(60), 60, {"data": 40.0, "step": 60.0})
    assert "of the time" not in said(steps(60), 60, {"data": 4.0, "step": 6.0})


def test_a_few_steps_are_no_evidence():
    assert "gradients" not in said(steps(12, norm=3.0), 12)
    assert "gradients" not in said(steps(60, norm=float("inf")), 60)  # float16 overflowed, and the step was left out
    assert "would do" not in said(measured(steps(12), {2: 0.9, 8: 0.95, 12: 0.99}), 2)
