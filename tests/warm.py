"""Processes that need not import torch, since they are forked from one that has.

A command that trains a few steps spends most of its time on imports. `run_python` takes the place
of a new Python where a test is about what a command does, and not about how it starts, and
`run_processes` that of torchrun.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
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
    (done,) = fork_processes(arguments, folder, [env])
    return done


def run_processes(
    count: int, *words: str | Path, folder: Path, env: dict[str, str]
) -> list[subprocess.CompletedProcess[str]]:
    """What `torchrun --nproc-per-node COUNT -m MODULE WORDS` starts, and what each of them does."""
    from torch._C._distributed_c10d import TCPStore

    # They meet at a store of this process, as the processes of torchrun do at one of torchrun.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {**env, "OMP_NUM_THREADS": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environments = [{**common, **environment_of(rank, count, store.port)} for rank in range(count)]
    return fork_processes([str(word) for word in words], folder, environments)


def environment_of(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables by which torchrun tells a process what it is."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def fork_processes(
    arguments: list[str], folder: Path, environments: list[dict[str, str]]
) -> list[subprocess.CompletedProcess[str]]:
    """Run Python once in each environment, all at the same time."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = []
        for number, env in enumerate(environments):
            printed = [f"{scratch}/{name}{number}" for name in ("stdout", "stderr")]
            common = {"arguments": arguments, "folder": str(folder)}
            jobs.append({**common, "env": env, "printed": printed})
        codes = ask(jobs)
        texts = [
            [Path(path).read_text("utf-8", errors="replace") for path in job["printed"]]
            for job in jobs
        ]
    return [
        subprocess.CompletedProcess(arguments, code, out, err)
        for code, (out, err) in zip(codes, texts, strict=True)
    ]


def ask(jobs: list[dict[str, Any]]) -> list[int]:
    """Have processes do jobs; their exit codes, which are negative if a signal ended them."""
    server = start_server()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(jobs) + "\n")
    server.stdin.flush()
    codes: list[int] = json.loads(server.stdout.readline())
    return codes


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
    """Do the jobs that come in, each in a process of its own."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or each process would look through all of it, and copy it
    for line in sys.stdin:
        pids = []
        for job in json.loads(line):
            pid = os.fork()
            if pid == 0:
                do(**job)
            pids.append(pid)
        print(json.dumps(wait(pids)), flush=True)


def wait(pids: list[int]) -> list[int]:
    """The exit codes of these processes. Once one has failed the others are ended."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] != 0:
            for other in set(pids) - set(codes):
                os.kill(other, signal.SIGTERM)
    return [codes[pid] for pid in pids]


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
