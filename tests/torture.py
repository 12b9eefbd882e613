"""Kill training runs of a generated project at random moments, and let them go on to their end."""

#     python tests/torture.py PROJECT --kills 30 --seed 0
#     python tests/torture.py PROJECT --kills 20 --processes
#
# A run that was killed by SIGKILL and continued must end bit for bit like one that was not. With
# --processes a run has four micro-batches a step, and is started and continued in 1, 2 or 4
# processes, drawn anew each time, of which one or all are killed, or torchrun and then all.

import argparse
import ctypes
import gc
import importlib
import json
import logging
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "passive"  # twice as quick where cores are few

import numpy
import torch
from warm import environment_of

FIXED = ["loader.batch_size=16", "optim.patience=0", "trainer.epochs=3"]
CHOICES = """
    seed=0,1,2 loader.limit=225,240 loader.num_workers=0,2 loader.drop_last=false,false,true
    trainer.micro_batches=1,2,3,4 trainer.max_grad_norm=0,0.1,.inf
    optim.scheduler=constant,cosine,linear,plateau optim.warmup=0,9 trainer.monitor=right,loss
    trainer.log_every=1,2 trainer.save_every=0,3,7 trainer.patience=0,0,0,1 optim.lr=0.01,0.1
    trainer.precision=fp32,fp32,bf16,fp16 trainer.eval_every=0,0,3,7 trainer.keep=1,1,2
    optim.ema=0,0,0.9 trainer.max_minutes=0,0,0,0.02 data.folds=0,0,3
"""  # of 225 samples the last batch has one, and leaves nothing to the other micro-batches


