"""What a generated project consists of, whatever the answers and however they are given."""

import itertools
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DEFAULTS, HOSTILE, PROJECT, QUESTIONS, TASKS, TEMPLATE, Cookiecutter, tree
from markdown_it import MarkdownIt

ANSWERS = [  # each must come out as it went in
    'Dan O\'H "Elf"',
    "a\\",
    "\\",
    "Ada # x",
    "# x",
    "yes",
    "null",
    "1.0",
    "이서연 🙂",
    "key: value",
    "'",
    '"""',
    "'''",
    "\\n \\u0041 \\\\",
    "[a](b) *c* _d_ `e` ![f](g) ~~h~~",
    "<b>bold</b> &amp; <!-- > -->",
    "1. first",
    "- item",
    "> quote",
    "| a | b |",
    "}} %} #}",
]
BY_CHOICE = {"LICENSE", "README.md", "pyproject.toml"}  # all that may depend on a choice
DATA = {"text": "words.csv", "image": "digits.zip", "tabular": "penguins.csv"}
TITLES = {
    "MIT": "MIT License",
    "BSD-3-Clause": "BSD 3-Clause License",
    "Apache-2.0": "Apache License",
}
CHOICES = {field: default for field, default in QUESTIONS.items() if isinstance(default, list)}
MANY = ("task", "license")  # the language changes README.md alone, whatever these two are
COMBINATIONS = [
    dict(zip(MANY, values, strict=True))
    for values in itertools.product(*[CHOICES[field] for field in MANY])
]
FILES = """
    README.md AGENTS.md LICENSE MANIFEST.in pyproject.toml .gitattributes .gitignore
    .pre-commit-config.yaml .github/dependabot.yml .github/workflows/ci.yml
    configs/default.yaml data/README.md src/my_pytorch_project/py.typed
    docs/curriculum.md docs/distillation.md docs/export.md docs/gan.md docs/profiling.md
    docs/search.md docs/streaming.md docs/trackers.md
"""
MODULES = """
    __init__ __main__ data evaluate metrics model reproduce resume runs task train
    engine/__init__ engine/checkpoint engine/config engine/distributed engine/figures
    engine/loader engine/logger engine/measure engine/optim engine/record engine/sharding
    engine/share engine/split engine/table engine/task engine/trace engine/trainer
"""
TESTS = """
    test_data test_metrics test_model test_task
    engine/conftest engine/processes engine/test_architecture engine/test_checkpoint
    engine/test_config engine/test_damage engine/test_distributed engine/test_evaluate
    engine/test_figures engine/test_loader engine/test_logger engine/test_main engine/test_measure
    engine/test_named_run engine/test_optim engine/test_record engine/test_reproduce
    engine/test_resume engine/test_runs engine/test_share engine/test_source engine/test_split
    engine/test_systems engine/test_table engine/test_trace engine/test_train
    engine/test_trainer engine/tiny
"""


def pyproject(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text("utf-8"))


def texts_of(markdown: str) -> list[str]:
    """What a reader of the Markdown sees, in pieces without any mark-up in them."""
    tokens = MarkdownIt("commonmark").enable("strikethrough").parse(markdown)
    children = (child for token in tokens for child in token.children or [])
    return [child.content for child in children if child.type == "text"]


def test_the_questions_are_few_and_each_says_what_it_wants() -> None:
    assert len(DEFAULTS) <= 7
    assert QUESTIONS["__prompts__"].keys() == DEFAULTS.keys()
    for field, choices in CHOICES.items():
        assert QUESTIONS["__prompts__"][field].keys() == {"__prompt__", *choices}


@pytest.mark.parametrize("task", TASKS)
def test_a_project_has_exactly_these_files(task: str, bakes: dict[str, Path]) -> None:
    modules = [f"src/my_pytorch_project/{name}.py" for name in MODULES.split()]
    tests = [f"tests/{name}.py" for name in TESTS.split()]
    files = {*FILES.split(), f"data/{DATA[task]}"}
    assert tree(bakes[task]).keys() == {*files, *modules, *tests}


def test_the_machine_and_its_tests_are_the_same_for_every_task(bakes: dict[str, Path]) -> None:
    yours = {"README.md", "AGENTS.md", "pyproject.toml", "configs/default.yaml", "data/README.md"}
    yours |= {path for path in tree(bakes["text"]) if path.startswith("docs/")}
    for name in ("task", "data", "model", "metrics"):
        yours |= {f"src/my_pytorch_project/{name}.py", f"tests/test_{name}.py"}
    same = [
        {path: content for path, content in tree(bakes[task]).items() if path not in yours}
        for task in TASKS
    ]
    for task, files in zip(TASKS, same, strict=True):
        del files[f"data/{DATA[task]}"]
    assert len(same[0]) > 35
    assert all(files == same[0] for files in same)


