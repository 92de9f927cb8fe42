"""evaluate: what is drawn, that it goes on where it stopped, and who measures it."""

import json
import shutil

import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.commands.evaluation import evaluate as evaluating
from pipeline.evaluation import results
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.sample import Sampler
from tests.commands import captioners
from tests.conftest import make_colours
from tests.running import World

pytestmark = pytest.mark.invariant
FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def out(finished_run, tmp_path):
    """A finished run that held four pictures out; may be changed."""
    return shutil.copytree(finished_run("--validation_split", "0.5"), tmp_path / "out")


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
    assert "FID, FID∞: left out, 8 pictures are too few (500); --anyway measures it" in said.err
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
    words = ["evaluate", str(out), "--num_images", "10", "--to"]
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
    assert len(one) > 80
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


def test_two_runs_are_compared_picture_by_picture(out, tmp_path, finished_run, capsys):
    other = shutil.copytree(finished_run("--validation_split", "0.5", "--learning_rate", "1e-5"), tmp_path / "other")
    shutil.copytree(other, tmp_path / "third")
    for folder in (other, out):
        assert main(["evaluate", str(folder), "--num_images", "2", "--to", str(folder / "evaluation")]) == 0
    assert main(["evaluate", str(out), "--num_images", "2", "--against", str(other)]) == 0
    against = numbers(out / "evaluation").sets["against"]
    now, before = (numbers(folder / "evaluation") for folder in (out, other))
    for name, estimate in against.items():
        assert estimate.value == pytest.approx(now.sets["adapted"][name].value - before.sets["adapted"][name].value)
    capsys.readouterr()
    assert main(["evaluate", str(out), "--against", str(tmp_path / "third")]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--against", str(other), "--to", str(tmp_path / "new")]) == 2
    assert "was drawn with other num_images" in capsys.readouterr().err


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


def test_a_run_that_held_nothing_out_says_what_to_give(finished_run, capsys):
    assert main(["evaluate", str(finished_run()), "--to", "nowhere"]) == 2
    assert "held nothing out" in capsys.readouterr().err


def test_few_pictures_have_a_frechet_distance_only_where_it_is_insisted_on():
    few, notes = evaluating.chosen(False, 60)
    assert few["fid"].min_pictures == 500
    assert notes == ["FID, FID∞: left out, 60 pictures are too few (500); --anyway measures it"]
    all_the_same, notes = evaluating.chosen(True, 60)
    assert (all_the_same["fid"].min_pictures, notes) == (12, [])
