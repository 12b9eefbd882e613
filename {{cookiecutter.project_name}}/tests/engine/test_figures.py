"""What is drawn shows what was counted, and can be read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from {{ cookiecutter.__package_name }}.engine import figures

NAMES = ["bird", "cat", "dog"]
SCORES = torch.tensor([[9.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 3], [0, 5, 0], [4, 0, 0]])
TARGET = torch.tensor([0, 1, 2, 2, 0, 1])


def output(scores: Tensor = SCORES, target: Tensor = TARGET) -> Any:
    return SimpleNamespace(preds=scores, target=target)


def colors(picture: Tensor) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in picture.flatten(start_dim=1).T.tolist()}


def is_picture(picture: Tensor) -> bool:
    return picture.dtype == torch.uint8 and picture.ndim == 3 and picture.shape[0] == 3


def test_the_surest_mistakes_come_first_and_right_answers_are_none() -> None:
    found = figures.mistakes(SCORES, TARGET, NAMES)
    assert [mistake.place for mistake in found] == [4, 5, 2]
    assert [mistake.target for mistake in found] == ["bird", "cat", "dog"]
    assert [mistake.predicted for mistake in found] == ["cat", "bird", "cat"]
    assert found[0].probability == pytest.approx(float(SCORES[4].softmax(0)[1]))


def test_of_many_mistakes_the_first_are_shown() -> None:
    scores = torch.eye(2).repeat(50, 1)
    found = figures.mistakes(scores, scores.argmin(1), ["no", "yes"])
    assert len(found) == figures.MOST_MISTAKES


def test_mistakes_with_texts_are_a_table_in_which_no_character_has_a_meaning() -> None:
    texts = ["a", "b", "c|d `e`\n<b>", "f", "x" * 500, "*g*"]
    page = figures.choices(output(), NAMES, texts.__getitem__)
    head, _, *lines = page["mistakes"].splitlines()
    assert head == "3 of 6 samples are wrong; the model was surest of:"
    assert lines[2].startswith("| `" + "x" * 200 + "...` | `bird` | `cat` | ")
    assert lines[3] == "| `*g*` | `cat` | `bird` | 96.5% |"
    assert lines[4].startswith("| `c|d 'e' <b>` | `dog` |")
    assert is_picture(page["matrix"])


def test_mistakes_with_images_are_a_picture_of_them() -> None:
    reds = [(255, place, 0) for place in range(6)]
    images = [Image.new("RGB", (8, 9), red) for red in reds]
    page = figures.choices(output(), NAMES, images.__getitem__)
    assert is_picture(page["mistakes"])
    assert colors(page["mistakes"]) & set(reds) == {reds[2], reds[4], reds[5]}


def test_no_mistake_is_said_in_words() -> None:
    page = figures.choices(output(target=SCORES.argmax(1)), NAMES, lambda place: pytest.fail())
    assert page["mistakes"] == "0 of 6 samples are wrong"


def test_the_matrix_is_dark_where_a_row_has_its_share() -> None:
    whole = colors(figures.matrix(torch.tensor([[7, 0], [0, 3]]), ["a", "b"]))
    half = colors(figures.matrix(torch.tensor([[5, 5], [5, 5]]), ["a", "b"]))
    assert figures.DARK in whole
    assert figures.DARK not in half
    assert tuple(round((255 + part) / 2) for part in figures.DARK) in half


def test_rows_without_samples_and_large_numbers_can_be_drawn() -> None:
    counts = torch.tensor([[0, 0], [123_456_789, 10]])
    assert is_picture(figures.matrix(counts, ["", "a name that is much too long for a picture"]))


def test_of_many_names_those_with_most_mistakes_are_in_the_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = torch.diag(torch.full((50,), 9))
    counts[3, 30] = 5
    drawn: list[str] = []
    text = figures.Canvas.text

    def note(canvas: figures.Canvas, x: float, y: float, words: str, **how: Any) -> None:
        drawn.append(words)
        text(canvas, x, y, words, **how)

    monkeypatch.setattr(figures.Canvas, "text", note)
    picture = figures.matrix(counts, [f"n{place}" for place in range(50)])
    assert {"n3", "n30"} <= set(drawn)
    assert "predicted (the 20 of 50 with most mistakes)" in drawn
    assert sum(words.startswith("n") for words in drawn) == 2 * figures.MOST_NAMES
    assert max(picture.shape) < 1000


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-1.2, 0.4, [-1.5, -1, -0.5, 0, 0.5]),
        (2850, 6300, [2000, 3000, 4000, 5000, 6000, 7000]),
        (5, 5, [5, 6]),
    ],
)
def test_the_axes_have_round_numbers_around_all_points(
    low: float, high: float, expected: list[float]
) -> None:
    assert figures._ticks(low, high) == pytest.approx(expected)


def test_a_point_is_on_the_line_if_it_was_predicted_right() -> None:
    target = torch.tensor([0.0, 10.0])

    def blue(predicted: list[float]) -> Tensor:
        picture = figures.scatter(torch.tensor(predicted), target, "price").int()
        is_blue = picture[2] > picture[0] + 40  # more blue than red
        return is_blue.nonzero().double().mean(dim=0)  # row and column of the middle

    right = blue([0, 10])
    assert (blue([0, 6]) - right)[0] > 10  # too low: further down
    assert blue([0, 6])[1] == pytest.approx(right[1], abs=2)


def test_numbers_that_are_not_finite_are_left_out_of_the_plot() -> None:
    predicted = torch.tensor([1.0, torch.nan, torch.inf])
    assert is_picture(figures.scatter(predicted, torch.tensor([1.0, 2.0, 3.0]), "price"))
