"""Which answers are refused, how that is said, and that nothing is left behind then."""

import ast
import keyword
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DEFAULTS, QUESTIONS, TEMPLATE, Cookiecutter, tree
from jinja2 import FileSystemLoader, Template
from jinja2.sandbox import SandboxedEnvironment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GOOD_NAMES = ["a", "a-b_c2", "film-reviews", "x" * 50, "torch-thing", "my3d", "test-project"]
BAD_NAMES = {
    "only a-z, 0-9, - and _": """
        Bad My-Proj a.b 3d -a _a a- a_ a---- ä 이서연 a$b a:b a* ~ film.reviews é
    """,
    "a word of Python": "class match case type none true false import lambda async await not",
    "Python's standard library": "random json test types code site imp distutils compression",
    "the project itself needs": """
        torch numpy yaml pyyaml tqdm tensorboard pytest ruff mypy pip setuptools pil
        typing-extensions typing__extensions types-tqdm nvidia nvidia-cublas-cu12 triton isympy
    """,
    "the project itself": "tests src data configs runs conftest test-data test_model env demo",
    "Windows": "con prn aux nul com1 com9 lpt1",
}
EMAILS = [
    "a",
    "a@b",
    "@b.org",
    "a@",
    "a b@c.org",
    "a@b@c.org",
    "Ada <a@b.org>",
    "a@b.org,",
    "é@b.org",
]
CONTROLS = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\ud83d"]
JINJA = ["{{ 7 * 7 }}", "a {% if x %} b", "{# c #}", "{{ cookiecutter.author }}"]
PATHS = ["a/b", "../x", "/abs", "a\\b", "..", ".", "", " "]

ENVIRONMENT = SandboxedEnvironment(  # copier's
    loader=FileSystemLoader(TEMPLATE),
    extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
)
COPIER = {
    field: ENVIRONMENT.from_string(about["validator"])
    for field, about in yaml.safe_load((TEMPLATE / "copier.yml").read_text("utf-8")).items()
    if "validator" in about
}


