"""Runs do what they did when they were recorded: an upgrade or a change that shifts every loss alike is noticed."""

import json

import pytest

from pipeline.families import registry
from tests.invariants import golden
from tests.invariants.golden import Trajectory

pytestmark = pytest.mark.invariant
TOLERANCE = 1e-5  # of a loss; processors round differently


def recorded(name: str) -> Trajectory:
    return Trajectory(**json.loads(golden.FILE.read_text(encoding="utf-8"))[name])


def changes() -> list[str]:
    """What differs between the machine of the recording and this one."""
    then, now = json.loads(golden.FILE.read_text(encoding="utf-8"))["environment"], golden.environment()
    return [f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]]


def require_equal(name: str, found: Trajectory) -> None:
    """Losses equal to 1e-5, with the largest and the mean difference; the adapter to the bit on equal machines."""
    expected, changed = recorded(name), changes()
    reason = f"Since the recording: {', '.join(changed)}." if changed else "No version changed, so the code did."
    advice = "If that is meant, record anew with `python -m tests.invariants.golden` and say why in docs/decisions.md."
    assert len(found.losses) == len(expected.losses)
    differences = [own - theirs for own, theirs in zip(found.losses, expected.losses, strict=True)]
    largest, mean = max(map(abs, differences)), sum(differences) / len(differences)
    assert largest <= TOLERANCE, f"{name}: losses are off by {largest:.1e}, {mean:+.1e} on average. {reason} {advice}"
    if expected.norms is not None:
        assert found.norms == pytest.approx(expected.norms, rel=1e-4), f"{name}: another adapter. {reason} {advice}"
    if not changed:
        assert found.adapter == expected.adapter, f"{name}: the adapter is not the same to the bit. {reason} {advice}"


@pytest.mark.parametrize("family", sorted(registry.NAMES))
def test_every_family_takes_the_steps_it_took(family, tmp_path):
    require_equal(family, golden.run_family(family, tmp_path))


def test_the_demo_takes_the_steps_it_took(tmp_path):
    require_equal("demo", golden.run_demo(tmp_path))
