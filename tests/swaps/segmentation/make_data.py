"""Write data/discs: small grey pictures of a disc, and masks that say which pixels belong to it."""

import random
from pathlib import Path

SIZE = 16
HEADER = f"P5 {SIZE} {SIZE} 255\n".encode()

rng = random.Random(0)
for number in range(400):
    centre_x = rng.uniform(4, 12)
    centre_y = rng.uniform(4, 12)
    radius = rng.uniform(2, 5)
    image = bytearray()
    mask = bytearray()
    for place in range(SIZE * SIZE):
        y, x = divmod(place, SIZE)
        distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2) ** 0.5 - radius
        is_inside = distance < 0
        is_border = abs(distance) < 0.4  # where nobody can tell
        image.append(rng.randrange(60, 256) if is_inside else rng.randrange(196))
        mask.append(128 if is_border else 255 * is_inside)
    for folder, pixels in (("images", image), ("masks", mask)):
        path = Path("data/discs", folder, f"{number}.pgm")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(HEADER + pixels)
