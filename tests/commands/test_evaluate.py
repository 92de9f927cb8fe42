"""evaluate: what is drawn, that it goes on where it stopped, and who measures it."""

import dataclasses
import html
import json
import math
import re
import shutil

import pytest
from PIL import Image

from pipeline import shipped
from pipeline.__main__ import main
from pipeline.commands.evaluation import evaluate as evaluating
from pipeline.commands.evaluation.options import DrawOptions, EvaluateOptions
from pipeline.commands.evaluation.subject import subject_of
from pipeline.commands.evaluation.wanted import Wanted, wanted_of
from pipeline.evaluation import results
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.sample import Sampler
from tests.commands import captioners
from tests.commands.handled import HALF
from tests.conftest import make_colours
from tests.evaluation.test_extractors import vit
from tests.evaluation.test_memorisation import example
from tests.evaluation.test_readers import write_clip
from tests.running import World

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def out(finished_run, tmp_path):
    """A finished run that held four pictures out; may be changed."""
    return shutil.copytree(finished_run(*HALF), tmp_path / "out")


def numbers(folder):
    return results.read(folder)


def test_a_run_is_measured_on_what_it_held_out(out, capsys):
    assert main(["evaluate", str(out), "--num_images", "2"]) == 0
    said = capsys.readouterr()
    found = numbers(out / "evaluation")
    assert found.n == 4
    assert found.extractors == {"photographs": photographs.NAME}
    names = {which: [one.metric for one in estimates.values()] for which, estimates in found.sets.items()}
    of_a_set = ["kid", "own_nearest", "nearest_similarity", "vendi", "within_caption", "inception_score"]
    assert names["adapted"] == names["base"] == names["change"] == of_a_set
    assert names["reference"] == ["vendi", "inception_score"]
    assert found.found("adapted", "kid").n == 8
    for which in ("base", "adapted"):
        rows = json.loads((out / "evaluation" / which / "index.json").read_text(encoding="utf-8"))
        assert [row["seed"] for row in rows] == list(range(100_000, 100_008))
        assert rows[0]["prompt"] == rows[1]["prompt"] != rows[2]["prompt"]
        assert all((out / "evaluation" / which / row["file"]).is_file() for row in rows)
    first = [(out / "evaluation" / which / "000000.png").read_bytes() for which in ("base", "adapted")]
    assert first[0] != first[1]
    assert "Fréchet distance" not in said.out  # of eight pictures
    assert "FID, FID∞: left out, 4 pictures are too few (500)\n" in said.err
    page = (out / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "what the run held out" in page
    assert page.count("<figure>") == 4
    for metric in of_a_set:
        assert METRICS[metric].label in page
        assert METRICS[metric].blind in page.replace("&#39;", "'")


def test_its_pictures_are_those_that_the_run_drew(out):
    """Stock pipeline and stock loader on the saved file, against the live adapter: equal but for rounding."""
    assert main(["evaluate", str(out)]) == 0
    for ours, theirs in (("base", "test-base"), ("adapted", "test-adapted")):
        for number in range(4):
            mine = Image.open(out / "evaluation" / ours / f"{number:06d}.png")
            its = Image.open(out / "samples" / theirs / f"{number:04d}.png")
            pairs = zip(mine.tobytes(), its.tobytes(), strict=True)
            assert max(abs(a - b) for a, b in pairs) <= 1


def test_it_goes_on_where_it_stopped_and_knows_what_it_has_seen(out, monkeypatch, capsys):
    assert main(["evaluate", str(out), "--num_images", "5"]) == 0
    folder = out / "evaluation"
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    saved = (folder / "evaluation.json").read_bytes()
    (folder / "adapted" / "000018.png").unlink()
    (folder / "evaluation.json").unlink()
    drawn, draw = list[int](), Sampler.draw
    monkeypatch.setattr(Sampler, "draw", lambda self, some: drawn.append(len(some)) or draw(self, some))
    monkeypatch.setattr(photographs, "features", None)  # nothing is looked at again but what is new, and that is known
    assert main(["evaluate", str(out), "--num_images", "5"]) == 0
    assert drawn == [4]  # the batch that it is of
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before
    assert (folder / "evaluation.json").read_bytes() == saved
    assert main(["evaluate", str(out), "--num_images", "5", "--scale", "0.5"]) == 2
    assert "holds an evaluation with other scale; give another folder with --to" in capsys.readouterr().err


def test_two_processes_draw_and_measure_what_one_does(out, tmp_path):
    words = ["evaluate", str(out), "--num_images", "6", "--to"]  # two batches, a whole one and a part
    assert main([*words, str(tmp_path / "one")]) == 0
    ended = World(2, [*words, str(tmp_path / "two")], tmp_path / "log", program=("-m", "pipeline")).wait()
    assert [process.code for process in ended] == [0, 0], [process.output for process in ended]
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert len(one) > 48
    assert one == two
    assert "Report" not in ended[1].output


def test_at_scale_0_nothing_changes(out, tmp_path):
    assert main(["evaluate", str(out), "--scale", "0", "--to", str(tmp_path / "e")]) == 0
    for estimate in numbers(tmp_path / "e").sets["change"].values():
        assert estimate.value == pytest.approx(0, abs=1e-4), estimate


def test_any_adapter_on_any_base_and_any_captions(out, miniature, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a red square\n\n  a blue   square\n", encoding="utf-8-sig")
    common = ["--captions", str(tmp_path / "captions.txt"), "--num_inference_steps", "2", "--size", "64x64"]
    common += ["--cache_dir", str(tmp_path / "cache")]
    adapter, base = str(out / FILE), ["--base", str(miniature)]
    assert main(["evaluate", adapter, *base, *common, "--num_images", "3", "--to", str(tmp_path / "one")]) == 0
    found = numbers(tmp_path / "one")
    assert (found.n, set(found.sets)) == (2, {"adapted", "base", "change"})
    assert "kid" not in {one.metric for one in found.sets["base"].values()}
    assert found.found("change", "within_caption").n == 6
    colours = make_colours(tmp_path / "truth")
    (colours / "metadata.jsonl").unlink()  # true pictures need no captions where these are given
    assert main(["evaluate", *base, *common, "--reference", str(colours), "--to", str(tmp_path / "two")]) == 0
    kid = numbers(tmp_path / "two").found("base", "kid")
    assert kid is None  # of two pictures there is none
    assert numbers(tmp_path / "two").found("base", "nearest_similarity").n == 2
    assert numbers(tmp_path / "two").found("base", "own_nearest") is None  # they are strangers
    capsys.readouterr()
    assert main(["evaluate", adapter, *base, *common]) == 2
    assert "Give a folder for the pictures with --to" in capsys.readouterr().err


def test_two_runs_are_compared_picture_by_picture(out, tmp_path, capsys):
    other = shutil.copytree(out, tmp_path / "other")
    shutil.copy(out / "checkpoint-6" / FILE, other)  # as if it had learnt for half as long
    shutil.copytree(other, tmp_path / "third")
    for folder in (other, out):
        assert main(["evaluate", str(folder), "--num_images", "2", "--to", str(folder / "evaluation")]) == 0
    assert main(["evaluate", str(out), "--num_images", "2", "--against", str(other)]) == 0
    against = numbers(out / "evaluation").sets["against"]
    now, before = (numbers(folder / "evaluation") for folder in (out, other))
    for name, estimate in against.items():
        assert estimate.value == pytest.approx(now.sets["adapted"][name].value - before.sets["adapted"][name].value)
    page = (out / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert f"Against {other}, which was drawn with other adapter." in page
    words = ["evaluate", str(out), "--num_images", "2", "--against", str(other)]
    capsys.readouterr()
    assert main([*words, "--seed", "1", "--to", str(tmp_path / "seeds")]) == 2
    assert "was drawn with other first_seed" in capsys.readouterr().err
    (other / "evaluation" / "adapted" / "000003.png").unlink()
    assert main([*words, "--to", str(tmp_path / "unfinished")]) == 2
    assert "is not finished; run `evaluate` on it again" in capsys.readouterr().err
    shutil.rmtree(other / "evaluation" / "adapted")
    assert main([*words, "--to", str(tmp_path / "unfinished")]) == 2
    assert "is not finished; run `evaluate` on it again" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--against", str(tmp_path / "third")]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--against", str(other), "--to", str(tmp_path / "new")]) == 2
    assert "was drawn with other num_images" in capsys.readouterr().err


def captioned(tmp_path, *captions: str) -> list[str]:
    (tmp_path / "captions.txt").write_text("\r\n".join(captions), encoding="utf-8")
    return ["--captions", str(tmp_path / "captions.txt")]


def drawn(run, folder, *flags: str) -> bytes:
    """The base's picture of a caption."""
    words = ["evaluate", str(run), *captioned(folder, "a red square"), *flags]
    assert main([*words, "--to", str(folder / "e")]) == 0
    return Image.open(folder / "e" / "base" / "000000.png").tobytes()


@pytest.fixture(scope="module")
def plain(finished_run, tmp_path_factory):
    return drawn(finished_run(*HALF), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "flags",
    [["--seed", "1"], ["--guidance_scale", "1.5"], ["--num_inference_steps", "3"], ["--mixed_precision", "bf16"]],
)
def test_each_option_decides_what_is_drawn(finished_run, plain, tmp_path, flags):
    assert drawn(finished_run(*HALF), tmp_path, *flags) != plain


def test_a_caption_that_is_not_read_to_its_end_is_named_once(out, tmp_path, capsys):
    captions = captioned(tmp_path, "a red square", f"a blue square {'a b c ' * 40}")
    assert main(["evaluate", str(out), *captions, "--num_images", "2", "--to", str(tmp_path / "e")]) == 0
    said = "captions cut by the text encoder: 'a blue square a b c a b c"
    assert capsys.readouterr().err.count(said) == 1
    page = html.unescape((tmp_path / "e" / "report.html").read_text(encoding="utf-8"))
    assert page.count(said) == 1


def test_a_seed_is_added_and_captions_are_limited(out, tmp_path):
    assert main(["evaluate", str(out), "--seed", "5", "--limit", "2", "--to", str(tmp_path / "e")]) == 0
    rows = json.loads((tmp_path / "e" / "base" / "index.json").read_text(encoding="utf-8"))
    assert [row["seed"] for row in rows] == [100_005, 100_006]
    assert numbers(tmp_path / "e").n == 2


def same_caption(folder, caption: str = "a photo of sks square"):
    """Eight pictures with names of the starter's test set, and one caption."""
    truth = make_colours(folder)
    for number, path in enumerate(sorted(truth.glob("*.png"))):
        path.rename(truth / f"{number:03d}.png")
    rows = [{"file_name": f"{number:03d}.png", "text": caption} for number in range(8)]
    (truth / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return truth


def test_of_equal_captions_nothing_is_said_that_needs_another_and_each_is_shown(tmp_path, miniature):
    clip, truth = write_clip(tmp_path / "clip"), same_caption(tmp_path / "truth")
    words = ["--base", str(miniature), "--reference", str(truth), "--num_inference_steps", "2", "--size", "64x64"]
    assert main(["evaluate", *words, "--extractor", str(clip), "--to", str(tmp_path / "e")]) == 0
    names = {one.metric for one in numbers(tmp_path / "e").sets["base"].values()}
    assert {"own_nearest", "clip_margin", "r_precision"}.isdisjoint(names)
    assert {"kid", "clip_score", "cmmd"} <= names
    page = (tmp_path / "e" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8


def test_two_extractors_of_one_kind_and_name_both_say_what_they_see(out, tmp_path):
    for place, seed in (("a", 0), ("b", 1)):
        vit(tmp_path / place / "model", ["score"], seed=seed)
    words = [word for place in ("a", "b", "a") for word in ("--extractor", str(tmp_path / place / "model"))]
    assert main(["evaluate", str(out), *words, "--to", str(tmp_path / "e")]) == 0
    found = numbers(tmp_path / "e")
    first, second = found.extractors.values()
    assert (first, set(found.extractors)) == ("model", {"vision", "vision 2"})
    assert re.fullmatch(r"model \([0-9a-f]{8}\)", second)
    assert len({one.value for one in found.sets["base"].values() if one.metric == "kid"}) == 2
    page = (tmp_path / "e" / "report.html").read_text(encoding="utf-8")
    assert "2 extractors" in page.split("<h1>")[1].split("</h1>")[0]


def test_pictures_that_only_have_the_names_of_the_starters_are_not_taken_for_them(miniature, tmp_path):
    truth = same_caption(tmp_path / "truth", "a dog")
    words = ["--base", str(miniature), "--reference", str(truth), "--num_inference_steps", "2", "--size", "64x64"]
    assert main(["evaluate", *words, "--extractor", "starter", "--to", str(tmp_path / "e")]) == 0
    found = numbers(tmp_path / "e")
    assert "starter-reader" in found.extractors["captioner"]  # the base's own, for --extractor starter
    assert found.found("base", "top1") is None
    assert found.found("base", "rouge_l") is not None


def test_each_picture_goes_by_the_name_of_its_own_reference():
    two = dataclasses.replace(example(0), name="a"), dataclasses.replace(example(1), name="b")
    wanted = Wanted(("x", "y"), 3, 0, two, True, "")
    assert wanted.names == ("a", "a", "a", "b", "b", "b")
    assert (wanted.groups, wanted.reference_groups) == ((0, 0, 0, 1, 1, 1), (0, 1))
    assert dataclasses.replace(wanted, is_paired=False).reference_groups == (2, 3)


def test_a_base_is_measured_by_what_its_card_names(tmp_path):
    words = [*captioned(tmp_path, "a fox"), "--num_inference_steps", "1", "--to", str(tmp_path / "e")]
    assert main(["evaluate", "--base", str(shipped.BASE), *words]) == 0
    assert set(numbers(tmp_path / "e").extractors) == {"judge", "clip", "photographs", "captioner"}


def test_an_aesthetic_model_scores_every_set(out, tmp_path):
    taste = vit(tmp_path / "taste", ["score"])
    assert main(["evaluate", str(out), "--aesthetic_model", taste, "--to", str(tmp_path / "e")]) == 0
    found = numbers(tmp_path / "e")
    assert all(found.found(name, "aesthetic") is not None for name in ("base", "adapted", "reference", "change"))


def test_a_reference_of_few_pictures_has_no_distance_of_sets(miniature, tmp_path):
    truth = make_colours(tmp_path / "truth")
    for path in sorted(truth.glob("*.png"))[2:]:
        path.unlink()
    (truth / "metadata.jsonl").unlink()
    captions = captioned(tmp_path, *(f"a {number} square" for number in range(5)))
    words = ["--base", str(miniature), "--reference", str(truth), "--num_inference_steps", "2", "--size", "64x64"]
    assert main(["evaluate", *words, *captions, "--anyway", "--to", str(tmp_path / "e")]) == 0
    found = {one.metric: one for one in numbers(tmp_path / "e").sets["base"].values()}
    assert {"kid", "fid", "precision"}.isdisjoint(found)
    assert "vendi" in found
    assert all(math.isfinite(one.value) for one in found.values())


def test_what_was_lost_is_put_back(out, capsys):
    assert main(["evaluate", str(out)]) == 0
    lost, record = out / "evaluation" / "reference" / "000001.png", out / "evaluation" / "drawn.json"
    before = lost.read_bytes()
    lost.unlink()
    assert main(["evaluate", str(out)]) == 0
    assert lost.read_bytes() == before
    record.write_text("{", encoding="utf-8")
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 2
    assert "drawn.json is damaged" in capsys.readouterr().err


def test_a_checkpoint_is_left_as_it_is_from_wherever_it_is_named(out, tmp_path, monkeypatch):
    place = out / "checkpoint-6"
    before = sorted(path.name for path in place.iterdir())
    monkeypatch.chdir(place)
    assert main(["evaluate", ".", *captioned(tmp_path, "a red square")]) == 0
    assert sorted(path.name for path in place.iterdir()) == before
    assert (out / "evaluation-checkpoint-6" / "report.html").is_file()


def test_what_a_model_reads_is_held_against_the_caption_its_ceiling_and_its_floor(out, tmp_path):
    blip = captioners.write_blip(tmp_path / "blip")
    assert main(["evaluate", str(out), "--captioner", str(blip), "--ocr_model", str(blip)]) == 0
    found = numbers(out / "evaluation")
    assert found.extractors["captioner"] == found.extractors["ocr"] == "blip"
    for name in ("bleu", "bleu_shuffled", "rouge_l", "rouge_l_shuffled"):
        assert found.found("adapted", name).n == 4
        assert found.found("reference", name) is not None
    assert found.found("adapted", "written") is None  # no caption quotes anything


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Give the output folder of a run, or a model with --base"),
        (["OUT", "--num_images", "0", "--limit", "0"], "--limit 0 must be at least 1.\n--num_images 0 must be"),
        (["nowhere"], "is neither the output folder of a run nor a .safetensors file"),
        (["OUT/" + FILE], "does not say which model it is for; give that with --base"),
        (["OUT", "--captions", "nowhere.txt", "--reference", "nowhere"], "--captions nowhere.txt is no file"),
        (["OUT", "--extractor", "nobody"], "--extractor nobody is no folder of a model and no Hub id"),
        (["OUT", "--extractor", "inception"], "needs torch-fidelity: pip install 't2i-lora[fidelity]'"),
        (["OUT", "--captioner", "./nothing"], "--captioner ./nothing is neither the folder of a model nor a Hub id"),
        (["OUT", "--size", "wide"], "--size wide is no width x height"),
        (["OUT", "--to", "OUT"], "holds other files; give a new folder with --to"),
    ],
)
def test_what_cannot_be_done_is_named_before_anything_is_drawn(out, words, said, capsys, monkeypatch):
    monkeypatch.setattr(Sampler, "draw", None)
    assert main(["evaluate", *(word.replace("OUT", str(out)) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not (out / "evaluation").exists()


def test_a_reference_of_several_rows_of_a_picture_is_that_picture_once(tmp_path, capsys):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"caption {name}", encoding="utf-8")
    assert len(wanted_of(None, EvaluateOptions(reference=tmp_path, num_images=1, seed=0)).reference) == 1
    assert "of 2 rows 1 show a picture again" in capsys.readouterr().err


def test_the_starter_base_is_drawn_as_its_recipe_says(miniature):
    found = subject_of(None, DrawOptions(base=str(shipped.BASE))).settings
    assert (found.guidance_scale, found.num_inference_steps) == (1.5, 4)
    other = subject_of(None, DrawOptions(base=str(miniature))).settings
    assert (other.guidance_scale, other.num_inference_steps) == (7.5, 25)


def test_a_run_that_held_nothing_out_says_what_to_give(finished_run, capsys):
    assert main(["evaluate", str(finished_run()), "--to", "nowhere"]) == 2
    assert "held nothing out" in capsys.readouterr().err


def test_few_pictures_have_a_frechet_distance_only_where_it_is_insisted_on():
    judge = Extractor(kind="x", name="x", version="x", features=lambda pictures: None)
    reader = Extractor(kind="y", name="y", version="y", read=lambda pictures: [], takes_distances=False)

    def chosen(anyway: bool, drawn: int, true: int, *judges: Extractor):
        wanted = Wanted(tuple(map(str, range(drawn))), 1, 0, (example(0),) * true, False, "")
        return evaluating.chosen(anyway, wanted, judges)

    few, notes = chosen(False, 60, 90, judge)
    assert few["fid"].min_pictures == 500
    assert notes == ["FID, FID∞: left out, 60 pictures are too few (500); --anyway measures it"]
    all_the_same, notes = chosen(True, 60, 90, judge)
    assert (all_the_same["fid"].min_pictures, notes) == (12, [])
    assert "90 pictures are too few" in chosen(False, 600, 90, judge)[1][0]
    assert "--anyway" not in chosen(False, 9, 90, judge)[1][0]
    assert chosen(False, 60, 0, judge)[1] == chosen(False, 60, 90, reader)[1] == []
