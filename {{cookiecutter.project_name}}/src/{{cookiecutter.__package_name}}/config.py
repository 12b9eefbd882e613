"""Typed YAML: load a file into a dataclass, override, check, dump. Works alone."""

# Any dataclass will do whose fields have defaults and are bool, int, float, str, Literal of texts,
# another dataclass, or `list[T]` and `tuple[T, ...]` of these:
#
#     config = load(MyConfig, Path("my.yaml"), ["optim.lr=1e-3"])
#
# A field's help is the comment behind it. `Annotated[int, 1]` is a number from 1 on, and
# `Annotated[float, 0, 1]` one from 0 to 1. What no type can say is checked in the dataclass's
# `__post_init__`, by `raise ValueError("KEY: expected ..., found ...")`.

import difflib
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
COMMAND_LINE = "command line"
NULL = "tag:yaml.org,2002:null"
FLOAT = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf"
SCALARS: dict[Any, tuple[str, Any]] = {  # what it looks like, and what it gives
    bool: (r"(?i:true|false)", lambda text: text.lower() == "true"),
    int: (r"[-+]?(0|[1-9][0-9]{0,17})", int),
    float: (FLOAT, lambda text: float(text.replace(".inf", "inf"))),
    str: (r"[^\0\ud800-\udfff]*", str),  # what UTF-8 and the names of files can hold
}


class ConfigError(ValueError):
    exit_code = 2  # a mistake in a config, told as FILE:LINE: KEY: expected what, found what


def load(cls: type[T], path: Path | None = None, overrides: Iterable[str] = ()) -> T:
    """Build a `cls` from its defaults, then the file, then the `section.key=value` overrides."""
    known, found = dict(_known(cls, "")), dict[str, Any]()
    in_file = _flatten(_read(path), str(path), 1, "") if path else ()
    for key, where, node in itertools.chain(in_file, map(_split, overrides)):
        if key not in known:
            last = key.rpartition(".")[2]
            near = [path for path in known if path.rpartition(".")[2] == last]
            near = near or difflib.get_close_matches(key, known, 1)
            told = f"{last!r:.40}" + (f"; did you mean {near[0]}?" if any(near) else "")
            raise ConfigError(f"{where}: {repr(key)[1:-1]:.40}: expected a known key, found {told}")
        if key in found and where != COMMAND_LINE:
            raise ConfigError(f"{where}: {key}: expected it once, found it in {found[key][0]} too")
        found[key] = where, _convert(known[key], node, where, key)
    return cast(T, _fill(cls(), "", found))


def dump(config: Any, comments: bool = False, indent: str = "") -> str:
    """The config as YAML that `load` reads back equal; with each key's type and help behind it."""
    source = inspect.getsource(type(config)) if comments else ""
    helps, text = dict(re.findall(r"(?m)^ +(\w+): .*  # (.+)$", source)), ""
    style: Any = {"default_flow_style": True, "width": 10**9, "allow_unicode": True}
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        value = value.item() if hasattr(value, "item") else value  # numpy's numbers
        if is_dataclass(value):
            text += f"{indent}{name}:\n{dump(value, comments, indent + '  ')}"
        else:
            line = indent + yaml.safe_dump({name: value}, **style)[1:-2]  # no braces
            text += f"{line:30}  # {_kind(hint)}: {helps[name]}\n" if comments else f"{line}\n"
    return text


def _known(hint: Any, key: str) -> Iterator[tuple[str, Any]]:
    # A key with its type, and those in it where it is a section.
    yield key, hint
    if is_dataclass(hint):
        for name, inner in get_type_hints(hint, include_extras=True).items():
            yield from _known(inner, f"{key}.{name}".removeprefix("."))


def _split(override: str) -> tuple[str, str, Any]:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{COMMAND_LINE}: expected section.key=value, found {override!r:.60}")
    return key, COMMAND_LINE, yaml.ScalarNode(COMMAND_LINE, value)


def _read(path: Path) -> yaml.Node:
    try:
        if path.stat().st_size > 100_000:
            raise OSError(0, "more than 100 kB")
        return _parse(path.read_text("utf-8-sig", "surrogateescape"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: expected a config file, found: {error.strerror}") from None


def _parse(text: str, source: str) -> yaml.Node:
    try:
        loader = yaml.SafeLoader(text)
        return loader.get_single_node() or yaml.MappingNode(NULL, [])
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position), "a control character, or no UTF-8"
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = getattr(error, "problem_mark", loader).line
        problem = getattr(error, "problem", str(error))
    raise ConfigError(f"{source}:{line + 1}: expected YAML, found: {problem:.80}")


def _flatten(node: yaml.Node, source: str, line: int, key: str) -> Iterator[Any]:
    # A key with its value, and those in it where it is a section; lazily, for an alias in what it
    # names has no end.
    yield key, f"{source}:{line}", node
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            part = name.value if isinstance(name, yaml.ScalarNode) else "?"
            inner = f"{key}.{part}".removeprefix(".")
            yield from _flatten(value, source, name.start_mark.line + 1, inner)


def _convert(hint: Any, node: yaml.Node, where: str, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if node.tag == COMMAND_LINE and args and origin not in (Annotated, Literal):
        node = _parse(node.value, f"{COMMAND_LINE}: {key}")
    if origin is Annotated:
        number, low, *high = _convert(args[0], node, where, key), *args[1:]
        if low <= number <= min(high, default=number):
            return number
    elif origin is Literal and node.value in args:
        return node.value
    elif hint in SCALARS and isinstance(node, yaml.ScalarNode) and node.tag != NULL:
        pattern, convert = SCALARS[hint]
        if re.fullmatch(pattern, node.value):
            return convert(node.value)
    elif origin in (list, tuple) and isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return origin(_convert(args[0], item, where, f"{key}[{i}]") for i, item in items)
    elif is_dataclass(hint) and isinstance(node, yaml.MappingNode):
        return None  # what is in it comes with keys of its own
    kinds: Any = {yaml.MappingNode: "a section", yaml.SequenceNode: f"a list of {len(node.value)}"}
    found = "nothing" if node.tag == NULL else kinds.get(type(node)) or f"{node.value!r:.60}"
    raise ConfigError(f"{where}: {key and key + ': '}expected {_kind(hint)}, found {found}")


def _fill(default: Any, key: str, found: dict[str, Any]) -> Any:
    # The default with what is found for its key, and for those in it where it is a section.
    if not is_dataclass(default):
        return found[key][1] if key in found else default
    values = {}
    for field in fields(default):
        inner = f"{key}.{field.name}".removeprefix(".")
        values[field.name] = _fill(getattr(default, field.name), inner, found)
    try:
        return replace(cast(Any, default), **values)
    except ValueError as error:
        raise ConfigError(f"{key}.{error}".removeprefix(".")) from None


def _kind(hint: Any) -> str:
    # A type as users read it.
    if get_origin(hint) is Annotated:
        kind, low, *high = get_args(hint)
        return f"{kind.__name__} " + (f"from {low} to {high[0]}" if high else f">= {low}")
    if is_dataclass(hint):
        return "a section"
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return " | ".join(choices) or (hint.__name__ if hint in SCALARS else str(hint))
