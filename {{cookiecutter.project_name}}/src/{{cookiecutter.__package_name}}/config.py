"""Typed YAML: load a file into a dataclass, override, check, dump. Works alone."""

# Any dataclass will do whose fields are bool, int, float, str, Path, Literal, another dataclass,
# or list, tuple, dict and `T | None` of these:
#
#     config = load(MyConfig, Path("my.yaml"), ["optim.lr=1e-3"])
#
# A field's help is the comment behind it. Ranges are checked in the dataclass's `__post_init__`, by
# `raise ValueError("KEY: expected ..., found ...")`; the loader puts file, line and section before.

import difflib
import inspect
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
Nodes = dict[str, yaml.Node]
MAX_BYTES = 100_000
OVERRIDE = "!override"  # the tag of a value from the command line
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
    known, nodes = dict(_keys(cls, "")), Nodes()
    if path and (root := _read(path)):
        _collect(root, "", known, nodes)
    for text in overrides:
        key, equals, value = text.partition("=")
        node = yaml.ScalarNode(OVERRIDE, value, yaml.Mark("command line", 0, -1, 0, "", 0))
        if not equals:
            _fail(node, "", "section.key=value", repr(text))
        if is_dataclass(_type_of(key, known, node)):
            _fail(node, key, f"{key}.KEY=VALUE, since it is a section", repr(text))
        nodes[key] = node
    config: T = _construct(cls, MISSING, "", nodes, str(path or "command line"))
    return config


def dump(config: Any, comments: bool = False) -> str:
    """The config as YAML that `load` reads back equal; with each key's type and help behind it."""
    sections = asdict(config, dict_factory=OrderedDict)
    text: str = yaml.dump(sections, None, _Dumper, sort_keys=False, allow_unicode=True, width=10**9)
    if not comments:
        return text
    pairs = zip(text.splitlines(), _helps(type(config)), strict=True)
    return "".join(f"{line:30}  # {text}\n" if text else f"{line}\n" for line, text in pairs)


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor or getattr(event, "tag", None):
            _fail(event, "", "plain values", "an anchor (&), an alias (*) or a tag (!)")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    def represent_data(self, data: Any) -> yaml.Node:
        data = str(data) if isinstance(data, PurePath) else data
        data = data.item() if hasattr(data, "item") else data  # numpy's numbers become Python's
        is_section = isinstance(data, OrderedDict)
        node = super().represent_data(dict(data) if is_section else data)
        node.flow_style = not is_section  # type: ignore[attr-defined]
        return node


