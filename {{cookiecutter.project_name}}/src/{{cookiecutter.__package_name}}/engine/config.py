"""Typed YAML: load a file into a dataclass, override options, check them, and write them again.

    @dataclass(frozen=True)
    class MyConfig:
        lr: Annotated[float, 0] = 0.1
        '''learning rate'''

    config = load(MyConfig(), Path("my.yaml"), ["lr=1e-3"])
    print(dump(config, comments=True))

A field has a default and one of these types: bool, int, float, str, Path, Literal of texts or
numbers, another dataclass, `T | None`, and `list[T]`, `tuple[T, ...]`, `tuple[T, U]` or
`dict[str, T]` of these.
`Annotated[int, 1]` is a number of at least 1, `Annotated[float, 0, 1]` one from 0 to 1. The
docstring below a field is its help. What no type can say is checked in `__post_init__` of the
dataclass, by `raise ValueError("KEY: what is wrong")`.
"""

import ast
import difflib
import inspect
import itertools
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
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
UNPARSED = ""  # the tag of the text of an override; YAML in a file cannot have an empty tag
MAX_BYTES = 100_000
SUPPORTED = (
    "bool, int, float, str, Path, Literal of texts or numbers, Annotated[int or float, low, high], "
    "a dataclass, T | None, list[T], tuple[T, ...], tuple[T, U] and dict[str, T]"
)

# YAML 1.1 takes `no` for a truth value and `1e-3` for a text. So the text of a scalar is read here,
# as what its field wants.
TEXT = r"[^\0\ud800-\udfff]*"  # what UTF-8 and the names of files can hold
PATTERNS = {
    bool: r"(?i:true|false)",
    int: r"[-+]?(0|[1-9][0-9]{0,17})",
    float: r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf",
    str: TEXT,
    Path: TEXT,
}


class ConfigError(ValueError):
    """A config is wrong; the message is `FILE:LINE: KEY: what is wrong`."""

    exit_code = 2


class Entry(NamedTuple):
    """A key, where it was set, and its value."""

    key: str
    where: str
    node: yaml.Node


def _refuse(text: str) -> Any:
    """Refuse every text: none stands for a section, a list, a tuple or a dict."""
    raise ValueError


class Kind(NamedTuple):
    """A field type, as `_convert` needs it to turn YAML into a value."""

    name: str
    """the type, as error messages and comments show it"""
    read: Callable[[str], Any] = _refuse
    """turns a text into a value; raises ValueError or KeyError for a wrong text"""
    container: type = list
    """of what has items: list, tuple or dict"""
    items: tuple["Kind", ...] = ()
    """the kinds of the items of a sequence, or the kind of all values of a dict"""
    has_any_length: bool = False
    """of a sequence: any number of items, all of one kind"""
    is_optional: bool = False
    """`null` is allowed and stands for None"""


SECTION = Kind("a section")


class OneLineDumper(yaml.SafeDumper):
    """Writes each text in one line, so that it is read back as it was."""

    def represent_text(self, text: str) -> yaml.Node:
        """Quote a text with line breaks, also with those that only Unicode knows."""
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


OneLineDumper.add_representer(str, OneLineDumper.represent_text)


def load(
    default: T,
    path: Path | None = None,
    overrides: Iterable[str] = (),
    source: str = "command line",
) -> T:
    """The options of `default`, changed by a file, then by `section.key=value` overrides.

    `source` says in errors where the overrides come from. In an override, a text needs no quotes,
    a list or a dict is written as in YAML, and `null` is None for an option that may be None.
    Raises ConfigError for anything that is not exactly an option with a value of its type, and for
    a field type that is not supported.
    """
    kinds = dict(_kinds(type(default), ""))
    places: dict[str, str] = {}
    values: dict[str, Any] = {}
    for key, where, node in _entries(path, overrides, source, kinds):
        if key not in kinds:
            raise ConfigError(f"{where}: {_unknown(key, kinds)}")
        if key in places and node.tag != UNPARSED:
            raise ConfigError(f"{where}: {key}: is set twice, first in {places[key]}")
        places[key] = where
        is_section = kinds[key] is SECTION and isinstance(node, yaml.MappingNode)
        if not is_section:  # the options in a section have entries of their own
            position = f"{where}: {key}".removesuffix(": ")
            values[key] = _convert(node, kinds[key], position)
    loaded = cast(T, _fill(default, "", values, places))
    if len(dump(loaded).encode("utf-8", "surrogatepass")) > MAX_BYTES:
        origin = source if path is None else str(path)
        raise ConfigError(f"{origin}: these options take more than the 100 kB of a config file")
    return loaded


