"""Write data/shapes: small pictures, in a folder for each split and class."""

import random
from pathlib import Path

rng = random.Random(0)
for number in range(480):
    name = rng.choice(["cross", "square"])
    folder = Path("data/shapes", {6: "val", 7: "test"}.get(number % 8, "train"), name)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = bytearray()
    for place in range(256):
        x, y = abs(place % 16 - 8), abs(place // 16 - 8)
        is_inside = max(x, y) < 5 if name == "square" else min(x, y) < 2
        pixels.append(rng.randrange(255 if is_inside else 160))
    (folder / f"{number}.pgm").write_bytes(b"P5 16 16 255\n" + pixels)
