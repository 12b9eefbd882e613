"""The record of a run: its folder, what ran in it, and hashes to compare data and weights by.

This module can be used alone:

    folder = create_run(Path("runs"), "baseline")
    hashes = hash_files(root / "data")
    environment = collect_environment(root, root / "src", hashes, torch.device("cpu"))
    start(folder, "lr: 0.1", environment, root / "src", hashes)
    write(folder / "result.json", {"digest": digest(model.state_dict())})
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

# Names of the environment variables that can change the bits of a run. OMP_NUM_THREADS is not among
# them: torchrun sets it to 1, and the number of threads that comes of it is recorded as `threads`.
# Nothing else that torchrun sets has such a name.
VARIABLES = re.compile(
    r"(CUBLAS|MKL|ONEDNN)_\w+|OMP_(?!NUM_THREADS$)\w+|ATEN_CPU_CAPABILITY|DNNL_MAX_CPU_ISA"
    r"|NVIDIA_TF32_OVERRIDE|PYTHONHASHSEED|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
)
LITTER = ("Thumbs.db", "desktop.ini", "__pycache__")  # beside hidden files, as .DS_Store is
SECRET_SUFFIXES = (".env", ".key", ".pem")
MAX_FILE_BYTES = 1_000_000  # of a file in source
CACHED_BYTES = 256_000_000  # less data than this is hashed again each time
# What the folder of a run may have in it before its config is written.
BEFORE_CONFIG = {
    "config.yaml",
    "data.sha256",
    "manifest.json",
    "metrics.jsonl",
    "requirements.txt",
    "source",
}
SHOWN_CHANGES = 3  # of the files that have changed
MAX_THREADS = 1024  # torch ends the process if the system cannot have so many
TYPES = {
    "threads": int,
    "processes": int,
    "packages": dict,
    "resumes": list,
    "data": str,
    "source": str,
    "parent": str,
    "parent_digest": str,
    "python": str,
    "digest": str,
}
"""of what is read of a run: a file that has something else is refused"""

Facts = dict[str, Any]
"""What a file of a run folder says: plain data by name."""


class RunError(ValueError):
    """A run folder cannot be made or read, or data cannot be read."""

    exit_code = 2


class WriteError(OSError):
    """A file of the record cannot be written, for example to a full disk."""

    exit_code = 1


class HashedFile(NamedTuple):
    """A file whose hash is wanted, as it was before it was read."""

    path: str
    name: str
    size: int
    mtime_ns: int


def create_run(output_dir: Path, name: str) -> Path:
    """Make a new folder `NAME-YYYYMMDD-HHMMSS` in output_dir, and return its path.

    In the name only letters, digits, dot, underscore and hyphen are kept. If two runs start in
    the same second, the later folder gets a number at its end.
    """
    plain_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    stem = f"{plain_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = output_dir / stem
    number = 1
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
            number += 1
            folder = output_dir / f"{stem}-{number}"
    except OSError as error:
        raise RunError(
            f"output_dir: cannot make {folder}: {error.strerror}; is a file in the way?"
        ) from None


def resolve_output(root: Path, text: str) -> Path:
    """Return the folder that `output_dir` means; `~` is the home folder.

    Raises RunError for `$VARIABLE` and `~NAME`, which a shell would have expanded.
    """
    path = os.path.expanduser(text)
    if "$" in path or path.startswith("~"):
        raise RunError(
            f"output_dir: expected a folder, found {text!r}; variables and names of users are "
            "expanded by the shell, outside of quotes"
        )
    return root / path


def refuse_links(folder: Path) -> None:
    """Raise RunError if there is a link in a run folder: what is written to it ends elsewhere."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise RunError(f"{path}: a link; replace it with what it points to")


