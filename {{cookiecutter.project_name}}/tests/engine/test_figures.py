"""What is drawn shows what was counted, and can be read."""

import itertools
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


def test_a_class_that_occurs_nowhere_has_a_row_and_a_column(spied: "type[Spied]") -> None:
    figures.choices(output(SCORES[:2], TARGET[:2]), [*NAMES, "eel"], str)
    cells = [text[0] for text in spied.texts[-16:]]
    assert cells == [*"1000", *"0100", *"0000", *"0000"]


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


class Spied(figures.Canvas):
    """A canvas that notes what is drawn."""

    texts: list[tuple[str, float, float, Any]] = []  # noqa: RUF012
    boxes: list[tuple[float, ...]] = []  # noqa: RUF012
    points: list[tuple[float, float]] = []  # noqa: RUF012
    lines: list[tuple[float, ...]] = []  # noqa: RUF012
    upwards: list[tuple[str, float, float]] = []  # noqa: RUF012
    anchors: list[str] = []  # noqa: RUF012
    sizes: list[tuple[int, int]] = []  # noqa: RUF012
    widths: list[int] = []  # noqa: RUF012

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.sizes.append((width, height))
        rectangle = self.draw.rectangle
        ellipse = self.draw.ellipse
        line = self.draw.line

        def draw_rectangle(box: Any, **how: Any) -> None:
            self.boxes.append(box)
            rectangle(box, **how)

        def draw_ellipse(box: Any, **how: Any) -> None:
            self.points.append(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
            ellipse(box, **how)

        def draw_line(box: Any, **how: Any) -> None:
            self.lines.append(box)
            self.widths.append(how.get("width", 0))
            line(box, **how)

        self.draw.line = draw_line
        self.draw.rectangle = draw_rectangle
        self.draw.ellipse = draw_ellipse

    def text(self, x: float, y: float, text: str, anchor: str = "mm", color: Any = "black") -> None:
        self.texts.append((text, x, y, color))
        self.anchors.append(anchor)
        super().text(x, y, text, anchor, color)

    def text_upwards(self, x: float, y: float, text: str) -> None:
        self.upwards.append((text, x, y))
        super().text_upwards(x, y, text)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> type[Spied]:
    monkeypatch.setattr(figures, "Canvas", Spied)
    for name in ("texts", "boxes", "points", "lines", "upwards", "anchors", "sizes", "widths"):
        monkeypatch.setattr(Spied, name, [])
    return Spied


def test_each_cell_of_the_matrix_is_in_its_place_with_its_number(spied: type[Spied]) -> None:
    figures.matrix(torch.tensor([[80, 20], [0, 100_000]]), ["a", "b"])
    cells = spied.texts[-4:]
    assert [cell[0] for cell in cells] == ["80", "20", "0", "1e+05"]
    assert [cell[3] for cell in cells] == ["white", "black", figures.GREY, "white"]
    (_, x, y, _), right, below, _ = cells
    assert right[1:3] == (x + 100, y)  # a few names have large cells
    assert below[1:3] == (x, y + 100)
    assert [box[2] - box[0] for box in spied.boxes] == [100] * 4
    assert [text[0] for text in spied.texts[:6]] == ["predicted", "target", "a", "a", "b", "b"]
    spied.texts.clear()
    figures.matrix(torch.tensor([[99_999, 50_000], [50_000, 60_000]]), ["a", "b"])
    assert [text[::3] for text in spied.texts[-4:]] == [
        ("99999", "white"), ("50000", "black"), ("50000", "black"), ("60000", "black"),
    ]  # fmt: skip


def test_names_of_a_matrix_stand_beside_their_rows_and_above_their_columns(
    spied: type[Spied],
) -> None:
    figures.matrix(torch.tensor([[8, 2], [0, 9]]), ["a", "b"])
    first, second, third, last = spied.boxes
    left, top, *_ = first
    rows = {text: (x, y) for text, x, y, _ in spied.texts[:6] if y > top}
    assert rows["a"] == (left - figures.MARGIN, (first[1] + first[3]) / 2)
    assert rows["b"] == (left - figures.MARGIN, (third[1] + third[3]) / 2)
    target, *columns = spied.upwards
    assert columns == [
        ("a", (first[0] + first[2]) / 2, top - figures.MARGIN),
        ("b", (second[0] + second[2]) / 2, top - figures.MARGIN),
    ]
    assert target[0] == "target"
    assert 0 < target[1] < left - figures.MARGIN - Spied(1, 1).width_of("a")
    assert target[2] == last[3]
    assert spied.texts[0][:3] == ("predicted", left, figures.MARGIN)
    assert spied.anchors[0] == "lt"
    assert set(spied.anchors[-4:]) == {"mm"}
    middle_of_first = ((first[0] + first[2]) / 2, (first[1] + first[3]) / 2)
    assert spied.texts[-4][1:3] == middle_of_first
    (*_, (width, height)) = [size for size in spied.sizes if size[1] > 100]
    assert width >= last[2] + figures.MARGIN and height == last[3] + figures.MARGIN


def test_a_text_that_runs_upwards_is_black_on_white_and_ends_where_it_is_to() -> None:
    canvas = figures.Canvas(60, 200)
    canvas.text_upwards(30, 150, "price")
    dark = (canvas.to_tensor().int().sum(0) < 300).nonzero()  # rows and columns
    rows, columns = dark.T
    assert rows.max() == pytest.approx(149, abs=4)
    assert rows.max() - rows.min() > 2 * (columns.max() - columns.min())
    assert columns.double().mean() == pytest.approx(30, abs=3)


def test_targets_are_rows_and_all_mistakes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[list[int]]] = []
    monkeypatch.setattr(figures, "matrix", lambda counts, _: drawn.append(counts.tolist()))
    scores = torch.eye(2)[[1] * 20]
    page = figures.choices(output(scores, torch.tensor([0] * 15 + [1] * 5)), ["no", "yes"], str)
    assert drawn == [[[0, 15], [0, 5]]]
    assert page["mistakes"].startswith("15 of 20 samples are wrong; ")
    assert page["mistakes"].count("\n") == 2 + 1 + 12  # twelve of them are shown


