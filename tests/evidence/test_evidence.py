"""Evidence: claims that can be tried, rows that are not made twice, and verdicts by their rule."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.config import Run
from pipeline.errors import ConfigError
from pipeline.evidence import __main__ as command
from pipeline.evidence import claims, measured, rows, verdicts
from pipeline.evidence.claims import ARM, CONTROL, SIDES, Claim, Plan
from pipeline.evidence.measured import Bench
from pipeline.evidence.page import page
from pipeline.evidence.rows import Row
from pipeline.report.forgetting_page import KEEPS

DOCS = Path(__file__).parents[2] / "docs"
CLAIM = Claim(
    name="x", says="x.", source="y", measure="late", expects="lower", margin=0.01, control={}, arm={"rank": 8}
)
PLAN = Plan(seeds=(0, 1, 2, 3, 4), common={"max_train_steps": 1}, claims=(CLAIM,))


@pytest.mark.unit
def test_what_is_claimed_can_be_run():
    plan = claims.read()
    assert len(plan.claims) >= 10
    assert len(plan.seeds) >= 5
    for claim in plan.claims:
        for side in SIDES:
            assert not Run().replaced(**{**plan.common, **claim.settings(side)}).problems(), claim.name


@pytest.mark.unit
def test_the_page_is_that_of_the_rows():
    found = rows.read(DOCS / "evidence.jsonl")
    assert (DOCS / "evidence.md").read_text(encoding="utf-8") == page(claims.read(), found)


@pytest.mark.unit
def test_what_the_page_of_forgetting_advises_was_measured():
    plan, found = claims.read(), rows.read(DOCS / "evidence.jsonl")
    effects = {judged.claim.name: judged.effects for judged in verdicts.judge(plan, found)}
    for option, name in (
        ("with_prior_preservation", "prior"),
        ("preservation_weight", "preservation"),
        ("rank", "rank-forgets"),
    ):
        moved = effects[name]["moved"]
        assert KEEPS[option] == pytest.approx(1 - moved.arm / moved.control, abs=0.005)
        assert moved.change.high < 0
        assert effects[name]["late"].change.low > 0  # it learnt less


def pairs_with(differences: list[float], code: str = "c", control: float = 0.5) -> list[Row]:
    return [
        Row(
            claim="x", side=side, seed=seed, settings=CLAIM.settings(side), common=rows.hash_of(PLAN.common),
            code=code, versions={}, measured={"late": control + (difference if side == ARM else 0)}, seconds=1.0,
        )
        for seed, difference in enumerate(differences)
        for side in SIDES
    ]  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.05, -0.06, -0.04, -0.05, -0.05], verdicts.HOLDS),
        ([0.05, 0.06, 0.04, 0.05, 0.05], verdicts.CONTRADICTED),
        ([0.001, -0.001, 0.0, 0.002, -0.002], verdicts.NO_DIFFERENCE),
        ([0.05, -0.06, 0.04, -0.05, 0.01], verdicts.UNDECIDED),
        ([0.05, 0.06, 0.04, 0.05], verdicts.UNFINISHED),
        ([0.05], verdicts.UNFINISHED),
        ([0.0] * 5, verdicts.NO_DIFFERENCE),
        ([-0.005, -0.006, -0.004, -0.005, -0.005], verdicts.HOLDS),  # within the margin, and beyond chance
    ],
)
def test_a_verdict_is_by_the_rule(differences, verdict):
    (judged,) = verdicts.judge(PLAN, pairs_with(differences))
    assert judged.verdict == verdict
    assert verdict in page(PLAN, pairs_with(differences))


@pytest.mark.unit
def test_an_effect_is_a_paired_difference_with_its_p_value():
    found = verdicts.effect([0.5, 0.6, 0.7], [0.4, 0.3, 0.5])
    assert (found.control, found.arm, found.change.value) == pytest.approx((0.6, 0.4, -0.2))
    # t = -0.2 / (0.1 / sqrt 3); two-sided p of Student's t with 2 degrees: 1 - t / sqrt(2 + t^2)
    t = 0.2 / (0.1 / 3**0.5)
    assert found.chance == pytest.approx(1 - t / (2 + t * t) ** 0.5)


@pytest.mark.unit
def test_chance_is_shared_by_all_claims():
    """Holm: the smallest p-value has to be below 5 % / m, the next below 5 % / (m - 1), and none after a failure."""
    chances = {"a": 0.001, "b": 0.012, "c": 0.03, "d": 0.04}
    assert verdicts.beyond_chance(chances, 4) == {"a", "b"}
    assert verdicts.beyond_chance(chances, 5) == {"a", "b"}
    assert verdicts.beyond_chance(chances, 6) == {"a"}
    assert verdicts.beyond_chance({"a": 0.02, "b": 0.021}, 3) == set()


@pytest.mark.unit
def test_a_pair_is_of_one_code_and_of_the_settings_as_they_are():
    mixed = [row for row in pairs_with([0.1] * 5) if row.side == CONTROL]
    mixed += [row for row in pairs_with([0.1] * 5, code="other") if row.side == ARM]
    assert verdicts.pairs_of(CLAIM, PLAN, mixed) == []
    twice = [*pairs_with([0.1] * 5), *pairs_with([0.2] * 5, code="later")]
    assert {pair[1].code for pair in verdicts.pairs_of(CLAIM, PLAN, twice)} == {"later"}
    changed = dataclasses.replace(CLAIM, arm={"rank": 32})
    assert verdicts.pairs_of(changed, PLAN, twice) == []
    assert verdicts.pairs_of(CLAIM, dataclasses.replace(PLAN, common={}), twice) == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measure": "beauty"}, "x measures beauty, and there is early"),
        ({"also": ["beauty"]}, "x measures beauty"),
        ({"expects": "better"}, "expects better, and that is lower or higher"),
        ({"arm": {}}, "x compares equal runs"),
    ],
)
def test_a_claim_that_cannot_be_tried_is_refused(tmp_path, changes, said):
    table = {**dataclasses.asdict(CLAIM), **changes}
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items() if not isinstance(value, dict)]
    lines += [
        f"{name} = {{ {', '.join(f'{k} = {v}' for k, v in table[name].items())} }}" for name in ("control", "arm")
    ]
    path = tmp_path / "claims.toml"
    path.write_text("\n".join(["seeds = [0]", "[common]", "[[claim]]", *lines]), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        claims.read(path)


SMALL = """seeds = [0]
[common]
resolution = 64
caption_prefix = "sticker,"
max_train_samples = 12
validation_split = 0.017
validation_steps = 1
max_train_steps = 1
guidance_scale = 2.0
num_inference_steps = 1
learning_rate = 1e-3
[[claim]]
name = "x"
says = "x."
source = "y"
measure = "moved"
expects = "lower"
margin = 0.01
also = ["kept", "kid", "top1", "early", "late", "gap", "gain"]
arm = { learning_rate = 1e-9 }
[[claim]]
name = "again"
says = "x."
source = "y"
measure = "late"
expects = "lower"
margin = 0.01
arm = { learning_rate = 1e-9 }
"""


@pytest.mark.unit
def test_a_run_that_a_claim_wants_pictures_of_is_made_again_with_them(tmp_path, monkeypatch):
    (tmp_path / "claims.toml").write_text(SMALL, encoding="utf-8")
    asked = []

    def measure(bench, settings, seed, *, drawn):
        asked.append((settings, drawn))
        return dict.fromkeys(measured.MEASURES if drawn else measured.MEASURES.keys() - measured.DRAWN, 0.5)

    monkeypatch.setattr(Bench, "measured", measure)
    plan, path = claims.read(tmp_path / "claims.toml"), tmp_path / "evidence.jsonl"
    for wanted in (command.chosen(plan, ["again"]), plan, plan):
        assert command.run(wanted, path, tmp_path, (0, 1)) == []
    arm = {"learning_rate": 1e-9}
    assert asked == [({}, False), (arm, False), ({}, True), (arm, True)]
    pair = verdicts.pair_of(plan.claims[0], 0, rows.hash_of(plan.common), rows.read(path))
    assert set(pair[0].measured) == set(measured.MEASURES)


@pytest.mark.invariant
def test_a_run_is_measured_once_and_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "claims.toml").write_text(SMALL, encoding="utf-8")
    monkeypatch.setattr(measured, "NUM_PICTURES", 3)
    words = ["evidence", "--claims", str(tmp_path / "claims.toml"), "--to", str(tmp_path / "docs")]
    monkeypatch.setattr("sys.argv", [*words, "--work", str(tmp_path / "work")])
    assert command.main() == 0
    path = tmp_path / "docs" / "evidence.jsonl"
    found = rows.read(path)
    assert [(row.claim, row.side) for row in found] == [
        ("x", CONTROL), ("again", CONTROL), ("x", ARM), ("again", ARM)
    ]  # fmt: skip
    control, same, still, _ = found
    assert set(control.measured) == set(measured.MEASURES)
    assert (same.measured, same.seconds) == (control.measured, 0)
    assert still.measured["moved"] < 1e-4 < control.measured["moved"]  # at no rate to speak of it is the base
    assert still.measured["kept"] == 0
    assert still.measured["late"] == pytest.approx(1, abs=1e-4)
    assert not list((tmp_path / "work").glob("run-*"))  # what runs leave is removed

    monkeypatch.setattr(Bench, "measured", None)  # nothing is run again
    assert command.main() == 0
    assert rows.read(path) == found
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:1]), encoding="utf-8")
    assert command.main() == 1  # but what is missing is, and fails
    assert "These runs failed" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*words, "--share", "3/2"])
    assert command.main() == 2
    assert "--share 3/2 is no part" in capsys.readouterr().err
