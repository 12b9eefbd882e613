"""Answers to the questions of the template: refused by a line each, or good for all files."""

import contextlib
import io
import json
import tomllib
from pathlib import Path
from typing import Any

from harness import Failure, Target
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined, Template

TEMPLATE = Path(__file__).resolve().parents[2]
PROJECT = TEMPLATE / "{{cookiecutter.project_name}}"
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
FIELDS = [name for name in QUESTIONS if not name.startswith("_")]
SPECIAL = "'\"\\{}%#$`<>&|;:,=[]()*_~^!?@/ \t\n\r\0\x1b\x85\u2028é🙂\ufeff\udc80"
WORDS = ("{{ 1/0 }}", "{% raw %}", "{#", "'''", '"""', "${HOME}", "\\N{x}", "\\", "\\u0041", "null")
FILES = (
    "pyproject.toml",
    "{% if cookiecutter.language == 'en' %}README.md{% endif %}",
    "{% if cookiecutter.license != 'none' %}LICENSE{% endif %}",
)


def template_of(name: str) -> Template:
    """A file of the template, as cookiecutter reads it."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((TEMPLATE / name).read_text("utf-8"))


def answers_of(data: st.DataObject) -> dict[str, Any]:
    """Answers, most of which are good, since one that is refused ends the test."""
    text = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters()), max_size=8)
    odd = st.one_of(text, st.sampled_from(WORDS), st.none())
    name = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
    email = st.from_regex(r"[a-z'&.]{1,5}@[a-z]{1,3}\.[a-z]{2}", fullmatch=True)
    good: dict[str, Any] = {"project_name": name, "author_email": st.one_of(st.just(""), email)}
    for field in FIELDS:
        if isinstance(QUESTIONS[field], list):
            good[field] = st.sampled_from(QUESTIONS[field])
    return {field: data.draw(st.one_of(good.get(field, odd), odd)) for field in FIELDS}


def targets(project: Path) -> dict[str, Target]:
    """`all`: an answer to each question."""
    if not (project / "data" / "words.csv").exists():
        return {}  # the questions are the same for all projects
    hook = template_of("hooks/pre_gen_project.py")
    files = {name: template_of(f"{PROJECT.name}/{name}") for name in FILES}

    def answers(data: st.DataObject) -> None:
        given = answers_of(data)
        namespace: dict[str, Any] = {"__name__": "hook"}
        package = str(given["project_name"] or "").replace("-", "_")
        exec(hook.render(cookiecutter={**given, "__package_name": package}), namespace)
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            code = namespace["main"]()
        lines = printed.getvalue().splitlines()
        if code != int(bool(lines)) or not all(line.startswith("error: ") for line in lines):
            raise Failure(f"exit code {code}: {printed.getvalue()!r}")
        if not printed.getvalue().isascii() or len(lines) > len(FIELDS):
            raise Failure(f"not a plain line for each answer: {printed.getvalue()!r}")
        if not lines:
            check_files(given, files)

    return {"all": answers}


def check_files(given: dict[str, Any], files: dict[str, Template]) -> None:
    """What the answers are put into says what they say."""
    package = given["project_name"].replace("-", "_")
    context = {**{name: value or "" for name, value in given.items()}, "__package_name": package}
    texts = [template.render(cookiecutter=context) for template in files.values()]
    about = tomllib.loads(texts[0])["project"]
    author = {"name": given["author"]}
    if given["author_email"]:
        author["email"] = given["author_email"]
    if (about["name"], about["description"], about["authors"]) != (
        given["project_name"],
        given["description"],
        [author],
    ):
        raise Failure(f"pyproject.toml says {about}")
    if not package.isidentifier() or not texts[1].startswith(f"# {given['project_name']}\n"):
        raise Failure(f"README.md begins with {texts[1][:100]!r}")
