"""Pictures and tables of what a model predicts, for TensorBoard. Works alone; draws with Pillow.

    page = choices(output, ["cat", "dog"], texts.__getitem__)
    page["matrix"]  # a picture (3, height, width) of uint8
    page["mistakes"]  # a table in Markdown
    scatter(output.preds, output.target, "price")

Pillow comes with TensorBoard, and is imported when something is drawn.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

FONT_SIZE = 15
MARGIN = 10
CELL = 40  # pixels of a cell of a matrix, if there are many
PLOT = 400  # pixels of width and height of a plot, without its axes
THUMBNAIL = 96  # pixels of a picture in a gallery
COLUMNS = 3  # of a gallery: TensorBoard shows pictures with a width of about 350 pixels
MOST_NAMES = 20  # of a matrix
MOST_MISTAKES = 12
LONGEST_NAME = 14  # characters in a picture
LONGEST_TEXT = 200  # characters in a table
DARK = (8, 48, 107)
GREY = (110, 110, 110)
LINE = (200, 200, 200)
POINT = (8, 81, 156, 130)  # the last number is the opacity


class Mistake(NamedTuple):
    """A sample for which something else than its target was predicted."""

    place: int
    """index of the sample in the batch"""
    target: str
    predicted: str
    probability: float
    """how sure the model was of what it predicted"""


class Canvas:
    """A white picture to draw on."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self.image: Any = Image.new("RGB", (width, height), "white")
        self.draw: Any = ImageDraw.Draw(self.image, "RGBA")
        self.font: Any = ImageFont.load_default(FONT_SIZE)

    def text(self, x: float, y: float, text: str, anchor: str = "mm", color: Any = "black") -> None:
        """Write a text; `anchor` is the point of it that is at (x, y), as Pillow names it."""
        self.draw.text((x, y), text, fill=color, font=self.font, anchor=anchor)

    def text_upwards(self, x: float, y: float, text: str) -> None:
        """Write a text from bottom to top, whose end at the bottom has its middle at (x, y)."""
        width = self.width_of(text)
        strip = Canvas(width, 2 * FONT_SIZE)
        strip.text(0, FONT_SIZE, text, anchor="lm")
        corner = (int(x) - FONT_SIZE, int(y) - width)
        self.image.paste(strip.image.rotate(90, expand=True), corner)

    def width_of(self, text: str) -> int:
        """The width of a text in pixels."""
        width: float = self.font.getlength(text)
        return math.ceil(width) + 1

    def cut(self, text: str, width: int) -> str:
        """A text without the characters at its end that do not fit into a width in pixels."""
        while self.width_of(text) > width:
            text = text[:-1]
        return text

    def to_tensor(self) -> Tensor:
        """The picture as a tensor (3, height, width) of uint8."""
        width, height = self.image.size
        pixels = torch.frombuffer(bytearray(self.image.tobytes()), dtype=torch.uint8)
        return pixels.view(height, width, 3).permute(2, 0, 1)


def choices(output: Any, names: Sequence[str], show: Callable[[int], Any]) -> dict[str, Any]:
    """What TensorBoard shows of a model that chooses one of some names for each sample.

    `output` has scores, `preds` (batch, names), and the right indices, `target` (batch,). `show`
    gets the index of a sample in the batch, and returns it as a text or as an image of Pillow.
    """
    predicted = output.preds.argmax(dim=1)  # (batch,)
    pairs = output.target * len(names) + predicted
    counts = pairs.bincount(minlength=len(names) ** 2).view(len(names), len(names))
    page: dict[str, Any] = {"matrix": matrix(counts, names)}
    found = mistakes(output.preds, output.target, names)
    samples = [show(mistake.place) for mistake in found]
    wrong = int((predicted != output.target).sum())
    head = f"{wrong:,} of {len(predicted):,} samples are wrong"
    if not found:
        page["mistakes"] = head
    elif isinstance(samples[0], str):
        page["mistakes"] = f"{head}; the model was surest of:\n\n{table(samples, found)}"
    else:
        page["mistakes"] = gallery(samples, found)
    return page


def mistakes(scores: Tensor, target: Tensor, names: Sequence[str]) -> list[Mistake]:
    """The wrong predictions that the model was surest of, the surest first.

    `scores` are (batch, names), before softmax, and `target` (batch,) the right indices.
    """
    probabilities, predicted = scores.float().softmax(dim=1).max(dim=1)  # (batch,) each
    order = probabilities.argsort(descending=True, stable=True)
    places = order[(predicted != target)[order]][:MOST_MISTAKES].tolist()
    found = []
    for place in places:
        right = names[int(target[place])]
        wrong = names[int(predicted[place])]
        found.append(Mistake(place, right, wrong, float(probabilities[place])))
    return found


