"""cookiecutter, cruft and copier give the same project, and updates keep what the user wrote."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import (
    DEFAULTS,
    HOSTILE,
    PROJECT,
    QUESTIONS,
    TASKS,
    TEMPLATE,
    Cookiecutter,
    of_task,
    tree,
)

SOURCE = "src/my_pytorch_project"
YOURS = ("task", "data", "model", "metrics")
STATE = {".cruft.json", ".copier-answers.yml"}  # what the tools themselves write
GIT = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]


@dataclass(frozen=True)
class Tools:
    """git, cruft and copier, with a home of their own so that no settings leak in."""

    folder: Path

    def run(self, *words: str | Path, at: Path, code: int = 0) -> str:
        home = str(self.folder / "home")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        done = subprocess.run(
            words,
            cwd=at,
            env={**kept, "HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr

    def python(self, module: str, *words: str | Path, at: Path, code: int = 0) -> str:
        return self.run(sys.executable, "-m", module, *words, at=at, code=code)

    def commit(self, at: Path, tag: str = "") -> None:
        """All that is there."""
        self.run("git", "init", "-q", at=at)
        self.run("git", "add", "-A", at=at)
        self.run(*GIT, "commit", "-qm", "all", at=at)
        if tag:
            self.run("git", "tag", tag, at=at)

    def cruft(self, answers: dict[str, str], version: str, at: Path) -> Path:
        given = ["--no-input", "--checkout", version, "--extra-context", json.dumps(answers)]
        self.python("cruft", "create", self.folder / "template", *given, at=at)
        return at / answers.get("project_name", DEFAULTS["project_name"])

    def copier(self, answers: dict[str, str], version: str, at: Path) -> Path:
        (at / "answers.yaml").write_text(yaml.safe_dump(answers), "utf-8")
        words = ["copy", "--defaults", "--data-file", "answers.yaml", "--vcs-ref", version]
        self.python("copier", *words, self.folder / "template", "project", at=at)
        return at / "project"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """Beside a repository with two versions of the template, of which the second says so."""
    tools = Tools(tmp_path_factory.mktemp("updates"))
    (tools.folder / "home").mkdir()
    template = tools.folder / "template"
    shutil.copytree(PROJECT, template / PROJECT.name)
    shutil.copytree(TEMPLATE / "hooks", template / "hooks")
    shutil.copy(TEMPLATE / "cookiecutter.json", template)
    shutil.copy(TEMPLATE / "copier.yml", template)
    tools.commit(template, "1.0.0")
    source = template / PROJECT.name / "src" / "{{cookiecutter.__package_name}}"
    for name in ("engine/trainer.py", *[of_task("text", f"{name}.py") for name in YOURS]):
        path = source / name
        path.write_text(path.read_text("utf-8") + "# theirs\n", "utf-8")
    metrics = source / of_task("text", "metrics.py")
    metrics.write_text("# theirs\n" + metrics.read_text("utf-8").partition("\n")[2], "utf-8")
    (template / PROJECT.name / "docs" / "new.md").write_text("theirs\n", "utf-8")
    tools.commit(template, "1.1.0")
    return tools


def edit(project: Path, tools: Tools) -> None:
    """What a user does: other first lines in the files that are theirs, and one file less."""
    tools.commit(project)
    for name in YOURS:
        path = project / SOURCE / f"{name}.py"
        path.write_text("# mine\n" + path.read_text("utf-8").partition("\n")[2], "utf-8")
    (project / "docs" / "trackers.md").unlink()
    tools.commit(project)


def check(project: Path) -> None:
    """What the user did is there, and what the template did."""
    for name in ("task", "data", "model"):
        first, *_, last = (project / SOURCE / f"{name}.py").read_text("utf-8").splitlines()
        assert (first, last) == ("# mine", "# theirs")
    assert not (project / "docs" / "trackers.md").exists()
    assert (project / "docs" / "new.md").read_text("utf-8") == "theirs\n"
    trainer = (project / SOURCE / "engine" / "trainer.py").read_text("utf-8")
    assert trainer.endswith("\n# theirs\n")
    both = (project / SOURCE / "metrics.py").read_text("utf-8")  # both wrote its first line
    assert both.startswith("<<<<<<< ") and "\n# mine\n=======\n# theirs\n>>>>>>> " in both
    assert not list(project.rglob("*.rej"))


@pytest.mark.parametrize("task", TASKS)
def test_cruft_and_copier_give_what_cookiecutter_gives(
    task: str, tools: Tools, cookiecutter: Cookiecutter
) -> None:
    answers = {**HOSTILE, "task": task, "language": {"text": "en"}.get(task, "ko")}
    expected = tree(cookiecutter.bake(answers))
    for tool in (tools.cruft, tools.copier):
        found = tree(tool(answers, "1.0.0", cookiecutter.folder))
        assert len(STATE & found.keys()) == 1
        assert {path: found[path] for path in found.keys() - STATE} == expected


def test_cookiecutter_checks_a_version_out(
    tools: Tools, cookiecutter: Cookiecutter, default_bake: Path
) -> None:
    address = "git+" + (tools.folder / "template").as_uri()
    done = cookiecutter.run("--no-input", "--checkout", "1.0.0", address)
    assert done.returncode == 0, done.stderr
    assert tree(cookiecutter.out / DEFAULTS["project_name"]) == tree(default_bake)


def test_an_update_by_cruft_keeps_what_the_user_wrote(tools: Tools, tmp_path: Path) -> None:
    project = tools.cruft({}, "1.0.0", tmp_path)
    tools.python("cruft", "check", "--checkout", "1.0.0", at=project)
    edit(project, tools)
    tools.python("cruft", "check", "--checkout", "1.1.0", at=project, code=1)
    tools.python("cruft", "update", "--skip-apply-ask", "--checkout", "1.1.0", at=project)
    check(project)
    tools.python("cruft", "check", "--checkout", "1.1.0", at=project)


def test_an_update_by_copier_keeps_what_the_user_wrote(tools: Tools, tmp_path: Path) -> None:
    project = tools.copier({}, "1.0.0", tmp_path)
    edit(project, tools)
    tools.python("copier", "update", "--defaults", at=project)  # to the latest tag
    check(project)
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert answers["_commit"] == "1.1.0"
    assert {field: answers[field] for field in DEFAULTS} == {
        **DEFAULTS,
        "description": "A text classifier in PyTorch",
    }


def test_copier_asks_what_cookiecutter_asks() -> None:
    settings = yaml.safe_load((TEMPLATE / "copier.yml").read_text("utf-8"))
    asked = {name: about for name, about in settings.items() if not name.startswith("_")}
    assert asked.pop("cookiecutter")["when"] is False
    assert list(asked) == list(DEFAULTS)
    for field, about in asked.items():
        prompt = QUESTIONS["__prompts__"][field]
        help_line, choices = prompt, {}
        if isinstance(prompt, dict):
            choices = {text: choice for choice, text in prompt.items() if choice != "__prompt__"}
            help_line = prompt["__prompt__"]
        assert about["help"] == help_line
        assert about.get("choices", {}) == choices
        default = QUESTIONS["__description"] if field == "description" else DEFAULTS[field]
        assert about["default"] == default.replace("cookiecutter.", "")


def test_copier_refuses_an_answer_with_its_rule(tools: Tools, tmp_path: Path) -> None:
    words = ["copy", "--defaults", "--data", "project_name=tests"]
    error = tools.python("copier", *words, tools.folder / "template", "out", at=tmp_path, code=1)
    assert error.endswith(
        "expected not a folder, test or program of the project itself; such as film-reviews\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_each_version_is_in_the_changelog_and_the_newest_in_the_readmes() -> None:
    changelog = (TEMPLATE / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)$", changelog, re.MULTILINE)
    for readme in ("README.md", "README.ko.md"):
        shown = re.findall(r"--checkout (\S+)", (TEMPLATE / readme).read_text("utf-8"))
        assert shown[0] == versions[0]
    tags = subprocess.run(["git", "tag"], cwd=TEMPLATE, capture_output=True, encoding="utf-8")
    assert set(tags.stdout.split()) <= set(versions)  # none without git