class Scenario:
    """A run of random options that nobody disturbs, and the same one killed up to four times."""

    def __init__(
        self, package: str, seed: int, number: int, folder: Path, processes: tuple[int, ...] = (1,)
    ) -> None:
        self.random, self.folder = random.Random(f"{seed} {number}"), folder
        self.processes = processes  # how many there may be
        self.main: Any = importlib.import_module(f"{package}.__main__")
        self.checkpoint: Any = importlib.import_module(f"{package}.engine.checkpoint")
        self.tiny: Any = importlib.import_module("tiny")  # the task of its tests
        self.config = folder / "empty.yaml"
        self.config.write_text("", encoding="utf-8")
        options = [option.partition("=") for option in CHOICES.split()]
        self.options = [f"{key}={self.random.choice(v.split(','))}" for key, _, v in options]
        if "optim.scheduler=plateau" in self.options:
            self.options.append("optim.warmup=0")  # all that it takes
        self.noisy, self.threads = self.random.choice((False, True)), self.random.choice((1, 2))
        if len(processes) > 1:
            self.options.append("trainer.micro_batches=4")
            self.threads = 1  # as torchrun has it
        self.balanced = self.random.choice((False, True))
        self.kills: Counter[str] = Counter()

    def execute(self) -> None:
        options = [*FIXED, *self.options]
        words = ["train", str(self.config), *options]
        whole_words = [*words, "trainer.max_minutes=0", f"output_dir={self.folder}/whole"]
        self.run(whole_words, self.threads, lambda: False)
        (whole,) = self.folder.glob("whole/*")
        words.append(f"output_dir={self.folder}/part")
        kept, threads = b"", self.threads
        for left in (*range(self.random.randint(1, 4), 0, -1), 0):  # kills still to come
            is_dead = self.run(words, threads, self.trigger(whole, left))
            (part,) = self.folder.glob("part/*")
            log = b"".join(path.read_bytes() for path in part.glob("metrics.jsonl"))
            assert log.startswith(kept), "metrics.jsonl: what the checkpoint counts on has changed"
            if not is_dead:
                break
            self.kills["saving" if self.saving() else "later" if log else "early"] += 1
            # Each checkpoint is whole at any time, or it cannot be loaded.
            states = {
                path.name: self.checkpoint.load(path) for path in part.glob("checkpoints/*.pt")
            }
            last = states.get("last.pt", states.get("last.prev.pt"))
            kept = log[: last["logger"]["bytes"]] if last else b""
            words = ["train", "--resume", str(part)]
            if len(self.processes) == 1:
                threads = 3 - self.threads  # another number: the run must set its own again
        if "trainer.max_minutes=0" in self.options:
            expect_same(self.state(whole), self.state(part))
        else:  # when its time was up, nobody knew before
            words = ["reproduce", str(part)]
            assert not self.run(words, self.threads, lambda: False)
            (again,) = set(self.folder.glob("part/*")) - {part}
            expect_same(self.state(again), self.state(part))
        expect_same(*scalars(part))

    def trigger(self, whole: Path, left: int) -> Callable[[], bool]:
        """Whether the run about to start has come to the point, chosen here, where it is to die."""
        kind = self.random.choice(("any", "line", "save"))
        share, delay, place = (self.random.random() for _ in range(3))
        log = sum(self.sizes("metrics.jsonl"))
        end = 0.9 * (whole / "metrics.jsonl").stat().st_size
        target = log + place * max(0, end - log) / max(1, left)
        full = (whole / "checkpoints" / "last.pt").stat().st_size
        delay *= 0.01 if kind == "line" else 0.5 if log else 0.05  # s: of a step, of a start

        def is_due() -> bool:
            if not (left and self.sizes("config.yaml") and self.sizes("manifest.json")):
                return False  # before these two there is no run that could go on
            if kind != "any" and sum(self.sizes("metrics.jsonl")) <= target:
                return False
            if kind == "save":
                # A checkpoint that grows in its own place should not be: then it is caught, too.
                torn = [s for s in self.sizes("checkpoints/*.pt", self.started) if s < 0.9 * full]
                return any(size >= share * full for size in self.saving() + torn)
            time.sleep(delay)
            return True

        return is_due

    def saving(self) -> list[int]:
        return self.sizes("checkpoints/*.tmp", self.started)  # older ones are of another kill

    def sizes(self, pattern: str, since: float = 0.0) -> list[int]:
        sizes = []
        for path in self.folder.glob(f"part/*/{pattern}"):
            with suppress(FileNotFoundError):  # it may be gone by now
                sizes += [path.stat().st_size] if path.stat().st_mtime > since else []
        return sizes

    def run(self, words: list[str], threads: int, is_due: Callable[[], bool]) -> bool:
        """Type a command, and kill it once it is due; whether that was before its end."""
        self.started = time.time()
        count = self.random.choice(self.processes)
        # Each process that torchrun starts imports torch, which takes long: two have to be enough.
        has_torchrun = self.random.random() < 0.2 and count == 2
        agent = self.torchrun(words, count) if has_torchrun else None
        group = Group(agent, [] if agent else self.fork(words, threads, count))
        try:
            while not group.ended() and not is_due():
                time.sleep(0.0002)
            is_killed = not group.codes
            if is_killed:
                group.kill(self.random)
            group.wait()
        finally:  # also when we are to end ourselves
            group.end()
        codes = set(group.codes.values())
        said = (self.folder / "said.txt").read_text("utf-8", "replace")[-3000:]
        assert is_killed or codes == {0}, f"exit codes {group.codes}\n{said}"
        assert count > 1 or codes <= {0, -signal.SIGKILL}, f"exit codes {group.codes}\n{said}"
        return codes != {0}

    def fork(self, words: list[str], threads: int, count: int) -> list[int]:
        """Start the command in so many processes, as torchrun would."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = []
        for rank in range(count):
            if not (pid := os.fork()):
                if count > 1:
                    os.environ |= environment_of(rank, count, port)
                os._exit(self.child(words, threads))
            pids.append(pid)
        return pids

    def torchrun(self, words: list[str], count: int) -> "subprocess.Popen[bytes]":
        """Start the command by torchrun itself."""
        job = json.dumps([words, str(self.folder), self.noisy, self.balanced])
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(count), __file__, *sys.argv[1:2], "--job", job]
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)

    def child(self, words: list[str], threads: int) -> int:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(120)  # a run that hangs is one that failed
            file = os.open(self.folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1), os.dup2(file, 2)
            torch.set_num_threads(threads)
            self.tiny.TinyTask.sizes = dict.fromkeys(("train", "val", "test"), 250)
            self.tiny.TinyTask.hidden = 4000  # so that a save takes a while
            self.tiny.TinyTask.is_noisy = self.noisy
            self.tiny.TinyTask.is_balanced = self.balanced
            self.tiny.install()
            return int(self.main.main(words))
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()
            if torch.distributed.is_initialized():
                gc.collect()
                torch.distributed.destroy_process_group()

    def state(self, run: Path) -> dict[Any, Any]:
        """All that must be the same in both runs."""
        state = {"left": [*run.rglob("*.tmp")], **json.loads((run / "result.json").read_bytes())}
        paths = {run / "checkpoints" / "last.pt", *run.glob("checkpoints/best*.pt")}
        for path in paths:
            parts = self.checkpoint.load(path)
            for key in parts.keys() - {"logger", "config"}:
                state[path.name, key] = plain(parts[key])
        for number, line in enumerate(read_log(run), 1):
            state["line", number] = {key: line[key] for key in line.keys() - {"time", "rate"}}
        return state


class Group:
    """The processes of a command, which torchrun or we have started."""

    def __init__(self, agent: "subprocess.Popen[bytes] | None", pids: list[int]) -> None:
        self.agent = agent
        self.pids = pids
        self.codes: dict[int, int] = {}

    def left(self) -> list[int]:
        """Those of which no exit code is known."""
        return [pid for pid in self.pids if pid not in self.codes]

    def ended(self) -> dict[int, int]:
        """The exit codes of those that have ended."""
        if self.agent and self.agent.poll() is not None:
            self.codes[self.agent.pid] = self.agent.returncode
        for pid in self.left():
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.codes[pid] = os.waitstatus_to_exitcode(status)
        return self.codes

    def kill(self, rng: random.Random) -> None:
        """Kill one process or all; or torchrun, and its processes a moment later."""
        if self.agent:
            children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children")
            self.pids = [int(pid) for pid in children.read_text().split()]
            self.agent.kill()
            self.agent.wait()  # its processes are ours now
            time.sleep(0.5 * rng.random())
        has_all = self.agent or rng.random() < 0.5
        for pid in self.pids if has_all else [rng.choice(self.pids)]:
            os.kill(pid, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for all of them. Once one has failed the others are ended, as torchrun does it."""
        terminated = 0.0
        while self.left() or (self.agent and self.agent.poll() is None):
            has_failed = any(self.ended().values())
            if has_failed and not terminated:
                terminated = time.time()
                for pid in self.left():
                    os.kill(pid, signal.SIGTERM)
            if terminated and time.time() - terminated > 10:
                self.end()
            time.sleep(0.002)
        self.ended()

    def end(self) -> None:
        """Kill what is left."""
        if self.agent:
            self.agent.kill()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.codes[pid] = -signal.SIGKILL