def matrix(counts: Tensor, names: Sequence[str]) -> Tensor:
    """A picture of how often a target (row) was predicted as what (column): (names, names).

    The color is the share of the row. Of many names, those with most mistakes are shown.
    """
    title = "predicted"
    if len(names) > MOST_NAMES:
        title = f"predicted (the {MOST_NAMES} of {len(names)} with most mistakes)"
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        kept = wrong.argsort(descending=True, stable=True)[:MOST_NAMES].sort().values
        counts = counts[kept][:, kept]
        names = [names[place] for place in kept.tolist()]
    names = [_short(name) for name in names]
    longest = max(map(Canvas(1, 1).width_of, names))
    left = 3 * MARGIN + FONT_SIZE + longest
    top = left
    cell = max(CELL, 200 // len(names))
    side = cell * len(names)
    canvas = Canvas(max(left + side, left + 180) + MARGIN, top + side + MARGIN)
    canvas.text(left, MARGIN, title, anchor="lt")
    canvas.text_upwards(MARGIN + FONT_SIZE / 2, top + side, "target")
    for place, name in enumerate(names):
        middle = cell * (place + 0.5)
        canvas.text(left - MARGIN, top + middle, name, anchor="rm")
        canvas.text_upwards(left + middle, top - MARGIN, name)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    for row in range(len(names)):
        for column in range(len(names)):
            x = left + cell * column
            y = top + cell * row
            box = (x, y, x + cell, y + cell)
            _draw_cell(canvas, box, int(counts[row, column]), float(shares[row, column]))
    return canvas.to_tensor()


def _draw_cell(canvas: Canvas, box: tuple[int, ...], count: int, share: float) -> None:
    """Draw a cell of a matrix, the darker the larger the share, with a text that stands out."""
    left, top, right, bottom = box
    color = tuple(round(255 + share * (part - 255)) for part in DARK)
    canvas.draw.rectangle(box, fill=color, outline=LINE)
    is_dark = share > 0.65
    text_color: Any = "white" if is_dark else "black"
    if count == 0:
        text_color = GREY
    text = str(count) if count < 100_000 else f"{count:.0e}"
    canvas.text((left + right) / 2, (top + bottom) / 2, text, color=text_color)


def gallery(images: Sequence[Any], found: Sequence[Mistake]) -> Tensor:
    """A picture of images of Pillow, each with what it is and what was predicted below it."""
    width = THUMBNAIL + 2 * MARGIN
    height = THUMBNAIL + 3 * FONT_SIZE + 3 * MARGIN
    rows = math.ceil(len(found) / COLUMNS)
    canvas = Canvas(COLUMNS * width, rows * height)
    for place, (image, mistake) in enumerate(zip(images, found, strict=True)):
        x = place % COLUMNS * width + MARGIN
        y = place // COLUMNS * height + MARGIN
        canvas.image.paste(_thumbnail(image), (x, y))
        canvas.draw.rectangle((x, y, x + THUMBNAIL, y + THUMBNAIL), outline=LINE)
        lines = (
            f"target {mistake.target}",
            f"predicted {mistake.predicted}",
            f"sure {mistake.probability:.1%}",
        )
        y += THUMBNAIL + 6
        for line in lines:
            canvas.text(x, y, canvas.cut(line, THUMBNAIL + MARGIN), anchor="lt")
            y += FONT_SIZE + 4
    return canvas.to_tensor()


def _thumbnail(image: Any) -> Any:
    """An image at the size of a gallery; small ones keep their pixels visible."""
    from PIL import Image

    is_small = max(image.size) < THUMBNAIL
    method = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), method)


def table(texts: Sequence[str], found: Sequence[Mistake]) -> str:
    """A table in Markdown of texts, what each is, and what was predicted."""
    lines = ["| sample | target | predicted | sure |", "|---|---|---|---|"]
    for text, mistake in zip(texts, found, strict=True):
        cells = [text, mistake.target, mistake.predicted]
        literal = " | ".join(map(_literal, cells))
        lines.append(f"| {literal} | {mistake.probability:.1%} |")
    return "\n".join(lines)


def scatter(predicted: Tensor, target: Tensor, name: str) -> Tensor:
    """A picture of predicted numbers against true ones, (batch,) each; on the line, both agree."""
    points = torch.stack([target, predicted], dim=1).double()  # (batch, 2)
    points = points[points.isfinite().all(dim=1)]
    low = float(points.min())
    high = float(points.max())
    ticks = _ticks(low, high)
    low = min(low, ticks[0])
    span = max(high, ticks[-1]) - low
    texts = [f"{tick:.6g}" for tick in ticks]
    longest = max(map(Canvas(1, 1).width_of, texts))
    left = 3 * MARGIN + FONT_SIZE + longest
    bottom = MARGIN + PLOT
    canvas = Canvas(left + PLOT + longest // 2 + MARGIN, bottom + 2 * FONT_SIZE + 3 * MARGIN)
    canvas.draw.rectangle((left, MARGIN, left + PLOT, bottom), outline=GREY)
    for tick, text in zip(ticks, texts, strict=True):
        place = PLOT * (tick - low) / span
        canvas.draw.line((left + place, MARGIN, left + place, bottom), fill=LINE)
        canvas.draw.line((left, bottom - place, left + PLOT, bottom - place), fill=LINE)
        canvas.text(left + place, bottom + MARGIN, text, anchor="mt")
        canvas.text(left - MARGIN, bottom - place, text, anchor="rm")
    canvas.draw.line((left, bottom, left + PLOT, MARGIN), fill=GREY, width=2)
    for true, guess in ((points - low) * PLOT / span).tolist():
        x = left + true
        y = bottom - guess
        canvas.draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=POINT)
    canvas.text(left + PLOT / 2, bottom + FONT_SIZE + 2 * MARGIN, f"true {name}", anchor="mt")
    canvas.text_upwards(MARGIN + FONT_SIZE / 2, bottom, f"predicted {name}")
    return canvas.to_tensor()


def _ticks(low: float, high: float) -> list[float]:
    """Some round numbers, the first at or below `low` and the last at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [step * number for number in range(first, last + 1)]


def _short(name: str) -> str:
    """A name, cut to what fits into a picture."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 2]}.."


def _literal(text: str) -> str:
    """A text for a cell of a table in Markdown, in which no character has a meaning."""
    text = " ".join(text.replace("`", "'").split())
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}..."
    return f"`{text}`"