def _read(path: Path) -> yaml.Node | None:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: expected at most {MAX_BYTES} bytes, found {size}")
        return _parse(path.read_text("utf-8-sig", "surrogateescape"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: expected a config file, found: {error.strerror}") from None


def _parse(text: str, source: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        loader.name = source
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line, problem = error.problem_mark.line if error.problem_mark else 0, error.problem
    except yaml.reader.ReaderError as error:
        line, problem = (
            text.count("\n", 0, error.position),
            "a byte that is not UTF-8, or a control character",
        )
    except RecursionError:
        line, problem = 0, "hundreds of levels"
    raise ConfigError(f"{source}:{line + 1}: expected YAML, found: {problem}")


def _keys(cls: Any, section: str) -> Iterator[tuple[str, Any]]:
    # Each dotted key of a dataclass with its type: the sections, and what is in them.
    for name, hint in get_type_hints(cls).items():
        yield section + name, hint
        if is_dataclass(hint):
            yield from _keys(hint, f"{section}{name}.")


def _type_of(key: str, known: dict[str, Any], node: yaml.Node) -> Any:
    if key in known:
        return known[key]
    last = key.rpartition(".")[2]
    near = [path for path in known if path.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, known, 1)
    found = f"{last!r}; did you mean {near[0]}?" if near else repr(last)
    _fail(node, key, "a key of this config", found)


def _collect(node: yaml.Node, section: str, known: dict[str, Any], nodes: Nodes) -> None:
    # Put the node of each key in a section, and in the sections in it, into `nodes`.
    for name, child in _pairs(node, section).items():
        key = section + name
        if is_dataclass(_type_of(key, known, child)):
            _collect(child, f"{key}.", known, nodes)
        else:
            nodes[key] = child


def _pairs(node: yaml.Node, section: str) -> Nodes:
    if not isinstance(node, yaml.MappingNode):
        _fail(node, section, "a section of keys", node)
    pairs, keys = Nodes(), Nodes()
    for key, child in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "[...]"
        if name in pairs:
            found = f"it in line {keys[name].start_mark.line + 1} too"
            _fail(key, section + name, "it once", found)
        pairs[name], keys[name] = child, key
    return pairs


def _construct(cls: Any, default: Any, section: str, nodes: Nodes, source: str) -> Any:
    values, hints = {}, get_type_hints(cls)
    for field in fields(cls):
        key, hint = section + field.name, hints[field.name]
        preset = field.default if field.default_factory is MISSING else field.default_factory()
        if is_dataclass(hint):
            values[field.name] = _construct(hint, preset, f"{key}.", nodes, source)
        elif key in nodes:
            values[field.name] = _convert(hint, nodes[key], key)
        elif default is MISSING and preset is MISSING:
            raise ConfigError(f"{source}: {key}: expected a value, found nothing")
    try:
        return cls(**values) if default is MISSING else replace(default, **values)
    except ValueError as error:
        key = section + str(error).partition(": ")[0]
        where = _where(nodes[key]) if key in nodes else source
        raise ConfigError(f"{where}: {section}{error}") from None


def _convert(hint: Any, node: yaml.Node, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and NoneType in args and len(args) == 2:
        return None if _is_null(node) else _convert(args[args[0] is NoneType], node, key)
    if origin is Literal:
        choices = {str(choice): choice for choice in args}
        if not isinstance(node, yaml.ScalarNode) or node.value not in choices:
            _fail(node, key, "one of " + ", ".join(choices), node)
        return choices[node.value]
    if hint in SCALARS:
        return _convert_scalar(hint, node, key)
    if node.tag == OVERRIDE:
        node = _parse(node.value, "command line") or node
    if origin is dict:
        pairs = _pairs(node, f"{key}.").items()
        return {name: _convert(args[1], child, f"{key}.{name}") for name, child in pairs}
    if origin in (list, tuple):
        return origin(_convert_items(origin, args, node, key))
    raise TypeError(f"{key}: a config cannot hold the type {hint}")


def _convert_items(origin: Any, args: Any, node: yaml.Node, key: str) -> Iterator[Any]:
    if not isinstance(node, yaml.SequenceNode):
        _fail(node, key, "a list such as [1, 2]", node)
    count = len(node.value)
    hints = args[:1] * count if origin is list or args[-1] is Ellipsis else args
    if len(hints) != count:
        _fail(node, key, f"{len(hints)} values", str(count))
    for i, (hint, item) in enumerate(zip(hints, node.value, strict=True)):
        yield _convert(hint, item, f"{key}[{i}]")


def _convert_scalar(hint: Any, node: yaml.Node, key: str) -> Any:
    expected, pattern, convert = SCALARS[hint]
    missing = _is_null(node) and node.tag != OVERRIDE  # `name=` on the command line is empty text
    typed = hint in (str, Path) or getattr(node, "style", None) is None  # "3" in quotes is text
    usable = isinstance(node, yaml.ScalarNode) and typed and not missing
    if usable and re.fullmatch(pattern, node.value):
        return convert(node.value)
    _fail(node, key, expected, node)


def _is_null(node: yaml.Node) -> bool:
    nulls = ("null", "Null", "NULL", "~", "")
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in nulls


def _fail(node: Any, key: str, expected: str, found: yaml.Node | str) -> NoReturn:
    if isinstance(found, yaml.ScalarNode):
        text = "the text " * (found.style is not None) + repr(found.value)
        found = text if found.value else "nothing"
    elif isinstance(found, yaml.Node):
        found = "a section" if isinstance(found, yaml.MappingNode) else "a list"
    label = f"{key.removesuffix('.')}: " if key else ""
    raise ConfigError(f"{_where(node)}: {label}expected {expected}, found {found}")


def _where(node: Any) -> str:
    mark = node.start_mark
    return f"{mark.name}:{mark.line + 1}" if mark.line >= 0 else str(mark.name)


def _helps(cls: Any) -> Iterator[str]:
    # For each line of a dump the type, and the comment behind the field in the source.
    comments = dict(re.findall(r"^ +(\w+): .*  # (.+)$", inspect.getsource(cls), re.MULTILINE))
    for name, hint in get_type_hints(cls).items():
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = " | ".join(choices) or (hint.__name__ if hint in SCALARS else str(hint))
        yield "" if is_dataclass(hint) else f"{kind}: {comments.get(name, '')}"
        yield from _helps(hint) if is_dataclass(hint) else ()
