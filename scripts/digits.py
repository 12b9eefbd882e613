"""Write data/digits.zip of an image project: the UCI handwritten digits, a folder for each digit.

    .venv/bin/python scripts/digits.py > digits.zip

The images are those of sklearn.datasets.load_digits, in its order: 3/0012.png is number 12 of
1,797. Its values from 0 to 16 are stored times 15, as grey values, so nothing is lost.
"""

import io
import sys
import zipfile

from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]


def digits() -> dict[str, bytes]:
    """The PNG files by their names."""
    found = load_digits()
    files = {}
    for number, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray((image * 15).astype("uint8")).save(buffer, "PNG", optimize=True)
        files[f"{label}/{number:04}.png"] = buffer.getvalue()
    return files


if __name__ == "__main__":
    with zipfile.ZipFile(sys.stdout.buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(digits().items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
