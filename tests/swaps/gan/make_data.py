"""Write data/points.txt: numbers from two normal distributions."""

import random

rng = random.Random(0)
with open("data/points.txt", "w", encoding="utf-8") as file:
    file.writelines(f"{rng.gauss(rng.choice([-1, 2]), 0.3):.4f}\n" for _ in range(800))
