"""The digits of image projects are those of the UCI data set, as scikit-learn has them."""

import io
import zipfile

from conftest import PROJECT, of_task
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

DIGITS = PROJECT / "data" / of_task("image", "digits.zip")


def test_the_pictures_have_the_values_and_folders_of_the_source() -> None:
    source = load_digits()
    with zipfile.ZipFile(DIGITS) as archive:
        assert len(archive.namelist()) == len(source.images) == 1797
        for number, (values, label) in enumerate(zip(source.images, source.target, strict=True)):
            content = archive.read(f"{label}/{number:04}.png")
            pixels = list(Image.open(io.BytesIO(content)).tobytes())
            assert pixels == [15 * value for value in values.flatten()]
