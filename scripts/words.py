"""Write data/words.csv of a text project: words of the VADER lexicon, Positive or Negative.

    .venv/bin/python scripts/words.py > words.csv

The lexicon comes with the package vaderSentiment (MIT; Hutto and Gilbert 2014). Kept are its single
alphabetic words, in lower case, once each; the label is the sign of the mean rating.
"""

import csv
import sys
from importlib.resources import files


def words() -> dict[str, str]:
    lexicon = files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8")
    labels: dict[str, str] = {}
    for line in lexicon.splitlines():
        token, mean = line.split("\t")[:2]
        if token.isalpha():
            labels.setdefault(token.lower(), "Positive" if float(mean) > 0 else "Negative")
    return labels


if __name__ == "__main__":
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows(words().items())
