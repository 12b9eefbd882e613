"""The config says what it means, and reports every mistake with its place."""

import time
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import pytest

from {{ cookiecutter.__package_name }}.engine.config import (
    ConfigError,
    dump,
    flat,
    load,
    plain,
)
from {{ cookiecutter.__package_name }}.engine.loader import LoaderConfig
from {{ cookiecutter.__package_name }}.engine.optim import OptimConfig
from {{ cookiecutter.__package_name }}.engine.trainer import TrainerConfig


@dataclass(frozen=True)
class Optim:
    lr: float = 0.1
    """the learning rate"""
    scheduler: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: expected more than 0, found {self.lr}")


@dataclass(frozen=True)
class Example:
    name: str = "x"  # a text
    flag: bool = False  # a choice
    count: int = 3  # a number
    ratio: float = 0.5  # any number
    size: tuple[int, ...] = (1, 5)  # some numbers
    words: list[str] = field(default_factory=list)  # any number of texts
    shares: list[Annotated[float, -9, 1]] = field(default_factory=list)  # numbers
    size_of_batch: Annotated[int, 1] = 8  # a bounded number
    optim: Optim = field(default_factory=lambda: Optim(lr=0.5))


DID_YOU_MEAN = "; did you mean optim.lr?"
BYTES = "not valid YAML: a control character, or bytes that are not UTF-8"
ONE_OF = "expected cosine | constant, found"
SET_TWICE = "is set twice, first in"
UNKNOWN_KEY = "unknown key"


def read(tmp_path: Path, text: str | bytes, *overrides: str) -> Example:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(Example(), path, overrides)


def error(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    return str(caught.value).replace(str(tmp_path / "c.yaml"), "FILE")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-2", -2.0), (".inf", float("inf"))],
)
def test_numbers_may_be_written_as_in_python(tmp_path: Path, text: str, value: float) -> None:
    lr = read(tmp_path, "ratio: " + text).ratio
    assert lr == value
    assert isinstance(lr, float)


@pytest.mark.parametrize("text", ["695e0514", "no", "on", "1e3", "0123", "12:30", "2024-01-01"])
def test_text_stays_text_through_load_and_dump(tmp_path: Path, text: str) -> None:
    config = read(tmp_path, f"name: {text}")
    assert config.name == text
    assert read(tmp_path, dump(config)).name == text


@pytest.mark.parametrize(
    "config",
    [
        Example(),
        Example("", True, -7, 1e-7, (0, 9), ["no", "1", "a: b", "# c"], [1.0, -9.0]),
        Example("'\"\\ # : {} [] \n\t\x85 \U0001f642 \uc774", words=["", " ", "~", "&a", "*a"]),
        Example(optim=Optim(1e300, "constant"), shares=[0.0] * 2),
        Example("null", words=["null", ", ", "}", "a, b"], size=(10**17, -1)),
        Example("\x85x", words=["\x85", "a\u2028 b", "\u2029", "a\n\n b ", "\r", "\ufeff"]),
    ],
)
def test_what_is_dumped_loads_to_an_equal_config(tmp_path: Path, config: Example) -> None:
    assert read(tmp_path, dump(config)) == config


def test_defaults_then_file_then_command_line(tmp_path: Path) -> None:
    config = read(tmp_path, "count: 4\nname: file", "name=line", "optim.scheduler=constant")
    assert (config.flag, config.count, config.name) == (False, 4, "line")
    assert config.optim == Optim(0.5, "constant")  # 0.5 is Example's default, 0.1 would be Optim's


