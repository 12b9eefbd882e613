"""The record holds what ran, and its hashes tell data and weights apart."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import torch

from {{ cookiecutter.__package_name }}.engine import record

Git = Callable[..., str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what git sets for hooks, or these tests would write to the repository around them."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a data file and a Python file."""
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / ".gitignore").write_text("runs/\nd.csv\n", encoding="utf-8")
    (root / "d.csv").write_text("data", encoding="utf-8")
    (root / "pkg" / "code.py").write_text("a = 1\n", encoding="utf-8")
    return root


@pytest.fixture
def git(root: Path) -> Git:
    """Call git in the project, which is a repository with one commit."""

    def call(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return subprocess.run(
            command, cwd=root, check=True, capture_output=True, encoding="utf-8"
        ).stdout

    call("init", "-q")
    call("add", ".")
    call("commit", "-qm", "first")
    return call


def start(root: Path) -> dict[str, object]:
    """Start a run in runs/x, and return its manifest."""
    folder = root / "runs" / "x"
    folder.mkdir(parents=True)
    hashes = record.hash_files(root / "d.csv")
    facts = record.collect_environment(root, root / "pkg", hashes, torch.device("cpu"))
    record.start(folder, "seed: 1\n", facts, root / "pkg", hashes)
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    manifest: dict[str, object] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def test_two_runs_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    create = partial(record.create_run, tmp_path / "runs")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(create, ["a b/\uc774"] * 8))
    assert len(set(folders)) == 8
    assert all(folder.parent == tmp_path / "runs" for folder in folders)
    assert all(folder.name.startswith("a_b__-2") for folder in folders)


def test_the_name_of_a_folder_has_the_time_and_in_the_same_second_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.struct_time((2031, 2, 3, 4, 5, 6, 0, 34, 0))
    strftime = time.strftime
    monkeypatch.setattr(time, "strftime", lambda form: strftime(form, now))
    names = [record.create_run(tmp_path, "a.b").name for _ in range(3)]
    stem = "a.b-20310203-040506"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


@pytest.mark.parametrize("obstacle", ["file", "file/below", "link"])
def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(
    tmp_path: Path, obstacle: str
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "a disk that is not mounted")
    expected = r"output_dir: cannot make .*: (Not a directory|File exists); is a file in the way?"
    with pytest.raises(record.RunError, match=expected):
        record.create_run(tmp_path / obstacle, "x")


def test_a_digest_depends_on_name_dtype_shape_and_every_bit_but_not_on_order() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(())}
    same = {"b": torch.zeros(()), "a": torch.arange(8.0)[:4].clone()}
    nudged = torch.arange(4.0)
    nudged[3] = nudged[3].nextafter(torch.tensor(9.0))
    others: list[dict[str, torch.Tensor]] = [
        {"c": base["a"], "b": base["b"]},
        {**base, "a": base["a"].view(2, 2)},
        {**base, "a": base["a"].view(torch.int32)},
        {**base, "a": nudged},
        {**base, "b": -torch.zeros(())},
        {"a": base["a"]},
    ]
    assert record.digest(base) == record.digest(same)
    assert len({record.digest(state) for state in [base, *others]}) == 1 + len(others)
    record.digest({"bf16": torch.zeros(2, dtype=torch.bfloat16), "empty": torch.zeros(0)})


def test_a_digest_depends_on_the_names_themselves() -> None:
    weights = torch.ones(2)
    assert record.digest({"a": weights}) != record.digest({"b": weights})


def test_a_digest_is_the_sha256_of_head_and_bytes_by_hand() -> None:
    content = b"a torch.uint8 (2, 2)\n\x01\x02\x03\x04" + b"b torch.int16 ()\n\x05\x00"
    state = {
        "b": torch.tensor(5, dtype=torch.int16),
        "a": torch.tensor([[1, 3], [2, 4]], dtype=torch.uint8).t(),  # not contiguous
    }
    assert record.digest(state) == hashlib.sha256(content).hexdigest()


