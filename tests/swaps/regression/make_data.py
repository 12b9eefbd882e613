"""Write data/houses.csv: made-up houses, with cells that are missing."""

import random
from pathlib import Path

rng = random.Random(0)
lines = ["split,area,age,district,price"]
for number in range(600):
    split = {8: "val", 9: "test"}.get(number % 10, "train")
    area = rng.randint(30, 200)
    age = rng.randint(0, 100)
    district = rng.choice(["centre", "harbour", "hills"])
    price = 3 * area - age + 20 * len(district) + rng.randint(-10, 10)
    cells = [str(cell) if rng.random() < 0.95 else "" for cell in (area, age, district)]
    lines.append(",".join([split, *cells, str(price)]))
Path("data/houses.csv").write_text("\n".join(lines) + "\n", "utf-8")
