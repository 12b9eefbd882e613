"""Write data/lines.txt: made-up sentences, one on each line."""

import random
from pathlib import Path

rng = random.Random(0)
lines = []
for _ in range(500):
    animal = rng.choice(["fox", "hare", "owl", "bear"])
    verb = rng.choice(["sees", "follows", "fears"])
    place = rng.choice(["in the wood", "by the river", "at night"])
    lines.append(f"the {animal} {verb} the {rng.choice(['moon', 'wolf', 'wind'])} {place}")
Path("data/lines.txt").write_text("\n".join(lines) + "\n", "utf-8")