def test_a_fingerprint_depends_on_names_and_contents(tmp_path: Path) -> None:
    a = tmp_path / "data" / "a"
    b = tmp_path / "data" / "b"
    a.parent.mkdir()
    found = {record.fingerprint(tmp_path / "none")}
    for path, text in ((a, "1"), (b, "1"), (a, "3")):
        path.write_text(text, encoding="utf-8")
        found |= {record.fingerprint(path), record.fingerprint(path.parent)}
    assert len(found) == 7
    assert record.fingerprint(a.parent) in found


def test_a_fingerprint_covers_each_of_its_paths_and_files_at_any_depth(tmp_path: Path) -> None:
    deep = tmp_path / "data" / "a" / "b" / "c.txt"
    other = tmp_path / "labels.csv"
    deep.parent.mkdir(parents=True)
    found = {record.fingerprint(tmp_path / "data", other)}
    for path, text in ((deep, "1"), (deep, "2"), (other, "1"), (other, "2")):
        path.write_text(text, encoding="utf-8")
        found.add(record.fingerprint(tmp_path / "data", other))
    assert len(found) == 5


def test_a_fingerprint_with_a_pattern_covers_files_of_that_kind_only(tmp_path: Path) -> None:
    before = record.fingerprint(tmp_path, pattern="*.py")
    (tmp_path / "a.txt").write_text("1", encoding="utf-8")
    assert record.fingerprint(tmp_path, pattern="*.py") == before
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    assert record.fingerprint(tmp_path, pattern="*.py") != before


LITTER = (
    ".DS_Store",
    "Thumbs.db",
    "sub/desktop.ini",
    "__pycache__/a.csv",
    ".ipynb_checkpoints/a.csv",
    "sub/.DS_Store",
    "sub/._a.csv",
)


@pytest.mark.parametrize("name", LITTER)
def test_litter_is_no_change_of_the_data(tmp_path: Path, name: str) -> None:
    data = tmp_path / ".hidden" / "data"  # what is above the data does not matter
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "a.csv").write_text("1", encoding="utf-8")
    before = record.fingerprint(data)
    assert before != record.fingerprint(tmp_path / "none")
    (data / name).parent.mkdir(exist_ok=True)
    (data / name).write_text("litter", encoding="utf-8")
    assert record.fingerprint(data) == before


def test_a_folder_that_is_a_link_counts_like_any_other(tmp_path: Path) -> None:
    data = tmp_path / "data"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    data.mkdir()
    (elsewhere / "deep" / "a.csv").write_text("1", encoding="utf-8")
    (data / "one").symlink_to(elsewhere)
    (data / "two").symlink_to(elsewhere / "deep")
    names = [line.split()[1] for line in record.hash_files(data).splitlines()]
    assert names == ["data/one/deep/a.csv", "data/two/a.csv"]
    (tmp_path / "linked").symlink_to(data)
    assert record.hash_files(tmp_path / "linked").count("\n") == 2


def test_links_that_lead_back_are_not_followed_for_ever(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.csv").write_text("1", encoding="utf-8")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "data" / "a" / "self").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "to_b").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "to_a").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "none").symlink_to(tmp_path / "nothing")
    names = [line.split()[1] for line in record.hash_files(tmp_path / "data").splitlines()]
    assert len(names) == len(set(names)) < 20
    assert {"data/a/x.csv", "data/a/to_b/x.csv", "data/b/x.csv", "data/b/to_a/x.csv"} <= set(names)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose contents are read."""
    names: list[str] = []
    hash_contents = record._hash_contents

    def noted(file: str) -> str:
        names.append(Path(file).name)
        return hash_contents(file)

    monkeypatch.setattr(record, "_hash_contents", noted)
    return names


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as large, with two files in it."""
    monkeypatch.setattr(record, "CACHED_BYTES", 2)
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / name).write_text("1", encoding="utf-8")
    return tmp_path / "data"


