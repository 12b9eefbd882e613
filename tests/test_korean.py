"""The Korean READMEs have the same commands, code, figures and links as the English ones."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import TASKS, TEMPLATE, Cookiecutter, tree

HANGUL = re.compile("[가-힣]")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"[\w*{}.-]+(?:/[\w*{}.-]*)+|[\w*]+\.\w+", re.ASCII)


class Section(NamedTuple):
    """What is below a heading."""

    level: int
    blocks: list[str]  # of code
    code: Counter[str]  # in the text
    links: Counter[str]
    figures: Counter[str]
    text: str


def sections(markdown: str) -> list[Section]:
    found = []
    blocks = BLOCK.findall(markdown)
    prose = BLOCK.sub("```", markdown)
    for part in re.split(r"^(?=#)", prose, flags=re.MULTILINE)[1:]:
        text = " ".join(part.split())
        mine = [blocks.pop(0) for _ in range(text.count("```"))]
        text = text.replace("```", "")
        code = re.findall(r"`([^`]+)`", text)
        text = re.sub(r"`[^`]+`", "", text)
        links = re.findall(r"\]\(([^)]+)\)", text.replace("README.ko.md", "README.md"))
        text = re.sub(r"\]\([^)]+\)", "", text)
        figures = re.findall(r"\d+(?:[.,:/-]\d+)*", text)
        level = len(part) - len(part.lstrip("#"))
        found.append(Section(level, mine, Counter(code), Counter(links), Counter(figures), text))
    assert not blocks
    return found


def kept(line: str) -> list[str]:
    """What of a line of code is the same in both languages, if it has words in it."""
    command, _, comment = line.partition(" # ")
    return [command.rstrip()] if comment else PATH.findall(line)


def same_code(english: str, korean: str) -> bool:
    """Only comments, and what is said beside the names of files, may be translated."""
    lines = zip(english.splitlines(), korean.splitlines(), strict=True)
    return all(
        ours == theirs or (HANGUL.search(theirs) and kept(ours) == kept(theirs))
        for ours, theirs in lines
    )


def check(english: str, korean: str) -> None:
    """That one is a translation of the other."""
    ours, theirs = sections(english), sections(korean)
    assert [section.level for section in ours] == [section.level for section in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert HANGUL.search(other.text) or other.level == 1
        assert mine.code == other.code, other.text
        assert mine.links == other.links, other.text
        assert mine.figures == other.figures, other.text
        for block, translated in zip(mine.blocks, other.blocks, strict=True):
            assert same_code(block, translated), translated


def test_the_readme_of_the_template_is_the_same_in_both_languages() -> None:
    english, korean = TEMPLATE / "README.md", TEMPLATE / "README.ko.md"
    check(english.read_text("utf-8"), korean.read_text("utf-8"))


@pytest.mark.parametrize("task", TASKS)
def test_the_language_changes_the_words_of_the_readme_alone(
    task: str, cookiecutter: Cookiecutter, bakes: dict[str, Path]
) -> None:
    english = tree(bakes[task])
    korean = tree(cookiecutter.bake({"task": task, "language": "ko"}))
    readmes = [files.pop("README.md").decode("utf-8") for files in (english, korean)]
    assert english == korean
    check(*readmes)


def test_a_difference_between_the_two_is_found() -> None:
    english = (TEMPLATE / "README.md").read_text("utf-8")
    korean = (TEMPLATE / "README.ko.md").read_text("utf-8")
    changes = {
        "0.898": "0.897",  # a figure
        "`make torture`": "`make`",  # a command in the text
        "make demo TASK=image  ": "make demo TASK=text  ",  # before a comment
        "epoch 10  step 900": "epoch 10  step 90",  # in what a command prints
        "        train.py  ": "        model.py  ",  # in the list of files
        "https://cookiecutter": "http://cookiecutter",
        "## ": "### ",
    }
    for before, after in changes.items():
        assert before in korean
        with pytest.raises((AssertionError, ValueError)):
            check(english, korean.replace(before, after, 1))