def test_command_line_values_have_the_type_of_their_key(tmp_path: Path) -> None:
    words = ("flag=false", "size=[2, 3]", "words=[a, 'b c']", "name=", "name=a=b")
    config = read(tmp_path, "flag: true", *words)
    expected = Example("a=b", False, 3, 0.5, (2, 3), ["a", "b c"])
    assert config == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: 1\nname: a\ncount: 2", "FILE:3: count: is set twice, first in FILE:1"),
        ("optim: {lr: 1}\noptim: {}", "FILE:2: optim: is set twice, first in FILE:1"),
        ("\nlr: 1", f"FILE:2: lr: {UNKNOWN_KEY}" + DID_YOU_MEAN),
        ("optim:\n  lrr: 1", f"FILE:2: optim.lrr: {UNKNOWN_KEY}" + DID_YOU_MEAN),
        ("flag: maybe", "FILE:1: flag: expected bool, found 'maybe'"),
        ("flag: yes", "FILE:1: flag: expected bool, found 'yes'"),
        ("count: 1e3", "FILE:1: count: expected int, found '1e3'"),
        ("count: 1.0", "FILE:1: count: expected int, found '1.0'"),
        ("count: 010", "FILE:1: count: expected int, found '010'"),
        ("name:", "FILE:1: name: expected str, found nothing"),
        ("name: null", "FILE:1: name: expected str, found nothing"),
        ("name: [a]", "FILE:1: name: expected str, found a list of 1"),
        ("optim: 3", "FILE:1: optim: expected a section, found '3'"),
        ("optim:\n  lr: -1", "FILE:2: optim.lr: expected more than 0, found -1.0"),
        ("optim:\n  lr: .nan", "FILE:2: optim.lr: expected float, found '.nan'"),
        ("optim: {scheduler: cos}", "FILE:1: optim.scheduler: " + ONE_OF + " 'cos'"),
        ("optim: {scheduler: [a]}", "FILE:1: optim.scheduler: " + ONE_OF + " a list of 1"),
        ("size: 1", "FILE:1: size: expected tuple[int, ...], found '1'"),
        ("size: [1, a]", "FILE:1: size[1]: expected int, found 'a'"),
        ("size_of_batch: 0", "FILE:1: size_of_batch: expected int >= 1, found '0'"),
        ("shares:\n- 2", "FILE:1: shares[0]: expected float from -9 to 1, found '2'"),
        ("? [a]\n: 1", f"FILE:1: ?: {UNKNOWN_KEY}"),
        ("- 1", "FILE:1: expected a section, found a list of 1"),
        ("n: a\nx: [1\ny: 2", "FILE:3: not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n---\nb: 2", "FILE:2: not valid YAML: but found another document"),
        (b"name: a\ncount: \xff", "FILE:2: " + BYTES),
        ("name: a\u0001", "FILE:1: " + BYTES),
        ("words: &a [*a]", "FILE:1: words[0]: expected str, found a list of 1"),
        ("optim: &a {scheduler: *a}", f"FILE:1: optim.scheduler: {ONE_OF} a section"),
        ("words: &a {? *a : 1}", "FILE:1: words: expected list[str], found a section"),
        ("[]", "FILE:1: expected a section, found a list of 0"),
        ("optim:\n  lr: 1\noptim.lr: 2", f"FILE:3: optim.lr: {SET_TWICE} FILE:2"),
        ("optim: {'': 1}", f"FILE:1: optim.: {UNKNOWN_KEY}; did you mean optim?"),
        ('"a\\nb": 1', rf"FILE:1: a\nb: {UNKNOWN_KEY}"),
        ('\nname: "\\U00110000"', "FILE:2: not valid YAML: chr() arg not in range(0x110000)"),
        ('name: "a\\0"', r"FILE:1: name: expected str, found 'a\x00'"),
        ('name: "\\ud800"', r"FILE:1: name: expected str, found '\ud800'"),
        ("count: !!python/name:os.system", "FILE:1: count: expected int, found ''"),
    ],
)
def test_a_mistake_in_a_file_is_reported_with_its_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    assert error(tmp_path, text) == message


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("flag=maybe", "command line: flag: expected bool, found 'maybe'"),
        ("lr=1", f"command line: lr: {UNKNOWN_KEY}" + DID_YOU_MEAN),
        ("optim.lr=0", "command line: optim.lr: expected more than 0, found 0.0"),
        ("optim=3", "command line: optim: expected a section, found '3'"),
        ("name", "command line: expected section.key=value, found 'name'"),
        ("size=[1, 2", "command line: size:1: not valid YAML: expected ',' or ']'"),
        ("optim.=1", f"command line: optim.: {UNKNOWN_KEY}"),
        (".lr=1", f"command line: .lr: {UNKNOWN_KEY}{DID_YOU_MEAN}"),
        ("=1", "command line: expected a section, found '1'"),
        ("", "command line: expected section.key=value, found ''"),
        ("name=\udcff", r"command line: name: expected str, found '\udcff'"),
        ("size=3", "command line: size: expected tuple[int, ...], found '3'"),
    ],
)
def test_a_mistake_on_the_command_line_is_reported(tmp_path: Path, word: str, message: str) -> None:
    assert error(tmp_path, "", word).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [*a,*a,*a,*a]\n" for c in "bcdefghij"),
        "[" * 90_000,
        "- " * 40_000,
        "name: " + "x" * 10_000_000,
        "count: " + "x" * 99_000,
        "? " + "x" * 99_000,
        "name: &a [x,x,x,x]\n? [*a, *a]\n: 1",
    ],
    ids=["aliases", "brackets", "dashes", "size", "text", "key", "list as key"],
)
def test_a_bomb_is_refused_in_one_short_line(tmp_path: Path, text: str) -> None:
    start = time.process_time()
    message = error(tmp_path, text)
    assert len(message) < 150
    assert "\n" not in message
    assert time.process_time() - start < 20  # it would be hours, or all memory