def test_of_many_names_the_20_with_most_mistakes_keep_their_order(spied: type[Spied]) -> None:
    counts = torch.diag(torch.full((25,), 1000))  # of the first five all are right
    for place in range(5, 25):
        counts[place, place] = 1
        counts[place, 5 + (place + 1) % 20] = place
    names = [f"name {number}" for number in range(25)]
    figures.matrix(counts, names)
    title, _, *shown = [text[0] for text in spied.texts[:42]]
    assert title == "predicted (the 20 of 25 with most mistakes)"
    assert shown[::2] == names[5:]
    cells = [text[0] for text in spied.texts[42:]]
    assert cells == [str(count) for row in counts[5:, 5:].tolist() for count in row]


def test_names_of_up_to_14_characters_are_shown_whole(spied: type[Spied]) -> None:
    figures.matrix(torch.eye(2, dtype=torch.int64), ["x" * 14, "y" * 15])
    assert {"x" * 14, "y" * 12 + ".."} <= {text[0] for text in spied.texts}


def test_a_picture_of_a_mistake_has_what_it_is_below_it_and_keeps_its_pixels(
    spied: type[Spied],
) -> None:
    found = [figures.Mistake(0, "cat", "dog", 0.98765), figures.Mistake(1, "a", "b", 0.5)]
    small = Image.new("RGB", (2, 1), "white")
    small.putpixel((0, 0), (0, 0, 255))
    figures.gallery([small, small], found)
    assert [text[0] for text in spied.texts[:3]] == ["target cat", "predicted dog", "sure 98.8%"]
    assert spied.texts[3][1] > spied.texts[0][1]  # the second one is to the right
    assert len(figures._thumbnail(small).getcolors()) == 2
    assert len(figures._thumbnail(small.resize((200, 200))).getcolors(10_000)) > 2


