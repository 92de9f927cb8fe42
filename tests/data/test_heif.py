"""Phones' photographs: HEIC files, read where pillow-heif is installed."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.data import images
from pipeline.data.options import DataOptions
from pipeline.data.reading import read_manifest
from pipeline.errors import DataError
from tests.data.test_images import turned, upright

pytestmark = pytest.mark.unit
LOSSLESS = {"format": "HEIF", "quality": -1, "chroma": 444, "matrix_coefficients": 0}


@pytest.fixture(autouse=True)
def heif():
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    assert "HEIF" in images.formats()


def folder_of(tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "IMG_0001.HEIC").write_bytes(content)
    (tmp_path / "data" / "IMG_0001.txt").write_text("a dog", encoding="utf-8")
    return tmp_path / "data"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_comes_out_upright_and_exact(tmp_path, orientation):
    picture, exif = turned(orientation)
    picture.info["exif"] = exif.tobytes()  # the encoder then also writes the turn that decoders go by
    picture.save(tmp_path / "x", **LOSSLESS)
    data = folder_of(tmp_path, (tmp_path / "x").read_bytes())
    (example,) = read_manifest(data, DataOptions()).examples
    assert (example.size.width, example.size.height, example.caption) == (60, 40, "a dog")
    assert np.array_equal(np.asarray(example.picture()), np.asarray(upright()))


def test_transparency_is_laid_on_the_background(tmp_path):
    picture = upright().convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 0))
    picture.save(tmp_path / "x", **LOSSLESS)
    assert images.decode(tmp_path / "x", "white").getextrema() == ((255, 255),) * 3


def test_a_cut_one_is_named(tmp_path):
    upright().resize((600, 400)).save(tmp_path / "x", format="HEIF")
    data = folder_of(tmp_path, (tmp_path / "x").read_bytes()[:-400])
    with pytest.raises(DataError, match=r"IMG_0001\.HEIC: cannot be used: Invalid input: Unexpected end of file"):
        read_manifest(data, DataOptions())


def test_without_the_package_it_is_said_what_to_install(tmp_path):
    upright().save(tmp_path / "x", format="HEIF")
    data = folder_of(tmp_path, (tmp_path / "x").read_bytes())
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pipeline.data.options import DataOptions\n"
        "from pipeline.data.reading import read_manifest\n"
        "try: read_manifest(__import__('pathlib').Path(sys.argv[1]), DataOptions())\n"
        "except Exception as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program, data], capture_output=True, text=True, check=True).stdout
    assert 'IMG_0001.HEIC: .HEIC is not read; pip install "t2i-lora[heif]", or convert it to PNG' in said
    (data / "logo.svg").write_text("<svg/>", encoding="utf-8")
    with pytest.raises(DataError, match=r"logo\.svg: \.svg is not read; convert it to PNG"):
        read_manifest(data, DataOptions())
