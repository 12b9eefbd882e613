"""The command line. Each command is imported when it is called, so that `--help` is quick."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# The code of a run, which --source run starts, gets the folder of the project from this variable.
ROOT_VARIABLE = "RUN_SOURCE_ROOT"
PACKAGE = Path(__file__).resolve().parent
VERIFY_HELP = "read all data again, even what has not changed in size and time since the last run"

if not __package__:  # this file itself is run, as editors do
    __package__ = PACKAGE.name
    sys.path[0] = str(PACKAGE.parent)


class CommandError(ValueError):
    """The command is wrong."""

    exit_code = 2


class OutputError(OSError):
    """A result cannot be printed, for example to a full disk."""

    exit_code = 1


def find_project(*folders: Path) -> Path | None:
    """The first of these folders that is this project, and not another that is around it."""
    for folder in folders:
        places = (folder / "src" / PACKAGE.name, folder / PACKAGE.name)
        has_package = any(place.is_dir() for place in places)
        if has_package and (folder / "pyproject.toml").is_file():
            return folder
    return None


try:
    HERE = Path.cwd()
except OSError:
    HERE = Path()  # the folder is gone, which no command but help accepts
# A checkout has its package in src; what is installed elsewhere is used where the user is.
PROJECT = find_project(PACKAGE.parents[1], HERE, *HERE.parents, *PACKAGE.parents)
ROOT = Path(os.environ.get(ROOT_VARIABLE, PROJECT or HERE))
DEFAULT = ROOT / "configs" / "default.yaml"


def root_of(run: Path) -> Path:
    """The folder that relative paths in the config of a run start from."""
    if PROJECT or ROOT_VARIABLE in os.environ:
        return ROOT
    return find_project(*run.resolve().parents) or ROOT


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0: done; 1: the run failed; 2: the command, its config or its data is wrong; 3: `reproduce`
    found a difference; 129, 130, 138 and 143: stopped by SIGHUP, SIGINT, SIGUSR1 or SIGTERM after a
    checkpoint was written.
    """
    open_closed_streams()
    with suppress(AttributeError):  # of a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # may be ASCII
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # rank 0 prints
    try:
        options = parse(arguments)
        check_options(options)
        if getattr(options, "source", "today") == "run":
            return run_source(options.run, arguments)
        return int(options.run_command(options) or 0)
    except KeyboardInterrupt:  # before there was anything to save, or for the second time
        return 130
    except BrokenPipeError:  # the reader of the results, such as `head`, is gone
        discard_output()
        return 0
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise  # a mistake in the project's own code: its traceback is wanted
        if os.environ.get("LOCAL_RANK", "0") == "0":
            from .engine.task import one_line

            # An error of a worker has a traceback in its text, with the message after its type.
            message = str(error).rpartition(f"{type(error).__name__}: ")[2]
            print(f"error: {one_line(message.strip())}", file=sys.stderr)
        return int(error.exit_code)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command and its options."""
    program = Path(sys.argv[0]).name
    if program == "__main__.py":
        program = f"python -m {__package__}"
    parser = argparse.ArgumentParser(program)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a new run, or continue one")
    train.set_defaults(run_command=run_train)
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    with suppress(OSError):
        train.epilog = DEFAULT.read_text("utf-8", "replace")
    train.add_argument("words", nargs="*", metavar="CONFIG, section.key=value")
    train.add_argument(
        "--run", dest="name", metavar="NAME", help="start the run of this name, or continue it"
    )
    train.add_argument("--resume", type=Path, metavar="RUN", help="continue this run in place")
    train.add_argument(
        "--init-from",
        type=Path,
        metavar="RUN",
        help="start from the best weights of a run, or from a file of weights",
    )
    train.add_argument("--partial", action="store_true", help="--init-from: load what fits")
    train.add_argument("--verify-data", action="store_true", help=VERIFY_HELP)

    add_commands_about_runs(commands)
    add_runs(commands)
    add_config(commands)
    options, others = parser.parse_known_args(arguments)
    # What argparse does not know are words that come after an option that comes after words.
    unknown = [word for word in others if word.startswith("-") or options.command != "train"]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if others:
        options.words += others
    return options


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise the next file that is opened would get the number of a closed stream, and what is
    written to that stream by number would end up in the file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def add_commands_about_runs(commands: Any) -> None:
    """Add the commands whose first argument is a run."""
    evaluate = commands.add_parser("evaluate", help="print the metrics of a run as a JSON object")
    predict = commands.add_parser("predict", help="print a JSON object for each input")
    reproduce = commands.add_parser(
        "reproduce", help="run a run again and compare; exit code 3 if it differs"
    )
    for command in (evaluate, predict, reproduce):
        command.add_argument("run", type=Path, metavar="RUN")
        command.add_argument(
            "--source",
            choices=["run", "today"],
            default="today",
            help="run the code in RUN/source or today's code, which is the default",
        )
    evaluate.set_defaults(run_command=run_evaluate)
    evaluate.add_argument("--split", choices=["val", "test"], default="test")
    evaluate.add_argument(
        "--checkpoint",
        metavar="NAME",
        default="best",
        help="best, last or best-STEP",
    )
    predict.set_defaults(run_command=run_predict)
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="- reads lines from stdin")
    reproduce.set_defaults(run_command=run_reproduce)
    reproduce.add_argument("--verify-data", action="store_true", help=VERIFY_HELP)
    reproduce.add_argument(
        "--force", action="store_true", help="run even if data or source code have changed"
    )


def add_runs(commands: Any) -> None:
    """Add the command that compares runs."""
    runs = commands.add_parser("runs", help="list runs, and what differs between them")
    runs.set_defaults(run_command=run_runs)
    runs.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="a folder of runs, which is runs/ if none is given, or a run",
    )
    runs.add_argument("--sort", metavar="KEY", help="sort by best, test, step, a metric, an option")
    runs.add_argument(
        "--over",
        nargs="?",
        const="seed,data.fold",
        metavar="KEY[,KEY]",
        help="mean and deviation over runs that differ in these options alone; "
        "without KEY: seed,data.fold",
    )
    runs.add_argument("--json", action="store_true", help="print a JSON object a line")


def add_config(commands: Any) -> None:
    """Add the command that prints the options."""
    config = commands.add_parser("config", help="print every option with its default, as YAML")
    config.set_defaults(run_command=run_config)
    check_help = "compare a file with it; exit code 2 if it differs"
    config.add_argument("--check", type=Path, metavar="FILE", help=check_help)


def run_train(options: argparse.Namespace) -> None:
    """Train a new run, or continue one, and print its folder."""
    words = options.words
    config: Path | None = DEFAULT
    if PROJECT is None and not DEFAULT.exists():
        config = None  # every option has a default
    has_config = bool(words) and ("=" not in words[0] or os.path.isfile(words[0]))
    if has_config:
        config = Path(words[0])
        words = words[1:]
    has_name = options.name is not None
    if options.resume and (has_config or has_name or options.init_from):
        raise CommandError(
            "--resume continues a run with its own config; "
            "use --init-from to start a new run from its weights"
        )
    if options.resume:
        from .resume import resume

        root = root_of(options.resume)
        show(str(resume(options.resume, words, root, options.verify_data)))
        return
    if config:
        check_config(config)
    start = {name: getattr(options, name) for name in ("init_from", "partial", "verify_data")}
    try:
        show(str(start_run(options.name, config, words, **start)))
    except ValueError as error:
        if config or not hasattr(error, "exit_code"):
            raise
        hint = "run train in the folder of the project, or give the path of its data"
        raise CommandError(f"{error}; {hint}") from None


def check_config(path: Path) -> None:
    """Refuse a config file that is missing, before torch is imported, which takes a second."""
    try:
        path.stat()
    except OSError as error:
        raise CommandError(f"{path}: expected a config file, found: {error.strerror}") from None


def start_run(name: str | None, config: Path | None, words: list[str], **start: Any) -> Path:
    """Train a new run, or start or continue the run of a name; returns its folder."""
    if name is not None:
        from .resume import start_or_continue

        return start_or_continue(name, config, words, ROOT, **start)
    from .train import train

    return train(config, words, ROOT, **start)


def run_evaluate(options: argparse.Namespace) -> None:
    """Print the metrics of a run."""
    from .evaluate import evaluate

    root = root_of(options.run)
    show(json.dumps(evaluate(options.run, options.split, options.checkpoint, root)))


def run_predict(options: argparse.Namespace) -> None:
    """Print an answer for each input; the exit code is 2 if there was none for one of them."""
    from .evaluate import predict

    inputs: Iterable[str] = options.inputs
    if options.inputs == ["-"]:
        inputs = lines_of_stdin()
    for answer in predict(options.run, inputs):
        show(json.dumps(answer))


def lines_of_stdin() -> Iterator[str]:
    """The lines, in UTF-8 whatever the locale is; bytes that are not become surrogates."""
    sys.stdin.reconfigure(  # type: ignore[union-attr]
        encoding="utf-8-sig", errors="surrogateescape", newline="\n"
    )
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except OSError as error:
        raise CommandError(f"stdin: cannot be read: {error}") from None


def run_reproduce(options: argparse.Namespace) -> int:
    """Run a run again and print the verdict."""
    from .reproduce import reproduce

    verdict = reproduce(options.run, root_of(options.run), options.force, options.verify_data)
    show(json.dumps(verdict))
    return 3 if verdict.get("identical") is False else 0


def run_runs(options: argparse.Namespace) -> None:
    """Print a table of runs."""
    from .engine.task import one_line
    from .runs import group_runs, list_runs, sort_rows, table

    rows = list_runs(options.folders or [ROOT / "runs"])
    if options.over:
        rows = group_runs(rows, options.over.split(","))
    if options.sort:
        rows = sort_rows(rows, options.sort)
    if not rows:
        print("no runs" if not options.over else "no finished runs", file=sys.stderr)
    elif options.json:
        show("\n".join(map(json.dumps, rows)))
    else:
        show("\n".join(map(one_line, table(rows))))


def run_config(options: argparse.Namespace) -> None:
    """Print the default config, with the type and the help of each option."""
    from .engine.config import dump
    from .train import load_config

    text = dump(load_config(None), comments=True)
    file = options.check
    if not file:
        show(text.removesuffix("\n"))
    elif not file.is_file() or file.read_text("utf-8", errors="replace") != text:
        command = f"python -m {__package__} config > {file}"
        raise CommandError(f"{file}: this is not what config prints; write it anew: {command}")


def run_source(run: Path, arguments: list[str] | None) -> int:
    """Have the code in RUN/source do the command, and return its exit code.

    It takes the place of this process, so that signals, torchrun and pipes find it there. It writes
    no bytecode, which would change the folder of the run.
    """
    from .engine.record import find_source

    package = find_source(run)
    # The code of a run may be older than --source, so the option is not handed on.
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--source")
    _, words = parser.parse_known_args(arguments)
    # -P: a package of the same name in the current folder must not come before the run's own.
    command = [sys.executable, "-P", "-m", package.name, *words]
    paths = [str(package.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        ROOT_VARIABLE: str(root_of(run)),
    }
    if os.name == "posix":
        os.execve(sys.executable, command, environment)
    return subprocess.call(command, env=environment)  # Windows cannot replace a process


def check_options(options: argparse.Namespace) -> None:
    """Refuse a folder that is not that of a run, and an option that needs another one."""
    try:
        os.getcwd()
    except OSError:
        raise CommandError("the current folder is gone; change to one that exists") from None
    for name in ("run", "resume", "init_from"):
        folder = getattr(options, name, None)
        is_file = name == "init_from" and folder and os.path.isfile(folder)
        if folder and not is_file and not os.path.isfile(folder / "config.yaml"):
            raise CommandError(f"{folder}: not the folder of a run: there is no config.yaml in it")
    if getattr(options, "partial", False) and not options.init_from:
        raise CommandError("--partial needs --init-from, which says what to load")


def show(text: str) -> None:
    """Print a result at once, so that what reads it need not wait."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise OutputError(f"stdout: cannot be written: {error.strerror}") from None


def discard_output() -> None:
    """Let Python write the rest of the output, which it does when it ends, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
