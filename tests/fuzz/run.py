"""Tries random inputs on generated projects: `python tests/fuzz/run.py PROJECTS_FOLDER`.

Each `fuzz_*.py` beside this file has `targets(project)`: by name, a function that draws an input
and raises an error unless it ends as it must. `tests/test_fuzz.py` tries a few inputs of each,
`make fuzz` 10,000.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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


def find_targets(project: Path) -> dict[str, Target]:
    """All targets of a project, by `MODULE.NAME`."""
    found: dict[str, Target] = {}
    for path in sorted(HERE.glob("fuzz_*.py")):
        module = importlib.import_module(path.stem)
        name = path.stem.removeprefix("fuzz_")
        found |= {f"{name}.{key}": target for key, target in module.targets(project).items()}
    return found


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
    limit_memory()
    failed = 0
    print(f"seed {options.seed}", flush=True)
    for path in sorted(options.projects.glob("*/pyproject.toml")):
        project = path.parent.resolve()
        for name, target in find_targets(project).items():
            if options.only not in name:
                continue
            began = time.monotonic()
            failure = try_target(target, options.inputs, options.seed)
            failed += bool(failure)
            seconds = time.monotonic() - began
            print(f"{project.name} {name}: {options.inputs} inputs, {seconds:.1f} seconds")
            print(f"FAILED {failure}\n" if failure else "", end="", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
