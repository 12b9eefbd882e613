"""Write data/reviews.csv: made-up sentences of unequal length, in which one word can turn all."""

import random
from pathlib import Path

rng = random.Random(0)
lines = ["split,text,label"]
for number in range(1000):
    split = {8: "val", 9: "test"}.get(number % 10, "train")
    thing = rng.choice(["film", "book", "meal", "concert"])
    is_good = rng.random() < 0.5
    is_negated = rng.random() < 0.5
    words = ["not"] * is_negated + ["so"] * rng.randrange(4)
    words.append(rng.choice(["good", "fine", "great"] if is_good else ["bad", "poor", "dull"]))
    label = "praise" if is_good != is_negated else "blame"
    lines.append(f"{split},the {thing} was {' '.join(words)},{label}")
Path("data/reviews.csv").write_text("\n".join(lines) + "\n", "utf-8")
