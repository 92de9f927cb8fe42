"""Notes are counted by their kind, and a run keeps each of them."""

import pytest

from pipeline.notes import Note, all_shown, grouped

pytestmark = pytest.mark.unit


def test_notes_of_a_kind_are_one_line_with_their_number_and_the_first_three():
    notes = [Note("cut", str(number)) for number in range(621)] + [Note("left out", "a.svg"), "alone"]
    assert grouped(notes) == ("cut (621): 0; 1; 2; and 618 more", "left out: a.svg", "alone")
    assert not all_shown(notes)
    assert all_shown(notes[-3:])
    assert grouped([]) == ()


def test_of_a_long_case_the_middle_is_left_out_and_a_plain_text_stays_whole():
    caption = f"a fox {'far away ' * 100}at dusk"
    (line,) = grouped([Note("cut", caption)])
    assert line.startswith("cut: a fox far away")
    assert line.endswith("at dusk")
    assert " ... " in line
    assert len(line) < 260
    assert not all_shown([Note("cut", caption)])
    assert grouped([caption]) == (caption,)
    assert all_shown([caption, Note("cut", "a fox")])
