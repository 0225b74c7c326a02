"""Tables of map files: parameters, optional entries and options of a plan."""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle

import tf2flax
from tf2flax import src
from tf2flax._jax.options import check_options
from tf2flax._writing.toml_values import toml_value

HEADS = """
[parameters]
heads = 4
last = 3
scale = 0.5
part = "enc{x}"
minus = -1

[options]
on_missing = "keep"
dtype = [["^step", "int32"], ["", "float32"]]

[assignment_map]
'src("q").reshape(heads, minus)' = "q{heads}"
'layer_{last-1}/w' = "last"
"{part}/w" = "w"

[optional]
"none/" = "none/"
'src("absent")' = "here"
"""


def write(folder: pathlib.Path, text: str, name: str = "map.toml") -> pathlib.Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    names = ("q", "layer_2/w", "layer_4/w", "enc{x}/w", "other/w")
    tensors = {name: Tensor(np.arange(8, dtype="f4")) for name in names}
    write_bundle(tmp_path / "m", tensors)
    return tmp_path / "m"


def leaves(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: np.full(shape, 7, "f4") for name, shape in shapes.items()}


def test_parameters_stand_in_names_and_expressions(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, HEADS)
    loaded = tf2flax.load_map(path)
    assert list(loaded) == [
        src("q").reshape(4, -1), "layer_2/w", "enc{{x}}/w", "none/", src("absent"),
    ]  # fmt: skip
    assert loaded[src("q").reshape(4, -1)] == "q4"
    loaded = tf2flax.load_map(path, heads=np.int64(2), last=5, part="other")
    assert list(loaded)[:3] == [src("q").reshape(2, -1), "layer_4/w", "other/w"]
    assert loaded.parameters == {
        "heads": 2, "last": 5, "scale": 0.5, "part": "other", "minus": -1,
    }  # fmt: skip


