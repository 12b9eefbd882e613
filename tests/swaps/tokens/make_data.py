"""Write data/lines.txt: made-up sentences, one on each line."""

import random

rng = random.Random(0)
with open("data/lines.txt", "w", encoding="utf-8") as file:
    for _ in range(500):
        animal = rng.choice(["fox", "hare", "owl", "bear"])
        place = rng.choice(["in the wood", "by the river", "at night"])
        file.write(f"the {animal} {rng.choice(['sees', 'fears'])} the moon {place}\n")
