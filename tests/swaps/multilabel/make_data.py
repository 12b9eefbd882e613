"""Write data/dishes.jsonl: the ingredients of made-up dishes, and the tags they have."""

import json
import random

TAGS = {"sugar": "sweet", "honey": "sweet", "chili": "hot", "pepper": "hot", "cream": "dairy"}

rng = random.Random(0)
with open("data/dishes.jsonl", "w", encoding="utf-8") as file:
    for _ in range(800):
        dish = rng.sample([*TAGS, "rice", "flour", "beans", "lemon", "mint"], rng.randint(2, 5))
        tags = sorted({TAGS[name] for name in dish if name in TAGS})
        file.write(json.dumps({"ingredients": dish, "tags": tags}) + "\n")
