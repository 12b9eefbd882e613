"""Tries random inputs on generated projects: `python tests/fuzz/run.py PROJECTS_FOLDER`.

Each `fuzz_*.py` beside this file has `targets(project)`: by name, a function that draws an input
and raises an error unless it ends as it must. `tests/test_fuzz.py` tries a few inputs of each,
`make fuzz` 10,000.
"""

import argparse
import importlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # the projects belong to other tests, too
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness import Target  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import seed as with_seed  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

MAX_BYTES = 12 * 2**30  # of address space: an input that takes more ends in MemoryError


def limit_memory() -> None:
    """Let no input take the memory of the machine."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, resource.RLIM_INFINITY))


def try_module(name: str, project: Path, options: argparse.Namespace) -> None:
    """Try the targets of a module; ends this process with the number of those that failed."""
    limit_memory()
    failed = 0
    targets: dict[str, Target] = importlib.import_module(name).targets(project)
    for key, target in targets.items():
        full_name = f"{name.removeprefix('fuzz_')}.{key}"
        if options.only not in full_name:
            continue
        began = time.monotonic()
        failure = try_target(target, options.inputs, options.seed)
        failed += bool(failure)
        seconds = time.monotonic() - began
        print(f"{project.name} {full_name}: {options.inputs} inputs, {seconds:.1f} seconds")
        print(f"FAILED {failure}\n" if failure else "", end="", flush=True)
    sys.exit(failed)


def try_target(target: Target, inputs: int, seed: int) -> str:
    """Draw this many inputs; returns what failed, with the smallest input that did, or nothing."""
    options = settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        print_blob=False,
    )

    @options
    @with_seed(seed)
    @given(st.data())
    def search(data: st.DataObject) -> None:
        target(data)

    try:
        search()
    except BaseException as error:  # with the input in its notes
        if isinstance(error, KeyboardInterrupt):
            raise
        return "\n".join(shown(error))
    return ""


def shown(error: BaseException) -> Iterator[str]:
    """What failed, and the input that did; of several failures each."""
    yield f"{type(error).__name__}: {error}"
    yield from getattr(error, "__notes__", [])
    for one in getattr(error, "exceptions", []):
        yield from shown(one)


def main() -> int:
    """Try every target; the exit code is 1 if an input of one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("projects", type=Path, help="the folder that the projects are in")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each target")
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="of the inputs")
    parser.add_argument("--only", default="", help="only targets whose name has this in it")
    options = parser.parse_args()
    import torch  # noqa: F401  # once for all processes that are forked

    # Each module has a process of its own: some of them put another task into the project.
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "fork")
    failed = 0
    print(f"seed {options.seed}", flush=True)
    for path in sorted(options.projects.glob("*/pyproject.toml")):
        for module in sorted(HERE.glob("fuzz_*.py")):
            arguments = (module.stem, path.parent.resolve(), options)
            process = context.Process(target=try_module, args=arguments)
            process.start()
            process.join()
            failed += process.exitcode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