def test_a_project_has_no_trace_of_the_other_tasks(bakes: dict[str, Path]) -> None:
    traces = {
        "text": r"words\.csv|VADER",
        "image": r"digits\.zip|pillow>=|open_image",
        "tabular": r"penguin|rmse_baseline",
    }
    for task, other in itertools.permutations(TASKS, 2):
        for path, content in tree(bakes[task]).items():
            if not path.endswith(".zip"):
                assert not re.search(traces[other], content.decode("utf-8")), (task, path)


def test_the_same_answers_give_the_same_bytes(cookiecutter: Cookiecutter) -> None:
    again = Cookiecutter(cookiecutter.folder / "again")
    assert tree(cookiecutter.bake(HOSTILE)) == tree(again.bake(HOSTILE))


@pytest.mark.parametrize("task", TASKS)
def test_nothing_of_jinja_is_left(task: str, bakes: dict[str, Path]) -> None:
    for path, content in tree(bakes[task]).items():
        assert not re.search(r"[{}%]", path)
        if path.endswith(".zip"):
            continue
        text = content.decode("utf-8")
        if path == ".github/workflows/ci.yml":
            text = re.sub(r"\$\{\{ [a-z.]+ \}\}", "", text)  # GitHub's own
        assert not re.search(r"cookiecutter\.|\{\{|\{%|\{#", text), path


@pytest.mark.parametrize("chosen", COMBINATIONS, ids=lambda chosen: "-".join(chosen.values()))
def test_every_choice_gives_a_whole_project(
    chosen: dict[str, str], cookiecutter: Cookiecutter, bakes: dict[str, Path]
) -> None:
    project = cookiecutter.bake({**chosen, "author": HOSTILE["author"]})
    files, default = tree(project), tree(bakes[chosen["task"]])
    assert files.keys() | {"LICENSE"} == default.keys()
    for path in default.keys() - BY_CHOICE:
        assert files[path] == default[path], path
        if path.endswith((".yaml", ".yml")):
            yaml.safe_load(files[path])
    about = pyproject(project)["project"]
    if chosen["license"] == "none":
        assert "LICENSE" not in files
        assert "license" not in about and "license-files" not in about
    else:
        text = files["LICENSE"].decode("utf-8")
        assert about["license"] == chosen["license"]
        assert about["license-files"] == ["LICENSE"]
        assert f" {HOSTILE['author']}\n" in text
        assert TITLES[chosen["license"]] in text.strip().splitlines()[0]
        assert text == text.strip("\n") + "\n"
        appendix = "   APPENDIX: How to apply the Apache License to your work.\n"
        is_apache = chosen["license"] == "Apache-2.0"
        assert (appendix in text) is is_apache
        assert text.startswith(33 * " " + "Apache License\n") is is_apache


def test_the_words_come_with_the_notice_that_their_license_asks_for(default_bake: Path) -> None:
    text = " ".join((default_bake / "data" / "README.md").read_text("utf-8").split())
    for part in ("Copyright (c) 2016 C.J. Hutto", "Permission is hereby granted, free of charge"):
        assert part in text
    assert "this permission notice shall be included in all copies" in text