@pytest.mark.parametrize("text", ["x" * 100_000, "\u20ac" * 34_000, '"\x01' * 20_000])
def test_options_that_no_config_file_can_hold_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"command line: these options take more than the 100 kB"):
        load(Example(), None, [f"name={text}"])
    path = tmp_path / "config.yaml"
    path.write_text("count: 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: these options take more than"):
        load(Example(), path, [f"name={text}"])
    half = load(Example(), None, [f"name={text[:5000]}"])
    path.write_text(dump(half), encoding="utf-8")
    assert load(Example(), path) == half


def test_an_error_of_post_init_names_the_key_and_where_it_was_set(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Part:
        low: int = 1
        high: int = 2

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError(f"high: expected {self.low} or more, found {self.high}")

    @dataclass(frozen=True)
    class Whole:
        part: Part = field(default_factory=Part)

    path = tmp_path / "c.yaml"
    path.write_text("\npart:\n  low: 3\n", encoding="utf-8")
    message = "part.high: expected 3 or more, found 2"
    with pytest.raises(ConfigError, match=rf"c\.yaml:2: {message}"):  # the line of the section
        load(Whole(), path)
    path.write_text("\nlow: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: high: expected 3 or more, found 2"):
        load(Part(), path)
    with pytest.raises(ConfigError, match=r"command line: high: expected 3 or more, found 2"):
        load(Part(), None, ["low=3"])
    with pytest.raises(ConfigError, match=f"^command line: {message}"):
        load(Whole(), None, ["part.low=3"])
    path.write_text("part:\n  low: 3\n  high: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"c\.yaml:3: {message}"):  # the line of the key
        load(Whole(), path)
    path.write_text("\n\npart.low: 3\n", encoding="utf-8")  # without a line for the section
    with pytest.raises(ConfigError, match=rf"c\.yaml:3: {message}"):
        load(Whole(), path)


def test_a_file_has_at_most_100_kilobytes(tmp_path: Path) -> None:
    text = "name: " + "x" * 90_000 + "\n#"
    read(tmp_path, text.ljust(100_000, "#"))
    assert error(tmp_path, text.ljust(100_001, "#")) == (
        "FILE: too large for a config file: more than 100 kB"
    )


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a config file, found: No such file"):
        load(Example(), tmp_path / "none.yaml")


def test_an_alias_stands_for_what_it_names(tmp_path: Path) -> None:
    assert read(tmp_path, "name: &n same\nwords: [*n, *n]").words == ["same", "same"]


def test_every_option_of_the_machine_has_a_help() -> None:
    for section in (LoaderConfig, OptimConfig, TrainerConfig):
        for line in dump(section(), comments=True).splitlines():
            kind, _, help_line = line.partition("#")[2].partition(":")
            assert kind.strip() and help_line.strip(), line


def test_numbers_have_the_bounds_that_their_types_say() -> None:
    for section in (LoaderConfig, OptimConfig, TrainerConfig):
        for name, hint in get_type_hints(section, include_extras=True).items():
            if get_origin(hint) is Annotated:
                kind, least, *most = get_args(hint)
                assert getattr(load(section(), None, [f"{name}={least}"]), name) == kind(least)
                for value in (least - 1, *(bound + 1 for bound in most)):
                    with pytest.raises(ConfigError, match=f"{name}: expected {kind.__name__} "):
                        load(section(), None, [f"{name}={value}"])
            assert hint not in (int, float)  # none without its bounds


@dataclass(frozen=True)
class Kinds:
    path: Path = Path("a")
    """a file"""
    text: str | None = None
    number: int | None = 3
    level: Literal[1, 2] = 1
    pair: tuple[int, float] = (1, 0.5)
    paths: tuple[Path, ...] = ()
    maybe: list[int] | None = None


@pytest.mark.parametrize(
    "config",
    [
        Kinds(),
        Kinds(Path("b c"), "x", None, 2, (0, 1.5), (Path("d"), Path("~/e"))),
        Kinds(text="null"),
        Kinds(text="~"),
        Kinds(text=""),
        Kinds(maybe=[]),
    ],
)
def test_paths_optional_values_and_choices_of_numbers_are_saved_and_loaded(
    tmp_path: Path, config: Kinds
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(Kinds(number=7), path) == config


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("level=3", "command line: level: expected 1 | 2, found '3'"),
        ("number=x", "command line: number: expected int | null, found 'x'"),
        ("pair=[1]", "command line: pair: expected tuple[int, float], found a list of 1"),
        ("pair=[1, x]", "command line: pair[1]: expected float, found 'x'"),
        ("pair=[1, 2, 3]", "command line: pair: expected tuple[int, float], found a list of 3"),
        ("maybe=[1, x]", "command line: maybe[1]: expected int, found 'x'"),
        ("maybe=3", "command line: maybe: expected list[int] | null, found '3'"),
        ("path=a\0b", r"command line: path: expected Path, found 'a\x00b'"),
    ],
)
def test_values_of_these_types_are_checked(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Kinds(), None, [word])
    assert str(caught.value) == message
    assert load(Kinds(), None, ["number=null"]).number is None


def test_the_source_of_overrides_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^Task\.defaults: level: expected 1 \| 2"):
        load(Kinds(), None, ["level=3"], source="Task.defaults")


@pytest.mark.parametrize("value", [0.1, 1e-7, 1e22, 2, "auto"])
def test_a_choice_of_numbers_is_loaded_as_it_was_saved(tmp_path: Path, value: Any) -> None:
    hint: Any = Literal[0.1, 1e-7, 1e22, 2, "auto"]
    made = make_dataclass("Made", [("step", hint, 0.1)], frozen=True)
    path = tmp_path / "c.yaml"
    path.write_text(dump(made(value)), encoding="utf-8")
    loaded = load(made(), path)
    assert loaded == made(value)
    assert type(loaded.step) is type(value)
    with pytest.raises(ConfigError, match=r"expected 0\.1 \| 1e-07 \| .*, found '3'"):
        load(made(), None, ["step=3"])


def test_null_on_the_command_line_is_none_only_where_none_is_allowed() -> None:
    assert load(Kinds(text="x"), None, ["text=null"]).text is None
    assert load(Kinds(maybe=[1]), None, ["maybe=null"]).maybe is None
    assert load(Example(), None, ["name=null"]).name == "null"


@dataclass(frozen=True)
class Helped(Optim):
    size: Annotated[int, 1] = 3
    """rows: at
    most # this many"""
    plain: bool = False
    3  # noqa: B018
    other: str = "x"  # a comment is no help


def test_help_is_the_docstring_below_a_field_or_an_inherited_one() -> None:
    assert dump(Helped(), comments=True).splitlines() == [
        "lr: 0.1                         # float: the learning rate",
        "scheduler: cosine               # cosine | constant:",
        "size: 3                         # int >= 1: rows: at most # this many",
        "plain: false                    # bool:",
        "other: x                        # str:",
    ]


@dataclass(frozen=True)
class Rehelped(Optim):
    lr: float = 0.2
    """its own help"""
    inner: Optim = field(default_factory=Optim)


def test_the_help_of_a_class_comes_before_an_inherited_one_and_sections_have_it() -> None:
    assert dump(Rehelped(), comments=True).splitlines() == [
        "lr: 0.2                         # float: its own help",
        "scheduler: cosine               # cosine | constant:",
        "inner:",
        "  lr: 0.1                       # float: the learning rate",
        "  scheduler: cosine             # cosine | constant:",
    ]


def test_help_of_a_class_in_a_function_may_have_lines_at_the_left() -> None:
    @dataclass(frozen=True)
    class Inner:
        size: int = 1
        """rows
and columns"""

    assert dump(Inner(), comments=True).endswith("# int: rows and columns\n")


def test_help_is_empty_for_a_class_without_source() -> None:
    made = make_dataclass("Made", [("size", int, 1)], frozen=True)
    for module in ("types", "nowhere"):
        made.__module__ = module
        assert dump(made(), comments=True).rstrip().endswith("# int:")


def test_a_dump_with_comments_loads_to_an_equal_config(tmp_path: Path) -> None:
    config = Example("a # b\n\x85c", words=["\u2028#"])
    assert read(tmp_path, dump(config, comments=True)) == config


def test_each_option_has_one_line_in_which_a_text_is_as_it_is() -> None:
    name = "\uc774\xe9 " * 100 + "x"
    lines = dump(Example(name, words=["a b"] * 100)).splitlines()
    assert lines[0] == f"name: {name}"
    assert [line.partition(":")[0] for line in lines] == [
        "name", "flag", "count", "ratio", "size", "words", "shares", "size_of_batch", "optim",
        "  lr", "  scheduler",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 1e-17, 1e22])
