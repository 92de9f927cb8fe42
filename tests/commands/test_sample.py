"""sample, guided in other ways than the run."""

import dataclasses
import json

import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands.guidance import GuidanceFlags
from pipeline.commands.places import unused
from pipeline.evaluation.sample import SampleSettings
from pipeline.geometry import Size
from pipeline.sampling.options import GuidanceOptions
from tests.conftest import largest_difference
from tests.running import whole_grid

pytestmark = pytest.mark.unit


@pytest.fixture
def trained(finished_run):
    """A finished run; not to be changed."""
    return finished_run("--validation_prompt", "a red square", "--validation_size", "72x56", prepared=whole_grid)


@pytest.fixture
def draw(trained, tmp_path):
    """Draw with more flags; the pictures with the adapter and of the base, and their rows."""

    def found(name: str, *flags: str):
        to = tmp_path / name
        assert main(["sample", str(trained), "--prompt", "a red square", *flags, "--to", str(to)]) == 0
        rows = [json.loads((to / which / "index.json").read_text())[0] for which in ("adapted", "base")]
        return [Image.open(to / which / "0000.png") for which in ("adapted", "base")], rows

    return found


def test_what_decides_a_picture_is_in_its_row_and_in_no_other(draw):
    usual, (row, _) = draw("usual")
    assert not {name for name in row if name.startswith(("guidance_", "apg", "cads", "weaker"))} - {"guidance_scale"}
    flags = [
        "--guidance_method",
        "apg",
        "--apg_norm",
        "2.5",
        "--guidance_interval",
        "0.3,5",
        "--guidance_rescale",
        "0.5",
    ]
    other, (row, _) = draw("apg", *flags)
    assert largest_difference(other[0], usual[0]) > 1
    assert row["scale"] == 1
    assert row["guidance_scale"] == 7.5  # the run's
    said = {name: row[name] for name in row if name.startswith(("guidance_", "apg"))}
    assert said == {
        "guidance_scale": 7.5, "guidance_method": "apg", "guidance_against": "unconditional",
        "guidance_interval": "0.3,5", "guidance_rescale": 0.5, "apg_eta": 0.0, "apg_norm": 2.5, "apg_momentum": -0.5,
    }  # fmt: skip


def test_away_from_the_base_leads_beyond_the_adapter_and_the_base_stays(draw):
    plain, _ = draw("plain", "--guidance_scale", "1")
    trained, (row, _) = draw("trained", "--guidance_scale", "1", "--guidance_against", "base")
    beyond, (further, of_base) = draw("beyond", "--guidance_against", "base")
    assert (row["guidance_scale"], further["guidance_scale"], of_base["guidance_scale"]) == (1.0, 2.0, 2.0)
    assert largest_difference(trained[0], plain[0]) == 0
    assert largest_difference(beyond[0], plain[0]) > 1
    assert all(largest_difference(pictures[1], plain[1]) <= 1 for pictures in (trained, beyond))


def test_away_from_the_adapter_itself_leads_nowhere(draw, trained):
    """At any scale; and the row of the base names no checkpoint, for it is led away from none."""
    plain, _ = draw("plain", "--guidance_scale", "1")
    same, (row, of_base) = draw("same", "--guidance_against", "base", "--weaker", str(trained))
    assert row["weaker"] == trained.name
    assert "weaker" not in of_base
    assert largest_difference(same[0], plain[0]) <= 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--guidance_method", "cfg_zero_star"], "is for flows, and sd is none"),
        (["--weaker", "nowhere"], "add --guidance_against base"),
        (["--guidance_against", "base", "--weaker", "docs"], "--weaker docs holds no"),
        (["--apg_eta", "1", "--guidance_interval", "2,1"], "--guidance_interval 2,1 holds no"),
        (["--num_inference_steps", "0"], "--num_inference_steps 0 must be between 1 and 1000"),
        (["--scale", "nan"], "--scale nan must be between -100 and 100"),
        (["--guidance_scale", "-3"], "--guidance_scale -3 must be a number from 0 on"),
        (["--seed", "9" * 20], f"--seed {'9' * 20} must be between"),
        (["--num_images", "0"], "--num_images 0 must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(trained, tmp_path, flags, said, capsys):
    assert main(["sample", str(trained), "--prompt", "x", *flags, "--to", str(tmp_path / "drawn")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()


def test_nothing_of_others_is_written_over(trained, tmp_path, capsys):
    (tmp_path / "adapted").mkdir()
    (tmp_path / "adapted" / "0000.png").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for to, said in ((tmp_path, "is not empty; give another folder with --to"), (tmp_path / "file", "is a file")):
        assert main(["sample", str(trained), "--prompt", "x", "--to", str(to)]) == 2
        assert f"{to} {said}" in capsys.readouterr().err
    assert (tmp_path / "adapted" / "0000.png").read_bytes() == (tmp_path / "file").read_bytes() == b"mine"


def test_a_second_call_draws_into_a_folder_of_its_own(tmp_path):
    assert unused(tmp_path / "drawn") == tmp_path / "drawn"
    for number in ("drawn", "drawn-2"):
        (tmp_path / number / "adapted").mkdir(parents=True)
    (tmp_path / "drawn-3").mkdir()
    assert unused(tmp_path / "drawn") == tmp_path / "drawn-3"
    (tmp_path / "drawn-3").rmdir()
    (tmp_path / "drawn-3").write_text("a file", encoding="utf-8")
    assert unused(tmp_path / "drawn") == tmp_path / "drawn-4"


def test_settings_for_a_reader_name_what_is_not_as_usual():
    usual = SampleSettings(7.5, 25, Size.square(64))
    assert usual.text == "Guidance 7.5, 25 steps, 64 x 64 pixels"
    led = dataclasses.replace(usual, guidance=GuidanceOptions(guidance_against="base", guidance_rescale=0.7))
    assert led.text.startswith("Guidance 7.5 (cfg away from the base's, rescaled by 0.7), 25 steps")
    assert repr(usual) == repr(led)  # by which pictures of a class are found again
    assert usual != led


def test_flags_go_over_the_runs_and_another_method_leaves_what_belongs_to_the_runs():
    run = {"guidance_method": "apg", "apg_eta": 0.5, "guidance_interval": "0.3,3", "seed": 1, "guidance_scale": 2.0}
    assert GuidanceFlags().over(run) == GuidanceOptions.of(run)
    assert GuidanceFlags(apg_eta=1.0).over(run).apg_eta == 1.0
    plain = GuidanceFlags(guidance_method="cfg").over(run)
    assert plain == GuidanceOptions(guidance_interval="0.3,3")
    assert GuidanceFlags(guidance_method="cfg").is_as(run)
    assert not GuidanceFlags(guidance_against="base").is_as(run)


def test_of_prompts_that_are_too_long_it_is_said_what_is_not_read(trained, tmp_path, capsys):
    words = ["--num_inference_steps", "1", "--num_images", "2"]
    words += ["--prompt", "a red square", "--prompt", f"a blue square{' a b c' * 40}"]
    assert main(["sample", str(trained), *words, "--to", str(tmp_path / "drawn")]) == 0
    told = capsys.readouterr().err
    assert told.count("captions cut by the text encoder: 'a blue square a b c") == 1
    assert "red" not in told
