"""Foreign files are read as plain data or refused in one line; saved configs are held against the shipped ones."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun.config import stage_config
from kdrun.errors import KdrunError, UsageError
from kdrun.lookup import conf_dir
from kdrun.records import foreign
from kdrun.records.foreign import calls_resolver, check_config_folder, read_json, read_yaml
from kdrun.saved import checked_run_config, checked_spec
from tests.conftest import mutated

SPEC = {
    "kind": "cnn",
    "options": {"widths": [8, 16]},
    "classes": ["a", "b"],
    "channels": 1,
    "size": 8,
    "network_channels": 1,
    "mean": [0.5],
    "std": [0.2],
    "resize": None,
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x", "aliases"),
        ("a: &x 1", "aliases"),
        ("a: !!python/object/apply:os.system [x]", "tags"),
        ("a: !!str 1", "tags"),
        ("a: !mine 1", "tags"),
        ("a: 2020-01-01", "a date is no plain value"),
        ("a: 2020-99-99", "month"),
        ("a: .nan", "finite"),
        ("a: [-.inf]", "finite"),
        (f"a: {'9' * 30}", "finite and within"),
        (f"a: {'9' * 5000}", "limit"),
        ("a: " + "[" * 50 + "]" * 50, "levels"),
        ("a: " + "{b: " * 100_000, "levels"),
        (f"a: [{'1,' * 30_000}]", "values"),
        ("1.5: a", "must be a word"),
        ("[1, 2]", "no mapping"),
        ("", "no mapping"),
        ("a: [", "line 2"),
        ("a: \x00", "cannot be read"),
    ],
)
def test_yaml_that_is_more_than_data_is_refused_in_a_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(KdrunError, match=reason) as refused:
        read_yaml(tmp_path / "config.yaml")
    assert str(refused.value).startswith(str(tmp_path))
    assert "\n" not in str(refused.value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key != "hydra"), PLAIN, max_size=5))
def test_plain_data_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "config.yaml").write_text(yaml.safe_dump({**content, "hydra": 1}, allow_unicode=False))
    (folder / "run.json").write_text(json.dumps(content))
    assert read_yaml(folder / "config.yaml") == content
    assert read_json(folder / "run.json") == content


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "1e999", "[" * 100_000, "[" * 30 + "]" * 30, "{", "9" * 5000, ""]
)
def test_json_that_is_more_than_data_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(KdrunError, match=r"cannot be read as JSON") as refused:
        read_json(tmp_path / "run.json")
    assert "\n" not in str(refused.value)


def test_files_that_are_no_files_are_not_read(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside.json"
    run.mkdir()
    outside.write_text("{}")
    os.mkfifo(run / "pipe")
    (run / "zero").symlink_to("/dev/zero")
    (run / "away").symlink_to(outside)
    (run / "circle").symlink_to("circle")
    (run / "big").write_bytes(b" " * 11)
    (run / "bytes").write_bytes(b"\xff")
    reasons = {
        "pipe": "not a regular file",
        "zero": "leads out",
        "away": "leads out",
        "circle": "cannot be read",
        "big": "larger than",
        "bytes": "no text",
        "absent": "No such file",
        ".": "cannot be read|not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(KdrunError, match=reason):
            read_json(run / name, most=10)
    (run / "sound.json").write_text("{}")
    (run / "near").symlink_to("sound.json")
    assert read_json(run / "near") == {}
    (tmp_path / "link").symlink_to(run)
    assert read_json(tmp_path / "link" / "near") == {}


def test_a_reader_without_its_check_is_noticed(tmp_path: Path) -> None:
    lax = mutated(foreign, "isinstance(event, yaml.AliasEvent) or", "False and")
    (tmp_path / "config.yaml").write_text("a: &x [1]\nb: *x")
    assert lax.read_yaml(tmp_path / "config.yaml") == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("experiment/x.yaml", "hydra: {callbacks: {}}"),
        ("experiment/x.yaml", "hydra.callbacks: {}"),
        ("experiment/x.yaml", "defaults:\n  - override /hydra/launcher: joblib"),
        ("experiment/x.yaml", "# @package hydra.callbacks\nx: 1"),
        ("model/x.yaml", "kind: mlp\nwidths: {_target_: os.system}"),
        ("model/x.yaml", "name: ${oc.env:HOME}"),
        ("model/x.yaml", "names: ['a${ oc.decode:x}']"),
        ("model/x.yaml", "name: ${oc.${kind}:HOME}"),
        ("hydra/launcher/x.yaml", "a: 1"),
        ("model/x.yaml", "a: &x 1\nb: *x"),
    ],
)
def test_a_folder_of_configs_that_could_do_something_is_refused(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml"):
        check_config_folder(tmp_path)
    (tmp_path / file).unlink()
    check_config_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("seed=${teacher.seed}", False),
        ("loss={terms: {kd: ${a[0]}}, x: ${..b}}", False),
        ("${models.${ name }}", False),
        ("${a}: ${b}", False),
        ("${oc.env:HOME}", True),
        ("{a: ${seed}, b: ${ oc.env : HOME}}", True),
        (r"$\{oc.env\:HOME\}", True),
        ("${oc.${kind}:HOME}", True),
        ("${a.${oc.env:HOME}}", True),
        ("${now:}", True),
    ],
)
def test_what_calls_a_resolver_and_what_refers_to_a_key(text: str, calls: bool) -> None:
    assert calls_resolver(text) == calls


def test_the_shipped_options_would_pass() -> None:
    for folder in conf_dir().iterdir():
        if folder.is_dir() and folder.name != "hydra":  # kdrun's own to set, and no folder of a user's may
            check_config_folder(folder)


# --------------------------------------------------------------------------------------------------- saved configs

WORDS = [
    ("train", ["model=torchvision", "dataset=image_folder", "augment=[crop,mixup]", "schedule=multistep"]),
    ("train_teacher", ["optimizer=adamw", "teacher.rename={a: b}", "teacher.checkpoint=x.pt", "grad_clip=1"]),
    ("distill", ["loss=soft_ce", "augment@teacher.train.augment=[flip]", "optimizer@teacher.train.optimizer=adam"]),
    ("distill", ["loss=hard", "student=wrn_16_2", "teacher=mlp", "teacher.run=there", "device=cpu"]),
    ("evaluate", ["run=there"]),
    ("evaluate", ["model=resnet8", "model.checkpoint=x.pt", "dataset=usps"]),
]


@pytest.fixture(scope="module")
def saved() -> list[dict[str, Any]]:
    return [stage_config(stage, words) for stage, words in WORDS]


def test_what_kdrun_saves_it_accepts_unchanged(saved: list[dict[str, Any]]) -> None:
    for config in saved:
        assert repr(checked_run_config(config)) == repr(config)


def test_what_an_older_run_lacks_is_filled_in(saved: list[dict[str, Any]]) -> None:
    older = {key: value for key, value in saved[0].items() if key not in ("resume", "checkpoint")}
    assert checked_run_config(older) == saved[0]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("stage", "os.system", r"stage=os\.system: allowed: train, distill, evaluate"),
        ("model._target_", "os.system", r"unknown key model\._target_"),
        ("plugins", ["a"], "unknown key plugins"),
        ("model.kind", "building", r"model\.kind=building: there is no such kind"),
        ("model.kind", ["mlp"], "there is no such kind"),
        ("dataset.kind", "files", r"dataset\.kind=files"),
        ("dataset.validation", 2.0, "between 0.0 and 0.9"),
        ("epochs", True, "whole number"),
        ("epochs", 10**9, "between 1 and"),
        ("optimizer", "sgd", "optimizer"),
        ("augment", {"os": {}}, r"unknown key augment\.os"),
        ("augment", [1], "augment"),
        ("loss.terms", {"x": {"kind": "os"}}, r"loss\.terms\.x\.kind=os"),
        ("loss.terms", 7, r"loss\.terms"),
        ("loss.task.kind", "os", "allowed: cross_entropy"),
        ("model", None, "model"),
        ("dataset", [], "dataset"),
        ("device.name", "/dev/sda", r"device\.name"),
        ("data_dir", 7, "must be a path"),
        ("run_dir", {"a": 1}, "must be a path"),
    ],
)
def test_a_changed_config_is_refused_in_a_line(
    saved: list[dict[str, Any]], path: str, value: object, reason: str
) -> None:
    config = copy.deepcopy(saved[0])
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[key]
    node[last] = value
    with pytest.raises(UsageError, match=reason) as refused:
        checked_run_config(config, Path("theirs"))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("theirs/config.yaml: ")


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = (
        [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))] if isinstance(node, dict) else []
    )
    return [*([path] if path else []), *inner]


@settings(max_examples=150, deadline=None)
@given(st.data(), PLAIN)
def test_whatever_a_config_holds_the_answer_is_a_config_or_a_line(data: st.DataObject, value: object) -> None:
    config = copy.deepcopy(FUZZED)
    *parents, last = data.draw(st.sampled_from(leaves(config)))
    node = config
    for key in parents:
        node = node[key]
    node[last] = value
    said = ""
    try:
        checked_run_config(config)
    except UsageError as error:
        said = str(error)
    assert "\n" not in said


FUZZED = stage_config(*WORDS[2])


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "building"},
        {"kind": None},
        {"options": {"widths": [8], "x": 1}},
        {"options": {"widths": "os"}},
        {"options": []},
        {"classes": 10**9},
        {"classes": []},
        {"classes": [1]},
        {"channels": -1},
        {"channels": 10**6},
        {"size": "8"},
        {"size": 4999, "channels": 1000},
        {"mean": [[0.5]]},
        {"mean": [float("nan")]},
        {"std": [0.0]},
        {"resize": 10**9},
        {"mean": [0.5, 0.5]},
    ],
    ids=str,
)
def test_a_spec_that_is_none_of_kdrun_s_is_refused(change: dict[str, Any]) -> None:
    assert checked_spec(SPEC, Path("model.pt")) == SPEC
    with pytest.raises(UsageError, match=r"model file model\.pt: "):
        checked_spec({**SPEC, **change}, Path("model.pt"))


def test_every_shipped_model_has_a_spec_that_is_accepted() -> None:
    for file in (conf_dir() / "model").glob("*.yaml"):
        option = {key: value for key, value in read_yaml(file).items() if key != "limits"}
        kind = option.pop("kind")
        checked_spec({**SPEC, "kind": kind, "options": option}, file)
