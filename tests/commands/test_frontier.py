"""frontier: ways of drawing raced against one another, gone on with, compared, and drawn with by a wish."""

import csv
import dataclasses
import json
import re
import shutil

import pytest
import torch
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands.frontier import frontier as tracing
from pipeline.commands.frontier.grid import Axes, ways
from pipeline.commands.frontier.options import METHODS
from pipeline.commands.wish import wished
from pipeline.evaluation.frontier import found as records_of
from pipeline.evaluation.frontier.found import Frontier, Row, Setting, far_apart, nearest_kid
from pipeline.evaluation.sample import Sampler, SampleSettings
from pipeline.evaluation.statistics import Interval
from pipeline.geometry import Size
from pipeline.sampling.options import GuidanceOptions
from pipeline.sharing import card
from tests.commands.handled import HALF
from tests.conftest import largest_difference

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    lines = [f"a picture of {number} birds" for number in range(6)]
    lines[1] += " and so on" * 40  # more than is read
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def words_of(out, to, captions, *more):
    short = ["--num_images", "2", "--num_inference_steps", "1", "--extractor", "starter", "--adherence", "clip_margin"]
    return ["frontier", str(out), "--captions", str(captions), *short, "--to", str(to), *more]


def test_a_frontier_is_traced_gone_on_with_and_drawn_by_a_wish(finished_run, captions, tmp_path, capsys, monkeypatch):
    out = finished_run(*HALF)
    to = tmp_path / "frontier"
    monkeypatch.setattr(tracing, "FIRST_ROUND", 4)
    chosen = ["--method", "cfg", "--method", "adapter", "--guidance_scales", "1", "--guidance_scales", "4"]
    words = words_of(out, to, captions, *chosen, "--scales", "1", "--scales", "100", "--all_pictures")
    assert main(words) == 0
    said, told = capsys.readouterr()
    assert told.count("captions cut by the text encoder: 'a picture of 1 birds and so") == 1
    result = records_of.read(to)
    assert [row.setting.title for row in result.rows] == [
        "cfg 1, 1 steps", "cfg 1, adapter 100, 1 steps", "cfg 4, 1 steps", "cfg 4, adapter 100, 1 steps",
        "adapter 4, 1 steps", "adapter 4, adapter 100, 1 steps",
    ]  # fmt: skip
    assert {row.captions for row in result.rows} == {6}
    assert "6 ways of drawing 6 captions" in said
    places = [to / row.folder for row in result.rows]
    assert [len(json.loads((place / "index.json").read_text())) for place in places] == [12] * 6
    pictures = [(place / "0000" / "000000.png").read_bytes() for place in places]
    assert len(set(pictures)) == 6  # every way draws another
    assert [path.name for path in sorted(places[0].glob("*/*.png"))] == [f"{k:06d}.png" for k in (*range(8), *range(4))]
    first = result.rows[0]
    assert torch.tensor(first.values).mean(0).tolist() == pytest.approx([first.adherence.value, first.diversity.value])
    table = list(csv.DictReader((to / "frontier.csv").read_text().splitlines()))
    assert [float(row["diversity"]) for row in table] == [row.diversity.value for row in result.rows]
    page = (to / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<circle ", page)) == 6
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [way["title"] for way in shown] == [row.setting.title for row in result.rows]
    assert all(len(way["pictures"]) == 6 for way in shown)

    draw = Sampler.draw
    monkeypatch.setattr(Sampler, "draw", None)  # what was drawn is not drawn again
    other = tmp_path / "other"
    (other / "frontier").mkdir(parents=True)
    (other / "frontier" / "frontier.json").write_bytes((to / "frontier.json").read_bytes())
    assert main([*words, "--against", str(other)]) == 0
    assert "adherence +0.000 [+0.000, +0.000] at equal diversity" in capsys.readouterr().out
    monkeypatch.setattr(Sampler, "draw", draw)

    run = tmp_path / "run"
    run.mkdir()
    for name in (FILE, "run.toml"):
        (run / name).write_bytes((out / name).read_bytes())
    assert main(["sample", str(run), "--prompt", "a bird", "--wish", "diverse"]) == 2
    assert f"run `python -m pipeline frontier {run}` first" in capsys.readouterr().err
    (run / "frontier").mkdir()
    (run / "frontier" / "frontier.json").write_bytes((to / "frontier.json").read_bytes())
    points = card.of_points(records_of.of_adapter(run), str)
    assert [row["wish"] for row in points["rows"]] == ["faithful", "balanced", "diverse"]
    assert points["rows"][2]["way"] == result.rows[result.chosen["diverse"]].setting.title
    assert main(["sample", str(run), "--prompt", "a bird", "--wish", "diverse", "--scale", "2"]) == 2
    assert "--wish diverse decides --scale" in capsys.readouterr().err
    place = 5  # whatever was found: at another scale of the adapter, and by another method
    pretend = Frontier(**{**vars(result), "chosen": {**result.chosen, "diverse": place}})
    pretend.write(run / "frontier")
    setting, request = (
        result.rows[place].setting,
        ["--prompt", "a picture of 0 birds", "--seed", "0", "--size", "64x64"],
    )
    assert main(["sample", str(run), *request, "--wish", "diverse"]) == 0
    assert f"diverse: {setting.title}" in capsys.readouterr().err
    (row,) = json.loads((run / "drawn" / "adapted" / "index.json").read_text())
    assert (row["guidance_scale"], row["num_inference_steps"]) == (setting.guidance_scale, 1)
    drawn = [Image.open(run / "drawn" / "adapted" / "0000.png"), Image.open(places[place] / "0000" / "000000.png")]
    assert largest_difference(*drawn) <= 1  # at the adapter's scale and by the method, too
    (run / FILE).write_bytes((run / FILE).read_bytes()[:-1] + b"\0")
    assert main(["sample", str(run), *request, "--wish", "diverse", "--to", str(tmp_path / "x")]) == 2
    assert "is of another adapter" in capsys.readouterr().err
    assert records_of.of_adapter(run) is None


def test_a_beaten_way_draws_no_more(finished_run, captions, tmp_path, capsys, monkeypatch):
    out, to = finished_run(*HALF), tmp_path / "frontier"
    monkeypatch.setattr(tracing, "FIRST_ROUND", 4)
    monkeypatch.setattr(tracing, "surely_beaten", lambda points, may_beat: [True, *[False] * (len(points) - 1)])
    words = words_of(out, to, captions, "--method", "cfg", "--guidance_scales", "2", "--guidance_scales", "4")
    assert main([*words, "--scales", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["captions"], row["is_beaten"]) for row in result["rows"]] == [(4, True), (6, False)]
    assert result["front"] == [1]
    assert set(result["chosen"].values()) == {1}
    assert "beaten after 4 captions" in (to / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "guidance"], "--method guidance is unknown; there are cfg, interval"),
        (["--guidance_scales", "-1", "--steps", "0"], "--steps 0 must be between 1 and 1000"),
        (["--method", "cfg_zero_star"], "is for flows, and sd is none"),
        (["--adherence", "kid"], "--adherence kid is no metric of captions; there are top1"),
        (["--adherence", "top1"], "Nobody can say how well pictures of these captions follow them (top1)"),
        (["--diversity", "noise"], "neither within_caption nor vendi"),
        (["--num_images", "1"], "--num_images 1 must be at least 2"),
        (["--limit", "2"], "--limit 2 must be at least 4"),
        (["--against", "nowhere"], "--against nowhere holds no frontier"),
        (["--adherence", "written"], "Nobody can say how well"),
        (["--anyway"], "--anyway has no effect here"),
        (["--scale", "0.5", "--scales", "1"], "--scale and --scales say the same"),
        (["--checkpoints", "--base", "BASE"], "holds none but that of the weights it published"),
    ],
)
def test_what_cannot_be_traced_is_said_before_anything_is_drawn(
    more, said, finished_run, captions, tmp_path, capsys, miniature
):
    out, to = finished_run(*HALF), tmp_path / "frontier"
    given = {word for word in more if word.startswith("--")}
    words = words_of(out / FILE if "--base" in more else out, to, captions)
    more = [str(miniature) if word == "BASE" else word for word in more]
    kept = [word for k, word in enumerate(words) if not ({word, words[k - 1]} & given)]
    assert main([*kept, *more]) == 2
    assert said in capsys.readouterr().err
    assert not to.exists()


