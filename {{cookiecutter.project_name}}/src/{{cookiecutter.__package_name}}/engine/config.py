"""Typed YAML: load a file into a dataclass, override options, check them, and write them again.

    @dataclass(frozen=True)
    class MyConfig:
        lr: Annotated[float, 0] = 0.1
        '''learning rate'''

    config = load(MyConfig(), Path("my.yaml"), ["lr=1e-3"])
    print(dump(config, comments=True))

A field has a default and one of these types: bool, int, float, str, Path, Literal of texts or
numbers, another dataclass, `T | None`, and `list[T]`, `tuple[T, ...]` or `tuple[T, U]` of these.
`Annotated[int, 1]` is a number of at least 1, `Annotated[float, 0, 1]` one from 0 to 1. The
docstring below a field is its help. What no type can say is checked in `__post_init__` of the
dataclass, by `raise ValueError("KEY: what is wrong")`.
"""

import ast
import difflib
import inspect
import itertools
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

T = TypeVar("T")
NULL_TAG = "tag:yaml.org,2002:null"
MAX_BYTES = 100_000
MAX_SHOWN = 60  # characters of a value in an error message
SUPPORTED = (
    "bool, int, float, str, Path, Literal of texts or numbers, Annotated[int or float, low, high], "
    "a dataclass, T | None, list[T], tuple[T, ...] and tuple[T, U]"
)

# YAML 1.1 takes `no` for a truth value and `1e-3` for a text. So the text of a scalar is read here,
# as what its field wants.
BOOL = r"(?i:true|false)"
INT = r"[-+]?(0|[1-9][0-9]{0,17})"
FLOAT = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf"
TEXT = r"[^\0\ud800-\udfff]*"  # what UTF-8 and the names of files can hold


class ConfigError(ValueError):
    """A config is wrong; the message is `FILE:LINE: KEY: what is wrong`."""

    exit_code = 2


class Entry(NamedTuple):
    """A key with its value, and where it stands."""

    key: str
    where: str
    node: yaml.Node
    is_text: bool
    """from the command line, where a text needs no quotes"""


class OneLineDumper(yaml.SafeDumper):
    """Writes each text in one line, so that it is read back as it was."""

    def represent_text(self, text: str) -> yaml.Node:
        """Quote a text with line breaks, also with those that only Unicode knows."""
        is_one_line = text.splitlines() in ([], [text])
        style = None if is_one_line else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


OneLineDumper.add_representer(str, OneLineDumper.represent_text)


class NotThatError(Exception):
    """A value, or an item in it, is not of the type that it should be."""

    def __init__(self, hint: Any, node: yaml.Node, place: str = "") -> None:
        super().__init__(place)
        self.hint = hint
        self.node = node
        self.place = place


def load(
    default: T,
    path: Path | None = None,
    overrides: Iterable[str] = (),
    source: str = "command line",
) -> T:
    """The options of `default`, changed by a file, then by `section.key=value` overrides.

    `source` says in errors where the overrides come from. There, texts need no quotes; `null`
    is None for an option that may be None. Raises ConfigError for anything that is
    not exactly an option with a value of its type, and for a field type that is not supported.
    """
    hints = dict(_hints(type(default), ""))
    found: dict[str, Entry] = {}
    values: dict[str, Any] = {}
    entries = [_split(override, source) for override in overrides]
    for entry in itertools.chain(_entries_of(path), entries):
        if entry.key not in hints:
            raise ConfigError(f"{entry.where}: {_unknown(entry.key, hints)}")
        if entry.key in found and not entry.is_text:
            first = found[entry.key].where
            raise ConfigError(f"{entry.where}: {entry.key}: is set twice, first in {first}")
        found[entry.key] = entry
        if not is_dataclass(hints[entry.key]) or not isinstance(entry.node, yaml.MappingNode):
            values[entry.key] = _value_of(entry, hints[entry.key])
    return cast(T, _fill(default, "", values, found))


def dump(config: Any, comments: bool = False) -> str:
    """The config as YAML that `load` reads back equal; with type and help of each option."""
    return "".join(f"{line}\n" for line in _lines(config, comments, indent=""))


def plain(config: Any) -> dict[str, Any]:
    """The config as nested dicts of plain values."""
    values = {}
    for field in fields(config):
        value = getattr(config, field.name)
        values[field.name] = plain(value) if is_dataclass(value) else _plain(value)
    return values


def _plain(value: Any) -> Any:
    """A value as YAML and JSON know it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value  # a number of NumPy


def _lines(config: Any, comments: bool, indent: str) -> Iterator[str]:
    helps = _helps(type(config)) if comments else {}
    for name, hint in _options(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            yield f"{indent}{name}:"
            yield from _lines(value, comments, indent + "  ")
            continue
        text = yaml.dump(
            {name: _plain(value)},
            Dumper=OneLineDumper,
            default_flow_style=True,
            width=10**9,
            allow_unicode=True,
        )
        line = indent + text.strip()[1:-1]  # without the braces
        if comments:
            line = f"{line:30}  # {_name(hint)}: {helps.get(name, '')}".rstrip()
        yield line


def _options(cls: Any) -> dict[str, Any]:
    """The fields that can be set, with their types."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def _helps(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class, and of those that it inherits from."""
    helps: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for field, below in itertools.pairwise(_body(base)):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    helps[name] = " ".join(text.split())
    return helps


