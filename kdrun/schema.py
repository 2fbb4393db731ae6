"""Values held against a schema: the defaults of an option and, in a `limits` node beside them, their ranges.

An option's YAML is its schema, so that a new option needs no second file. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from kdrun.errors import brief, suggestion
from kdrun.terms import course_schema

Plain = dict[str, Any]  # a config, or a node of one: nothing but dictionaries, lists, words and numbers

LONGEST_WORD = 1000  # characters


def violations(values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line for each value that is unknown to the schema, of another type than its default, or out of limits."""
    limits = schema.get("limits") or {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key == "limits":
            continue
        if key == "kind" and key in schema and key not in limits and value != schema[key]:
            node = prefix.rstrip(".")
            yield f"{path}={brief(value)}: a kind comes with its own options; choose it with {node}=<name>"
        elif key not in schema:
            known = [one for one in schema if one != "limits"]
            yield f"unknown key {brief(path)}; {suggestion(str(key), known, most=20)}"
        elif isinstance(value, dict) and isinstance(schema[key], dict):
            yield from violations(value, schema[key], f"{path}.")
        elif isinstance(value, dict) and _may_change(key, schema):
            if not value.keys() >= {"from", "to"}:
                yield f"{path}={brief(value)}: a course over the training needs from and to, as {{from: 4, to: 1}}"
            yield from violations(value, course_schema(schema[key], limits.get(key)), f"{path}.")
        else:
            yield from _wrong_type(path, value, schema[key], limits.get(key))


def _may_change(key: str, schema: Mapping[str, Any]) -> bool:
    """May this be a course over the training? The weights and the numbers of a loss may, and nothing else."""
    of_a_loss = "weight" in schema or "alpha" in schema
    return of_a_loss and isinstance(schema[key], float) and key not in ("warmup", "first")


def sound(values: Plain, schema: Plain) -> Plain:
    """A copy with the default in place of each value that `violations` names: what can be looked at further."""
    kept: Plain = {}
    for key, value in values.items():
        default = schema.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            kept[key] = sound(value, default)
        elif key in schema or key == "limits":
            kept[key] = default if any(violations({key: value}, schema)) else value
    return kept


def _wrong_type(path: str, value: Any, default: Any, limit: list[Any] | None) -> Iterator[str]:
    given = f"{path}={brief(value)}"
    example = default if default is not None else limit[-1] if limit else None
    words = [one for one in limit or [] if isinstance(one, str)]
    if value is None and default is None:
        return
    if _unusable(value):
        yield f"{given}: {_unusable(value)}"
    elif value in words or (default is None and limit is None):
        return
    elif limit and len(words) == len(limit):
        yield f"{given}: allowed: {', '.join(words)}"
    elif limit and words and not (_same_type(value, limit[-1]) and _within(value, limit)):
        yield f"{given}: must be {' or '.join(words)}, or between {limit[-2]} and {limit[-1]}"
    elif not words and not _same_type(value, example):
        also = " or null" if default is None else ""
        yield f"{given}: must be {_type_name(example)}{also}{_not(value, example)}"
    elif limit and not words and not _within(value, limit):
        yield f"{given}: must be between {limit[0]} and {limit[1]}"


def _unusable(value: Any) -> str | None:
    """Why no key can have such a value, whatever its type."""
    if isinstance(value, dict | list):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return next((reason for reason in map(_unusable, parts) if reason), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "numbers must be finite"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "numbers must lie within ±2^63"
    if value == "???":
        return "in a config this says that a value is missing; give one"
    if isinstance(value, str) and len(value) > LONGEST_WORD:
        return f"this has {len(value)} characters; at most {LONGEST_WORD} are read"
    if isinstance(value, str) and any(ord(one) < 32 or 0xD800 <= ord(one) <= 0xDFFF for one in value):
        return "this has characters that no name can have"
    return None


def _within(value: Any, limit: list[Any]) -> bool:
    """Within the last two of a limit; of a list, every element."""
    return all(limit[-2] <= one <= limit[-1] for one in (value if isinstance(value, list) else [value]))


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list):
        return isinstance(value, list) and all(_same_type(one, default[0]) for one in value if default)
    return isinstance(value, type(default))


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        several = {int: "whole numbers", float: "numbers", str: "words"}
        return f"a list of {several.get(type(value[0]), 'values')}" if value else "a list"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return names.get(type(value), "a mapping")


def _not(value: Any, example: Any) -> str:
    """', not a word'; nothing between two lists, whose elements differ in type."""
    return "" if isinstance(value, list) and isinstance(example, list) else f", not {_type_name(value)}"


def with_floats(values: Any, schema: Any) -> Any:
    """A copy in which a whole number is a float wherever the default is one: `lr=1` and `lr=1.0` are one config."""
    if isinstance(values, dict) and isinstance(schema, dict):
        limits = schema.get("limits") or {}
        defaults = {
            key: limits[key][0] if schema.get(key) is None and key in limits else schema.get(key) for key in values
        }
        return {key: with_floats(value, defaults[key]) for key, value in values.items()}
    if isinstance(values, list) and isinstance(schema, list) and schema:
        return [with_floats(value, schema[0]) for value in values]
    is_whole = isinstance(values, int) and not isinstance(values, bool)
    return float(values) if is_whole and isinstance(schema, float) else values


def without_limits(node: Any) -> Any:
    """A copy without any `limits` node."""
    if isinstance(node, dict):
        return {key: without_limits(value) for key, value in node.items() if key != "limits"}
    return list(node) if isinstance(node, list) else node
