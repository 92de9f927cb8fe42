"""Datasets for the audit: a clean one, and one in which every flaw that the audit knows is planted."""

import functools
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw

NOUNS = """boat house tree river bridge tower garden castle mountain meadow harbour market street window
lantern""".split()  # noqa: SIM905  # easier to read
LOOKS = """old quiet red foggy bright snowy wooden narrow tall lonely painted broken sunny distant
empty""".split()  # noqa: SIM905  # easier to read
PLACES = """by the sea,in the woods,at dawn,under heavy clouds,behind a fence,after the rain,on a hill,
near a lake""".replace("\n", "").split(",")


def picture(number: int, size: tuple[int, int] = (160, 160)) -> Image.Image:
    """A picture that is like no other: blocks of random colours with shapes on them."""
    chance = np.random.default_rng(number)
    blocks = Image.fromarray(chance.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    made = blocks.resize(size, Image.Resampling.BICUBIC)
    drawn = ImageDraw.Draw(made)
    for _ in range(6):
        x, y = (int(chance.integers(0, side)) for side in size)
        colour = tuple(int(value) for value in chance.integers(0, 256, 3))
        drawn.ellipse((x - 25, y - 15, x + 25, y + 15), fill=colour)
    return made


@functools.cache
def _as_png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def caption(number: int) -> str:
    """A caption that is like no other."""
    first, second = NOUNS[number % 15], NOUNS[(number * 7 + 3) % 15]
    return f"{number} {LOOKS[number * 4 % 15]} {first} and {second} {PLACES[number % 8]}"


def clean(folder: Path, number: int = 40) -> Path:
    """Pictures of one size, each with a caption of its own beside it, and columns that are balanced."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(number):
        (folder / f"{index:03d}.png").write_bytes(_as_png(index))
        columns = {"season": ("summer", "winter")[index % 2], "place": ("town", "country")[index // 2 % 2]}
        rows.append({"file_name": f"{index:03d}.png", "text": caption(index), **columns})
    write_rows(folder, rows)
    return folder


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    """A metadata file."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Its rows."""
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def noisy(made: Image.Image) -> Image.Image:
    """The same picture after a poor JPEG, a little brighter."""
    buffer = io.BytesIO()
    made.point(lambda value: min(255, value + 2)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def wide_gamut() -> bytes:
    """A colour profile that is not that of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def plant(folder: Path, elsewhere: Path) -> dict[str, tuple[str, str]]:
    """Add every flaw to a clean dataset; returns for each what names it: the kind of finding, and a text in a case."""
    rows = rows_of(folder)

    def add(name: str, made: Image.Image | bytes, text: str, **values: object) -> None:
        if isinstance(made, bytes):
            (folder / name).write_bytes(made)
        else:
            made.save(folder / name, **values)
        columns = {"season": "summer", "place": "town"} if len(rows) % 2 else {"season": "winter", "place": "country"}
        rows.append({"file_name": name, "text": text, **columns})

    # Files
    whole = io.BytesIO()
    picture(100).save(whole, "PNG")
    add("truncated.png", whole.getvalue()[:2000], caption(100))
    add("text.jpg", b"this is no picture", caption(101))
    add("nothing.png", b"", caption(102))
    add("huge.png", Image.new("1", (1200, 1000)), caption(103))
    (folder / "photo.jxl").write_bytes(b"jxl")
    rows.append({"file_name": "gone.png", "text": caption(104)})
    rows.append({"file_name": "../outside.png", "text": caption(105)})
    rows.append({"file_name": "https://example.org/a.png", "text": caption(106)})
    rows.append({"file_name": "", "text": caption(107)})
    picture(109).save(elsewhere / "elsewhere.png")
    (folder / "link.png").symlink_to(elsewhere / "elsewhere.png")
    rows.append({"file_name": "link.png", "text": caption(109)})
    (folder / "dangling.png").symlink_to(elsewhere / "nowhere.png")
    rows.append({"file_name": "dangling.png", "text": caption(110)})
    (folder / "notes.docx").write_bytes(b"x")
    # Pictures
    add("grey.png", Image.new("RGB", (160, 160), (120, 120, 120)), caption(111))
    add("night.png", picture(112).point(lambda value: value // 14), caption(112))
    exif = Image.Exif()
    exif[0x0112] = 6
    add("lying.jpg", picture(113), caption(113), exif=exif)
    add("profile.png", picture(114), caption(114), icc_profile=wide_gamut())
    add("cmyk.jpg", picture(115).convert("CMYK"), caption(115))
    transparent = picture(116).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    add("glass.png", transparent, caption(116))
    add("moving.gif", picture(117), caption(117), save_all=True, append_images=[picture(118)])
    # Likeness
    add("copy.png", picture(0), caption(0))
    add("recaptioned.png", picture(1), caption(119))
    add("again.png", noisy(picture(2)), caption(120))
    add("mirror.png", picture(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT), caption(121))
    # Captions
    add("mute.png", picture(122), "")
    add("endless.png", picture(123), f"{caption(123)} " * 12)
    add("IMG_2041.png", picture(124), "IMG_2041")
    add("markup.png", picture(125), "a <b>boat</b> &amp; a house")
    add("weighted.png", picture(139), f"{caption(139)} (at night:1.3)")
    add("terse.png", picture(126), "boat")
    add("russian.png", picture(127), "старый дом у реки")
    for number in range(128, 136):
        add(f"alike-{number}.png", picture(number), "a nice view")
    # Shapes
    add("panorama.png", picture(136, (640, 128)), caption(136))
    add("tiny.png", picture(137, (24, 24)), caption(137))
    add("smaller.png", picture(138, (100, 100)), caption(138))
    # Balance
    for row in rows:
        row["kind"] = "drawing" if row["file_name"] == "000.png" else "photo"
    rows[1]["place"] = "space"
    write_rows(folder, rows)
    return {
        "truncated": ("unreadable", "truncated.png"),
        "no image": ("unreadable", "text.jpg"),
        "empty file": ("unreadable", "nothing.png"),
        "too many pixels": ("unreadable", "huge.png"),
        "dangling link": ("unreadable", "dangling.png"),
        "unread format": ("unread", "photo.jxl"),
        "row without file": ("layout", "gone.png"),
        "row outside": ("layout", "../outside.png"),
        "row with an address": ("layout", "https://example.org/a.png"),
        "row without a name": ("layout", "is empty"),
        "link outside": ("outside", "link.png"),
        "stray file": ("remarks", "notes.docx"),
        "one colour": ("one-colour", "grey.png"),
        "black": ("dark-or-white", "night.png"),
        "turned": ("turned", "lying.jpg"),
        "profile": ("profile", "profile.png"),
        "CMYK": ("mode", "cmyk.jpg"),
        "transparent": ("transparent", "glass.png"),
        "animated": ("animated", "moving.gif"),
        "exact copy": ("same", "copy.png"),
        "same picture, other caption": ("same-picture", "recaptioned.png"),
        "near copy": ("near", "again.png"),
        "mirrored": ("mirrored", "mirror.png"),
        "no caption": ("no-caption", "mute.png"),
        "cut caption": ("cut", "endless.png"),
        "file name": ("file-name", "IMG_2041"),
        "markup": ("markup", "<b>"),
        "weights": ("weighted", "weighted.png"),
        "one word": ("short", "terse.png"),
        "other letters": ("script", "russian.png"),
        "alike": ("alike", "a nice view"),
        "cropped": ("cropped", "panorama.png"),
        "enlarged": ("enlarged", "tiny.png"),
        "shown smaller": ("small", "smaller.png"),
        "unbalanced": ("unbalanced", "kind is 'photo'"),
        "rare": ("rare", "place is 'space'"),
    }