def open_run(output_dir: Path, name: str) -> Path:
    """Make the folder of a run that has this very name, or take one in which no run has begun yet.

    Raises RunError for a name that is not one of a folder, and for a folder with other files.
    """
    check_name(name)
    folder = output_dir / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name.removesuffix(".tmp") for path in folder.iterdir()}
    except OSError as error:
        raise RunError(f"--run: cannot make {folder}: {error.strerror}") from None
    others = found - BEFORE_CONFIG
    if others:
        raise RunError(f"--run: {folder} is not the folder of a run: it has {min(others)}")
    return folder


def check_name(name: str) -> None:
    """Raise RunError for a name that cannot be that of a run folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name):
        raise RunError(
            "--run: expected a name of at most 200 letters, digits, dots, underscores and hyphens, "
            f"found {name!r:.60}"
        )


def collect_environment(root: Path, package: Path, hashes: str, device: torch.device) -> Facts:
    """Return what was called, and all that the bits of a run depend on beside its config.

    `root` is the project's folder, `package` the folder of its Python files, and `hashes` what
    `hash_files` returned for the data that the run reads. Paths below the home folder are written
    with `~`, so that the record does not name the user. All values are plain data for JSON.
    """
    command = [package.name, *sys.argv[1:]]
    group = torch.distributed.group.WORLD
    gpu = None
    if device.type == "cuda":
        gpu = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return {
        "command": [_shorten(text, root) for text in command],
        "python": platform.python_version(),
        "packages": _installed_packages(),
        "platform": platform.platform(),
        "cpu": f"{_cpu_model()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": str(device),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "processes": group.size() if group else 1,
        "variables": {
            key: value for key, value in sorted(os.environ.items()) if VARIABLES.fullmatch(key)
        },
        "git_commit": _git(root, "rev-parse", "--verify", "HEAD") or None,
        "git_dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=normal")),
        "data": fingerprint_of(hashes),
        "source": fingerprint(package, pattern="*.py"),
    }


def start(folder: Path, config_text: str, manifest: Facts, package: Path, hashes: str) -> None:
    """Write all that a run's new folder holds before the run begins.

    - `manifest.json`, and `data.sha256` with the hashes of the data
    - `requirements.txt`: the exact versions of the installed distributions, but of none that was
      installed from a local folder, and not of the package itself
    - `source`: a copy of the package, that is, of its files of any kind up to 1 MB, but no hidden
      files, no files with the names of secrets (`.env`, `.key`, `.pem`), and none that cannot be
      read
    - `config.yaml`, which is written last: a folder without it is not a run
    """
    # If an earlier start was killed, it may have left files that are no longer in the package.
    shutil.rmtree(folder / "source", ignore_errors=True)
    write(folder / "manifest.json", manifest)
    write(folder / "data.sha256", _encode(hashes))
    write(folder / "requirements.txt", _requirements(manifest["packages"], package).encode())
    files = list(_files(str(package), "*"))  # all that there is before anything is copied
    for file in map(Path, files):
        is_kept = file.suffix not in SECRET_SUFFIXES and os.access(file, os.R_OK)
        if is_kept and file.stat().st_size <= MAX_FILE_BYTES:
            copy = folder / "source" / file.relative_to(package.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write(copy, file.read_bytes())
    write(folder / "config.yaml", config_text.encode())


def write(path: Path, content: Any) -> None:
    """Write bytes, or anything else as JSON, to a file that is never seen incomplete.

    Raises WriteError if that is not possible; a file that was there before is then intact.
    """
    if not isinstance(content, bytes):
        content = json.dumps(content, indent=2).encode() + b"\n"
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        _replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def read(path: Path, *keys: str) -> Facts:
    """Return the JSON object in a file, or an empty one if there is no such file.

    Raises RunError if one of these keys is missing, or if the file has something else in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: expected a JSON object, found: {error}") from None
    _check_types(path, content)
    missing = [key for key in keys if key not in content]
    if missing:
        message = f"expected a JSON object with {', '.join(keys)}"
        raise RunError(f"{path}: {message}, found none of {', '.join(missing)}")
    return dict(content)


