"""Processes that need not import torch, since they are forked from one that has.

A command that trains a few steps spends most of its time on imports. `run_python` takes the place
of a new Python where a test is about what a command does, and not about how it starts.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = ["numpy", "pytest", "torch", "torch._dynamo", "torch.utils.tensorboard", "tqdm", "yaml"]


def run_python(
    *words: str | Path, folder: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `python -m MODULE WORDS` or `python -c CODE` does in a folder."""
    arguments = [str(word) for word in words]
    if os.name == "nt":  # Windows has no fork
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        printed = [Path(scratch) / name for name in ("stdout", "stderr")]
        job = {"arguments": arguments, "folder": str(folder), "env": env}
        code = ask({**job, "printed": [str(path) for path in printed]})
        out, err = (path.read_text("utf-8", errors="replace") for path in printed)
    return subprocess.CompletedProcess(arguments, code, out, err)


def ask(job: dict[str, Any]) -> int:
    """Have a process do a job; its exit code, which is negative if a signal ended it."""
    server = start_server()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@functools.cache
def start_server() -> "subprocess.Popen[str]":
    """Start the process that all others are forked from. It ends with this one."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
    )
    assert server.stdin
    atexit.register(server.stdin.close)
    return server


def serve() -> None:
    """Do the jobs that come in, one after the other, each in a process of its own."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or each process would look through all of it, and copy it
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            do(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def do(arguments: list[str], folder: str, env: dict[str, str], printed: list[str]) -> NoReturn:
    """Become Python with these arguments."""
    import torch

    streams = zip(("stdin", "stdout", "stderr"), [os.devnull, *printed], strict=True)
    for number, (name, path) in enumerate(streams):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(path, flags), number)
        mode = "w" if number else "r"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    if "OMP_NUM_THREADS" in env:  # what was imported has not read it
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    added = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [folder, *added, *sys.path[1:]]  # in place of the folder of this file
    option, what, *words = arguments
    sys.argv = [option, *words]
    if option == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    serve()