def _body(cls: type) -> list[ast.stmt]:
    """The statements of a class; none if its source cannot be found or read."""
    try:
        source = inspect.getsource(cls)
        if source[0].isspace():  # a class in a function; a text in it may begin further left
            source = f"if True:\n{source}"
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return []
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return classes[0].body


def _hints(cls: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Each key with its type, those of sections too. Raises ConfigError for unsupported types."""
    yield prefix, cls
    for name, hint in _options(cls).items():
        key = f"{prefix}.{name}".removeprefix(".")
        if is_dataclass(hint):
            yield from _hints(hint, key)
        elif _is_supported(hint):
            yield key, hint
        else:
            written = inspect.formatannotation(hint)
            raise ConfigError(
                f"{cls.__name__}.{name}: the type {written} cannot be saved and loaded again; "
                f"use {SUPPORTED}"
            )


def _is_supported(hint: Any) -> bool:
    """Whether every value of a type can be saved and loaded again."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        kind, *bounds = arguments
        return kind in (int, float) and _are_bounds(bounds)
    if origin is Literal:
        return _are_choices(arguments)
    if origin is tuple and arguments[1:] == (...,):
        return _is_supported(arguments[0])
    if origin in (list, tuple):
        return bool(arguments) and all(map(_is_supported, arguments))
    if origin in (Union, types.UnionType):
        is_optional = len(arguments) == 2 and type(None) in arguments
        return is_optional and _is_supported(_without_none(hint))
    return hint in (bool, int, float, str, Path)


def _are_bounds(bounds: list[Any]) -> bool:
    """Whether these are a lower bound, or a lower and an upper one."""
    return len(bounds) <= 2 and all(type(bound) in (int, float) for bound in bounds)


def _are_choices(choices: tuple[Any, ...]) -> bool:
    """Whether these are texts and numbers, of which no two are written alike, as 1 and "1" are."""
    are_plain = all(type(choice) in (str, int, float) for choice in choices)
    return are_plain and len({str(choice) for choice in choices}) == len(choices)


def _without_none(hint: Any) -> Any:
    """T of `T | None`."""
    return next(argument for argument in get_args(hint) if argument is not type(None))


def _entries_of(path: Path | None) -> Iterator[Entry]:
    """The keys of a file, in its order."""
    if path is None:
        return iter(())
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: too large for a config file: more than 100 kB")
        text = path.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"{path}: expected a config file, found: {error.strerror}") from None
    return _flatten(_parse(text, str(path)), str(path), line=1, key="")


def _flatten(node: yaml.Node, source: str, line: int, key: str) -> Iterator[Entry]:
    """A key with its value, then those in it if it is a section.

    It is lazy: an alias inside its own anchor would recurse forever.
    """
    yield Entry(key, f"{source}:{line}", node, is_text=False)
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            part = name.value if isinstance(name, yaml.ScalarNode) else "?"
            inner = f"{key}.{part}".removeprefix(".")
            yield from _flatten(value, source, name.start_mark.line + 1, inner)


def _parse(text: str, source: str) -> yaml.Node:
    """The YAML in a text; an empty one is an empty section."""
    try:
        loader = yaml.SafeLoader(text)
        return loader.get_single_node() or yaml.MappingNode(NULL_TAG, [])
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        problem = "a control character, or bytes that are not UTF-8"
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = getattr(error, "problem_mark", loader).line
        problem = str(getattr(error, "problem", error))
    raise ConfigError(f"{source}:{line + 1}: not valid YAML: {problem:.80}")


def _split(override: str, source: str) -> Entry:
    """The key and the value of `section.key=value`."""
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{source}: expected section.key=value, found {_shown(override)}")
    return Entry(key, source, yaml.ScalarNode("", value), is_text=True)