def find_source(folder: Path) -> Path:
    """Return the package in `source` of a run: the code that ran, to the byte.

    Raises RunError if it is missing or not what `manifest.json` has the fingerprint of.
    """
    expected = read(folder / "manifest.json", "source")["source"]
    for main in (folder / "source").glob("*/__main__.py"):
        if fingerprint(main.parent, pattern="*.py") == expected:
            return main.parent.resolve()
    raise RunError(f"{folder / 'source'}: the code of this run is missing or damaged")


def hash_files(
    *paths: Path, pattern: str = "*", cache: Path | None = None, verify: bool = False
) -> str:
    """Return a line `SHA256  NAME` for each file, and for each file in a folder.

    Names begin with that of the path. This is the format of `sha256sum`, which can check the lines.
    In a folder only files whose names fit `pattern` count, at any depth, in folders that are links
    too. Hidden files and the litter of operating systems do not count. A path that does not exist
    counts as no file.

    If there are 256 MB or more, the hash of a file that has the size and the time of the last
    change that it had before is taken from the file `cache`; `verify` reads it all the same. Files
    are read in pieces, so this takes little memory. Raises RunError if one cannot be read.
    """
    files = []
    for path in map(os.path.abspath, paths):
        start_of_name = len(os.path.join(os.path.dirname(path), ""))
        for file in _files(path, pattern):
            stat = _stat(file)  # before it is read: a change from now on shows the next time
            name = file[start_of_name:].replace(os.sep, "/")
            files.append(HashedFile(file, name, stat.st_size, stat.st_mtime_ns))
    if sum(file.size for file in files) < CACHED_BYTES:
        cache = None
    known = _read_cache(cache) if cache else {}
    entries = dict(known)
    lines = []
    for path, name, *now in files:
        *before, sha256 = known.get(path, [""])
        if verify or before != now:
            sha256 = _hash_contents(path)
        entries[path] = [*now, sha256]
        lines.append(f"{sha256}  {name}\n")
    if cache and entries != known:
        _write_cache(cache, entries)
    return "".join(lines)


def fingerprint_of(hashes: str) -> str:
    """Return the sha256 of what `hash_files` returned: that of names and contents of files."""
    return hashlib.sha256(_encode(hashes)).hexdigest()


def fingerprint(*paths: Path, pattern: str = "*") -> str:
    """Return the fingerprint of files, and of the files in folders; see `hash_files`."""
    return fingerprint_of(hash_files(*paths, pattern=pattern))


def changes(folder: Path, hashes: str) -> str:
    """Return in what way files differ from those in `data.sha256` of a run, with their names.

    The first few are named, for example `a.csv changed, b.csv is gone, c.csv is new, and 2 more`.
    """
    try:
        before = _by_name((folder / "data.sha256").read_text("utf-8", "surrogateescape"))
    except OSError:
        return "data.sha256 of the run cannot be read"
    now = _by_name(hashes)
    found = []
    for name in sorted({**before, **now}):
        if name not in now:
            found.append(f"{name} is gone")
        elif name not in before:
            found.append(f"{name} is new")
        elif before[name] != now[name]:
            found.append(f"{name} changed")
    more = len(found) - SHOWN_CHANGES
    return ", ".join(found[:SHOWN_CHANGES]) + (f", and {more} more" if more > 0 else "")


