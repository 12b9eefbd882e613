"""Write data/dishes.jsonl: the ingredients of made-up dishes, and the tags they have."""

import json
import random
from pathlib import Path

TAGS = {
    "sweet": {"sugar", "honey", "banana"},
    "hot": {"chili", "ginger", "pepper"},
    "dairy": {"butter", "cheese", "cream"},
}
PLAIN = ["rice", "flour", "beans", "lemon", "mint", "oats"]

rng = random.Random(0)
ingredients = sorted(set(PLAIN).union(*TAGS.values()))
lines = []
for _ in range(800):
    dish = rng.sample(ingredients, rng.randint(2, 5))
    tags = [tag for tag, causes in TAGS.items() if causes.intersection(dish)]
    lines.append(json.dumps({"ingredients": dish, "tags": tags}))
Path("data/dishes.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
