"""forgetting: what a run does to captions that it was not trained for."""

import dataclasses
import functools
import json

import pytest
import torch
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands import forgetting as looking
from pipeline.commands.evaluation import predictions
from pipeline.commands.evaluation.drawing import Column
from pipeline.commands.evaluation.options import DrawOptions
from pipeline.commands.evaluation.subject import opened
from pipeline.errors import ConfigError
from pipeline.evaluation import forgetting
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.forgetting import Asked
from pipeline.evaluation.looking import PictureSet
from pipeline.evaluation.picture_sets import keep
from pipeline.evaluation.sample import Sampler
from pipeline.families.checkpoint.source import ModelSource
from pipeline.families.sd import StableDiffusion
from pipeline.objective.options import ObjectiveOptions
from tests.commands.handled import HALF
from tests.conftest import largest_difference

pytestmark = pytest.mark.invariant


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"a picture of {number} birds\n" for number in range(12)), encoding="utf-8")
    return path


@pytest.fixture
def few(monkeypatch):
    """Predictions of three pictures instead of 32."""
    monkeypatch.setattr(predictions, "MAX_EXAMPLES", 3)


@pytest.mark.unit
@pytest.mark.parametrize("against", ["live", "base"])
@pytest.mark.parametrize("kind", ["cfg", "model_guidance"])
def test_learnt_guidance_is_taken_out(kind, against, miniature_of):
    """An adapter that has learnt guidance to the letter and nothing else has forgotten nothing."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    wanted, (u, c, w) = draw(3, 4, 2, 4, 4), draw(3, 3, 4, 2, 4, 4)
    path = StableDiffusion(ModelSource(miniature_of("sd"))).path(ObjectiveOptions())
    run = {"guided_target": kind, "guided_target_scale": 3.0, "guided_target_against": against}
    times = path.validation_time((torch.arange(4, dtype=torch.float64) + 0.5) / 4)
    scales = 1 + 2 * (torch.sigmoid(-path.log_snr(times) / 2) if kind == "cfg" else torch.ones(4))
    own = u if against == "base" else u + 0.3  # its unconditional prediction may have moved
    guided = [own + scales[:, None, None, None] * (one + own - u - own) for one in (c, w)]
    base = Asked(*(list(zip(part, wanted, strict=True)) for part in (c, w, u)))
    learnt = Asked(*(list(zip(part, wanted, strict=True)) for part in (*guided, own)))
    found = predictions.unguided(learnt, base, run, path)
    for part, plain in ((found.captioned, c), (found.shuffled, w)):
        assert torch.allclose(torch.stack([one for one, _ in part]), plain + own - u, atol=1e-5)
    assert predictions.unguided(learnt, base, {}, path) is learnt


def test_what_moved_is_found_and_shown(finished_run, captions, tmp_path, few, capsys, monkeypatch):
    out, to = finished_run(*HALF), tmp_path / "to"
    words = ["forgetting", str(out), "--captions", str(captions), "--extractor", "starter", "--scale", "100"]
    words += ["--num_inference_steps", "1", "--num_images", "2", "--to", str(to)]
    assert main(words) == 0
    said = capsys.readouterr().out
    found = forgetting.read(to)
    assert found.words() in said
    assert len(found.worst) == 12  # of each caption its worst
    assert len({pair.caption for pair in found.worst}) == 12
    distances = [pair.distance for pair in found.worst]
    assert distances == sorted(distances, reverse=True)
    base, adapted = (Image.open(to / name) for name in (found.worst[0].base, found.worst[0].adapted))
    assert largest_difference(base, adapted) > 0
    assert found.moved.value > 0
    assert all(level.moved.value > 0 and level.moved_unconditional.value > 0 for level in found.levels)
    page = (to / "report.html").read_text(encoding="utf-8")
    assert found.words() in page
    assert page.count("<figure>") == 12

    monkeypatch.setattr(Sampler, "draw", None)  # what was drawn is not drawn again
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["share"]["value"] == found.share.value


def test_distances_are_taken_where_they_mean_something():
    """Not by the network that the base learnt from, and not by one that only reads."""
    judges = {
        name: Extractor(kind=name, name=name, version="1", features=features, takes_distances=takes)
        for name, features, takes in (("first", torch.ones, True), ("own", torch.ones, False), ("reads", None, True))
    }
    assert looking.measuring([judges[name] for name in ("first", "own", "reads")]).name == "first"
    with pytest.raises(ConfigError, match="name a vision model with --extractor"):
        looking.measuring([judges["own"], judges["reads"]])


def test_at_scale_0_nothing_moves(finished_run, captions, tmp_path, few):
    """Base and adapter are asked for the same, and answer the same."""
    out, to = finished_run(*HALF), tmp_path / "to"
    words = ["--captions", str(captions), "--extractor", "starter", "--scale", "0", "--num_inference_steps", "1"]
    words += ["--num_images", "2", "--to", str(to)]
    assert main(["forgetting", str(out), *words]) == 0
    found = forgetting.read(to)
    assert found.moved.value == pytest.approx(0, abs=1e-5)
    assert found.another_seed.value > 0.01
    for level in found.levels:
        assert level.moved.value == pytest.approx(0, abs=1e-9)
        assert level.gain.value == pytest.approx(level.gain_base.value)
        assert level.shuffle_gain.value == pytest.approx(level.shuffle_gain_base.value)
    assert found.words() == "The adapter leaves what these captions show nearly as it was."


def test_what_a_run_says_it_has_learnt_is_taken_out_of_what_its_adapter_is_asked(finished_run, tmp_path, few):
    rows = [{"file": f"{n}.png", "prompt": f"{n} birds", "seed": n} for n in range(3)]
    keep(tmp_path / "base", [Image.new("RGB", (64, 64), (n, 90, 9)) for n in range(3)], rows, drawn=False)
    pictures, learnt = (
        PictureSet(tmp_path / "base", (), (0, 1, 2)),
        {"guided_target": "cfg", "guided_target_scale": 3.0},
    )
    with opened(finished_run(*HALF), DrawOptions()) as subject:
        column = Column("with the adapter", subject.file)
        base, plain = predictions.asked(subject, column, pictures)
        _, guided = predictions.asked(dataclasses.replace(subject, run={**subject.run, **learnt}), column, pictures)
        path = subject.family.path(ObjectiveOptions())
    expected = predictions.unguided(plain, base, learnt, path)
    for one, other, before in zip(guided.captioned, expected.captioned, plain.captioned, strict=True):
        assert torch.equal(one[0], other[0])
        assert not torch.allclose(one[0], before[0], atol=1e-4)


def test_captions_are_those_of_the_bases_card_else_a_list_that_ships(tmp_path):
    from pipeline import shipped
    from pipeline.evaluation.extractors.table import unrelated

    of_starter, ours = unrelated(ModelSource(shipped.BASE)), unrelated(ModelSource(tmp_path))
    assert len(set(of_starter)) == 120
    assert all("background" in caption for caption in of_starter)
    assert len(set(ours)) == 60
    assert not set(of_starter) & set(ours)


def test_what_cannot_be_looked_at(finished_run, tmp_path, captions, capsys):
    out, two = str(finished_run(*HALF)), tmp_path / "two.txt"
    two.write_text("a\nb\n" + "a\n" * 20, encoding="utf-8")
    for words, said in (
        ([out, "--num_images", "1"], "--num_images 1 must be at least 2"),
        ([out, "--captions", str(two)], "holds 2 captions, and 12 are the least"),
        ([out, "--captions", str(captions), "--limit", "3"], "--limit 3 must be at least 12"),
        ([out, "--captions", str(tmp_path / "no.txt")], "is no file"),
        ([str(tmp_path)], "give the output folder of a finished run"),
        ([str(tmp_path / "x.safetensors"), "--base", "starter"], "is neither the output folder of a run nor"),
    ):
        assert main(["forgetting", *words]) == 2
        assert said in capsys.readouterr().err
