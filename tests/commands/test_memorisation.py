"""memorisation: what a run does with its training pictures, against those it held out."""

import dataclasses
import json
import shutil

import pytest
import torch

from pipeline import records
from pipeline.__main__ import main
from pipeline.adapter.lora import adapted_layers
from pipeline.commands import memorisation as looking
from pipeline.data.manifest import Example, Manifest
from pipeline.data.options import DataOptions
from pipeline.errors import ConfigError
from pipeline.evaluation import memorisation
from pipeline.evaluation.sample import Sampler
from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.validation import LossEvaluator
from pipeline.families.sd import StableDiffusion
from pipeline.geometry import Size
from pipeline.run import build
from pipeline.run.context import prepare
from pipeline.run.encode import encode
from pipeline.run.reopened import reopen
from pipeline.sharing import documents
from tests.commands.handled import HALF
from tests.conftest import make_shapes
from tests.rows import step_row
from tests.running import Running, World
from tests.sharing.loopback import TOKEN, Hub

pytestmark = pytest.mark.invariant


@pytest.fixture(scope="module")
def made(finished_run, tmp_path_factory):
    """A run with 13 pictures of each side, and a checkpoint of step 5."""
    shapes = make_shapes(tmp_path_factory.mktemp("memorisation") / "shapes", 26)
    flags = ["--num_validation_images", "0", "--num_inference_steps", "1", "--train_data_dir", str(shapes)]
    flags += ["--trigger_word", "picture", "--learning_rate", "1e-2"]
    return finished_run(
        *flags, "--validation_split", "0.5", "--keep", "last", "--no-buckets", "--checkpointing_steps", "5"
    )


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


FEW = ["--num_images", "1", "--limit", "12", "--extractor", "starter"]