def test_a_number_keeps_each_of_its_digits(tmp_path: Path, value: float) -> None:
    assert read(tmp_path, dump(Example(ratio=value))).ratio == value
    assert load(Example(), None, [f"ratio={value!r}"]).ratio == value


def test_the_options_of_a_section_have_its_name_before_theirs() -> None:
    values = flat(Example(optim=Optim(lr=0.25)))
    assert list(values) == [
        "name", "flag", "count", "ratio", "size", "words", "shares", "size_of_batch", "optim.lr",
        "optim.scheduler",
    ]  # fmt: skip
    assert (values["optim.lr"], values["size"]) == (0.25, [1, 5])


def test_signs_cases_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    config = read(tmp_path, "\ufeffcount: +5\nflag: TRUE\nratio: -.inf\n", "size=[-0, +7]")
    assert (config.count, config.flag, config.ratio) == (5, True, float("-inf"))
    assert config.size == (0, 7)


def test_an_integer_has_at_most_18_digits(tmp_path: Path) -> None:
    assert read(tmp_path, "count: " + "9" * 18).count == 10**18 - 1
    assert "expected int, found" in error(tmp_path, "count: " + "9" * 19)


def test_a_config_as_plain_values() -> None:
    assert plain(Example(size=(1, 2)))["size"] == [1, 2]
    assert plain(Kinds())["path"] == "a"
    assert plain(Example())["optim"] == {"lr": 0.5, "scheduler": "cosine"}


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (dict, "dict"),
        (dict[int, str], "dict[int, str]"),
        (dict[str, set[int]], "dict[str, set[int]]"),
        (int | str | None, "int | str | None"),
        (list, "list"),
        (list[set[int]], "list[set[int]]"),
        (Literal[1, "1"], "Literal[1, '1']"),  # saved, they are the same text
        (Literal[True], "Literal[True]"),
        (Annotated[int, "rows"], "Annotated[int, 'rows']"),
        (Annotated[str, 1], "Annotated[str, 1]"),
        (tuple[()], "tuple[()]"),
        (list[Optim], "Optim]"),
        (Any, "Any"),
    ],
)
def test_a_field_type_that_cannot_be_saved_is_refused_at_once(hint: Any, name: str) -> None:
    odd = make_dataclass("Odd", [("good", int, 1), ("table", hint, None)], frozen=True)
    with pytest.raises(ConfigError) as caught:
        load(odd())
    before, _, after = str(caught.value).partition(" cannot be saved and loaded again; use ")
    assert before.startswith("Odd.table: the type ")
    assert before.endswith(name)
    assert after.startswith("bool, int, float, str, Path, ")


