"""Measures what README.md says of the three kinds of project, in a project of that kind.

    python benchmarks/tasks.py PROJECT sentences FILE    text: accuracy on a CSV file, and TF-IDF's
    python benchmarks/tasks.py PROJECT short             text: a million texts of five words
    python benchmarks/tasks.py PROJECT long              text: 50,000 texts of 2,000 characters
    python benchmarks/tasks.py PROJECT rows              tabular: a million rows of eight columns
    python benchmarks/tasks.py PROJECT workers OPTIONS   image: JPEG files, with 0 and 2 workers

Python has to be one that has what the project needs, and for `sentences` scikit-learn: that of
`make test`. All runs are of one thread.
"""

import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(sys.argv[1]).resolve()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT / "src")}
(PACKAGE,) = [path.parent.name for path in PROJECT.glob("src/*/train.py")]
SEEDS = (0, 1, 2)


def run(*words: str) -> str:
    """Type a command of the project; get what it prints."""
    command = [sys.executable, "-m", PACKAGE, *words]
    done = subprocess.run(
        command, cwd=PROJECT, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def until_first_step(folder: Path, *words: str) -> None:
    """Print how long it takes until a run has made its first step, and its memory.

    On a machine that does other things too, the seconds of the CPU are what to look at.
    """
    started = time.perf_counter()
    run("train", "trainer.max_steps=1", "loader.batch_size=64", f"output_dir={folder}", *words)
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = usage.ru_utime + usage.ru_stime
    gigabytes = usage.ru_maxrss / 1e6
    print(
        f"a run of one step, with val and test: {seconds:.0f} s, {cpu:.0f} s of CPU, "
        f"{gigabytes:.2f} GB"
    )


def texts(folder: Path, count: int, words: int) -> None:
    """A CSV file of made-up texts from 50,000 words, and a run on it."""
    rng = random.Random(0)
    vocabulary = [
        "".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(50_000)
    ]
    path = folder / "texts.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for number in range(count):
            text = " ".join(rng.choices(vocabulary, k=words))
            file.write(f"{text},{'ab'[number % 2]}\n")
    until_first_step(folder, f"data.path={path}", "loader.limit=10000")


def rows(folder: Path) -> None:
    """A CSV file of a million rows with numbers, categories and gaps, and a run on it."""
    rng = random.Random(0)
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("a,b,c,d,e,kind,place,y\n")
        for _ in range(1_000_000):
            numbers = [f"{rng.random():.4f}" if rng.random() < 0.98 else "" for _ in range(5)]
            cells = [*numbers, rng.choice("xyz"), str(rng.randrange(20)), f"{rng.random():.4f}"]
            file.write(",".join(cells) + "\n")
    until_first_step(folder, f"data.path={path}", "data.target=y", "loader.limit=10000")


def workers(folder: Path) -> None:
    """Seconds of runs on 224 x 224 JPEG files with no worker and with two, in turn.

    The first epoch, in which the workers start, is not among the epochs that are timed.
    """
    image: Any = importlib.import_module("PIL.Image")
    rng = random.Random(0)
    for number in range(3000):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = image.frombytes("RGB", (28, 28), rng.randbytes(28 * 28 * 3))
        small.resize((224, 224)).save(path, quality=90)
    options = ["data.size=64", "data.grey=false", "model.width=8", "trainer.epochs=6"]
    options += sys.argv[3:]
    runs: dict[int, list[float]] = {0: [], 2: []}
    epochs: dict[int, list[float]] = {0: [], 2: []}
    for _ in range(3):
        for count in runs:
            words = [f"data.path={folder}/pictures", f"output_dir={folder}/runs", *options]
            started = time.perf_counter()
            printed = run("train", *words, f"loader.num_workers={count}")
            runs[count].append(time.perf_counter() - started)
            log = (PROJECT / printed.strip() / "metrics.jsonl").read_text("utf-8")
            lines = [json.loads(line) for line in log.splitlines()]
            times = [line["time"] for line in lines if line["split"] == "val"]
            epochs[count].append((times[-1] - times[0]) / (len(times) - 1))
            print(f"{count} workers: {runs[count][-1]:.1f} s, an epoch {epochs[count][-1]:.2f} s")
    for name, seconds in (("run", runs), ("epoch", epochs)):
        ratio = statistics.median(seconds[2]) / statistics.median(seconds[0])
        print(f"{name}: the median with two workers is {ratio:.2f} of that without")


def sentences(folder: Path, path: Path) -> None:
    """Accuracy of the project on a file, and of a linear model on TF-IDF of words and pairs."""
    for seed in SEEDS:
        folder_of_run = run("train", f"data.path={path}", f"seed={seed}", f"output_dir={folder}")
        for split in ("val", "test"):
            metrics = json.loads(run("evaluate", folder_of_run.strip(), "--split", split))
            print(f"seed {seed}, {split}: {metrics['accuracy']:.4f}")
    sys.path.insert(0, str(PROJECT / "src"))
    data = importlib.import_module(f"{PACKAGE}.data")
    task = importlib.import_module(f"{PACKAGE}.task").Task(
        data.DataConfig(str(path)), None, PROJECT
    )
    splits = task.splits
    vectorizer = importlib.import_module("sklearn.feature_extraction.text").TfidfVectorizer
    regression = importlib.import_module("sklearn.linear_model").LogisticRegression
    encode = vectorizer(ngram_range=(1, 2)).fit(splits["train"].texts)
    inputs = {split: encode.transform(samples.texts) for split, samples in splits.items()}
    scores = []
    for c in (1, 4, 10):
        model = regression(C=c, max_iter=1000).fit(inputs["train"], splits["train"].labels)
        val, test = (model.score(inputs[s], splits[s].labels) for s in ("val", "test"))
        scores.append((val, test, c))
    val, test, c = max(scores)
    print(f"TF-IDF and logistic regression, C={c}: val {val:.4f}, test {test:.4f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        what = sys.argv[2]
        if what == "sentences":
            sentences(Path(name), Path(sys.argv[3]).resolve())
        elif what == "short":
            texts(Path(name), 1_000_000, 5)
        elif what == "long":
            texts(Path(name), 50_000, 300)
        elif what == "rows":
            rows(Path(name))
        else:
            workers(Path(name))
