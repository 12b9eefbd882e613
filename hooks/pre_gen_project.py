"""Check every answer before anything is generated, and tell all that is wrong at once.

This runs in the Python of cookiecutter or cruft, which may be 3.9. copier runs no hooks: it checks
the same in hooks/copier.jinja, which takes the lists of words from here.
"""

import json
import re
import sys
import unicodedata

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
# The answers before Jinja in them was evaluated; cruft does not have them.
GIVEN = json.loads(r"""{{ _cookiecutter | default({}) | tojson }}""")
DEFAULT = (
    r"""{% raw %}{{ cookiecutter.__description }}{% endraw %}"""  # the only Jinja in a default
)
GOOD = {
    "project_name": "film-reviews",
    "task": "text",
    "description": "Tells good film reviews from bad ones",
    "author": "Ada Lovelace",
    "author_email": "ada@example.org",
    "license": "MIT",
    "language": "en",
}
CHOICES = {
    "task": ("text", "image", "tabular"),
    "license": ("MIT", "BSD-3-Clause", "Apache-2.0", "none"),
    "language": ("en", "ko"),
}
JINJA = r"[{][#%{]"  # written so that it is no Jinja itself
NEEDED = "cookiecutter 2.1 or newer, as this one does not render private variables; such as 2.7.1"

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
# The standard library of each Python from 3.11 on, and the words of its language.
STANDARD = """
    abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop
    base64 bdb binascii bisect builtins bz2 cProfile calendar cgi cgitb chunk cmath cmd code codecs
    codeop collections colorsys compileall compression concurrent configparser contextlib
    contextvars copy copyreg crypt csv ctypes curses dataclasses datetime dbm decimal difflib dis
    distutils doctest email encodings ensurepip enum errno faulthandler fcntl filecmp fileinput
    fnmatch fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib grp gzip
    hashlib heapq hmac html http idlelib imaplib imghdr imp importlib inspect io ipaddress itertools
    json keyword lib2to3 linecache locale logging lzma mailbox mailcap marshal math mimetypes mmap
    modulefinder msilib msvcrt multiprocessing netrc nis nntplib nt ntpath nturl2path numbers opcode
    operator optparse os ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib
    poplib posix posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat
    queue quopri random re readline reprlib resource rlcompleter runpy sched secrets select
    selectors shelve shlex shutil signal site smtpd smtplib sndhdr socket socketserver spwd sqlite3
    sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct subprocess
    sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios test textwrap
    this threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle
    turtledemo types typing unicodedata unittest urllib uu uuid venv warnings wave weakref
    webbrowser winreg winsound wsgiref xdrlib xml xmlrpc zipapp zipfile zipimport zlib zoneinfo
"""
WORDS = """
    _ and as assert async await break case class continue def del elif else except false finally for
    from global if import in is lambda match none nonlocal not or pass raise return true try type
    while with yield
"""
OWN = """
    build checkpoints configs data demo dist docs engine env python runs src tests conftest
    processes test_architecture test_checkpoint test_config test_damage test_data test_distributed
    tiny test_evaluate test_figures test_loader test_logger test_main test_measure test_metrics
    test_model test_named_run test_optim test_record test_reproduce test_resume test_runs test_share
    test_source test_split test_systems test_table test_task test_trace test_train
    test_trainer
"""
WINDOWS = r"con|prn|aux|nul|(com|lpt)[0-9]"
EMAIL = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"


def name_error(name: str) -> str:
    """The rule that a project name breaks, or nothing."""
    module = re.sub("[-_]+", "_", name)  # pip takes a--b, a-b and a_b for the same
    needed = module in DEPENDENCIES.split() or module.startswith("nvidia_")
    shaped = re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", name)
    rules = {
        "only a-z, 0-9, - and _, from a letter to a letter or digit": not shaped,
        "at most 50 characters": len(name) > 50,
        "not a word of Python": module in WORDS.split(),
        "not a module of Python's standard library": module in STANDARD.split(),
        "not a package that the project itself needs": needed,
        "not a folder, test or program of the project itself": module in OWN.split(),
        "not a name that Windows keeps for itself": bool(re.fullmatch(WINDOWS, module)),
    }
    return next((rule for rule, broken in rules.items() if broken), "")


def error_in(field: str, value: str) -> str:
    """The rule that an answer breaks, or nothing."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
        return "one line, without control characters"
    if re.search(JINJA, value):
        return "text without Jinja"
    if field == "project_name":
        return name_error(value)
    if field in CHOICES:
        return "" if value in CHOICES[field] else "one of " + ", ".join(CHOICES[field])
    if field == "author_email":
        return "" if not value or re.fullmatch(EMAIL, value) else "an email address or nothing"
    return "" if value.strip() else "some text"


def given(field: str) -> str:
    """An answer as it was given, if it has Jinja in it, and else as it is."""
    value = str(GIVEN.get(field) or "")
    if value != DEFAULT and re.search(JINJA, value):
        return value
    return str(ANSWERS[field] or "")  # a config file may hold null


def main() -> int:
    """Print each error; the exit code."""
    if "{" in ANSWERS["__package_name"]:
        print(f"error: cookiecutter: expected {NEEDED}", file=sys.stderr)
        return 1
    answers = {field: given(field) for field in GOOD}
    rules = {field: error_in(field, value) for field, value in answers.items()}
    for field, rule in rules.items():
        if rule:
            value, example = ascii(answers[field]), GOOD[field]
            print(f"error: {field}: {value}: expected {rule}; such as {example}", file=sys.stderr)
    return 1 if any(rules.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