def dump(config: Any, comments: bool = False, indent: str = "") -> str:
    """The config as YAML that `load` reads back equal; each line begins with `indent`.

    With `comments`, the type and the help of an option stand beside it.
    """
    helps = _helps(type(config)) if comments else {}
    lines = ""
    for name, hint in _options(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            lines += f"{indent}{name}:\n"
            lines += dump(value, comments, indent + "  ")
            continue
        text = yaml.dump(
            {name: plain(value)},
            Dumper=OneLineDumper,
            default_flow_style=True,
            width=10**9,
            allow_unicode=True,
            sort_keys=False,
        )
        line = indent + text.strip()[1:-1]  # without the braces
        if comments:
            line = f"{line:30}  # {_kind(hint).name}: {helps.get(name, '')}".rstrip()
        lines += f"{line}\n"
    return lines


def plain(config: Any) -> Any:
    """The config as nested dicts of plain values, as YAML and JSON have them.

    It takes a value of a config, too: a path becomes a text, and a tuple a list.
    """
    if is_dataclass(config):
        names = [field.name for field in fields(config)]
        return {name: plain(getattr(config, name)) for name in names}
    if isinstance(config, list | tuple):
        return [plain(item) for item in config]
    if isinstance(config, dict):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, Path):
        return str(config)
    return config


def flat(config: Any) -> dict[str, Any]:
    """The options of a config as plain values, by `section.key`."""
    values: dict[str, Any] = {}
    for name in _options(type(config)):
        value = getattr(config, name)
        if is_dataclass(value):
            values |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        else:
            values[name] = plain(value)
    return values


def _options(cls: Any) -> dict[str, Any]:
    """The fields that can be set, with their types."""
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls) if field.init]
    return {name: hints[name] for name in names}


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
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            return node.body
    return []


def _kinds(cls: Any, prefix: str) -> Iterator[tuple[str, Kind]]:
    """Each key with its kind, sections included. Raises ConfigError for unsupported types."""
    yield prefix, SECTION
    for name, hint in _options(cls).items():
        key = f"{prefix}.{name}".removeprefix(".")
        if is_dataclass(hint):
            yield from _kinds(hint, key)
            continue
        try:
            yield key, _kind(hint)
        except TypeError:
            written = inspect.formatannotation(hint)
            raise ConfigError(
                f"{cls.__name__}.{name}: the type {written} cannot be saved and loaded again; "
                f"use {SUPPORTED}"
            ) from None


def _kind(hint: Any) -> Kind:
    """The kind of a field type; raises TypeError if its values cannot be saved and loaded again.

    The calls below raise it too if a type has the wrong number of arguments, as `int | str` has.
    """
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        return _number(*arguments)
    if origin is Literal:
        return _choice(*arguments)
    if origin in (Union, types.UnionType):
        return _optional(*set(arguments) - {types.NoneType})
    if origin in (list, tuple):
        return _sequence(origin, *arguments)
    if origin is dict and arguments[0] is str:
        item = _kind(arguments[1])
        return Kind(f"dict[str, {item.name}]", container=dict, items=(item,))
    if hint in PATTERNS:
        return Kind(hint.__name__, partial(_scalar, hint))
    raise TypeError


def _number(target: Any, low: float, high: float = math.inf) -> Kind:
    """A number of at least `low`, and at most `high` if that is given."""
    are_numbers = {target, type(low), type(high)} <= {int, float}
    if not are_numbers:
        raise TypeError

    def read(text: str) -> Any:
        number = _scalar(target, text)
        if not low <= number <= high:
            raise ValueError
        return number

    bounds = f">= {low}" if high == math.inf else f"from {low} to {high}"
    return Kind(f"{target.__name__} {bounds}", read)


def _choice(*choices: Any) -> Kind:
    """One of some texts and numbers, of which no two are written alike, as 1 and "1" are."""
    written = {str(choice): choice for choice in choices}
    are_plain = {type(choice) for choice in choices} <= {str, int, float}
    if not are_plain or len(written) < len(choices):
        raise TypeError

    def read(text: str) -> Any:
        if text not in written:
            text = str(_scalar(float, text))  # YAML writes 1e-07 as 1.0e-07
        return written[text]

    return Kind(" | ".join(written), read)


def _optional(hint: Any) -> Kind:
    """`T | None`, where `hint` is T."""
    kind = _kind(hint)
    return kind._replace(name=f"{kind.name} | null", is_optional=True)


def _sequence(container: Any, *hints: Any) -> Kind:
    """`list[T]`, `tuple[T, ...]` or `tuple[T, U]`."""
    has_dots = hints[1:] == (...,)
    if has_dots:
        hints = hints[:1]
    if not hints:
        raise TypeError
    items = tuple(_kind(hint) for hint in hints)
    names = ", ".join(item.name for item in items)
    dots = ", ..." if has_dots else ""
    return Kind(
        f"{container.__name__}[{names}{dots}]",
        container=container,
        items=items,
        has_any_length=has_dots or container is list,
    )


