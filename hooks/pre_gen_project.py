"""Check every answer before anything is generated, and tell all that is wrong at once."""

import json
import keyword
import re
import sys
import unicodedata

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
GOOD = {
    "project_name": "film-reviews",
    "task": "text",
    "description": "Tells good film reviews from bad ones",
    "author": "Ada Lovelace",
    "author_email": "ada@example.org",
    "license": "MIT",
}
TASKS = ("text", "image", "tabular")
LICENSES = ("MIT", "BSD-3-Clause", "Apache-2.0", "none")

# What `pip install` of a generated project brings, by the names it is installed and imported by;
# a test compares this with what is really installed. The last line comes with CUDA.
DEPENDENCIES = """
    absl absl_py ast_serialize colorama filelock fsspec functorch google grpc grpcio iniconfig
    isympy jinja2 librt markdown markupsafe mpmath mypy mypy_extensions mypyc networkx numpy
    packaging pathspec pil pillow pip pkg_resources pluggy protobuf py pygments pylab pytest pyyaml
    ruff setuptools six sympy tensorboard tensorboard_data_server torch torchgen torchrun tqdm
    types_pyyaml types_tqdm typing_extensions werkzeug wheel yaml
    cuda cuda_bindings cuda_pathfinder cuda_toolkit nvidia triton
"""
# The standard library of some Python from 3.11 on, though maybe not of the one that runs this.
STANDARD = """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils imghdr
    imp lib2to3 mailcap msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib test
    uu xdrlib
"""
OWN = """
    build checkpoints configs data demo dist docs engine env python runs src tests
    conftest processes test_architecture test_checkpoint test_config test_damage test_data
    test_distributed tiny test_evaluate test_figures test_loader test_logger test_main test_measure test_metrics
    test_model test_named_run test_optim test_record test_reproduce test_resume test_runs
    test_share test_source test_split test_table test_task test_train test_trainer
"""
WINDOWS = r"con|prn|aux|nul|(com|lpt)[0-9]"


def name_error(name: str) -> str | None:
    """The rule that a project name breaks, if any."""
    module = re.sub("[-_]+", "_", name)  # pip takes a--b, a-b and a_b for the same
    words = {*keyword.kwlist, *keyword.softkwlist, "type", "none", "true", "false"}
    standard = {*sys.stdlib_module_names, *STANDARD.split()}
    needed = module in DEPENDENCIES.split() or module.startswith("nvidia_")
    shaped = re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", name)
    rules = {
        "only a-z, 0-9, - and _, from a letter to a letter or digit": not shaped,
        "at most 50 characters": len(name) > 50,
        "not a word of Python": module in words,
        "not a module of Python's standard library": module in standard,
        "not a package that the project itself needs": needed,
        "not a folder, test or program of the project itself": module in OWN.split(),
        "not a name that Windows keeps for itself": bool(re.fullmatch(WINDOWS, module)),
    }
    return next((rule for rule, broken in rules.items() if broken), None)


def error_in(field: str, value: str) -> str | None:
    """The rule that an answer breaks, if any."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
        return "one line, without control characters"
    if field == "project_name":
        return name_error(value)
    if field == "task":
        return None if value in TASKS else "one of " + ", ".join(TASKS)
    if field == "license":
        return None if value in LICENSES else "one of " + ", ".join(LICENSES)
    if field == "author_email":
        email = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
        return None if not value or re.fullmatch(email, value) else "an email address or nothing"
    return None if value.strip() else "some text"


def main() -> int:
    """Print each error; the exit code."""
    answers = {field: str(ANSWERS[field] or "") for field in GOOD}  # a config file may hold null
    rules = {field: error_in(field, value) for field, value in answers.items()}
    for field, rule in rules.items():
        if rule:
            value, example = ascii(answers[field]), GOOD[field]
            print(f"error: {field}: {value}: expected {rule}; such as {example}", file=sys.stderr)
    return 1 if any(rules.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