def test_files_of_large_data_are_read_again_only_if_size_or_time_changed(
    large: Path, tmp_path: Path, hashed: list[str]
) -> None:
    cache = tmp_path / "runs" / "cache"
    first = record.hash_files(large, cache=cache)
    assert record.hash_files(large, cache=cache) == first
    assert hashed == ["a", "b"]
    modified = (large / "a").stat().st_mtime_ns
    os.utime(large / "a", ns=(modified, modified + 1))
    assert record.hash_files(large, cache=cache) == first
    assert hashed == ["a", "b", "a"]
    modified = (large / "b").stat().st_mtime_ns
    (large / "b").write_text("12", encoding="utf-8")
    os.utime(large / "b", ns=(modified, modified))
    second = record.hash_files(large, cache=cache)
    assert hashed == ["a", "b", "a", "b"]
    assert second == record.hash_files(large) != first
    assert [path.name for path in cache.parent.iterdir()] == ["cache"]


def test_a_change_that_size_and_time_do_not_show_is_found_when_it_is_asked_for(
    large: Path, tmp_path: Path, hashed: list[str]
) -> None:
    cache = tmp_path / "cache"
    first = record.hash_files(large, cache=cache)
    modified = (large / "a").stat().st_mtime_ns
    (large / "a").write_text("2", encoding="utf-8")
    os.utime(large / "a", ns=(modified, modified))
    assert record.hash_files(large, cache=cache) == first
    second = record.hash_files(large, cache=cache, verify=True)
    assert second == record.hash_files(large, cache=cache) != first
    assert hashed == ["a", "b", "a", "b"]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "digit", "folder"])