def _scalar(target: Any, text: str) -> Any:
    """The value of a simple type that a text stands for; raises ValueError if there is none."""
    if not re.fullmatch(PATTERNS[target], text):
        raise ValueError
    if target is bool:
        return text.lower() == "true"
    if target is float:
        return float(text.replace(".inf", "inf"))
    return target(text)


def _entries(
    path: Path | None,
    overrides: Iterable[str],
    source: str,
    kinds: dict[str, Kind],
) -> Iterator[Entry]:
    """The entries of a file, in its order, then those of the overrides."""
    if path is not None:
        root = _parse(_text_of(path), str(path))
        yield from _flatten(root, path, 1, "", kinds)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{source}: expected section.key=value, found {override!r:.60}")
        yield Entry(key, source, yaml.ScalarNode(UNPARSED, value))


def _text_of(path: Path) -> str:
    """The text of a config file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # and not more: a device may have no end
    except OSError as error:
        raise ConfigError(f"{path}: expected a config file, found: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: too large for a config file: more than 100 kB")
    return content.decode("utf-8-sig", "surrogateescape")


def _flatten(
    node: yaml.Node,
    path: Path,
    line: int,
    key: str,
    kinds: dict[str, Kind],
) -> Iterator[Entry]:
    """The entry of a key, then those inside it if it is a section.

    It is lazy: an alias inside its own anchor would recurse forever.
    """
    yield Entry(key, f"{path}:{line}", node)
    if isinstance(node, yaml.MappingNode) and kinds[key] is SECTION:
        for name, value in node.value:
            part = name.value if isinstance(name, yaml.ScalarNode) else "?"
            inner = f"{key}.{part}".removeprefix(".")
            yield from _flatten(value, path, name.start_mark.line + 1, inner, kinds)


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


def _unknown(key: str, kinds: dict[str, Kind]) -> str:
    """The error message for a key that no option has."""
    last = key.rpartition(".")[2]
    near = [known for known in kinds if known and last in known.split(".")]
    near = near or difflib.get_close_matches(key, kinds, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{repr(key)[1:-1]:.40}: unknown key{hint}"


def _convert(node: yaml.Node, kind: Kind, position: str) -> Any:
    """The value of a node; raises ConfigError if it is not of this kind.

    `position` says in errors where the node is: `FILE:LINE: KEY`.
    """
    if kind.items and node.tag == UNPARSED:
        node = _parse(node.value, position)
    is_null = node.tag == NULL_TAG
    is_null_text = node.tag == UNPARSED and node.value == "null"
    if kind.is_optional and (is_null or is_null_text):
        return None
    if isinstance(node, yaml.MappingNode) and kind.container is dict:
        return _convert_items(node, kind.items[0], position)
    if isinstance(node, yaml.SequenceNode) and kind.container is not dict:
        count = len(node.value)
        kinds = kind.items * count if kind.has_any_length else kind.items
        positions = [f"{position}[{index}]" for index in range(count)]
        if kind.items and len(kinds) == count:
            return kind.container(map(_convert, node.value, kinds, positions))
    if isinstance(node, yaml.ScalarNode) and not is_null:
        with suppress(ValueError, KeyError):
            return kind.read(node.value)
    raise ConfigError(f"{position}: expected {kind.name}, found {_found(node)}")


def _convert_items(node: yaml.MappingNode, kind: Kind, position: str) -> dict[str, Any]:
    """The values of a dict by their keys."""
    values: dict[str, Any] = {}
    for name, value in node.value:
        key = name.value
        if not isinstance(name, yaml.ScalarNode):
            raise ConfigError(f"{position}: expected texts as keys, found {_found(name)}")
        if key in values:
            raise ConfigError(f"{position}[{key}]: is set twice")
        values[key] = _convert(value, kind, f"{position}[{key}]")
    return values


def _found(node: yaml.Node) -> str:
    """What a value is, for an error message."""
    if node.tag == NULL_TAG:
        return "nothing"
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    return f"{node.value!r:.60}"


def _fill(
    default: Any,
    key: str,
    values: dict[str, Any],
    places: dict[str, str],
) -> Any:
    """The default with the values that were set, in its sections too."""
    if not is_dataclass(default):
        return values.get(key, default)
    cls: Any = type(default)
    changed = {}
    for name in _options(cls):
        inner = f"{key}.{name}".removeprefix(".")
        changed[name] = _fill(getattr(default, name), inner, values, places)
    try:
        return cls(**changed)
    except ValueError as error:
        message = f"{key}.{error}".removeprefix(".")
        option = message.partition(":")[0]
        raise ConfigError(f"{_place(option, key, places)}: {message}") from None


def _place(option: str, section: str, places: dict[str, str]) -> str:
    """Where an option was set; if it was not, its section, or what was last set in that."""
    prefix = f"{section}.".removeprefix(".")
    last = "default"
    for key, where in places.items():
        if key.startswith(prefix):
            last = where
    return places.get(option) or places.get(section) or last