@dataclass(frozen=True)
class Factors:
    groups: dict[str, Annotated[float, 0]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)


def test_a_dict_is_read_from_a_file_and_from_the_command_line_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("groups:\n  z.*: 0.5\n  a.b: 0\nnames: {one: [x], '2': []}\n", "utf-8")
    config = load(Factors(), path)
    assert list(config.groups.items()) == [("z.*", 0.5), ("a.b", 0.0)]
    assert config.names == {"one": ["x"], "2": []}
    path.write_text(dump(config, comments=True), "utf-8")
    again = load(Factors(), path)
    assert list(again.groups.items()) == list(config.groups.items())
    assert again == config
    override = load(Factors(), path, ['groups={"*": 1}'])
    assert override.groups == {"*": 1.0}
    assert override.names == config.names
    assert flat(override) == {"groups": {"*": 1.0}, "names": {"one": ["x"], "2": []}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {a: -1}", "1: groups[a]: expected float >= 0, found '-1'"),
        ("groups:\n  a: 1\n  a: 2", "1: groups[a]: is set twice"),
        ("groups: [a, b]", "1: groups: expected dict[str, float >= 0], found a list of 2"),
        ("groups: [a]", "1: groups: expected dict[str, float >= 0], found a list of 1"),
        ("groups: a", "1: groups: expected dict[str, float >= 0], found 'a'"),
        ("groups: {[a]: 1}", "1: groups: expected texts as keys, found a list of 1"),
        ("names: {a: b}", "1: names[a]: expected list[str], found 'b'"),
    ],
)
def test_what_is_wrong_in_a_dict_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(Factors(), path)
    assert str(caught.value) == f"{path}:{message}"


def test_only_fields_of_the_constructor_are_options() -> None:
    @dataclass(frozen=True)
    class Some:
        unit: ClassVar[str] = "m"
        size: int = 1
        double: int = field(init=False, default=2)

    assert dump(Some(3)) == "size: 3\n"
    assert load(Some(), None, ["size=3"]) == Some(3)
    with pytest.raises(ConfigError, match="command line: unit: unknown key"):
        load(Some(), None, ["unit=km"])


def test_a_config_error_is_a_value_error_with_the_exit_code_of_a_wrong_config() -> None:
    assert issubclass(ConfigError, ValueError)
    assert ConfigError.exit_code == 2


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices on Windows")
def test_a_device_that_never_ends_is_no_config() -> None:
    with pytest.raises(ConfigError, match="too large for a config file"):
        load(Example(), Path("/dev/zero"))
