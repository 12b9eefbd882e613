"""The command line. Each command is imported when it is called, so that `--help` is quick."""

import argparse
import json
import os
import sys
from pathlib import Path

PARENTS = Path(__file__).resolve().parents
ROOT = next((path for path in PARENTS if (path / "pyproject.toml").exists()), Path.cwd())
DEFAULT = ROOT / "configs" / "default.yaml"


class CommandError(ValueError):
    exit_code = 2  # a mistake in the command


def main(arguments: list[str] | None = None) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # may be ASCII
    try:
        return run(parse(arguments))
    except KeyboardInterrupt:  # with nothing to save, or for the second time
        return 130
    except Exception as error:
        if not hasattr(error, "exit_code"):  # no mistake of the user's: the traceback is wanted
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun once on each machine
            print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m {__package__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="a new run, or the rest of one")
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    train.epilog = DEFAULT.read_text("utf-8") if DEFAULT.exists() else None
    train.add_argument("words", nargs="*", metavar="CONFIG, section.key=value")
    train.add_argument("--resume", type=Path, metavar="RUN", help="continue this run in place")
    train.add_argument("--init-from", type=Path, metavar="RUN", help="start from its best weights")
    evaluate = commands.add_parser("evaluate", help="the metrics of a run, as a JSON object")
    evaluate.add_argument("--split", choices=["val", "test"], default="test")
    evaluate.add_argument("--checkpoint", choices=["best", "last"], default="best")
    predict = commands.add_parser("predict", help="a JSON object a line, for each input")
    reproduce = commands.add_parser("reproduce", help="run it again, compare; exit code 3: differs")
    reproduce.add_argument("--anyway", action="store_true", help="with other data or source too")
    for command in (evaluate, predict, reproduce):
        command.add_argument("run", type=Path, metavar="RUN")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="a text; - for lines on stdin")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    folder = getattr(options, "run", None) or options.resume or options.init_from
    if folder and not (folder / "config.yaml").is_file():
        raise CommandError(f"{folder}: expected the folder of a run, found no config.yaml in it")
    if options.command == "train":
        print(run_train(options))
        return 0
    from .evaluate import evaluate, predict
    from .reproduce import reproduce

    if options.command == "evaluate":
        results = iter([evaluate(folder, options.split, options.checkpoint, ROOT)])
    elif options.command == "predict":
        results = predict(folder, read_texts(options.inputs))
    else:
        results = iter([reproduce(folder, ROOT, options.anyway)])
    for result in results:
        print(json.dumps(result))
    return 3 if result.get("identical") is False else 0


def run_train(options: argparse.Namespace) -> Path:
    given = [word for word in options.words[:1] if "=" not in word]
    config, overrides = Path(*given) if given else DEFAULT, options.words[len(given) :]
    if options.resume and (given or options.init_from):
        raise CommandError("--resume continues a run as it was: for another one use --init-from")
    if not options.resume and not config.is_file():
        raise CommandError(f"{config}: expected a config file, found none")
    from .train import resume, train

    if options.resume:
        return resume(options.resume, overrides, ROOT)
    return train(config, overrides, ROOT, options.init_from)


def read_texts(inputs: list[str]) -> list[str]:
    # Lines on stdin are UTF-8 whatever the locale says; bytes that are not become surrogates.
    if inputs == ["-"]:
        lines = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
        inputs = [line.removesuffix("\r") for line in lines.split("\n")]
    for number, text in enumerate(inputs, 1):
        if not text.strip() or any("\udc80" <= char <= "\udcff" for char in text):
            raise CommandError(f"input {number}: expected a text in UTF-8, found {text!r}")
    return inputs


if __name__ == "__main__":
    sys.exit(main())
