"""Check every answer before anything is generated, and tell all that is wrong at once."""

import json
import keyword
import re
import sys
import unicodedata

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
GOOD = {
    "project_name": "film-reviews",
    "description": "Tells good film reviews from bad ones",
    "author": "Ada Lovelace",
    "author_email": "ada@example.org",
    "license": "MIT",
}
LICENSES = ("MIT", "BSD-3-Clause", "Apache-2.0", "none")

# What `pip install` of a generated project brings, by the names it is installed and imported by;
# a test compares this with what is really installed.
DEPENDENCIES = """
    absl absl-py ast-serialize colorama filelock fsspec functorch google grpc grpcio iniconfig
    jinja2 librt markdown markupsafe mpmath mypy mypy-extensions mypyc networkx numpy packaging
    pathspec pil pillow pip pkg-resources pluggy protobuf py pygments pylab pytest pyyaml ruff
    setuptools six sympy tensorboard tensorboard-data-server torch torchgen torchrun tqdm triton
    types-pyyaml types-tqdm typing-extensions werkzeug wheel yaml
""".split()
FOLDERS = "src tests data configs runs checkpoints build dist demo docs env venv python".split()
WINDOWS = ["con", "prn", "aux", "nul"] + [f"{port}{i}" for port in ("com", "lpt") for i in range(10)]


def name_error(name: str) -> str | None:
    """The rule that a project name breaks, if any."""
    module = name.replace("-", "_")
    taken = {entry.replace("-", "_") for entry in DEPENDENCIES}
    rules = {
        "only a-z, 0-9, - and _, from a letter to a letter or digit": not re.fullmatch(
            r"[a-z]([a-z0-9_-]*[a-z0-9])?", name
        ),
        "at most 50 characters": len(name) > 50,
        "not a word of Python": module in {"none", "true", "false", *keyword.kwlist, *keyword.softkwlist},
        "not a module of Python's standard library": module in sys.stdlib_module_names,
        "not a package that the project itself needs": module in taken or module.startswith("nvidia_"),
        "not a folder or program that the project itself uses": module in FOLDERS,
        "not a name that Windows keeps for itself": module in WINDOWS,
    }
    return next((rule for rule, broken in rules.items() if broken), None)


def error_in(field: str, value: str) -> str | None:
    """The rule that an answer breaks, if any."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
        return "one line, without control characters"
    if field == "project_name":
        return name_error(value)
    if field == "license":
        return None if value in LICENSES else "one of " + ", ".join(LICENSES)
    if field == "author_email":
        email = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
        return None if not value or re.fullmatch(email, value) else "an email address or nothing"
    return None if value.strip() else "not empty"


def main() -> int:
    rules = {field: error_in(field, str(ANSWERS[field])) for field in GOOD}
    for field, rule in rules.items():
        if rule:
            value = ascii(ANSWERS[field])
            print(f"error: {field}: {value}: expected {rule}; such as {GOOD[field]}", file=sys.stderr)
    return 1 if any(rules.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