def _unknown(key: str, hints: dict[str, Any]) -> str:
    """What is said of a key that no option has."""
    last = key.rpartition(".")[2]
    near = [known for known in hints if known and known.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, hints, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{repr(key)[1:-1]:.40}: unknown key{hint}"


def _value_of(entry: Entry, hint: Any) -> Any:
    """The value of an entry as its field wants it."""
    node = entry.node
    if entry.is_text and _is_nested(hint):
        node = _parse(entry.node.value, f"{entry.where}: {entry.key}")
    try:
        return _convert(hint, node)
    except NotThatError as error:
        key = f"{entry.key}{error.place}"
        name = f"{key}: " if key else ""
        message = f"expected {_name(error.hint)}, found {_found(error.node)}"
        raise ConfigError(f"{entry.where}: {name}{message}") from None


def _is_nested(hint: Any) -> bool:
    """Whether a value may have brackets, so that YAML has to read it."""
    if get_origin(hint) in (Union, types.UnionType):
        return _is_nested(_without_none(hint)) or _without_none(hint) is not str
    return get_origin(hint) in (list, tuple)


def _convert(hint: Any, node: yaml.Node) -> Any:
    """The value of a node; raises NotThatError if it is not of this type."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return None if _is_null(node) else _optional(hint, node)
    if origin in (list, tuple):
        return origin(_items(hint, node))
    is_scalar = isinstance(node, yaml.ScalarNode) and node.tag != NULL_TAG
    if is_dataclass(hint) or not is_scalar:
        raise NotThatError(hint, node)
    try:
        if origin is Annotated:
            return _bounded(hint, node.value)
        if origin is Literal:
            return _choice(hint, node.value)
        return _scalar(hint, node.value)
    except ValueError:
        raise NotThatError(hint, node) from None


def _optional(hint: Any, node: yaml.Node) -> Any:
    """The value of a node that is not null; an error names `T | None` and not T."""
    try:
        return _convert(_without_none(hint), node)
    except NotThatError as error:
        if error.node is node:
            raise NotThatError(hint, node) from None
        raise  # an item in it is wrong


def _is_null(node: yaml.Node) -> bool:
    """Whether a value is null: written so, but not as a text in quotes."""
    is_from_command_line = node.tag == ""
    return node.tag == NULL_TAG or (is_from_command_line and node.value == "null")


def _items(hint: Any, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise NotThatError(hint, node)
    kinds = get_args(hint)
    is_fixed = get_origin(hint) is tuple and Ellipsis not in kinds
    if not is_fixed:
        kinds = kinds[:1] * len(node.value)
    if len(kinds) != len(node.value):
        raise NotThatError(hint, node)
    items = []
    for index, (kind, item) in enumerate(zip(kinds, node.value, strict=True)):
        try:
            items.append(_convert(kind, item))
        except NotThatError as error:
            place = f"[{index}]{error.place}"
            raise NotThatError(error.hint, error.node, place) from None
    return items


def _bounded(hint: Any, text: str) -> Any:
    """A number within the bounds of `Annotated`; raises ValueError for any other."""
    kind, low, *rest = get_args(hint)
    number = _scalar(kind, text)
    is_too_large = bool(rest) and number > rest[0]
    if number < low or is_too_large:
        raise ValueError
    return number


def _choice(hint: Any, text: str) -> Any:
    """The choice that is written so; raises ValueError if there is none."""
    choices = get_args(hint)
    for choice in choices:
        if text == str(choice):
            return choice
    number = _scalar(float, text)
    for choice in choices:  # YAML writes 1e-07 as 1.0e-07
        if type(choice) is float and number == choice:
            return choice
    raise ValueError


def _scalar(kind: Any, text: str) -> Any:
    """The value that a text stands for; raises ValueError for what is not written as one."""
    pattern = {bool: BOOL, int: INT, float: FLOAT}.get(kind, TEXT)
    if not re.fullmatch(pattern, text):
        raise ValueError
    if kind is bool:
        return text.lower() == "true"
    if kind is float:
        return float(text.replace(".inf", "inf"))
    return kind(text)


def _found(node: yaml.Node) -> str:
    """What a value is, for an error message."""
    if node.tag == NULL_TAG:
        return "nothing"
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    return _shown(node.value)


def _shown(text: str) -> str:
    return f"{text!r:.{MAX_SHOWN}}"


def _name(hint: Any) -> str:
    """A type as users read it."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        kind, low, *rest = arguments
        if rest:
            return f"{kind.__name__} from {low} to {rest[0]}"
        return f"{kind.__name__} >= {low}"
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType) and type(None) in arguments:
        return f"{_name(_without_none(hint))} | null"
    if origin in (list, tuple):
        inner = [_name(argument) for argument in arguments]
        return f"{origin.__name__}[{', '.join(inner)}]"
    if hint is Ellipsis:
        return "..."
    if is_dataclass(hint):
        return "a section"
    return str(hint.__name__)


def _fill(default: Any, key: str, values: dict[str, Any], found: dict[str, Entry]) -> Any:
    """The default with the values that were found, in its sections too."""
    if not is_dataclass(default):
        return values.get(key, default)
    changed = {}
    for name in _options(type(default)):
        inner = f"{key}.{name}".removeprefix(".")
        changed[name] = _fill(getattr(default, name), inner, values, found)
    try:
        return replace(cast(Any, default), **changed)
    except ValueError as error:
        message = f"{key}.{error}".removeprefix(".")
        where = _place(message.partition(":")[0], key, found)
        raise ConfigError(f"{where}{message}") from None


def _place(option: str, section: str, found: dict[str, Entry]) -> str:
    """Where an option was set; if it was not, its section, or what was last set in that."""
    prefix = f"{section}.".removeprefix(".")
    inside = [key for key in found if key.startswith(prefix)]
    for key in (option, section, *reversed(inside)):
        if key in found:
            return f"{found[key].where}: "
    return ""
