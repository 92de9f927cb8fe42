"""Every piece of advice follows from its evidence, and is silent without it."""

import pytest

from pipeline.report.advice import advice

pytestmark = pytest.mark.unit
RUN = {"max_grad_norm": 1.0}


def steps(num: int, norm: float = 0.5) -> list[dict]:
    return [{"step": step, "loss": 1.0, "grad_norm": norm} for step in range(1, num + 1)]


def measured(rows: list[dict], losses: dict[int, float], probe: float = 0.9, gain: float = 0.1) -> list[dict]:
    for step, loss in losses.items():
        rows[step - 1]["validation"] = {
            "held_out_loss": loss, "held_out_base": 1.0, "probe_base": 1.0,
            "held_out_change": {"value": loss - 1}, "probe_change": {"value": probe - 1},
            "condition_gain": gain, "condition_gain_base": 0.1,
        }  # fmt: skip
    return rows


def said(rows: list[dict], kept: int, budget: dict | None = None) -> str:
    return " ".join(advice(rows, kept, RUN, budget or {"step": 100.0}))


def test_a_run_in_which_all_went_well_gets_no_advice():
    assert said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.899}), 60) == ""


def test_each_rule_with_its_evidence():
    assert "--max_train_steps 20 would do" in said(measured(steps(60), {20: 0.9, 40: 0.92, 60: 0.95}), 20)
    assert "--max_train_steps 120" in said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.8}), 60)
    assert "20% of the base's more" in said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.899}, probe=0.7), 60)
    assert "less than half" in said(measured(steps(60), {20: 0.95, 40: 0.9, 60: 0.899}, gain=0.01), 60)
    assert "Nothing was held out" in said(steps(60), 60)
    assert "60 of 60 gradients" in said(steps(60, norm=3.0), 60)
    assert "40% of the time" in said(steps(60), 60, {"data": 40.0, "step": 60.0})
    assert "of the time" not in said(steps(60), 60, {"data": 4.0, "step": 6.0})


def test_a_few_steps_are_no_evidence():
    assert "gradients" not in said(steps(12, norm=3.0), 12)
    assert "would do" not in said(measured(steps(12), {2: 0.9, 8: 0.95, 12: 0.99}), 2)