# Parameters of the call, or another line of the file, and what is said.
WRONG: dict[str, tuple[dict[str, Any], tuple[str, str], str]] = {
    "unknown": ({"head": 3}, ("", ""), "has no parameter `head`. Did you mean `heads`"),
    "a kind": ({"heads": [3]}, ("", ""), r"`heads`: expected an integer, .*got \[3\]"),
    "a switch": ({"heads": True}, ("", ""), "`heads`: expected an integer"),
    "below zero": ({"last": 0}, ("", ""), r"map.toml:15: .*\{last-1\} is no number"),
    "not a number": ({"last": "x"}, ("", ""), r"map.toml:15: .*`x`"),
    "a variable": (
        {}, ("reshape(heads,", "reshape(haeds,"),
        "map.toml:14: .*no parameter `haeds`. Did you mean `heads`",
    ),
    "a capture": (
        {}, ('"{part}/w"', '"{parts}/w"'),
        r"map.toml:16: .*capture \{parts\} .*Did you mean the parameter \{part\}",
    ),
    "a table": ({}, ("heads = 4", "heads = {a = 1}"), "map.toml:3: parameter `heads`"),
    "a date": ({}, ("heads = 4", "heads = 1979-05-27"), "map.toml:3: parameter"),
    "a name": ({}, ("heads = 4", "'a b' = 4"), "map.toml:3: parameter 'a b'"),
    "path": ({}, ("heads = 4", "path = 4"), "map.toml:3: .*argument of tf2flax.load"),
    "an option": (
        {}, ("on_missing =", "on_mising ="),
        "map.toml:10: plan has no option `on_mising`. Did you mean `on_missing`",
    ),
    "an option's value": (
        {}, ('"keep"', '"kept"'), "map.toml:10: Option on_missing: expected 'error'"
    ),
    "what a call alone can say": (
        {}, ('on_missing = "keep"', "mesh = 3"), "map.toml:10: .*Give it in the call"
    ),
    "another table": ({}, ("[optional]", "[optionals]"), "Did you mean `optional`"),
    "one key in two tables": (
        {}, ('"none/" =', '"layer_{last-1}/w" ='), "map.toml:19: .*or in another table"
    ),
    "one entry in two tables": (
        {}, ('"none/" = "none/"', '"layer_{last-1}/w" = "last"'), "map.toml:15 as well"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_wrong_names_file_and_line(name: str, tmp_path: pathlib.Path) -> None:
    given, (old, new), message = WRONG[name]
    assert not old or HEADS.count(old) == 1
    path = write(tmp_path, HEADS.replace(old, new))
    with pytest.raises(tf2flax.AssignmentError, match=message):
        tf2flax.load_map(path, **given)


def test_optional_entries_reach_nothing_without_a_word(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    loaded = tf2flax.load_map(write(tmp_path, HEADS.replace('"keep"', '"error"')))
    target = leaves(q4=(4, 2), last=(8,), w=(8,), here=(8,))
    plan = tf2flax.plan(prefix, loaded, target)
    assert plan.kept == ("here",)
    assert plan.unused_rules == ()
    tree = plan.restore()
    assert tree["here"] is target["here"]
    assert tree["q4"].tolist() == np.arange(8.0).reshape(4, 2).tolist()


def test_a_map_of_optional_entries_may_fill_nothing(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = write(tmp_path, '[optional]\n"none/" = "none/"\n"absent" = "w"\n')
    target = leaves(w=(8,))
    tree = tf2flax.init_from_checkpoint(prefix, tf2flax.load_map(path), target)
    assert tree["w"] is target["w"]
    # The same entries without the file are mistakes.
    with pytest.raises(tf2flax.AssignmentError, match="absent"):
        tf2flax.init_from_checkpoint(prefix, dict(tf2flax.load_map(path)), target)


def test_an_optional_entry_keeps_its_leaf_from_weaker_ones(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = '[assignment_map]\n"other/" = "p/"\n[optional]\n\'src("no")\' = "p/w"\n'
    target = {"p": leaves(w=(8,))}
    plan = tf2flax.plan(prefix, tf2flax.load_map(write(tmp_path, text)), target)
    assert plan.kept == ("p/w",)


@pytest.mark.parametrize("call", ["plan", "init_from_checkpoint", "warm_start"])
def test_options_of_a_file_count_unless_the_call_gives_them(
    call: str, prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = '[options]\non_missing = "keep"\ndtype = "bfloat16"\n' + (
        '[assignment_map]\n"q" = "q"\n"absent" = "w"\n'
    )
    loaded = tf2flax.load_map(write(tmp_path, text))
    target = leaves(q=(8,), w=(8,))

    def restore(**options: Any) -> Mapping[str, Any]:
        if call == "plan":
            return tf2flax.plan(prefix, loaded, target, **options).restore()
        if call == "warm_start":
            init = tf2flax.warm_start(lambda: target, prefix, loaded, **options)
            return init()
        return tf2flax.init_from_checkpoint(prefix, loaded, target, **options)

    tree = restore()
    assert tree["q"].dtype == "bfloat16"
    assert tree["w"].tolist() == [7] * 8
    # Values of the call win, also those that are the defaults.
    assert restore(dtype=None)["q"].dtype == "float32"
    with pytest.raises(tf2flax.AssignmentError, match="absent"):
        restore(on_missing="error")


def test_what_a_map_knows_stays_when_it_is_copied_or_joined(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    loaded = tf2flax.load_map(write(tmp_path, HEADS))
    joined = loaded | {"other/w": "more"}
    added = {"other/w": "more"} | loaded
    grown = loaded.copy()
    grown |= (pair for pair in [("other/w", "more")])
    assert "other/w" not in loaded
    target = leaves(q4=(4, 2), last=(8,), w=(8,), more=(8,))
    for one in (
        joined,
        added,
        grown,
        copy.copy(joined),
        pickle.loads(pickle.dumps(joined)),
    ):
        assert one.options == loaded.options
        assert one.parameters == loaded.parameters
        plan = tf2flax.plan(prefix, one, target)
        assert len(plan.assignments) == 4
        places = {a.leaf: a.entry.place for a in plan.assignments}
        assert places["last"].endswith("map.toml:15")
        assert places["more"] == ""
    assert not hasattr(dict(loaded), "options")
    with pytest.raises(tf2flax.AssignmentError, match="no leaf `here`"):
        tf2flax.plan(prefix, dict(loaded) | {"other/w": "no"}, target)


def test_pairs_know_as_much(prefix: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = """
optional = [["absent", "w"]]
assignment_map = [
    ["q", "a{n}"],
    ["q", "b"],
]
[parameters]
n = 1
[options]
dtype = "bfloat16"
"""
    loaded = tf2flax.load_map(write(tmp_path, text))
    target = leaves(a1=(8,), b=(8,), w=(8,), c=(8,))
    more = [("q", "c")]
    for one in (loaded + more, more + loaded, loaded.copy()):
        tree = tf2flax.init_from_checkpoint(prefix, one, target)
        assert tree["b"].dtype == "bfloat16"
        assert tree["w"] is target["w"]
    path = tmp_path / "saved.toml"
    tf2flax.save_map(path, loaded)
    again = tf2flax.load_map(path)
    assert again == [("q", "a1"), ("q", "b"), ("absent", "w")]
    assert again.facts.optional == {("absent", "w")}
    assert again.options == {"dtype": "bfloat16"}


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_saved_maps_have_values_in_place_of_parameters(
    suffix: str, tmp_path: pathlib.Path
) -> None:
    loaded = tf2flax.load_map(write(tmp_path, HEADS), heads=2)
    path = tmp_path / f"saved{suffix}"
    tf2flax.save_map(path, loaded)
    assert "heads" not in path.read_text()
    again = tf2flax.load_map(path)
    assert again == loaded
    assert again.options == loaded.options
    assert again.facts.optional == loaded.facts.optional
    assert again.parameters == {}


def test_options_of_every_kind_are_written(tmp_path: pathlib.Path) -> None:
    options = {
        "aliases": {"scale": ["gamma", "g a"], "bias": []}, "verify": False,
        "on_mismatch": [["^head/", "keep"]], "max_in_flight_bytes": 1 << 20,
        "strategy": "local", "on_uneven": "replicate",
        "logical_axis_rules": [["embed", "data"], ["mlp", ["a", "b"]]],
    }  # fmt: skip
    text = json.dumps({"assignment_map": {"a": "b"}, "options": options})
    loaded = tf2flax.load_map(write(tmp_path, text, "map.json"))
    tf2flax.save_map(tmp_path / "saved.toml", loaded)
    again = tf2flax.load_map(tmp_path / "saved.toml")
    assert again.options == options
    checked = check_options("plan", {}, again)
    assert checked.logical_axis_rules == (("embed", "data"), ("mlp", ("a", "b")))


def test_null_in_json_means_no_aliases(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = '{"options": {"aliases": null}, "assignment_map": {"other/": "p/"}}'
    loaded = tf2flax.load_map(write(tmp_path, text, "map.json"))
    for one in (loaded, None):
        if one is None:
            tf2flax.save_map(tmp_path / "saved.toml", loaded)
            one = tf2flax.load_map(tmp_path / "saved.toml")
        assert tf2flax.plan(prefix, one, {"p": leaves(w=(8,))}).nbytes == 32


def test_comments_of_every_table_stay(tmp_path: pathlib.Path) -> None:
    text = """# About the map.

# About the parameters.
[parameters]
n = 1  # gone with the table

# About the entries.
[assignment_map]
# About a.
"a{n}" = "b"  # behind a

# About the rest.
[optional]
"c" = "d"  # behind c

[options]
# About the dtype.
dtype = "bfloat16"  # behind it
# The end.
"""
    path = write(tmp_path, text)
    tf2flax.save_map(path, tf2flax.load_map(path), overwrite=True)
    expected = text.replace("[parameters]\nn = 1  # gone with the table\n", "")
    expected = expected.replace('# About a.\n"a{n}" = "b"  # behind a', '"a1" = "b"')
    assert path.read_text() == expected


def test_options_that_become_wrong_later_name_their_place(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = '[options]\ndtype = "bfloat16"\n[assignment_map]\n"q" = "q"\n'
    loaded = tf2flax.load_map(write(tmp_path, text))
    options: Any = loaded.options
    options["dtype"] = 3
    with pytest.raises(tf2flax.AssignmentError, match=r"map.toml:2: "):
        tf2flax.plan(prefix, loaded, {"q": jax.ShapeDtypeStruct((8,), "float32")})


def test_an_entry_is_optional_only_where_each_map_says_so(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    optional = write(
        tmp_path, '[assignment_map]\n"q"="x"\n[optional]\n"head/w"="head"\n', "a.toml"
    )
    needed = write(tmp_path, '[assignment_map]\n"head/w"="head"\n', "b.toml")
    one, other = tf2flax.load_map(optional), tf2flax.load_map(needed)
    grown = one.copy()
    grown |= {"head/w": "head"}
    target = leaves(x=(8,), head=(8,))
    for entries in (one | other, other | one, one | {"head/w": "head"}, grown):
        with pytest.raises(tf2flax.AssignmentError, match="head/w"):
            tf2flax.plan(prefix, entries, target)
    assert tf2flax.plan(prefix, one | {"q": "x"}, target).kept == ("head",)
    text = 'optional=[["a","b"]]\nassignment_map=[["a","b"]]\n'
    with pytest.raises(tf2flax.AssignmentError, match=r"c.toml:[12] as well"):
        tf2flax.load_map(write(tmp_path, text, "c.toml"))


# Text, and the line that is wrong.
LINES: dict[str, tuple[str, int]] = {
    "a value is a later key": ('[assignment_map]\n"a" = "b"\n"b" = "c{"\n', 3),
    "a pair's value is a later key": (
        'assignment_map = [\n["a",\n"b"],\n["b", "c{"],\n]\n', 4
    ),
    "an option's value is a later key": (
        '[options]\non_missing = [["dtype","keep"]]\ndtype = "nonsense"\n'
        '[assignment_map]\n"a"="b"\n',
        3,
    ),
    "an option that is a table": (
        '[assignment_map]\n"options" = "b"\n\n[options.dtype]\n"kernel" = "float3"\n', 4
    ),
    "an option of several parts": (
        '[assignment_map]\n"a" = "b"\n[options]\ndtype.kernel = "float3"\n', 4
    ),
    "options in one line": (
        'options = {verify = 3}\n[assignment_map]\n"a" = "b"\n', 1
    ),
    "json": ('{"assignment_map": {\n"a": "b",\n"b"\n: "c{"}}', 3),
    "pairs in json": ('{"assignment_map": [\n["a",\n"b"],\n["b", "c{"]]}', 4),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LINES))
def test_lines_are_those_of_keys(name: str, tmp_path: pathlib.Path) -> None:
    text, line = LINES[name]
    path = write(tmp_path, text, "m.json" if text.startswith("{") else "m.toml")
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.load_map(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


# Options as a file gives them, and what is proposed: pairs, as the file has them.
PROPOSED: dict[str, tuple[object, str]] = {
    "dtype": ({"kernel": "float16"}, 'Write pairs: [["kernel$", "bfloat16"]].'),
    "on_missing": ("kept", 'Write [["^head/", "keep"]] for some leaves.'),
    "on_mismatch": ([["head"]], 'Write [["^head/", "keep"]].'),
    "on_unused": (3, 'Write [["^head/", "ignore"], ["", "error"]] for some tensors.'),
    "logical_axis_rules": (["a"], 'Write [["embed", "data"], ["mlp", "model"]].'),
    "aliases": ({"scale": "gamma"}, 'Write {"scale": ["gamma"]}.'),
}


@pytest.mark.parametrize("option", list(PROPOSED))
def test_advice_is_in_the_language_of_the_file(
    option: str, tmp_path: pathlib.Path
) -> None:
    value, advice = PROPOSED[option]
    document = {"assignment_map": {"a": "b"}, "options": {option: value}}
    for suffix, text in (
        ("json", json.dumps(document)),
        (
            "toml",
            f"[assignment_map]\na = 'b'\n[options]\n{option} = {toml_value(value)}",
        ),
    ):
        with pytest.raises(tf2flax.AssignmentError) as caught:
            tf2flax.load_map(write(tmp_path, text, f"m.{suffix}"))
        proposed = advice if suffix == "json" else advice.replace(': ["g', ' = ["g')
        assert str(caught.value).endswith(proposed)
        # What is proposed can be pasted.
        start = re.search(r"[\[{].*[\]}]", proposed)
        assert start
        pasted = text.replace(
            json.dumps(value) if suffix == "json" else toml_value(value), start[0]
        )
        assert tf2flax.load_map(write(tmp_path, pasted, f"m.{suffix}")) == {"a": "b"}


def test_a_misspelt_parameter_in_a_value_is_no_capture(tmp_path: pathlib.Path) -> None:
    text = '[parameters]\nscope = "enc"\n[assignment_map]\n"e/w" = "{scop}/w"\n'
    with pytest.raises(tf2flax.AssignmentError, match=r"parameter \{scope\}"):
        tf2flax.load_map(write(tmp_path, text))
    path = write(tmp_path, text.replace("{scop}/w", "{any}/w"))
    assert tf2flax.load_map(path) == {"e/w": "{any}/w"}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("n * src('a')", 2 * src("a")),
        ("-(n) * src('a') + n", -2 * src("a") + 2),
        ("1 - n * src('a')", 1 - 2 * src("a")),
        (".5 * src('a')", 0.5 * src("a")),
        ("2. * src('a')", 2.0 * src("a")),
        ("src('a')[:, n : 2 * n + 1]", src("a")[:, 2:5]),
        ("src('a').reshape(n * 3, 1 - n)", src("a").reshape(6, -1)),
        (
            "src('a').pad(((0, n - 2), (n * 2, 0)), fill=n * .5 + 2j)",
            src("a").pad(((0, 0), (4, 0)), fill=1 + 2j),
        ),
        ("n-src/a", "n-src/a"),
        # All ways to cut it into numbers would take years.
        ("1." * 60, "1." * 60),
    ],
)
def test_numbers_and_parameters_begin_expressions(
    key: str, wanted: tf2flax.Expression | str, tmp_path: pathlib.Path
) -> None:
    text = f'[parameters]\nn = 2\n[assignment_map]\n"{key}" = "x"\n'
    assert [*tf2flax.load_map(write(tmp_path, text))] == [wanted]
    # A misspelt one is no name either.
    with pytest.raises(tf2flax.AssignmentError, match="there is no parameter `m`"):
        tf2flax.load_map(write(tmp_path, text.replace(key, "m * src('a')")))


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("src('a')[n / 2]", "`2 / 2` is not a value"),
        ("src('a')[n * True]", "`2 * True` is not a value"),
        ("src('a').reshape(n * 'b')", "`2 * 'b'` is not a value"),
        ("src('a')[n * 9223372036854775808]", "is not a value"),
        ("src('a')[" + "n * " * 99 + "n]", "is not a value"),
    ],
)
def test_what_is_not_computed(key: str, found: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, f'[parameters]\nn = 2\n[assignment_map]\n"{key}" = "x"\n')
    with pytest.raises(tf2flax.AssignmentError, match=re.escape(found)):
        tf2flax.load_map(path)


def test_a_variable_without_parameters(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, '[assignment_map]\n"src(\'a\').reshape(n, -1)" = "x"\n')
    with pytest.raises(tf2flax.AssignmentError, match=r"the table \[parameters\]"):
        tf2flax.load_map(path)


def test_an_entry_that_is_optional_as_well_is_named_once(
    tmp_path: pathlib.Path,
) -> None:
    text = '[assignment_map]\n"a" = "b"\n[optional]\n"a" = "b"\n'
    path = write(tmp_path, text)
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.load_map(path)
    assert str(caught.value) == f'{path}:4: "a": this entry stands in {path}:2 as well.'


def test_parameters_are_text_and_no_patterns(tmp_path: pathlib.Path) -> None:
    text = (
        '[parameters]\nn = "a{i}"\n[assignment_map]\n"x/{n}" = "x"\n\'src(n)\' = "y"\n'
    )
    loaded = tf2flax.load_map(write(tmp_path, text))
    assert list(loaded) == ["x/a{{i}}", src("a{{i}}")]


def test_none_is_not_written(tmp_path: pathlib.Path) -> None:
    text = '{"assignment_map":{"a":"b"},"options":{"dtype":null,"verify":false}}'
    loaded = tf2flax.load_map(write(tmp_path, text, "map.json"))
    tf2flax.save_map(tmp_path / "saved.toml", loaded)
    assert tf2flax.load_map(tmp_path / "saved.toml").options == {"verify": False}


def test_a_copy_has_options_of_its_own(tmp_path: pathlib.Path) -> None:
    loaded = tf2flax.load_map(write(tmp_path, HEADS))
    options: Any = loaded.copy().options
    options["on_missing"] = "error"
    assert loaded.options["on_missing"] == "keep"


def test_comments_of_pairs_stay_with_their_pair(tmp_path: pathlib.Path) -> None:
    text = """assignment_map = [
    # c1
    ["a", "b"],  # c2
    ["a", "c"],
    # c3
    ["a", "d"],
]
"""
    path = write(tmp_path, text)
    tf2flax.save_map(path, tf2flax.load_map(path), overwrite=True)
    assert path.read_text() == text


def test_a_key_twice_in_parameters_is_to_be_left_out(tmp_path: pathlib.Path) -> None:
    text = '{"parameters":{"a":1,"a":2},"assignment_map":{"x{a}":"y"}}'
    with pytest.raises(tf2flax.AssignmentError, match=r"occurs twice\. Leave one out"):
        tf2flax.load_map(write(tmp_path, text, "m.json"))


def test_signs_and_transposes_in_files_read_as_in_python(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = """[assignment_map]
'2 - src("q").T' = "a"
'src("q")*+2' = "b"
"""
    loaded = tf2flax.load_map(write(tmp_path, text))
    assert list(loaded) == [2 - src("q").T, src("q") * 2]
    text = text.replace('src("q")*+2', '+src("q")')
    with pytest.raises(tf2flax.AssignmentError, match=r"begins with a \+"):
        tf2flax.load_map(write(tmp_path, text))


def test_bools_with_numbers_are_written_back(tmp_path: pathlib.Path) -> None:
    stored = {"b": np.array([True, False])}
    target = {"x": np.zeros(2, np.bool_)}
    plan = tf2flax.plan(stored, {src("b") + 0: "x"}, target)
    changed = {"x": np.array([True, True])}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", changed, plan=plan)
    assert tf2flax.load_variable(prefix, "b").tolist() == [True, True]
