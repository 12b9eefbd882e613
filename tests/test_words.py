"""The data that ships with a generated project."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

from conftest import PROJECT, TEMPLATE, of_task

WORDS = PROJECT / "data" / of_task("text", "words.csv")
NOTES = {
    "happy": "Positive",
    "amazing": "Positive",
    "sad": "Negative",
    "unhappy": "Negative",
    "glum": "Negative",
}


def test_the_script_gives_the_file_that_ships(default_bake: Path) -> None:
    strict = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    command = [sys.executable, *strict, "scripts/words.py"]
    done = subprocess.run(command, cwd=TEMPLATE, capture_output=True, check=True)
    assert done.stdout == WORDS.read_bytes()
    assert (default_bake / "data" / "words.csv").read_bytes() == WORDS.read_bytes()


def test_the_words_are_those_of_the_lexicon() -> None:
    with WORDS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = {row["text"]: row["label"] for row in rows}
    assert len(rows) == len(labels) == 7209
    assert all(text.isalpha() and text == text.lower() for text in labels)
    counts = Counter(labels.values())
    assert counts.keys() == {"Positive", "Negative"}
    assert round(100 * counts["Positive"] / len(rows)) == 44
    assert {text: labels.get(text) for text in NOTES} == NOTES
