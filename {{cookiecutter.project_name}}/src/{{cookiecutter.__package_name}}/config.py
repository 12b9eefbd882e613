"""Typed YAML: load a file into a dataclass, override, check, dump. Works alone."""

# Any dataclass will do whose fields have defaults and are bool, int, float, str, Path, Literal,
# another dataclass, or list, tuple and `T | None` of these:
#
#     config = load(MyConfig, Path("my.yaml"), ["optim.lr=1e-3"])
#
# A field's help is the comment behind it. `Annotated[int, 1]` is a number from 1 on, and
# `Annotated[float, 0, 1]` one from 0 to 1. What no type can say is checked in the dataclass's
# `__post_init__`, by `raise ValueError("KEY: expected ..., found ...")`; the loader puts file, line
# and section before.

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
Found = dict[str, tuple[str, Any]]  # by key: FILE:LINE, and the value
COMMAND_LINE = "command line"
INTEGER = r"[-+]?(0|[1-9][0-9]{0,17})"
FLOAT = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf"
SCALARS: dict[Any, tuple[str, str, Any]] = {  # what is expected, what it looks like, what it gives
    bool: ("true or false", r"(?i:true|false)", lambda text: text.lower() == "true"),
    int: ("a whole number", INTEGER, int),
    float: ("a number", FLOAT, lambda text: float(text.replace(".inf", "inf"))),
    str: ("text", r"(?s:.*)", str),
    Path: ("a path", r"(?s:.+)", Path),
}


class ConfigError(ValueError):
    exit_code = 2  # a mistake in a config, told as FILE:LINE: KEY: expected what, found what


def load(cls: type[T], path: Path | None = None, overrides: Iterable[str] = ()) -> T:
    """Build a `cls` from its defaults, then the file, then the `section.key=value` overrides."""
    known, found = dict(_keys(cls, "")), Found()
    try:
        text = path.read_text("utf-8-sig", "surrogateescape") if path else ""
    except OSError as error:
        raise ConfigError(f"{path}: expected a config file, found: {error.strerror}") from None
    _collect(_parse(text, str(path)) or {}, f"{path}:1", "", known, found)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise _error(COMMAND_LINE, "", "section.key=value", text)
        _collect(value, COMMAND_LINE, key, known, found)
    config: T = _replace(cls(), "", found, str(path or COMMAND_LINE))
    return config


def dump(config: Any, comments: bool = False, indent: str = "") -> str:
    """The config as YAML that `load` reads back equal; with each key's type and help behind it."""
    source = inspect.getsource(type(config)) if comments else ""
    helps, text = dict(re.findall(r"(?m)^ +(\w+): .*  # (.+)$", source)), ""
    style: Any = {"default_flow_style": True, "width": 10**9, "allow_unicode": True}
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if is_dataclass(value):
            text += f"{indent}{name}:\n{dump(value, comments, indent + '  ')}"
        else:
            line = indent + yaml.safe_dump({name: _plain(value)}, **style)[1:-2]  # no braces
            text += f"{line:30}  # {_kind(hint)}: {helps[name]}\n" if comments else f"{line}\n"
    return text


class _Loader(yaml.BaseLoader):
    # Scalars are text or None, and a mapping is {key: (FILE:LINE, value)}.
    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        is_null = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
        return None if is_null else node.value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        pairs = Found()
        for key, child in node.value:
            where = f"{self.name}:{key.start_mark.line + 1}"
            name = str(self.construct_object(key, deep=True))
            if name in pairs:
                there = pairs[name][0]
                raise ConfigError(f"{where}: {name}: expected it once, found it in {there} too")
            pairs[name] = where, self.construct_object(child, deep=True)
        return pairs


def _parse(text: str, source: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = source
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError) as error:
        mark, position = getattr(error, "problem_mark", None), getattr(error, "position", 0)
        line = mark.line if mark else text.count("\n", 0, position)
        problem = getattr(error, "problem", str(error).splitlines()[0])
        raise ConfigError(f"{source}:{line + 1}: expected YAML, found: {problem}") from None