@pytest.fixture(scope="module")
def looked_at(made, tmp_path_factory):
    """The same run after a look at few of its pictures; not to be changed."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("looked_at") / "out")
    assert main(["memorisation", str(folder), *FEW]) == 0
    return folder


def test_a_run_and_its_checkpoints_are_looked_at(out, capsys, monkeypatch):
    small_judge = ["--extractor", "starter"]
    assert main(["memorisation", str(out), *small_judge]) == 0
    said = capsys.readouterr().out
    found = memorisation.read(out / "memorisation")
    assert found.words() in said
    assert found.n == 13
    assert found.by_sameness is not None
    assert found.by_noise is not None
    assert found.left_out == ("cliques: --num_images 3 draws enough of each caption",)
    assert f"Left out, {found.left_out[0]}" in said
    page = (out / "memorisation" / "report.html").read_text(encoding="utf-8")
    assert found.words() in page
    assert page.count("<figure>") == len(found.copies)
    assert all((out / "memorisation" / copy.drawn).is_file() for copy in found.copies)
    rows = json.loads((out / "memorisation" / "drawn.json").read_text(encoding="utf-8"))
    assert len(set(rows["reference"])) == 26  # each picture of either side once
    assert not (out / "memorisation" / "base").exists()

    monkeypatch.setattr(Sampler, "draw", None)  # what was drawn is not drawn again
    assert main(["memorisation", str(out), "--json", *small_judge]) == 0
    assert json.loads(capsys.readouterr().out)["by_loss"]["value"] == found.by_loss.value
    monkeypatch.undo()
    early = ["memorisation", str(out / "checkpoint-5"), "--num_images", "1", *small_judge]
    assert main(early) == 2
    assert "showed 10 of its examples, and 12 on each side" in capsys.readouterr().err
    monkeypatch.setattr(looking, "LEAST", 10)
    assert main(early) == 0
    earlier = memorisation.read(out / "memorisation-checkpoint-5")
    assert not (out / "checkpoint-5" / "memorisation").exists()
    assert earlier.by_sameness is None
    assert earlier.left_out == ("by_sameness and cliques: --num_images 3 draws enough of each caption",)
    assert earlier.by_loss != found.by_loss
    assert earlier.n == 10, "three of the 13 were not shown yet"


def test_members_are_what_the_run_wrote_that_it_showed(tmp_path):
    def example(name, copy=0):
        return Example(
            f"{name}-{copy + 1}" if copy else name, name, name, None, (name,), Size(8, 8), DataOptions(), copy
        )

    manifest = Manifest("data", (example("a"), example("b"), example("c"), example("b", 1), example("d")))
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl, which says what was trained on"):
        looking.shown_in(tmp_path, 2, manifest)
    rows = [step_row(1, ids=("a", "class")), step_row(2, ids=("b-2", "a")), step_row(3, ids=("c", "d"))]
    text = "".join(json.dumps(records.to_json(row)) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert [found.id for found in looking.shown_in(tmp_path, 2, manifest).examples] == ["a", "b", "b-2"]
    assert len(looking.shown_in(tmp_path, 3, manifest).examples) == 5


def test_pictures_without_a_loss_are_compared_with_nothing():
    gains = torch.tensor([0.5, float("nan"), 0.6, 0.1, 0.2, float("nan")])
    assert looking._auc(gains).value == 1.0


def test_what_adapter_and_base_say_of_examples(out, monkeypatch):
    """A loss that fell to a half is a gain of a half; where pure noise says nothing the reason is told."""

    class Halved(LossEvaluator):
        def errors(self, denoiser, rows, captioned=None):
            assert captioned is None
            is_off = next(iter(adapted_layers(denoiser.adapted.denoiser)))._disable_adapters
            return torch.full((len(rows), 4), 2.0 if is_off else 1.0)

    command, data = reopen(out)
    made = build.loss_evaluator
    monkeypatch.setattr(build, "loss_evaluator", lambda *given: Halved(**vars(made(*given))))
    found = looking.asked(prepare(command.run, data, out), data.held_out.examples)
    assert found.gains.tolist() == [0.5] * 13
    assert found.known.unique().numel() == 13  # captions of their own, and a trained adapter
    assert found.reason is None

    alike = [dataclasses.replace(one, captions=("picture",)) for one in data.held_out.examples]
    found = looking.asked(prepare(command.run, data, out), alike)
    assert (found.known, found.reason) == (None, "captions that several pictures share say nothing about one of them")
    monkeypatch.setattr(StableDiffusion, "supports_cfg", False)
    found = looking.asked(prepare(command.run, data, out), data.held_out.examples)
    assert found.known is None
    assert found.reason.startswith("this model has no unconditional prediction")


def test_learnt_guidance_is_taken_out_of_the_loss_of_the_adapter_alone(out):
    command, data = reopen(out)
    learnt = dataclasses.replace(command, run=command.run.replaced(guided_target="cfg", guided_target_scale=4.0))
    examples = data.held_out.examples[:4]
    plain, guided = (looking.asked(prepare(one.run, data, out), examples).gains for one in (command, learnt))
    context = prepare(learnt.run, data, out)
    encode(context, examples)
    models = build.load_models(context)
    evaluator, rows = build.loss_evaluator(context, models), build.as_measured(context, examples)
    with models.adapted.evaluating():
        without = evaluator.errors(models.denoiser, rows, captioned=build.unguided(context, models)).double().mean(1)
        with models.adapted.disabled():
            base = evaluator.errors(models.denoiser, rows).double().mean(1)
    torch.testing.assert_close(guided, 1 - without / base)
    assert (guided - plain).abs().max() > 1e-4


def test_two_processes_find_what_one_does(looked_at, tmp_path):
    words = ["memorisation", str(looked_at), *FEW, "--to", str(tmp_path / "two")]
    ended = World(2, words, tmp_path / "log", program=("-m", "pipeline")).wait()
    assert [process.code for process in ended] == [0, 0], [process.output for process in ended]
    one, two = ((folder / memorisation.FILE).read_bytes() for folder in (looked_at / "memorisation", tmp_path / "two"))
    assert one == two


def test_an_alarm_is_on_the_card_and_said_where_it_is_shared(looked_at, tmp_path):
    out = shutil.copytree(looked_at, tmp_path / "out")
    found = memorisation.read(out / "memorisation")
    text = documents.write_card(out).read_text(encoding="utf-8")
    assert f"**Did it learn pictures by heart?** {found.words()}" in text
    assert found.by_loss.text("{:.0%}") in text
    assert "was not checked" not in text
    alarmed = dataclasses.replace(found, by_loss=Interval(0.95, 0.9, 1.0, 13), num_copies=3)
    words = ("-m", "pipeline", "publish", str(out), "--repo", "jane/x", "--allow_undocumented_data", "drawn by a test")
    for one, warns in ((alarmed, True), (found, False)):
        one.write(out / "memorisation")
        with Hub() as server:
            given = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
            ended = Running([], tmp_path / "log", program=words, environment=given).wait()
        assert ended.code == 0, ended.output
        assert (f"Warning: {alarmed.words()}" in ended.output) == warns
    dataclasses.replace(alarmed, adapter="of another run in this folder").write(out / "memorisation")
    text = documents.write_card(out).read_text(encoding="utf-8")
    assert alarmed.words() not in text
    assert "Nobody looked at this adapter: what was found in its folder is of another one." in text
    with Hub() as server:
        given = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        ended = Running([], tmp_path / "log", program=words, environment=given).wait()
    assert ended.code == 0, ended.output
    assert "Warning" not in ended.output
    assert "what memorisation found there belongs to another adapter; look again with: python -m" in ended.output


def test_a_run_that_cannot_be_looked_at(out, finished_run, tmp_path, capsys):
    for words, said in (
        (
            [str(finished_run(*HALF))],
            "held 4 of its examples out, and 12 on each side",
        ),
        ([str(tmp_path)], "give the output folder of a finished run"),
        ([str(out), "--limit", "3"], "--limit 3 must be at least 12"),
        ([str(out), "--extractor", "nobody"], "--extractor nobody is no folder of a model"),
    ):
        assert main(["memorisation", *words]) == 2
        assert said in capsys.readouterr().err
