"""--rescale_betas_zero_snr: trained on and drawn with the schedule of algorithm 1 of Lin et al. 2023."""

import html
import json
import math
import shutil

import diffusers
import pytest
import torch
from PIL import Image

from pipeline.__main__ import main
from pipeline.errors import ConfigError
from pipeline.families import registry, schedules
from pipeline.families.options import ModelOptions
from pipeline.objective.options import ObjectiveOptions
from pipeline.run.draw_class import folder_of, settings_of
from pipeline.run.identity import identity_of
from tests.conftest import largest_difference, make_colours, metrics, prepared, replaced, small_flags, snippet_of

pytestmark = pytest.mark.contract
FLAG = "--rescale_betas_zero_snr"


def rescaled(folder):
    options = ModelOptions(pretrained_model_name_or_path=str(folder), rescale_betas_zero_snr=True)
    return registry.find(options, None)


def algorithm_1(signal):
    """alpha_bar of another: its roots shifted so that the last is 0, and scaled so that the first stays."""
    roots = signal.double().sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_training_and_drawing_have_the_schedule_of_the_paper(miniature_of, name):
    folder = miniature_of(name, "v_prediction")
    plain = registry.detect(folder).path(ObjectiveOptions())
    path = rescaled(folder).path(ObjectiveOptions())
    torch.testing.assert_close(path.alphas_cumprod.double(), algorithm_1(plain.alphas_cumprod), atol=1e-6, rtol=1e-4)
    assert path.alphas_cumprod[-1] == 0
    assert path.alphas_cumprod[0].item() == pytest.approx(0.99914998, abs=1e-6)
    assert path.log_snr(torch.tensor([path.last])).item() == -math.inf
    scheduler = rescaled(folder).load("scheduler").scheduler
    assert type(scheduler) is type(registry.detect(folder).load("scheduler").scheduler)
    torch.testing.assert_close(scheduler.alphas_cumprod, path.alphas_cumprod, atol=1e-6, rtol=1e-4)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


def with_scheduler(source, folder, **changes):
    shutil.copytree(source, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_where_it_makes_no_sense_the_reason_is_said(miniature_of, miniature, miniature_v, tmp_path):
    index = json.loads((miniature / "model_index.json").read_text())
    assert index["scheduler"][1] == "DDIMScheduler"
    pndm = with_scheduler(miniature_v, tmp_path / "pndm", _class_name="PNDMScheduler")
    already = with_scheduler(miniature_v, tmp_path / "already", rescale_betas_zero_snr=True)
    asked = {
        miniature: "predicts the noise, which is all that its input would be at the last time",
        miniature_of("sd3"): "is a flow model, and its path ends in pure noise anyway",
        miniature_of("sana"): "is a flow model, and its path ends in pure noise anyway",
        pndm: "is a PNDMScheduler, which has no such option; .*: DDIMScheduler, DDPMScheduler",
        already: "says so already; leave it out",
    }
    for folder, said in asked.items():
        with pytest.raises(ConfigError, match=said) as error:
            rescaled(folder)
        assert len(str(error.value).splitlines()) == 1
        assert registry.find(ModelOptions(pretrained_model_name_or_path=str(folder)), None)
    with pytest.raises(ConfigError, match=r"(?s)predicts the noise.*is a PNDMScheduler"):
        rescaled(with_scheduler(miniature, tmp_path / "both", _class_name="PNDMScheduler"))


@pytest.mark.parametrize("name", schedules.FOR_PICTURES)
def test_the_schedulers_that_are_named_end_in_noise(name):
    scheduler = getattr(diffusers, name)(prediction_type="v_prediction", **schedules.RESCALED)
    assert scheduler.alphas_cumprod[-1] <= 2**-24
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999


def test_it_is_another_run_and_its_class_is_drawn_anew(small, miniature_v, tmp_path):
    words = replaced(small, pretrained_model_name_or_path=miniature_v)
    words += ["--with_prior_preservation", "--class_prompt", "a square", "--output_dir", str(tmp_path / "out")]
    plain, other = (prepared([*words, *more], tmp_path / "out") for more in ([], [FLAG]))
    facts, others = (identity_of(context).facts for context in (plain, other))
    assert {key for key in facts if facts[key] != others[key]} == {"rescale_betas_zero_snr"}
    assert len({folder_of(context, settings_of(context)) for context in (plain, other)}) == 2


def test_a_run_learns_at_the_last_time_and_is_drawn_so(trainer, miniature_v, tmp_path, monkeypatch):
    """The previews, `sample`, and the plain code of card and page; code without the schedule draws another picture."""
    flags = small_flags(miniature_v, make_colours(tmp_path / "data"), tmp_path / "cache")
    flags = [*replaced(flags, max_train_steps=2), "--validation_prompt", "a red square", "--guidance_rescale", "0.7"]
    out = tmp_path / "out"
    ended = trainer(*flags, FLAG, "--min_timestep", "999", "--snr_gamma", "5", "--output_dir", out)
    assert ended.code == 0, ended.output
    assert "rescaled to end in pure noise" in ended.output
    assert all(0 < row["loss"] < math.inf for row in metrics(out))
    (out / miniature_v.name).symlink_to(miniature_v)
    monkeypatch.chdir(out)
    preview = Image.open(out / "samples" / "step-000002" / "0000.png")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "`ModelSamplingDiscrete` behind the base model, `zsnr` on" in card
    code = snippet_of(card)
    page = html.unescape((out / "report.html").read_text(encoding="utf-8").split("<h2>Use it</h2>")[1])
    names: dict = {}
    exec(page.split("<pre>")[1].split("</pre>")[0], names)
    assert largest_difference(names["image"], preview) <= 1
    exec(compile(code, "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), preview) <= 1
    asked = ["sample", str(out), "--prompt", "a red square", "--to", str(tmp_path / "drawn")]
    assert main(asked) == 0
    assert largest_difference(Image.open(tmp_path / "drawn" / "adapted" / "0000.png"), preview) <= 1
    (row,) = json.loads((tmp_path / "drawn" / "adapted" / "index.json").read_text(encoding="utf-8"))
    assert row["rescale_betas_zero_snr"] is True
    line = next(line for line in code.splitlines() if line.startswith("pipe.scheduler ="))
    exec(compile(code.replace(line, ""), "card", "exec"), {})
    assert largest_difference(Image.open("picture.png"), preview) > 1
