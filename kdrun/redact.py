"""Credentials are kept out of what is written and said: the names that look like one, and user-info in URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
# the end of a part of a key: wandb.api_key, AWS_SECRET_ACCESS_KEY, mypassword; not author, max_tokens or token_dim
NAME = (
    r"(?:pass(?:word|wd|phrase)s?|secrets?|credentials?|token|(?<![a-z])auth(?:orization)?"
    r"|(?:api|private|access|secret|signing|encryption)[-_]?keys?)"
)
HARMLESS = r"(?:true|false|null|none)"  # a switch is no secret
# the patterns are compiled when they are first used, and not for `kdrun --help`
CREDENTIAL = rf"(?i){NAME}(?![\w-])"
QUOTED = rf"""(?i)(['"])([^'"\n=]*{NAME}(?![\w-])[^'"\n=]*)=.*?\1"""  # a whole quoted word
ASSIGNED = rf"""(?ix)
    /[\w.@+-]*{NAME}:[ ]|                                                         # a path is no key
    ({NAME}(?![\w-])(?:\.[\w.@-]*)?["']?[ \t]*
    (?:=[ \t]*(?:(?:bearer|basic)[ ]+)?(?=[^\s])|:[ \t]+(?=[^\s])|:(?=["'])))     # the key, and = or :
    (?!{HARMLESS}(?![\w-]))
    ("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|(?<=[ \t])[^\n,}}\]]+|\S+?(?=[:;,)\]}}'"]*(?:\s|$)))"""  # its value
# {HF_TOKEN:value}, as one types it: no space is needed behind the colon
IN_A_MAPPING = rf"""(?ix)
    ((?:\{{|,(?![^{{}},:=\n]*/[^{{}},:=\n]*:[ ]))  # of a sentence, what is behind a comma may be a path
    [^{{}},:=\n]{{0,99}}{NAME}(?![\w-])(?:\.[\w.@-]*)?["']?[ \t]*:[ \t]*+)
    (?!{HARMLESS}(?![\w-]))
    ("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\[[^\]\n]{{0,999}}\]|\{{[^}}\n]{{0,999}}\}}
    |(?:\\.|[^\\\n,}}\]]){{1,999}}(?=[,}}\]])|[^\s,}}\]]+)"""
USER_INFO = r"(?<=\w\w)(\\?:/{1,2})[^\s/?#'\"]+@"  # pathlib makes :/ of ://, and Hydra's grammar wants \:


def is_credential(key: str) -> bool:
    """Does a part of this dotted key name something to be kept secret?"""
    return re.search(CREDENTIAL, key) is not None


def redacted(text: str) -> str:
    """The text with the value of every credential, written as `key=value` or `key: value`, and user-info masked."""
    text = re.sub(IN_A_MAPPING, rf"\1{MASK}", re.sub(QUOTED, rf"\1\2={MASK}\1", text))
    text = re.sub(ASSIGNED, lambda found: found[0] if found[1] is None else f"{found[1]}{MASK}", text)
    return re.sub(USER_INFO, rf"\1{MASK}@", text)


def redacted_words(words: Iterable[str]) -> list[str]:
    """Words of a command line: the whole value of `key=value` where the key, or one in it, names a credential."""
    return [_word(word) for word in words]


def redacted_values(node: Any) -> Any:
    """A copy of plain data (mappings, lists, text, numbers) in which credentials are masked."""
    if isinstance(node, Mapping):
        pairs = [(key, value, is_credential(str(key))) for key, value in node.items()]
        return {key: _hidden(value) if secret else redacted_values(value) for key, value, secret in pairs}
    if isinstance(node, list | tuple):
        return [redacted_values(value) for value in node]
    return redacted(node) if isinstance(node, str) else node


def _word(word: str) -> str:
    key, _, value = word.partition("=")
    named = is_credential(key) and value.lower() not in ("", "true", "false", "null")
    return f"{key}={MASK}" if named or re.search(IN_A_MAPPING, value) else redacted(word)


def _hidden(node: Any) -> Any:
    """Everything below a credential's key."""
    if isinstance(node, Mapping):
        return {key: _hidden(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_hidden(value) for value in node]
    return node if node is None or isinstance(node, bool) or node == "" else MASK