def test_a_gallery_has_three_pictures_in_a_row_with_lines_that_do_not_touch(
    spied: type[Spied],
) -> None:
    found = [figures.Mistake(place, "cat", "d" * 50, 0.5) for place in range(4)]
    picture = figures.gallery([Image.new("RGB", (2, 1), "white")] * 4, found)
    corners = [box[:2] for box in spied.boxes]
    left, top = corners[0]
    assert corners[1:3] == [(corners[1][0], top), (2 * corners[1][0] - left, top)]
    assert corners[3][0] == left
    for box, line in zip(spied.boxes, range(0, 12, 3), strict=True):
        assert [box[2] - box[0], box[3] - box[1]] == [figures.THUMBNAIL] * 2
        texts = spied.texts[line : line + 3]
        assert [text[1] for text in texts] == [box[0]] * 3
        places = [box[3], *(text[2] for text in texts)]
        assert places == sorted(places)
        gaps = [after - before for before, after in itertools.pairwise(places)]
        assert min(gaps[1:]) > figures.FONT_SIZE and gaps[0] > 0
        assert texts[1][0].startswith("predicted ddd")
        assert Spied(1, 1).width_of(texts[1][0]) <= figures.THUMBNAIL + figures.MARGIN
        assert places[-1] + figures.FONT_SIZE < picture.shape[1]
    assert spied.boxes[2][2] < picture.shape[2]
    assert spied.boxes[3][1] > spied.texts[2][2] + figures.FONT_SIZE  # below what is above it


def test_the_plot_has_a_point_for_each_sample_and_says_which_axis_is_which(
    spied: type[Spied],
) -> None:
    target = torch.tensor([0.0, 0.25, 0.25])
    figures.scatter(torch.tensor([0.0, 0.25, 0.0]), target, "price")
    (zero_x, zero_y), (x, y), low = spied.points
    (box,) = spied.boxes
    assert (zero_x, zero_y) == (box[0], box[3])
    assert (x, y) == pytest.approx((box[2], box[1]), abs=0.01)
    assert low == pytest.approx((box[2], box[3]), abs=0.01)
    texts = [text[0] for text in spied.texts]
    assert texts[-2:] == ["true price", "predicted price"]
    left, top, right, bottom = box
    assert spied.texts[-2][1] == (left + right) / 2
    assert spied.upwards == [("predicted price", figures.MARGIN + figures.FONT_SIZE / 2, bottom)]
    *grid, diagonal = spied.lines
    assert diagonal == (left, bottom, right, top)
    assert spied.widths[-1] == 2
    for place, (_, x, y, _) in enumerate(spied.texts[:12:2]):  # below the axis
        assert grid[2 * place] == (x, top, x, bottom)
        assert bottom < y < spied.texts[-2][2] - figures.FONT_SIZE
    for place, (_, x, y, _) in enumerate(spied.texts[1:12:2]):  # left of the other one
        assert grid[2 * place + 1] == (left, y, right, y)
        assert figures.FONT_SIZE < x < left
    assert set(spied.anchors[:12:2]) == {"mt"} and set(spied.anchors[1:12:2]) == {"rm"}
    assert texts[:12:2] == ["0", "0.05", "0.1", "0.15", "0.2", "0.25"]


def gaps_of(ink: Tensor) -> list[int]:
    """The widths of what is white: before the first pixel that is not, between them, and after."""
    places = [-1, *ink.nonzero().flatten().tolist(), len(ink)]
    widths = [after - before - 1 for before, after in itertools.pairwise(places)]
    return [widths[0], *filter(None, widths[1:-1]), widths[-1]]


def test_title_names_and_cells_of_a_matrix_have_room_around_them() -> None:
    names = ["aaa", "bbbbbb", "c", "d", "e"]
    picture = figures.matrix(9 * torch.eye(5, dtype=torch.int64) + 1, names)
    ink = (picture != 255).any(dim=0)  # (height, width)
    for direction in (0, 1):
        gaps = gaps_of(ink.any(dim=direction))
        assert len(gaps) == 4  # before the title, the names and the cells, and after them
        assert min(gaps) >= 8 and max(gaps) <= 15


def test_numbers_and_names_of_the_axes_have_room_around_them() -> None:
    numbers = torch.tensor([0.0, 500.0, 1000.0])
    picture = figures.scatter(numbers, numbers, "price")
    ink = (picture != 255).any(dim=0)
    left, beside_name, *_, right = gaps_of(ink.any(dim=0))
    top, *_, above_name, bottom = gaps_of(ink.any(dim=1))
    for gap in (left, beside_name, right, top, above_name, bottom):
        assert 5 <= gap <= 15