def test_a_license_of_before_is_said_to_be_left(cookiecutter: Cookiecutter) -> None:
    again = ("--no-input", "-f", TEMPLATE, "license=none")
    assert "LICENSE" not in cookiecutter.run(*again).stdout
    project = cookiecutter.bake({"license": "MIT"}, "-f")
    before = (project / "LICENSE").read_bytes()
    assert "LICENSE is from before: delete it if" in cookiecutter.run(*again).stdout
    assert (project / "LICENSE").read_bytes() == before
    assert "license" not in pyproject(project)["project"]
    assert "LICENSE" not in cookiecutter.run("--no-input", "-f", TEMPLATE, "license=MIT").stdout


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_comes_out_as_it_went_in(answer: str, cookiecutter: Cookiecutter) -> None:
    project = cookiecutter.bake({"author": answer, "description": answer, "license": "MIT"})
    about = pyproject(project)["project"]
    assert about["description"] == answer
    assert about["authors"] == [{"name": answer}]
    assert f"Copyright (c) {answer}\n" in (project / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_description_reads_in_the_readme_as_it_was_given(
    answer: str, cookiecutter: Cookiecutter
) -> None:
    project = cookiecutter.bake({"description": answer})
    assert any(answer in text for text in texts_of((project / "README.md").read_text("utf-8")))


def test_hostile_answers_come_out_as_they_went_in(hostile_bake: Path) -> None:
    about = pyproject(hostile_bake)["project"]
    name, package = HOSTILE["project_name"], HOSTILE["project_name"].replace("-", "_")
    assert len(name) == 50
    assert about["name"] == name
    assert about["scripts"] == {name: f"{package}.__main__:main"}
    assert about["description"] == HOSTILE["description"]
    assert about["authors"] == [{"name": HOSTILE["author"], "email": HOSTILE["author_email"]}]
    assert (hostile_bake / "src" / package / "train.py").is_file()


def test_answers_change_nothing_else_than_names(default_bake: Path, hostile_bake: Path) -> None:
    package = HOSTILE["project_name"].replace("-", "_")
    files = {
        path.replace(package, "my_pytorch_project"): content.replace(
            package.encode(), b"my_pytorch_project"
        )
        for path, content in tree(hostile_bake).items()
    }
    default = tree(default_bake)
    assert files.keys() == default.keys()
    assert [path for path in files.keys() - BY_CHOICE if files[path] != default[path]] == []


def test_typed_answers_come_out_as_they_went_in(cookiecutter: Cookiecutter) -> None:
    done = cookiecutter.run(TEMPLATE, typed="typed\n\na } b\nAda { x\n\n4\n2\n")
    assert done.returncode == 0, done.stderr
    about = pyproject(cookiecutter.out / "typed")["project"]
    assert about["description"] == "a } b"
    assert about["authors"] == [{"name": "Ada { x"}]
    assert "license" not in about
    assert re.search("[가-힣]", (cookiecutter.out / "typed" / "README.md").read_text("utf-8"))


def test_it_tells_the_next_steps_without_terminal_git_or_utf8(cookiecutter: Cookiecutter) -> None:
    answers = cookiecutter.config_file(HOSTILE)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cookiecutter.run(
        "--no-input", "--config-file", answers, TEMPLATE, PATH=str(cookiecutter.out), **ascii_only
    )
    assert done.returncode == 0, done.stderr
    assert f"cd {HOSTILE['project_name']}\n" in done.stdout
    assert f"python -m {HOSTILE['project_name'].replace('-', '_')} train\n" in done.stdout
    assert pyproject(cookiecutter.out / HOSTILE["project_name"])["project"]["authors"]


def test_the_hooks_name_the_encoding_of_all_they_open(cookiecutter: Cookiecutter) -> None:
    # cookiecutter itself does not: a hook is a __main__, and what is reported there is an error.
    strict = {"PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "error::EncodingWarning:__main__"}
    assert cookiecutter.bake(HOSTILE, **strict).is_dir()


def test_a_config_file_gives_what_the_command_line_gives(
    cookiecutter: Cookiecutter, hostile_bake: Path
) -> None:
    project = cookiecutter.bake(None, "--config-file", cookiecutter.config_file(HOSTILE))
    assert not project.exists()  # not the default name
    assert tree(cookiecutter.out / HOSTILE["project_name"]) == tree(hostile_bake)


def test_a_replay_gives_what_the_answers_gave(
    cookiecutter: Cookiecutter, hostile_bake: Path
) -> None:
    cookiecutter.bake(HOSTILE).rename(cookiecutter.folder / "before")
    done = cookiecutter.run("--replay", TEMPLATE)
    assert done.returncode == 0, done.stderr
    assert tree(cookiecutter.out / HOSTILE["project_name"]) == tree(hostile_bake)


def test_a_zip_of_the_template_gives_what_the_template_gives(
    cookiecutter: Cookiecutter, default_bake: Path
) -> None:
    archive = cookiecutter.folder / "template.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.mkdir("template")
        for top in (TEMPLATE / "cookiecutter.json", TEMPLATE / "hooks", PROJECT):
            for path in [top, *top.rglob("*")]:
                file.write(path, Path("template") / path.relative_to(TEMPLATE))
    done = cookiecutter.run("--no-input", archive)
    assert done.returncode == 0, done.stderr
    assert tree(cookiecutter.out / DEFAULTS["project_name"]) == tree(default_bake)


def test_baking_over_a_project_loses_nothing_that_the_user_wrote(
    cookiecutter: Cookiecutter, default_bake: Path
) -> None:
    project = cookiecutter.bake()
    for path in tree(project):  # the user wrote them all anew
        (project / path).write_text("mine\n", encoding="utf-8")
    (project / "runs").mkdir()
    (project / "runs" / "notes.txt").write_text("mine\n", encoding="utf-8")
    (project / "src" / "my_pytorch_project" / "model.py").unlink()
    (project / "configs" / "default.yaml").unlink()
    cookiecutter.bake(None, "-f", "-s")
    fresh, now = tree(default_bake), tree(project)
    back = {"src/my_pytorch_project/model.py", "configs/default.yaml"}
    assert now == {
        **dict.fromkeys([*fresh, "runs/notes.txt"], b"mine\n"),
        **{path: fresh[path] for path in back},
    }


def test_tensorboard_is_one_that_today_can_import(default_bake: Path) -> None:
    (bound,) = [
        name.partition(">=")[2]
        for name in pyproject(default_bake)["project"]["dependencies"]
        if name.startswith("tensorboard")
    ]
    assert [*map(int, bound.split("."))] > [2, 20]  # those need pkg_resources, which is gone
