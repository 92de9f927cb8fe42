"""Masks: where they lie, what they must be, and that what a mask leaves out moves nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import masks, views
from pipeline.data.images import View
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.data.sampler import Position
from pipeline.errors import DataError
from pipeline.geometry import Size
from pipeline.objective.losses import counted, squared_error
from pipeline.run import build
from pipeline.run.encode import encode
from tests.conftest import metrics, prepared, replaced

pytestmark = pytest.mark.unit
MASKED = DataOptions(masked_loss=True, instance_prompt="a thing")
VIEW = View(Size.square(16), "lanczos")


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def left_half(side=16, channels=None):
    values = np.zeros((side, side, *([channels] if channels else [])))
    values[:, : side // 2] = 255
    return values


def refusal(folder, options=MASKED):
    with pytest.raises(DataError) as error:
        read_manifest(folder, options)
    return str(error.value)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("x.png", "x.mask.png"),
        ("x.jpg", "x-masklabel.png"),
        ("x.png", "masks/x.png"),
        ("sub/x.png", "sub/masks/x.jpg"),
        ("sub/x.png", "masks/sub/x.png"),
    ],
)
def test_a_mask_may_lie(tmp_path, image, mask):
    save(tmp_path / image, np.full((16, 16, 3), 99))
    save(tmp_path / mask, left_half())
    (example,) = read_manifest(tmp_path, MASKED).examples
    assert example.name == image
    assert masks.mask_of(example, VIEW, (4, 4))[0, 0].tolist() == pytest.approx([1, 1, 0, 0], abs=0.02)
    said = refusal(tmp_path, DataOptions(missing_caption="error"))
    assert f"{mask} looks like a mask; --masked_loss reads it as one" in said


def test_it_is_cut_mirrored_and_pooled_by_area_as_its_image_is(tmp_path):
    save(tmp_path / "x.png", np.full((16, 32, 3), 99))
    save(tmp_path / "x.mask.png", np.pad(np.full((8, 4), 255), ((0, 0), (4, 8))))  # half the size: columns 8 to 15
    (example,) = read_manifest(tmp_path, MASKED).examples

    def seen(**how):
        return masks.mask_of(example, View(Size.square(16), "nearest", **how), (2, 2))[0, 0].tolist()

    assert seen(left=0.0) == pytest.approx([0, 1], abs=0.1)
    assert seen(left=0.0, flip=True) == pytest.approx([1, 0], abs=0.1)
    assert seen(left=0.25) == pytest.approx([0.5, 0.5], abs=0.1)
    assert seen(left=1.0) == pytest.approx([0, 0], abs=0.1)
    assert seen(left=0.25, colours=(0.1, 1.9, 0.5)) == seen(left=0.25)
    turned = masks.mask_of(example, View(Size.square(16), "nearest", left=0.4, angle=30.0), (2, 2))[0]
    assert turned[0, 0] != pytest.approx(turned[1, 0].item(), abs=0.02)  # upright edges are oblique now


def test_transparency_is_a_mask_and_an_image_without_either_counts_whole(tmp_path):
    alpha = np.full((16, 16, 4), 77)
    alpha[..., 3] = left_half()
    save(tmp_path / "a.png", alpha)
    save(tmp_path / "b.png", np.full((16, 16, 3), 99))
    found = {example.name: example for example in read_manifest(tmp_path, MASKED).examples}
    assert masks.mask_of(found["a.png"], VIEW, (2, 2))[0, 0].tolist() == pytest.approx([1, 0], abs=0.02)
    assert masks.mask_of(found["b.png"], VIEW, (2, 2)).eq(1).all()


def test_every_mask_that_cannot_be_is_named_at_once(tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.png", np.full((16, 16, 3), ord(name)))
    save(tmp_path / "a.mask.png", np.zeros((16, 16)))
    save(tmp_path / "b.mask.png", left_half()[:8])
    save(tmp_path / "c.mask.png", left_half())
    save(tmp_path / "masks" / "c.png", left_half())
    save(tmp_path / "masks" / "d.png", left_half())
    said = refusal(tmp_path)
    for words in (
        "a.png: cannot be used: its mask is black all over",
        "b.png: cannot be used: its mask is 16 x 8, which is another shape",
        "masks/c.png and c.mask.png are two masks of c.png",
        "masks/d.png is the mask of an image that is not there (d.png, say)",
    ):
        assert words in said


def test_views_are_random_as_soon_as_anything_of_them_is():
    still = DataOptions(center_crop=True)
    assert still.variants == 1
    for changed in ({"random_flip": True}, {"random_rotation": 3.0}, {"color_jitter": 0.1}):
        assert dataclasses.replace(still, **changed).variants == still.cache_variants


def test_another_mask_is_another_dataset(tmp_path):
    save(tmp_path / "x.png", np.full((16, 16, 3), 99))
    save(tmp_path / "x.mask.png", left_half())
    before = read_manifest(tmp_path, MASKED).fingerprint
    save(tmp_path / "x.mask.png", left_half().T)
    assert read_manifest(tmp_path, MASKED).fingerprint != before


def test_the_loss_is_the_mean_over_what_counts():
    prediction, target = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    mask = (torch.rand(3, 1, 8, 8) > 0.5).float()
    mask[2] = 0
    inside = mask.bool().expand_as(prediction)
    found = squared_error(prediction, target, counted(mask, 0.0))
    for row in range(2):
        wanted = (prediction[row][inside[row]] - target[row][inside[row]]).square().mean()
        torch.testing.assert_close(found[row], wanted)
    assert found[2] == 0
    whole = squared_error(prediction, target)
    torch.testing.assert_close(squared_error(prediction, target, counted(mask, 1.0)), whole)


def masked(colours):
    """Masks of one half of each image, the left and the right in turn."""
    for number, path in enumerate(sorted(colours.glob("*.png"))):
        with Image.open(path) as opened:
            mask = np.zeros((opened.height, opened.width))
        mask[:, : mask.shape[1] // 2] = 255
        save(path.with_suffix(".mask.png"), mask[:, ::-1] if number % 2 else mask)
    return ["--masked_loss", "--caption_dropout", "0", "--center_crop"]


def test_nothing_outside_a_mask_has_a_gradient_and_the_pull_to_the_base_has_one_there(small, colours, tmp_path):
    context = prepared([*small, *masked(colours), "--unmasked_preservation", "2"], tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    task = build.build_task(context, models, build.build_state(context, models))
    batch = task.examples.collate(
        [task.examples[Position(index, 0, context.plan.buckets[0].size)] for index in range(2)]
    )
    assert batch.mask.shape == (2, 1, *batch.latents.shape[2:])
    for index, example in enumerate(context.data.manifest.examples):
        view, latent = views.centre_view(example, context.plan.buckets[0].size), batch.mask.shape[2:]
        row = task.examples[Position(index, 0, context.plan.buckets[0].size)]
        assert torch.equal(row["mask"], masks.mask_of(example, view, tuple(latent)))
    assert (
        len(
            {
                task.examples[Position(index, 0, context.plan.buckets[0].size)]["mask"].numpy().tobytes()
                for index in range(8)
            }
        )
        == 2
    )
    outside = batch.mask.expand_as(batch.latents) == 0
    assert 0.2 < outside.float().mean() < 0.8
    leaf = torch.randn(batch.latents.shape, requires_grad=True)

    class Fixed:
        def __call__(self, x_t, t, conditioning):
            return leaf

        def base(self, x_t, t, conditioning):
            return leaf.detach() + 1

        num_tokens = staticmethod(lambda latents: 64)

    objective = task.method.objective
    pulled = torch.autograd.grad(objective(Fixed(), batch, None).sum(), leaf)[0]
    alone = torch.autograd.grad(type(objective)(objective.path, objective.weighting)(Fixed(), batch, None).sum(), leaf)[
        0
    ]
    assert alone[outside].abs().max() == 0
    assert (alone[batch.mask.expand_as(alone) == 1] != 0).all()
    assert (pulled[outside] < 0).all()  # towards the base, which lies above
    torch.testing.assert_close(pulled[batch.mask.expand_as(pulled) == 1], alone[batch.mask.expand_as(alone) == 1])


def test_the_held_out_loss_looks_where_the_mask_does(small, colours, tmp_path):
    """An image whose other half is exchanged has the same loss within its mask, and another without one."""
    flags = [*small, *masked(colours), "--validation_split", "0.5", "--validation_steps", "2"]
    context = prepared(flags, tmp_path / "out")
    encode(context)
    models = build.load_models(context)
    validation = build.build_loss_validation(context, models)
    (example, *_), evaluator = validation.held_out, validation.evaluator
    hidden = torch.where(example.counts == 0, example.mean + 3, example.mean)
    exchanged = dataclasses.replace(example, mean=hidden)

    def error(one):  # of a prediction that depends on each place alone
        return evaluator.errors(lambda x_t, t, conditioning: x_t, [one])

    assert (example.counts == 0).any()
    torch.testing.assert_close(error(exchanged), error(example))
    whole, other = (dataclasses.replace(one, counts=None) for one in (example, exchanged))
    assert not torch.allclose(error(whole), error(other))


def test_an_image_that_is_transparent_all_over_is_named_before_anything_is_encoded(trainer, small, colours, tmp_path):
    for name in ("red", "green"):
        with Image.open(colours / f"{name}.png") as opened:
            values = np.array(opened.convert("RGBA"))
        values[..., 3] = 0
        save(colours / f"{name}.png", values)
    ended = trainer(*small, "--masked_loss", "--output_dir", tmp_path / "out")
    assert ended.code == 2
    for name in ("red", "green"):
        assert f"{name}.png: nothing of it would be learnt, because it is transparent all over" in ended.output


def test_masks_that_are_not_there_are_not_looked_past(trainer, small, colours, tmp_path):
    said = "--masked_loss: no image has a mask (x.mask.png beside it, or masks/x.png), and none is transparent"
    ended = trainer(*small, "--masked_loss", "--dry_run", "--output_dir", tmp_path / "out")
    assert (ended.code, said in ended.output) == (2, True)
    begun = ["--resume_from_checkpoint", "latest"]  # a run that began before that was refused may end
    assert trainer(*small, "--masked_loss", *begun, "--dry_run", "--output_dir", tmp_path / "out").code == 0
    with Image.open(colours / "red.png") as opened:
        opened.convert("RGBA").save(colours / "red.png")
    assert trainer(*small, "--masked_loss", "--dry_run", "--output_dir", tmp_path / "out").code == 0


def test_a_run_with_masks_ends_and_differs_from_one_without(trainer, small, colours, tmp_path):
    flags = replaced(small, max_train_steps=2, num_validation_images=0)
    more = masked(colours)
    split = ["--validation_split", "0.5", "--validation_steps", "2"]
    ended = trainer(*flags, *more, *split, "--unmasked_weight", "0.1", "--output_dir", tmp_path / "masked")
    assert ended.code == 0, ended.output
    assert "4 examples at 72 x 56 pixels (--resolution), 4 with a mask beside them" in ended.output
    for path in colours.glob("*.mask.png"):
        path.unlink()
    assert trainer(*flags, *more[1:], *split, "--output_dir", tmp_path / "plain").code == 0
    losses = [[row["loss"] for row in metrics(tmp_path / name)] for name in ("masked", "plain")]
    assert all(one != other for one, other in zip(*losses, strict=True))
    ended = trainer(*flags, "--unmasked_weight", "0.1", "--output_dir", tmp_path / "refused")
    assert ended.code == 2
    assert "--unmasked_weight has an effect only with --masked_loss" in ended.output