def test_a_damaged_cache_of_hashes_is_not_used(
    large: Path, tmp_path: Path, hashed: list[str], damage: str
) -> None:
    cache = tmp_path / "cache"
    first = record.hash_files(large, cache=cache)
    content = cache.read_bytes()
    cache.unlink()
    digest = first[:64].encode()
    other = digest.translate(bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0"))
    if damage == "folder":
        cache.mkdir()
    elif damage != "missing":
        texts = {"empty": b"", "truncated": content[:-9], "digit": content.replace(digest, other)}
        assert texts[damage] != content
        cache.write_bytes(texts[damage])
    assert record.hash_files(large, cache=cache) == first
    assert hashed == ["a", "b", "a", "b"]


def test_small_data_is_read_each_time(tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "a").write_text("1", encoding="utf-8")
    for _ in range(2):
        record.hash_files(tmp_path / "a", cache=tmp_path / "cache")
    assert hashed == ["a", "a"]
    assert not (tmp_path / "cache").exists()


def test_data_is_large_from_256_megabytes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_hash_contents", lambda _: "0" * 64)
    cache = tmp_path / "cache"
    for size in (255_999_999, 256_000_000):
        assert not cache.exists()
        with (tmp_path / "large.bin").open("wb") as file:
            file.truncate(size)
        record.hash_files(tmp_path / "large.bin", cache=cache)
    assert cache.exists()


def test_a_change_of_the_data_names_the_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a b", "c", "d"):
        (data / name).write_text("1", encoding="utf-8")
    before = record.hash_files(data)
    assert record.changes(tmp_path, before) == "data.sha256 of the run cannot be read"
    (tmp_path / "data.sha256").write_text(before, encoding="utf-8")
    assert record.changes(tmp_path, before) == ""
    (data / "a b").write_text("2", encoding="utf-8")
    (data / "c").unlink()
    (data / "e").write_text("1", encoding="utf-8")
    found = record.changes(tmp_path, record.hash_files(data))
    assert found == "data/a b changed, data/c is gone, data/e is new"
    for name in ("x", "y"):
        (data / name).write_text("1", encoding="utf-8")
    assert record.changes(tmp_path, record.hash_files(data)) == f"{found}, and 2 more"
    (data / "a").write_text("1", encoding="utf-8")
    found = "data/a is new, data/a b changed, data/c is gone, and 3 more"  # in the order of names
    assert record.changes(tmp_path, record.hash_files(data)) == found


@pytest.mark.skipif(sys.platform != "linux", reason="names elsewhere are texts")
def test_a_change_of_a_file_whose_name_is_not_utf8_is_found(root: Path) -> None:
    name = os.fsdecode(b"data-\xff")
    before = f"{64 * '0'}  {name}\n"
    folder = root / "run"
    folder.mkdir()
    environment = record.collect_environment(root, root / "pkg", before, torch.device("cpu"))
    record.start(folder, "", environment, root / "pkg", before)
    assert record.changes(folder, before) == ""
    assert record.changes(folder, before.replace("0", "1")) == f"{name} changed"


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(record.RunError, match=r"cannot be read: Permission denied"):
        record.fingerprint(tmp_path)


def test_the_source_of_a_run_is_found_only_if_it_is_what_ran(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "pkg" / "__main__.py").write_text("", encoding="utf-8")
    manifest = start(root)
    run = root / "runs" / "x"
    package = record.find_source(run)
    assert package == (run / "source" / "pkg").resolve()
    monkeypatch.chdir(root)
    assert record.find_source(Path("runs/x")) == package  # wherever it is used from
    assert record.fingerprint(package, pattern="*.py") == manifest["source"]
    (package / "code.py").write_text("a = 2\n", encoding="utf-8")
    expected = r"source: the code of this run is missing or damaged$"
    with pytest.raises(record.RunError, match=expected):
        record.find_source(run)
    shutil.rmtree(run / "source")
    with pytest.raises(record.RunError, match=expected):
        record.find_source(run)


def test_a_large_file_is_hashed_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    record.fingerprint(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_the_manifest_tells_what_ran_and_not_who_ran_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = f"{root}-2/z.yaml"
    words = [str(root / "configs" / "c.yaml"), "/home/somebody/y.yaml", "/home/somebody", near]
    words += ["output_dir=/home/somebody/runs", "/home/somebody-else", str(root)]
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(sys, "argv", ["x", "train", *words])
    monkeypatch.chdir(root)
    manifest = start(root)
    expected = ["pkg", "train", "./configs/c.yaml", "~/y.yaml", "~", near]
    expected += ["output_dir=~/runs", "/home/somebody-else", "."]
    assert manifest["command"] == expected
    assert set(manifest) == {
        "command", "python", "packages", "platform", "cpu", "device", "gpu",
        "threads", "processes", "variables",
        "git_commit", "git_dirty", "data", "source",
    }  # fmt: skip
    assert "somebody/" not in json.dumps(manifest)


def test_a_project_below_the_home_folder_is_the_project_and_a_home_that_is_the_root_is_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(root / "c.yaml"), str(root.parent / "d.yaml"), "output_dir=./"]
    monkeypatch.setattr(sys, "argv", ["x", "train", *words])
    for home, short in ((str(root.parent), "~/d.yaml"), ("/", words[1])):
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("USERPROFILE", home)
        facts = record.collect_environment(root, root / "pkg", "", torch.device("cpu"))
        assert facts["command"] == ["pkg", "train", "./c.yaml", short, "output_dir=./"]


def test_the_manifest_says_where_a_run_computes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    manifest = start(root)
    torch.set_num_threads(threads)
    assert manifest["python"] == platform.python_version()
    assert manifest["platform"] == platform.platform()
    assert (manifest["device"], manifest["gpu"]) == ("cpu", None)
    assert (manifest["threads"], manifest["processes"]) == (3, 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"Card of {device}")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    facts = record.collect_environment(root, root / "pkg", "", torch.device("cuda:1"))
    assert (facts["device"], facts["gpu"]) == ("cuda:1", "Card of cuda:1, CUDA 13.0")


def test_the_manifest_has_all_installed_distributions_and_their_versions(root: Path) -> None:
    packages = start(root)["packages"]
    assert isinstance(packages, dict)
    assert packages["torch"] == metadata.version("torch")
    assert packages["pyyaml"] == metadata.version("PyYAML")
    assert packages["pytest"] == pytest.__version__
    assert list(packages) == sorted(packages)


def test_the_manifest_has_the_variables_that_change_arithmetic_and_no_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if record.VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)
    recorded = ["ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "MKL_CBWR"]
    recorded += ["NVIDIA_TF32_OVERRIDE", "OMP_SCHEDULE", "ONEDNN_MAX_CPU_ISA", "PYTHONHASHSEED"]
    recorded += ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"]
    others = ["SECRET_TOKEN", "NVIDIA_API_KEY", "PYTHONHASHSEED_SALT", "MY_MKL_CBWR", "RANK"]
    for name in [*recorded, *others, "OMP_NUM_THREADS"]:  # which torchrun sets
        monkeypatch.setenv(name, "x")
    assert start(root)["variables"] == dict.fromkeys(recorded, "x")


def test_the_manifest_names_the_processor(root: Path) -> None:
    cpu = start(root)["cpu"]
    assert isinstance(cpu, str)
    assert cpu.endswith(f" {platform.machine()} {torch.backends.cpu.get_cpu_capability()}")
    if Path("/proc/cpuinfo").exists():
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names = re.findall(r"(?m)^model name\s*: (.*)$", cpuinfo)
        assert cpu.startswith(names[0] if names else platform.processor())


def test_a_run_keeps_the_hashes_of_its_data_as_sha256sum_writes_them(root: Path) -> None:
    manifest = start(root)
    content = (root / "runs" / "x" / "data.sha256").read_bytes()
    assert content.decode() == f"{hashlib.sha256(b'data').hexdigest()}  d.csv\n"
    assert manifest["data"] == hashlib.sha256(content).hexdigest()


def test_a_run_keeps_the_exact_versions_of_what_was_installed(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    distribution(site, "Torch", "2.9.1+cu130")
    distribution(site, "edited", "1", direct_url='{"url": "file:///x", "dir_info": {}}')
    distribution(site, "this-project", "1", top_level="pkg\n")
    distribution(site, "another", "3.0.post1", direct_url='{"url": "https://x", "vcs_info": {}}')
    wheel = '{"url": "file:///w.whl", "archive_info": {}}'
    distribution(site, "from-a-wheel", "4", direct_url=wheel)
    distribution(tmp_path / "later", "torch", "1.0")  # the first one is imported
    monkeypatch.setattr(sys, "path", [str(site), str(tmp_path / "later")])
    packages = start(root)["packages"]
    expected = {"another": "3.0.post1", "edited": "1", "from-a-wheel": "4", "this-project": "1"}
    assert packages == {**expected, "torch": "2.9.1+cu130"}
    text = (root / "runs" / "x" / "requirements.txt").read_text(encoding="utf-8")
    assert text.splitlines() == ["another==3.0.post1", "from-a-wheel==4", "torch==2.9.1+cu130"]


def distribution(site: Path, name: str, version: str, **files: str) -> None:
    """Install a distribution of nothing."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    content = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(content, encoding="utf-8")
    suffixes = {"direct_url": ".json", "top_level": ".txt"}
    for stem, text in files.items():
        (folder / f"{stem}{suffixes[stem]}").write_text(text, encoding="utf-8")


def test_the_manifest_has_fingerprints_of_the_data_and_of_the_package_alone(root: Path) -> None:
    before = start(root)
    assert before["data"] == record.fingerprint(root / "d.csv")
    (root / "runs" / "x").rename(root / "runs" / "first")
    (root / "pkg" / "engine").mkdir()
    (root / "pkg" / "engine" / "more.py").write_text("", encoding="utf-8")
    (root / "other.py").write_text("", encoding="utf-8")
    (root / "pkg" / "notes.txt").write_text("no code", encoding="utf-8")
    after = start(root)
    assert after["data"] == before["data"]
    assert after["source"] == record.fingerprint(root / "pkg", pattern="*.py") != before["source"]


def test_outside_a_repository_and_without_git_the_record_is_made_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(root)["git_commit"] is None
    (root / "runs" / "x").rename(root / "runs" / "first")
    monkeypatch.setenv("PATH", "")
    assert start(root)["git_commit"] is None


def test_the_manifest_says_which_commit_and_whether_files_differ_from_it(
    root: Path, git: Git
) -> None:
    clean = start(root)
    assert (clean["git_commit"], clean["git_dirty"]) == (git("rev-parse", "HEAD").strip(), False)
    (root / "runs" / "x").rename(root / "runs" / "clean")
    (root / "new.py").write_text("b = 3\n", encoding="utf-8")
    assert start(root)["git_dirty"] is True


def test_a_run_keeps_the_files_of_the_package_of_any_kind(root: Path) -> None:
    new = {"pkg/new.py": b"b = 3\r\n", "pkg/engine/words.bin": b"\0\xff" * 500}
    new["pkg/code.py"] = (root / "pkg" / "code.py").read_bytes()
    for name, content in new.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    start(root)
    source = root / "runs" / "x" / "source"
    files = [path for path in source.rglob("*") if path.is_file()]
    assert {path.relative_to(source).as_posix(): path.read_bytes() for path in files} == new


def test_the_source_of_a_run_leaves_out_secrets_and_large_files(root: Path) -> None:
    for name in (".env", ".cache/token", "prod.env", "id.pem", "id.key", "__pycache__/code.pyc"):
        (root / "pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "pkg" / name).write_text("secret", encoding="utf-8")
    (root / "pkg" / "large.txt").write_text("x" * 1_000_001, encoding="utf-8")
    (root / "pkg" / "limit.txt").write_text("x" * 1_000_000, encoding="utf-8")
    start(root)
    files = [path for path in (root / "runs" / "x" / "source").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"code.py", "limit.txt"}


def test_the_source_of_a_run_leaves_out_what_cannot_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "pkg" / "locked.bin").write_bytes(b"1")
    monkeypatch.setattr(os, "access", lambda file, _: Path(file).name != "locked.bin")
    start(root)
    files = [path for path in (root / "runs" / "x" / "source").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"code.py"}


def test_the_repository_that_a_commit_hook_is_run_for_is_neither_recorded_nor_changed(
    root: Path, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git("rev-parse", "HEAD").strip()
    (root / "new.py").write_text("b = 3\n", encoding="utf-8")
    index = (root / ".git" / "index").read_bytes()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other.index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    manifest = start(root)
    assert manifest["git_commit"] == commit
    assert not (tmp_path / "other.index").exists()
    assert (root / ".git" / "index").read_bytes() == index


def test_whether_files_differ_does_not_depend_on_the_settings_of_git(root: Path, git: Git) -> None:
    git("config", "status.showUntrackedFiles", "no")
    (root / "new.py").write_text("b = 3\n", encoding="utf-8")
    assert start(root)["git_dirty"] is True


def test_a_file_that_is_no_json_object_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert record.read(path) == {}
    for text in ("{", "[]", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(record.RunError, match=r"result\.json: expected a JSON object"):
            record.read(path)


def test_keys_that_are_missing_in_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    record.write(path, {"a": 1, "b": 2})
    assert record.read(path, "a") == {"a": 1, "b": 2}
    for keys in (("a", "c"), ("c",)):
        with pytest.raises(record.RunError, match=r"manifest\.json: expected .* found none of c$"):
            record.read(path, *keys)
    with pytest.raises(record.RunError, match=r"none\.json: expected a JSON object with a"):
        record.read(tmp_path / "none.json", "a")


def test_a_file_is_replaced_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    record.write(tmp_path / "r.json", {"a": 1})
    monkeypatch.setattr("os.replace", full)
    expected = r"r\.json: cannot be written: No space left on device"
    with pytest.raises(record.WriteError, match=expected):
        record.write(tmp_path / "r.json", {"a": 2})
    assert record.read(tmp_path / "r.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert (record.RunError.exit_code, record.WriteError.exit_code) == (2, 1)


def test_a_file_that_a_scanner_holds_for_a_moment_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    calls: list[Path] = []

    def held_once(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 1:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    monkeypatch.setattr("os.replace", held_once)
    record.write(tmp_path / "r.json", {"a": 1})
    assert len(calls) == 2
    assert record.read(tmp_path / "r.json") == {"a": 1}


def test_bytes_and_other_values_are_written_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x"
    record.write(path, b"\r\n\xff")
    assert path.read_bytes() == b"\r\n\xff"
    record.write(path, [1, "\u00e9"])
    assert path.read_bytes() == b'[\n  1,\n  "\\u00e9"\n]\n'


def test_a_folder_without_its_complete_record_is_not_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = record.write
    written: list[str] = []

    def killed(path: Path, content: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(record, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        start(root)
    assert written == ["manifest.json"]
    assert not (root / "runs" / "x" / "config.yaml").exists()