def _keys(cls: Any, section: str) -> Iterator[tuple[str, Any]]:
    # Each dotted key of a dataclass with its type: the sections, and what is in them.
    yield section, cls
    for name, hint in get_type_hints(cls, include_extras=True).items():
        key = f"{section}.{name}".removeprefix(".")
        yield from _keys(hint, key) if is_dataclass(hint) else [(key, hint)]


def _collect(value: Any, where: str, key: str, known: dict[str, Any], found: Found) -> None:
    # Put what is given for a key, and for those in it where it is a section, into `found`.
    if key not in known:
        last = key.rpartition(".")[2]
        near = [path for path in known if f".{path}".endswith(f".{last}")]
        near = near or difflib.get_close_matches(key, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{where}: {key}: expected a key of this config, found {last!r}{hint}")
    if not is_dataclass(known[key]):
        found[key] = where, value
    elif not isinstance(value, dict):
        raise _error(where, key, "a section of keys", value)
    else:
        for name, (place, child) in value.items():
            _collect(child, place, f"{key}.{name}".removeprefix("."), known, found)


def _replace(config: Any, section: str, found: Found, source: str) -> Any:
    values = {}
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        key = section + name
        if is_dataclass(hint):
            values[name] = _replace(getattr(config, name), f"{key}.", found, source)
        elif key in found:
            values[name] = _convert(hint, found[key][1], found[key][0], key)
    try:
        return replace(config, **values)
    except ValueError as error:
        key = section + str(error).partition(": ")[0]
        raise ConfigError(f"{found.get(key, (source,))[0]}: {section}{error}") from None


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number = _convert(args[0], value, where, key)
        if number < args[1] or number > args[-1] > args[1]:
            raise _error(where, key, f"a number {_range(args[1:])}", value)
        return number
    choices = {str(choice): choice for choice in args} if origin is Literal else {}
    one_of = f"one of {', '.join(choices)}", "|".join(map(re.escape, choices)), choices.get
    if choices or hint in SCALARS:
        expected, pattern, convert = SCALARS.get(hint, one_of)
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return convert(value)
        raise _error(where, key, expected, value)
    if where == COMMAND_LINE and isinstance(value, str):
        value = _parse(value, COMMAND_LINE)
    if origin is UnionType:
        return None if value is None else _convert(args[args[0] is NoneType], value, where, key)
    if origin not in (list, tuple):
        raise TypeError(f"{key}: a config cannot hold the type {hint}")
    if not isinstance(value, list):
        raise _error(where, key, "a list such as [1, 2]", value)
    hints = args[:1] * len(value) if origin is list or args[-1] is Ellipsis else args
    if len(hints) != len(value):
        raise _error(where, key, f"{len(hints)} values", len(value))
    items = enumerate(zip(hints, value, strict=True))
    return origin(_convert(hint, item, where, f"{key}[{i}]") for i, (hint, item) in items)


def _error(where: str, key: str, expected: str, value: Any) -> ConfigError:
    kinds = {dict: "a section", list: "a list", NoneType: "nothing"}
    found = kinds.get(type(value)) or repr(value)[:60]  # not all of a large file
    return ConfigError(f"{where}: {key and key + ': '}expected {expected}, found {found}")


def _plain(value: Any) -> Any:
    # A value as YAML knows it: also those of numpy, tuples and paths.
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return (
        value.item() if hasattr(value, "item") else str(value) if isinstance(value, Path) else value
    )


def _kind(hint: Any) -> str:
    # A type as users read it.
    if get_origin(hint) is Annotated:
        return f"{hint.__origin__.__name__} {_range(hint.__metadata__)}"
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return " | ".join(choices) or (hint.__name__ if hint in SCALARS else str(hint))


def _range(bounds: tuple[Any, ...]) -> str:
    return f"from {bounds[0]} to {bounds[1]}" if len(bounds) > 1 else f">= {bounds[0]}"
