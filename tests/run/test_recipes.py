"""Every shipped recipe goes with every family, with few pictures and with many: its values are defaults that yield."""

import itertools

import pytest
from PIL import Image

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.families import registry
from pipeline.run import preflight
from tests.conftest import prepared, replaced, status

RECIPES = ("character", "concept", "style", "subject")


@pytest.fixture(scope="session")
def pictures_of(shared):
    """A folder of so many captioned pictures."""

    def found(number):
        def make(folder):
            folder.mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (64, 64), (index * 4, 255 - index, 7)).save(folder / f"{index}.png")
                (folder / f"{index}.txt").write_text(f"picture {index}")

        return shared(f"pictures-{number}", make)

    return found


@pytest.mark.contract
@pytest.mark.parametrize("name", sorted(registry.NAMES))
def test_every_recipe_can_be_planned(miniature_of, pictures_of, tmp_path, name):
    for recipe, number in itertools.product(RECIPES, (20, 60)):
        flags = [
            "--pretrained_model_name_or_path",
            str(miniature_of(name)),
            "--train_data_dir",
            str(pictures_of(number)),
        ]
        context = prepared([*flags, "--resolution", "64", "--recipe", recipe], tmp_path / "out")
        noted = "\n".join(context.plan.notes)
        is_flow, patient = context.path.prediction == "flow", recipe in ("character", "concept")
        assert ("--snr_gamma 5.0 gives way" in noted) == (is_flow and recipe != "concept"), (recipe, number)
        assert ("--early_stopping_patience 4 gives way" in noted) == (patient and number == 20), (recipe, number)


@pytest.mark.unit
def test_the_starter_recipe_holds_nothing_out_of_few_pictures_unless_asked_to(pictures_of, tmp_path):
    flags = ["--train_data_dir", str(pictures_of(1))]
    context = prepared(flags, tmp_path / "out")
    assert context.data.held_out is context.run.data.validation_split is None
    said = "--validation_split 0.05 gives way: fewer than 40 images are all trained on, unless --validation_split"
    assert said in "\n".join(map(str, context.plan.notes))
    for number, more, held_out in ((39, [], 0), (40, [], 4), (39, ["--validation_split", "0.05"], 4)):
        command = config.parse(["--train_data_dir", str(pictures_of(number)), *more])
        data = preflight.preflight(command.run, tmp_path / "out", command.yielding)
        assert len(data.held_out.examples if data.held_out is not None else ()) == held_out
    with pytest.raises(ConfigError, match="holds out 4 of 1 images"):
        prepared([*flags, "--validation_split", "0.05"], tmp_path / "out")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("weighting", "gamma"), [("p2", None), ("soft_min_snr", None), ("debiased", None), ("min_snr", 5.0)]
)
def test_the_gamma_of_a_recipe_is_that_of_min_snr(weighting, gamma, tmp_path):
    """P2 with it would be (1 + S)^-5, which learns from next to pure noise alone."""
    flags = ["--train_data_dir", str(tmp_path), "--recipe", "style", "--loss_weighting", weighting]
    command = config.parse(flags)
    assert command.run.objective.snr_gamma == gamma
    assert any("--snr_gamma 5.0 gives way" in note for note in command.notes) == (gamma is None)
    if weighting != "debiased":
        assert config.parse([*flags, "--snr_gamma", "2"]).run.objective.snr_gamma == 2


@pytest.mark.invariant
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(trainer, small, tmp_path, recipe):
    flags = [*small[:6], "--resolution", "64", "--max_train_steps", "2", "--num_validation_images", "0"]
    ended = trainer(*flags, "--recipe", recipe, "--output_dir", tmp_path / "out")
    assert ended.code == 0, ended.output
    assert status(tmp_path / "out")["state"] == "done"


@pytest.mark.unit
def test_what_was_asked_for_does_not_yield(trainer, miniature_of, small, tmp_path):
    flags = replaced(small, pretrained_model_name_or_path=miniature_of("sd3"))
    ended = trainer(*flags, "--recipe", "style", "--snr_gamma", "5", "--output_dir", tmp_path / "out")
    assert ended.code == 2
    assert "--snr_gamma is usual for models that predict noise" in ended.output


@pytest.mark.unit
def test_a_recipes_learning_rate_is_not_that_of_another_optimizer(tmp_path, small):
    from pipeline import config

    flags = [word for word in small if word not in ("--learning_rate", "1e-3")]
    command = config.parse([*flags, "--recipe", "style", "--optimizer", "prodigy"])
    assert command.run.optim.learning_rate is None
    assert "--learning_rate 0.0001 gives way" in command.notes[0]


@pytest.mark.unit
def test_of_a_recipes_guidance_is_drawn_with_what_is_left(pictures_of, tmp_path):
    """The starter recipe says 1.5; what is learnt multiplies with it, and what a user says stays."""
    flags = ["--train_data_dir", str(pictures_of(40)), "--guided_target", "model_guidance", "--guided_target_scale"]
    context = prepared([*flags, "1.2"], tmp_path / "out")
    assert context.run.preview.guidance == pytest.approx(1.25)
    said = "--guidance_scale 1.5 gives way: 1.2 is learnt and the two multiply, so previews take 1.25"
    assert said in context.plan.notes
    assert prepared([*flags, "3"], tmp_path / "out").run.preview.guidance == 1.0
    (tmp_path / "run.toml").write_text(context.run.to_toml(), encoding="utf-8")
    kept = prepared(["--config", str(tmp_path / "run.toml")], tmp_path / "out")
    assert kept.run.preview.guidance == pytest.approx(1.25)
    asked = prepared([*flags, "1.2", "--guidance_scale", "2"], tmp_path / "out")
    assert asked.run.preview.guidance == 2.0
    assert prepared([*flags[:2]], tmp_path / "out").run.preview.guidance == 1.5
    against = prepared([*flags, "1.2", "--guidance_against", "base"], tmp_path / "out")
    assert against.run.preview.guidance == 1.5
    for other in (kept, asked, against):
        assert not any("gives way: 1.2 is learnt" in note for note in other.plan.notes)
