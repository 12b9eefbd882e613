"""Write data/reviews.csv: made-up sentences of unequal length, in which one word can turn all."""

import random

rng = random.Random(0)
with open("data/reviews.csv", "w", encoding="utf-8") as file:
    file.write("split,text,label\n")
    for number in range(1000):
        split = {8: "val", 9: "test"}.get(number % 10, "train")
        word, is_good = rng.choice([("good", True), ("great", True), ("bad", False)])
        is_negated = rng.random() < 0.5
        words = ["not"] * is_negated + ["so"] * rng.randrange(4) + [word]
        label = "praise" if is_good != is_negated else "blame"
        file.write(f"{split},the film was {' '.join(words)},{label}\n")