def test_every_way_is_tried_once_and_at_scale_1_only_plain(tmp_path):
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"adapter")
    usual = SampleSettings(2.0, 4, Size.square(64))
    found = ways(Axes(("cfg", "interval", "adapter"), None, None, (4, 8), {None: file}, 2.0), usual)
    titles = [way.setting.title for way in found]
    assert len(set(titles)) == len(titles) == 2 * (5 * 2 + 4 + 3)
    assert len({way.folder for way in found}) == len(found)
    assert titles[:4] == [
        "cfg 1, 4 steps",
        "cfg 1, adapter 0.7, 4 steps",
        "cfg 1.5, 4 steps",
        "cfg 1.5, adapter 0.7, 4 steps",
    ]
    assert {way.setting.method for way in found if way.setting.guidance_scale == 1} == {"cfg"}
    assert all(way.settings.guidance_scale == way.setting.guidance_scale for way in found)
    assert {repr(way.settings.guidance) for way in found if way.setting.method == "interval"} != {repr(usual.guidance)}
    assert not [method for method, options in METHODS.items() if GuidanceOptions(**options).problems()]


def test_pictures_that_fall_apart_are_not_diverse():
    setting = Setting(method="cfg", guidance={}, guidance_scale=1.0, num_inference_steps=4, scale=1.0, adapter="x")

    def row(kid):
        some = Interval(0.0, 0.0, 0.0, 4)
        return Row(setting=setting, folder="", captions=4, is_beaten=False, adherence=some, diversity=some, vendi=some,
                   kid=kid, values=((0.0, 0.0),))  # fmt: skip

    near, wide, far = Interval(0.2, 0.1, 0.3, 4), Interval(0.5, 0.2, 0.8, 4), Interval(0.7, 0.45, 1.0, 4)
    apart = Interval(0.36, 0.32, 0.39, 4)  # beyond both intervals, and not twice as far
    rows = far_apart([row(near), row(wide), row(far), row(apart)])
    assert [one.is_far for one in rows] == [False, False, True, False]
    assert [one.is_far for one in far_apart([row(None), row(None)])] == [False, False]
    beaten = dataclasses.replace(row(near), is_beaten=True)  # and drew few: no measure for the others
    assert [one.is_far for one in far_apart([beaten, row(far), row(far)])] == [False] * 3
    assert nearest_kid([beaten, row(far), row(wide), row(None)]) == wide