def digest(state_dict: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of name, dtype, shape and bytes of the tensors, in the order of names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n"
        sha.update(head.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # (elements,)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _check_types(path: Path, content: Any) -> None:
    """Raise RunError for what is no JSON object, or has something of another type than TYPES."""
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}")
    for key, kind in TYPES.items():
        value = content.get(key, kind())
        if type(value) is not kind:
            raise RunError(f"{path}: {key}: expected {kind.__name__}, found {value!r:.40}")
    threads = content.get("threads", 1)
    if not 1 <= threads <= MAX_THREADS:
        raise RunError(f"{path}: threads: expected 1 to {MAX_THREADS}, found {threads!r:.40}")
    for entry in content.get("resumes", []):
        _check_types(path, entry)


def _shorten(text: str, root: Path) -> str:
    """Write paths in a text as `./...` below root, and as `~/...` below the home folder."""
    home = os.path.expanduser("~")
    for folder, short in ((str(root), "."), (home, "~")):
        if len(folder) > 1:  # not for a home that is "/", as containers have it
            text = re.sub(rf"(?<!\w){re.escape(folder)}(?=[/\\]|$)", short, text)
    return text


def _installed_packages() -> dict[str, str]:
    """Return the version of each installed distribution, by its name in small letters."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        with suppress(UnicodeDecodeError):  # a broken installation
            facts = distribution.metadata  # reads a file, so once is enough
            name = facts["Name"]
            if name:  # what is left of a broken installation has none
                versions.setdefault(name.lower(), facts["Version"])  # the first one is imported
    return dict(sorted(versions.items()))


def _requirements(packages: dict[str, str], package: Path) -> str:
    """Return lines for `pip install -r`: these versions, without those that no index has."""
    local = set()
    for distribution in metadata.distributions():
        with suppress(UnicodeDecodeError):
            is_folder = "dir_info" in (distribution.read_text("direct_url.json") or "")
            if is_folder or package.name in (distribution.read_text("top_level.txt") or "").split():
                local.add(str(distribution.metadata["Name"]).lower())
    lines = [f"{name}=={version}\n" for name, version in packages.items() if name not in local]
    return "".join(lines)


def _cpu_model() -> str:
    """Return the name of the processor, as far as the operating system knows it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _files(path: str, pattern: str) -> Iterator[str]:
    """Yield the file itself, or the files in a folder in the order of their paths."""
    if os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        yield from _files_below(path, pattern, set())


def _files_below(folder: str, pattern: str, parents: set[str]) -> Iterator[str]:
    """Yield the files in a folder, but follow no link back to a folder that it is in.

    Paths are texts here: objects would take most of the time for many files.
    """
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name in LITTER:
            continue
        if entry.is_dir():
            yield from _files_below(entry.path, pattern, {real, *parents})
        elif entry.is_file() and fnmatchcase(entry.name, pattern):
            yield entry.path


def _stat(file: str) -> os.stat_result:
    try:
        return os.stat(file)
    except OSError as error:  # it was there when its folder was listed
        raise RunError(f"{file}: cannot be read: {error.strerror}") from None


def _hash_contents(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from None


def _read_cache(cache: Path) -> Facts:
    """Return size, time and hash by path, or nothing if the file is missing or damaged."""
    with suppress(OSError):
        checksum, _, content = cache.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == checksum:
            return dict(json.loads(content))
    return {}


def _write_cache(cache: Path, entries: Facts) -> None:
    """Write what `_read_cache` reads, if that is possible, after its own sha256."""
    content = json.dumps(entries).encode()
    checksum = hashlib.sha256(content).hexdigest().encode()
    own = cache.with_name(f"{cache.name}.{os.getpid()}")  # other processes may be doing the same
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write(own, checksum + b"\n" + content)
        _replace(own, cache)


def _by_name(hashes: str) -> dict[str, str]:
    """Return the hashes by the names of the files."""
    lines = [line.partition("  ") for line in hashes.split("\n")]
    return {name: sha256 for sha256, _, name in lines if name}


def _encode(hashes: str) -> bytes:
    """Return bytes, those of a file name that is not UTF-8 as they are."""
    return hashes.encode(errors="surrogateescape")


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints about the project, or nothing if git is missing or fails.

    GIT_DIR and the like, which git sets for hooks, would make it speak of another repository.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # write nothing to the user's repository
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.decode(errors="replace").strip() if result.returncode == 0 else ""


def _replace(source: Path, target: Path) -> None:
    """Rename a file; wait while a virus scanner holds it open, as happens on Windows."""
    for seconds in (0.1, 0.5, 2.0):
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(seconds)
    source.replace(target)