def plain(value: Any) -> Any:
    """The same with the bits of tensors, to be compared by ==."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    return [*map(plain, value)] if isinstance(value, list | tuple) else value


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]


def scalars(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(step, value) pairs by tag: those of the log, and those that TensorBoard shows."""
    log: dict[str, Any] = {}
    for line in read_log(run):
        for key in line.keys() - {"step", "epoch", "split", "time", "lr"}:
            pair = line["step"], number(line[key])
            log.setdefault(f"{key}/{line['split']}", []).append(pair)
        if line["split"] == "train":  # in the other lines it is the same
            log.setdefault("lr", []).append((line["step"], float(numpy.float32(line["lr"]))))
    module: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(run), {"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return log, {tag: [(e.step, number(e.value)) for e in events.Scalars(tag)] for tag in tags}


def number(value: float | None) -> float | None:
    """As TensorBoard holds it; None for what is no number, which is not equal to itself."""
    return None if value is None or math.isnan(value) else float(numpy.float32(value))


def expect_same(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    for key in {**one, **other}:
        a, b = one.get(key), other.get(key)
        assert a == b, f"{key} differs:\n{str(a)[:999]}\n{str(b)[:999]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of the one scenario to run")
    parser.add_argument("--processes", action="store_true", help="in 1, 2 and 4 processes")
    parser.add_argument("--job", help="what torchrun starts")
    options = parser.parse_args()
    sys.dont_write_bytecode = True  # the project stays as it is
    torch.set_num_threads(1)  # a process with threads cannot be forked
    (package,) = options.project.resolve().glob("src/*/__init__.py")
    sys.path[:0] = [str(package.parents[1]), str(package.parents[2] / "tests" / "engine")]
    if options.job:
        words, folder, noisy, balanced = json.loads(options.job)
        scenario = Scenario(package.parent.name, 0, 0, Path(folder))
        scenario.noisy = noisy
        scenario.balanced = balanced
        sys.exit(scenario.child(words, 1))
    for name in ("torch._dynamo", "torch.utils.tensorboard"):  # once here, not in each run
        importlib.import_module(name)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it purges
    gc.freeze()  # or each process would look through all of it, and copy it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    total: Counter[str] = Counter()
    print("seed", options.seed, flush=True)
    for number in range(options.kills) if options.only is None else [options.only]:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            numbers = (1, 2, 4) if options.processes else (1,)
            scenario = Scenario(package.parent.name, options.seed, number, Path(folder), numbers)
            text = f"{number:3} noisy={scenario.noisy} balanced={scenario.balanced}"
            text += f" threads={scenario.threads}"
            text = " ".join([text, *scenario.options])
            try:
                scenario.execute()
            except Exception:
                words = " --processes" if options.processes else ""
                again = f"tests/torture.py PROJECT --seed {options.seed} --only {number}{words}"
                sys.exit(f"{traceback.format_exc()}\n{text}\nFAILED: {again}")
        total += scenario.kills
        print(text, dict(scenario.kills), f"{time.monotonic() - start:.1f} s", flush=True)
        is_enough = total.total() >= options.kills and total["saving"] >= options.kills / 6
        if is_enough:
            break
    kinds = f"{total['early']} before the first line, {total['saving']} during a save"
    print(f"{total.total()} kills, {kinds}; all equal; seed {options.seed}")
    if not is_enough and options.only is None:
        sys.exit("FAILED: too few kills, or too few of them during a save")


if __name__ == "__main__":
    if sys.platform == "linux":
        # PR_SET_CHILD_SUBREAPER: a worker that starts as its run dies takes whoever adopts it for
        # its run, and stays as long: let that be us, not init.
        ctypes.CDLL(None).prctl(36, 1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tempfile.tempdir:
        main()
