"""The mark of pictures that a model made."""

import hashlib
import re
import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.evaluation import picture_sets, png_metadata

pytestmark = pytest.mark.unit
PREFIX = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each part of a PNG."""
    found, place = [], 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        found.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_pixels_come_back_and_the_mark_with_them(tmp_path, mode):
    path = tmp_path / "picture.png"
    png_metadata.save_marked(picture(mode), path)
    with Image.open(path) as back:
        assert (back.format, back.mode) == ("PNG", mode)
        assert np.array_equal(np.asarray(back), np.asarray(picture(mode)))
    assert png_metadata.is_marked(path)


def test_the_packet_is_where_and_what_the_specifications_say(tmp_path):
    """One uncompressed iTXt chunk before the pixels, read-only, with the property of the IPTC and the tool's name."""
    path = tmp_path / "picture.png"
    png_metadata.save_marked(picture(), path)
    parts = chunks(path.read_bytes())
    (packet,) = [content for kind, content in parts if kind == b"iTXt"]
    assert [kind for kind, _ in parts].index(b"iTXt") < [kind for kind, _ in parts].index(b"IDAT")
    head = b"XML:com.adobe.xmp\0\0\0\0\0"
    assert packet.startswith(head)
    text = packet.removeprefix(head).decode("utf-8")
    assert text.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    assert text.endswith('<?xpacket end="r"?>')
    (said,) = ElementTree.fromstring(text).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert said.attrib == {
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about": "",
        f"{PREFIX}DigitalSourceType": MADE,
        "{http://ns.adobe.com/xap/1.0/}CreatorTool": "t2i-lora",
    }


@pytest.mark.parametrize("drawn", [True, False])
def test_what_is_kept_is_written_at_the_quick_level(tmp_path, drawn):
    """Which zlib notes at the beginning of a stream (RFC 1950): 0 in the two upper bits of the second byte."""
    picture_sets.keep(tmp_path / "set", [picture()], [{"file": "0.png"}], drawn=drawn)
    (first, *_) = [content for kind, content in chunks((tmp_path / "set" / "0.png").read_bytes()) if kind == b"IDAT"]
    assert first[1] >> 6 == 0


def test_equal_pictures_give_equal_files_and_others_do_not(tmp_path):
    digests = []
    for number, shown in enumerate((picture(), picture(), picture().transpose(Image.Transpose.ROTATE_180))):
        png_metadata.save_marked(shown, tmp_path / f"{number}.png")
        digests.append(hashlib.sha256((tmp_path / f"{number}.png").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_nothing_private_is_in_the_file(tmp_path):
    png_metadata.save_marked(picture(), tmp_path / "picture.png")
    assert str(tmp_path).encode() not in (tmp_path / "picture.png").read_bytes()


def test_a_picture_saved_anew_or_never_marked_is_not_marked(tmp_path):
    png_metadata.save_marked(picture(), tmp_path / "marked.png")
    with Image.open(tmp_path / "marked.png") as back:
        back.save(tmp_path / "anew.png")
    picture().save(tmp_path / "photo.png")
    assert not png_metadata.is_marked(tmp_path / "anew.png")
    assert not png_metadata.is_marked(tmp_path / "photo.png")


@pytest.mark.parametrize(
    ("said", "marked"),
    [
        (f'<x ext:DigitalSourceType="{MADE}"/>', True),
        (f"<x ext:DigitalSourceType = '{MADE}'/>", True),
        (f"<ext:DigitalSourceType>{MADE}</ext:DigitalSourceType>", True),
        (f'<ext:DigitalSourceType rdf:resource="{MADE}"/>', True),
        (f'<x ext:DigitalSourceType="{MADE.replace("trained", "compositeWithTrained")}"/>', False),
        (f'<x ext:DigitalSourceType="{MADE}Not"/>', False),
        (f'<x ext:DigitalSourceType="{MADE.replace("trainedAlgorithmicMedia", "digitalCapture")}"/>', False),
        (f'<x dc:description="not {MADE}"/>', False),
        ("", False),
    ],
)
def test_marks_of_other_programs_are_read(tmp_path, said, marked):
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", said)
    picture().save(tmp_path / "picture.png", pnginfo=notes)
    assert png_metadata.is_marked(tmp_path / "picture.png") == marked


def test_a_mark_behind_the_pixels_is_found(tmp_path):
    """Where other programs may put it."""
    path = tmp_path / "picture.png"
    png_metadata.save_marked(picture(), path)
    content = path.read_bytes()
    packet = re.search(rb"(?s).{4}iTXt.*?<\?xpacket end=\"r\"\?>.{4}", content)
    assert packet
    end = content.index(b"IEND") - 4
    path.write_bytes(content[: packet.start()] + content[packet.end() : end] + packet[0] + content[end:])
    assert [kind for kind, _ in chunks(path.read_bytes())][-3:] == [b"IDAT", b"iTXt", b"IEND"]
    assert png_metadata.is_marked(path)


def test_what_is_no_picture_is_an_error(tmp_path):
    (tmp_path / "picture.png").write_text("not a picture", encoding="utf-8")
    with pytest.raises(OSError, match="cannot identify"):
        png_metadata.is_marked(tmp_path / "picture.png")