def test_what_cannot_be_compared_is_said(finished_run, captions, tmp_path, capsys):
    out, to = finished_run(*HALF), tmp_path / "frontier"
    words = words_of(out, to, captions, "--method", "cfg", "--guidance_scales", "2", "--scale", "0.5", "--limit", "4")
    assert main(words) == 0
    capsys.readouterr()
    result, other = records_of.read(to), tmp_path / "other"
    assert [row.setting.scale for row in result.rows] == [0.5]
    (other / "frontier").mkdir(parents=True)
    moved = dataclasses.replace(result.rows[0], values=tuple((a, d + 5) for a, d in result.rows[0].values))
    dataclasses.replace(result, rows=(moved,)).write(other / "frontier")
    assert main([*words, "--against", str(other)]) == 0
    assert "have no diversity in common, so nothing can be compared" in capsys.readouterr().out
    by_another = dataclasses.replace(result.measured, adherence="top1")
    dataclasses.replace(result, measured=by_another).write(other / "frontier")
    assert main([*words, "--against", str(other)]) == 2
    assert "was measured otherwise (top1 by" in capsys.readouterr().err


def test_true_pictures_say_what_falls_apart_and_checkpoints_are_ways_too(finished_run, tmp_path):
    out, to = finished_run(*HALF), tmp_path / "frontier"
    words = ["frontier", str(out), "--num_images", "2", "--num_inference_steps", "1", "--extractor", "starter"]
    words += [
        "--adherence",
        "clip_margin",
        "--method",
        "cfg",
        "--guidance_scales",
        "2",
        "--scales",
        "1",
        "--checkpoints",
    ]
    assert main([*words, "--to", str(to)]) == 0
    result = records_of.read(to)
    assert [row.setting.step for row in result.rows] == [None, 6]  # 12 is what was published
    assert all(row.kid is not None and row.kid.n == 8 for row in result.rows)
    last, first = result.rows
    assert first.kid.value != last.kid.value
    page = (to / "report.html").read_text(encoding="utf-8")
    hues = {int(hue) for hue in re.findall(r"hsl\((\d+) 70% 46%\)", page)}
    assert {189, 327} <= hues  # the nearest to true pictures and the farthest
    pretend = Frontier(**{**vars(result), "chosen": dict.fromkeys(result.chosen, 1)})
    run = tmp_path / "run"
    shutil.copytree(out, run)
    (run / "frontier").mkdir()
    pretend.write(run / "frontier")
    place, setting = wished(run, "balanced")
    assert (place, setting) == (run / "checkpoint-6", first.setting)


def test_pictures_are_those_of_sample(finished_run, captions, tmp_path):
    """One way of the frontier, drawn by `sample` with the same flags and seed."""
    out, to = finished_run(*HALF), tmp_path / "frontier"
    words = words_of(out, to, captions, "--method", "apg", "--guidance_scales", "3", "--scales", "1", "--size", "64x64")
    assert main([*words, "--limit", "4"]) == 0
    (row,) = records_of.read(to).rows
    drawn = Image.open(to / row.folder / "0000" / "000000.png")
    flags = ["--guidance_method", "apg", "--guidance_scale", "3", "--num_inference_steps", "1", "--size", "64x64"]
    place = tmp_path / "sample"
    assert main(["sample", str(out), "--prompt", "a picture of 0 birds", *flags, "--to", str(place)]) == 0
    same = Image.open(place / "adapted" / "0000.png")
    assert largest_difference(drawn, same) <= 1
