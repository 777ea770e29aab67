"""The questions of the demo: where their answers are, and that the writing is measured as it looks."""

import torch

from client.demo.tasks import DIGIT, TASKS, TRAIN, VALIDATION, boldness, height, load_parts, outputs, slant

STROKE = torch.eye(8).flip(1)[None]  # (1, 8, 8), from the lower left to the upper right


def test_every_question_has_outputs_of_its_own() -> None:
    taken = [place for question in (DIGIT, *TASKS) for place in range(22)[outputs(question)]]
    assert taken == list(range(22))


def test_a_stroke_leans_the_way_it_goes_and_ink_above_is_high() -> None:
    assert torch.allclose(slant(STROKE), torch.tensor([1.0]))
    assert torch.allclose(slant(STROKE.flip(2)), torch.tensor([-1.0]))
    above, below = STROKE.clone(), STROKE.clone()
    above[:, 4:], below[:, :4] = 0, 0
    assert height(above) > height(STROKE) > height(below)
    assert boldness(STROKE) == 2 * boldness(above)


def test_all_digits_are_in_one_part_and_no_question_can_be_guessed() -> None:
    digits = load_parts()
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part.images) for part in parts] == [TRAIN, VALIDATION, 500]
    for part in parts:
        for task in TASKS:
            assert 0.35 < part.answers[task].double().mean() < 0.65
    again = load_parts()
    assert torch.equal(again.test.images, digits.test.images)
