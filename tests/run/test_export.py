"""What is handed over is proven at half the size, where that is large enough to prove it."""

from pathlib import Path

import pytest

import train_lora
from pipeline.families import registry
from pipeline.geometry import Size
from pipeline.run import export
from tests.conftest import replaced

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("family", "trained", "proven"),
    [
        ("sd", (512, 512), (256, 256)),
        ("sd", (256, 256), (128, 128)),
        ("sd", (248, 248), (248, 248)),  # 15 latents would be left
        ("sdxl", (832, 1216), (416, 608)),
        ("flux", (1040, 528), (512, 256)),
        ("flux", (1024, 256), (512, 128)),
        ("flux", (1024, 192), (1024, 192)),
    ],
)
def test_a_quarter_of_the_latents_is_enough_while_there_are_some(family, trained, proven, miniature_of, monkeypatch):
    found = registry.detect(miniature_of(family))
    monkeypatch.setattr(type(found), "pixels_per_latent", 8)  # as that of the published ones
    assert export.proven_at(found, Size(*trained)) == Size(*proven)


def test_a_run_is_proven_at_that_size(small, monkeypatch, tmp_path):
    seen, verify = [], export.verify.verify

    def watched(*given, predict, **more):
        seen.append(predict().shape[2:])
        return verify(*given, predict=predict, **more)

    monkeypatch.setattr(export.verify, "verify", watched)
    flags = [*replaced(small, resolution=128, max_train_steps=1, num_validation_images=0), "--no-buckets"]
    assert train_lora.main([*flags, "--output_dir", str(tmp_path / "out")]) == 0
    (height, width), side = seen[0], registry.detect(Path(flags[1])).latent_shape(Size.square(128))[1]
    assert (height, width) == (side // 2, side // 2)
    assert side // 2 >= export.LEAST_LATENTS
