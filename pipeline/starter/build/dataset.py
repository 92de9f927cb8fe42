"""The starter dataset: captioned stickers to train on, and those of other concepts to measure against."""

import json
import shutil
from pathlib import Path

import numpy as np

from pipeline import shipped
from pipeline.starter import world
from pipeline.starter.build import style

SEED = 2026
NUM_TRAIN_CONCEPTS, NUM_TEST_CONCEPTS = 120, 80
TRAIN_PER_CONCEPT, TEST_PER_CONCEPT = 2, 3
FOLDER = shipped.STARTER / "dataset"
OFL = Path("/usr/share/doc/fonts-noto-color-emoji/copyright")


def concept_lists() -> tuple[list[world.Concept], list[world.Concept]]:
    """Concepts trained on and concepts kept for the test set: two lists without a common member."""
    order = np.random.default_rng(SEED).permutation(len(world.concepts()))
    chosen = [world.concepts()[int(index)] for index in order]
    return chosen[:NUM_TRAIN_CONCEPTS], chosen[NUM_TRAIN_CONCEPTS : NUM_TRAIN_CONCEPTS + NUM_TEST_CONCEPTS]


def build(folder: Path) -> None:
    """Render both halves into `folder`/train and `folder`/test, replacing what is there.

    No two pictures of a half show the same: nobody could tell which of them is the truth of their captions.
    """
    train, test = concept_lists()
    halves = ((shipped.TRAIN.name, 5, train, TRAIN_PER_CONCEPT), (shipped.TEST.name, 6, test, TEST_PER_CONCEPT))
    for name, stream, concepts, per_concept in halves:
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        rows, drawn = [], set()
        for number in range(per_concept * len(concepts)):
            generator = np.random.default_rng((SEED, stream, number))
            scene = world.draw_scene(generator, concepts[number % len(concepts)])
            while scene.unshifted in drawn or (name == shipped.TEST.name and not scene.held_out):
                scene = world.draw_scene(generator, concepts[number % len(concepts)])
            drawn.add(scene.unshifted)
            file = f"{number:03d}.png"
            style.sticker(scene).save(target / file, optimize=True)
            caption = scene.caption(world.TEMPLATES[number % len(world.TEMPLATES)])
            rows.append({"file_name": file, "text": caption, "concept": scene.concept.name})
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (target / "metadata.jsonl").write_text(text, encoding="utf-8")
    shutil.copyfile(OFL, folder / "OFL.txt")


if __name__ == "__main__":
    build(FOLDER)