class Hook:
    """The check of the answers, rendered as cookiecutter renders it, and run right here."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.source = (TEMPLATE / "hooks" / "pre_gen_project.py").read_text("utf-8")
        self.capsys = capsys

    def namespace(self, given: dict[str, str] | None = None, /, **answers: str | None) -> Any:
        """What the hook defines for these answers, the others being the defaults."""
        sound = {**DEFAULTS, "description": "x", "__package_name": "x", **answers}
        rendered = Template(self.source).render(cookiecutter=sound, _cookiecutter=given or {})
        namespace: dict[str, Any] = {"__name__": "hook"}
        exec(rendered, namespace)
        return namespace

    def errors(self, given: dict[str, str] | None = None, /, **answers: str | None) -> list[str]:
        """The lines that it prints about these answers; copier must give the same rules."""
        code = self.namespace(given, **answers)["main"]()
        printed = self.capsys.readouterr()
        lines = printed.err.splitlines()
        assert (code, printed.out) == (1 if lines else 0, "")
        for field in answers.keys() & COPIER.keys():
            if given:
                continue  # copier evaluates no answers
            said = COPIER[field].render({field: answers[field] or ""})
            line = next((line for line in lines if line.startswith(f"error: {field}: ")), "")
            assert said == line[line.find("expected ") :]
        return lines


@pytest.fixture
def hook(capsys: pytest.CaptureFixture[str]) -> Hook:
    return Hook(capsys)


def closure(requirements: list[str]) -> Iterator[str]:
    """The distributions here that these requirements bring, also indirectly."""
    todo = [Requirement(text) for text in requirements]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            yield name
            wanted = [Requirement(text) for text in requires(name) or []]
            todo += [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": extra})]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_accepted(name: str, hook: Hook) -> None:
    assert hook.errors(project_name=name) == []


@pytest.mark.parametrize("rule", BAD_NAMES)
def test_a_bad_name_is_refused_with_the_rule_that_it_breaks(rule: str, hook: Hook) -> None:
    for name in BAD_NAMES[rule].split():
        [error] = hook.errors(project_name=name)
        assert error.startswith(f"error: project_name: {name!a}: expected "), error
        assert rule in error
        assert error.endswith("; such as film-reviews")


def test_a_name_has_at_most_50_characters(hook: Hook) -> None:
    assert hook.errors(project_name="x" * 50) == []
    [error] = hook.errors(project_name="x" * 51)
    assert "at most 50 characters" in error


def test_a_name_has_no_white_space(hook: Hook) -> None:
    for name in ("", " ", "a b", " a", "a ", "a\u3000b"):
        assert len(hook.errors(project_name=name)) == 1, name


def test_no_name_of_what_the_project_installs_is_accepted(hook: Hook, default_bake: Path) -> None:
    about = tomllib.loads((default_bake / "pyproject.toml").read_text("utf-8"))
    project = about["project"]
    wanted = [*project["dependencies"], *about["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    distributions = set(closure(wanted))
    assert {"numpy", "jinja2", "pluggy"} <= distributions  # none of which it asks for itself
    modules = {
        module.lower()
        for module, names in packages_distributions().items()
        if module.isidentifier() and distributions & {canonicalize_name(name) for name in names}
    }
    assert {"yaml", "pil", "google", "torch"} <= modules
    accepted = [name for name in distributions | modules if not hook.errors(project_name=name)]
    assert accepted == []


def test_no_name_of_what_the_project_consists_of_is_accepted(
    hook: Hook, default_bake: Path
) -> None:
    folders = {path.name for path in default_bake.iterdir() if path.is_dir()}
    tests = {path.stem for path in (default_bake / "tests").rglob("*.py")}
    assert folders and tests
    names = [name for name in folders | tests if not name.startswith(".")]
    accepted = [name for name in names if not hook.errors(project_name=name)]
    assert accepted == []


def test_no_word_and_no_module_of_this_python_is_accepted(hook: Hook) -> None:
    lists = hook.namespace()
    words = {word.lower() for word in [*keyword.kwlist, *keyword.softkwlist]}
    assert words - {*lists["WORDS"].split()} == set()
    modules = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    assert modules - {*lists["STANDARD"].split()} == set()


@pytest.mark.parametrize("hook", ["pre_gen_project.py", "post_gen_project.py"])
def test_a_hook_has_nothing_that_python_3_9_does_not_have(hook: str) -> None:
    sound = {"__package_name": "x", "project_name": "x"}
    source = (TEMPLATE / "hooks" / hook).read_text("utf-8")
    tree = ast.parse(Template(source).render(cookiecutter=sound), feature_version=(3, 9))
    nodes = [*ast.walk(tree)]
    assert not any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) for node in nodes)
    calls = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert {call for call in calls if call.startswith("sys.")} <= {"sys.stderr", "sys.exit"}


def test_a_cookiecutter_that_does_not_render_private_variables_is_refused(hook: Hook) -> None:
    [error] = hook.errors(__package_name=QUESTIONS["__package_name"])  # as 1.7.3 leaves it
    assert error.startswith("error: cookiecutter: expected cookiecutter 2.1 or newer")


@pytest.mark.parametrize("jinja", JINJA)
def test_jinja_in_an_answer_is_refused_before_and_after_it_was_evaluated(
    jinja: str, hook: Hook
) -> None:
    for field in COPIER:
        for errors in (hook.errors(**{field: jinja}), hook.errors({field: jinja}, **{field: "x"})):
            [error] = errors
            expected = f"error: {field}: {jinja!a}: expected text without Jinja; such as "
            assert error.startswith(expected)


def test_the_jinja_of_the_default_answers_is_evaluated(hook: Hook) -> None:
    assert hook.errors(DEFAULTS) == []


def test_jinja_on_the_command_line_is_refused(cookiecutter: Cookiecutter) -> None:
    done = cookiecutter.run("--no-input", TEMPLATE, "description=Tells {{ 7 * 7 }}")
    assert done.returncode != 0
    assert "error: description: 'Tells {{ 7 * 7 }}': expected text without Jinja" in done.stderr
    assert cookiecutter.left() == []


@pytest.mark.parametrize("field", ["task", "license", "language"])
def test_each_choice_is_accepted_and_no_other(field: str, hook: Hook) -> None:
    for name in QUESTIONS[field]:
        assert hook.errors(**{field: name}) == []
    [error] = hook.errors(**{field: "GPL"})
    assert error.startswith(f"error: {field}: 'GPL': expected one of {QUESTIONS[field][0]}, ")


@pytest.mark.parametrize("field", DEFAULTS)
def test_a_control_character_is_refused_in_each_field(field: str, hook: Hook) -> None:
    for control in CONTROLS:
        [error] = hook.errors(**{field: f"a{control}b"})
        assert error.startswith(f"error: {field}: {f'a{control}b'!a}: expected one line, ")


def test_an_email_address_is_one_or_is_empty(hook: Hook) -> None:
    for email in ("", "ada@example.org", "o'h+x.y_z@a-b.co.uk"):
        assert hook.errors(author_email=email) == []
    for email in EMAILS:
        [error] = hook.errors(author_email=email)
        assert error.startswith(f"error: author_email: {email!a}: expected an email address")
        assert error.endswith("; such as ada@example.org")


def test_description_and_author_are_not_empty(hook: Hook) -> None:
    for field in ("description", "author"):
        for nothing in ("", " ", "\u3000", None):
            [error] = hook.errors(**{field: nothing})
            assert f"error: {field}: " in error and "expected some text; such as " in error
    assert hook.errors(author_email=None) == []


def test_all_errors_are_told_at_once(cookiecutter: Cookiecutter) -> None:
    bad = {"project_name": "3d", "author": "a\nb", "author_email": "a@b", "description": " "}
    done = cookiecutter.run("--no-input", "--config-file", cookiecutter.config_file(bad), TEMPLATE)
    assert done.returncode != 0
    found = re.findall(r"^error: (\w+): (.+): expected .+; such as .+$", done.stderr, re.MULTILINE)
    assert dict(found) == {field: ascii(value) for field, value in bad.items()}
    assert cookiecutter.left() == []


@pytest.mark.parametrize("field", ["project_name", "description", "author", "author_email"])
def test_a_refused_config_file_leaves_nothing_behind(
    field: str, cookiecutter: Cookiecutter
) -> None:
    answers = cookiecutter.config_file({field: "a\x1b\nb"})
    done = cookiecutter.run("--no-input", "-f", "--config-file", answers, TEMPLATE)
    assert done.returncode != 0
    assert rf"error: {field}: 'a\x1b\nb': expected one line" in done.stderr
    assert cookiecutter.left() == []


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("options", [[], ["-f"]], ids=["new", "over"])
def test_a_path_is_no_name(name: str, options: list[str], cookiecutter: Cookiecutter) -> None:
    if name == "/abs":
        name = str(cookiecutter.folder / "abs")
    cookiecutter.out.mkdir()
    done = cookiecutter.run("--no-input", *options, TEMPLATE, f"project_name={name}")
    assert done.returncode != 0
    assert "project_name must be a name, not a path" in done.stderr
    assert {path.name for path in cookiecutter.folder.iterdir()} <= {"home", "out"}
    assert cookiecutter.left() == []


@pytest.mark.parametrize(
    "name", ["Bad", "tests", "x" * 51, "x" * 300, "이서연", "a b", "a\0b", "a\nb"]
)
def test_a_refused_name_leaves_nothing_behind(name: str, cookiecutter: Cookiecutter) -> None:
    answers = cookiecutter.config_file({"project_name": name})
    done = cookiecutter.run("--no-input", "--config-file", answers, TEMPLATE)
    assert done.returncode != 0
    assert cookiecutter.left() == []


def test_a_refusal_leaves_what_was_there(cookiecutter: Cookiecutter) -> None:
    theirs = cookiecutter.out / "tests" / "test_theirs.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs\n", encoding="utf-8")
    done = cookiecutter.run("--no-input", "-f", TEMPLATE, "project_name=tests")
    assert done.returncode != 0
    assert tree(cookiecutter.out) == {"tests/test_theirs.py": b"theirs\n"}


def test_an_unknown_license_is_refused_on_the_command_line(cookiecutter: Cookiecutter) -> None:
    done = cookiecutter.run("--no-input", TEMPLATE, "license=no")
    assert done.returncode != 0
    assert "license" in done.stderr
    assert cookiecutter.left() == []
