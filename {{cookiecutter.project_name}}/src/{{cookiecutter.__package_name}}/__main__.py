"""The command line. Each command is imported when it is called, so that `--help` is quick."""

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

PARENTS = Path(__file__).resolve().parents
ROOT = next((path for path in PARENTS if (path / "pyproject.toml").exists()), Path.cwd())
DEFAULT = ROOT / "configs" / "default.yaml"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # some batch systems give us ASCII
    try:
        run(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever reads our results has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code: int | None = getattr(error, "exit_code", None)
        if code is None:  # not a mistake in what was asked for: the traceback is wanted
            raise
        print(f"error: {error}", file=sys.stderr)
        return code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m {__package__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="a new run, or the rest of one")
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    train.usage = "%(prog)s [CONFIG] [section.key=value ...] [--init-from RUN] | --resume RUN"
    train.epilog = DEFAULT.read_text("utf-8") if DEFAULT.exists() else None
    train.add_argument("words", nargs="*", metavar="CONFIG, section.key=value")
    train.add_argument("--resume", type=Path, metavar="RUN", help="continue this run in place")
    train.add_argument("--init-from", type=Path, metavar="RUN", help="start from its best weights")
    evaluate = commands.add_parser("evaluate", help="the metrics of a run, as a JSON object")
    evaluate.add_argument("run", type=Path, metavar="RUN")
    evaluate.add_argument("--split", choices=["val", "test"], default="test")
    evaluate.add_argument("--checkpoint", choices=["best", "last"], default="best")
    predict = commands.add_parser("predict", help="a JSON object a line, for each input")
    predict.add_argument("run", type=Path, metavar="RUN")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="a text; - for lines on stdin")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    is_train = options.command == "train"
    folder = options.resume or options.init_from if is_train else options.run
    if folder and not (folder / "config.yaml").is_file():
        fail(f"{folder}: expected the folder of a run, found no config.yaml in it")
    if is_train:
        print(run_train(options))
        return
    from .evaluate import evaluate, predict

    if options.command == "evaluate":
        print(json.dumps(evaluate(folder, options.split, options.checkpoint, ROOT)))
    else:
        for prediction in predict(folder, read_texts(options.inputs)):
            print(json.dumps(prediction))


def run_train(options: argparse.Namespace) -> Path:
    given = [word for word in options.words[:1] if "=" not in word]
    config, overrides = Path(*given) if given else DEFAULT, options.words[len(given) :]
    if options.resume and (options.words or options.init_from):
        fail("--resume continues a run as it was: for a changed one use --init-from")
    if not options.resume and not config.is_file():
        found = "a folder: of a run, take its config.yaml" if config.is_dir() else "none"
        fail(f"{config}: expected a config file, found {found}")
    from .train import resume, train

    if options.resume:
        return resume(options.resume, ROOT)
    return train(config, overrides, ROOT, options.init_from)


def read_texts(inputs: list[str]) -> list[str]:
    # Lines on stdin are UTF-8 whatever the locale says; bytes that are not become surrogates.
    if inputs == ["-"]:
        lines = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
        inputs = [line.removesuffix("\r") for line in lines.split("\n")]
    for number, text in enumerate(inputs, 1):
        if not text.strip() or any("\udc80" <= char <= "\udcff" for char in text):
            fail(f"input {number}: expected a text in UTF-8, found {text!r}")
    return inputs


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
