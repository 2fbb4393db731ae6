"""Credentials do not reach files and screens, and nothing else is changed on the way."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun import redact
from kdrun.redact import is_credential, redacted, redacted_values, redacted_words
from tests.conftest import mutated

SECRETS = [
    "password",
    "db.passwd",
    "secret",
    "wandb.api_key",
    "wandb.apikey",
    "api-key",
    "apiKey",
    "credential",
    "aws.credentials",
    "http.auth",
    "Authorization",
    "ssh.private_key",
    "hydra.job.env_set.AWS_SECRET_ACCESS_KEY",
    "hydra.job.env_set.HF_TOKEN",
    "+logger.token",
    "token.value",
    "secret.of.mine",
    "PGPASSWORD",
]
INNOCENT = [
    "author",
    "authors",
    "authority",
    "tokens",
    "max_tokens",
    "token_dim",
    "tokenizer",
    "keys",
    "key",
    "secretary",
    "optimizer.lr",
    "teacher.train.epochs",
    "password_length",
]
SECRET = "hunter2-%/Zx"
KEPT = [
    "epochs=3",
    "max_tokens=512",
    "author: Ada",
    "optimizer.lr=0.1: must be between 0.0 and 100.0",
    "a token is a word; tokens: 5",
    "https://example.org/a@b and git@example.org:me/it",
    "mean [0.1, 0.2]",
    "model=/etc/passwd: there is no such model; allowed: cnn, mlp",
    "a file, /run/secrets/token: there is no such file",
    "{token:null, max_tokens:5}",
    "{x: 1, token: null}",
    "{'auth': False, b: 1}",
    "token: null",
    "auth=false",
]
SHAPES = [
    "{key}={secret}",
    "'{key}={secret}' is not an override; write key=value",
    "{key}={secret}: must be between 0 and 1",
    "{key}: {secret}",
    "  {key}: {secret}\nnext: 1",
    '{{"{key}": "{secret}", "epochs": 3}}',
    "{{{key}: {secret}, epochs: 3}}",
    "{key} = '{secret}'",
    "+hydra.job.env_set={{{key}:{secret}}}",
    "{{a: 1,'{key}':{secret} and more,b:2}}",
    "{{a:[{{{key}:[1,{secret}],b:2}}]}}",
    "{{{key}:{{a:1,b:{secret}}}}}",
    "x={{a:1,{key}:{secret}",
    "/etc/{key}={secret}",
    "/etc/passwd {key}: {secret}",
    "https://user:{secret}@host/x",
    "https:/user:{secret}@host/x",
    "unknown host https://{secret}@host:80/x?y=1",
]


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_is_masked_wherever_it_stands(key: str, shape: str) -> None:
    secret = "hunter2-%Zx"
    masked = redacted(shape.format(key=key, secret=secret))
    assert secret not in masked
    assert "***" in masked
    assert redacted(masked) == masked


@pytest.mark.parametrize("text", KEPT)
def test_the_rest_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_what_follows_a_secret_stays() -> None:
    assert redacted("a.token=abc: must be short") == "a.token=***: must be short"
    assert redacted("kdrun distill a.token=abc epochs=3") == "kdrun distill a.token=*** epochs=3"
    assert redacted("Authorization: Bearer abc def\nepochs: 3") == "Authorization: ***\nepochs: 3"
    assert redacted("x={a.token:abc,b:1}: must be short") == "x={a.token:***,b:1}: must be short"
    assert redacted("ftp://me:pw@host/x") == "ftp://***@host/x"


@pytest.mark.parametrize("key", SECRETS + INNOCENT)
def test_keys_that_look_like_a_credential(key: str) -> None:
    assert is_credential(key) == (key in SECRETS)


def test_words_and_values() -> None:
    assert redacted_words(["a={b:{token:x\\,y,z:1}}", "a={token:null}"]) == ["a=***", "a={token:null}"]
    words = ["distill", "-m", "a.token=x y,z", "token=", "auth=true", "tokens=5", "data_dir=https://u:p@host/x"]
    masked = ["distill", "-m", "a.token=***", "token=", "auth=true", "tokens=5", "data_dir=https://***@host/x"]
    assert redacted_words(words) == masked
    node = {"token": {"value": [SECRET, 5], "on": True}, "rename": {"a": "b"}, "places": ["https://u:p@host"], "n": 1}
    hidden = {"token": {"value": ["***", "***"], "on": True}, "rename": {"a": "b"}, "places": ["https://***@host"]}
    assert redacted_values(node) == {**hidden, "n": 1}


LETTERS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"]), min_size=8, max_size=40)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SECRETS), LETTERS)
def test_no_secret_survives_in_words_or_values(key: str, secret: str) -> None:
    assert redacted_words([f"{key}={secret}"]) == [f"{key}=***"]
    shown = yaml.safe_dump(redacted_values({key: secret})) + json.dumps(redacted_values({"deep": [{key: secret}]}))
    assert shown == yaml.safe_dump({key: "***"}) + json.dumps({"deep": [{key: "***"}]})


@given(st.sampled_from(SECRETS), st.text("abcABC0123456789+/_-.~!$%^&*", min_size=8), st.text(max_size=20))
def test_no_secret_survives_in_text(key: str, secret: str, around: str) -> None:
    assert secret not in redacted(f"{around.replace(secret, '')}\n{key}={secret} {key}: {secret}")


@given(st.text())
def test_masking_twice_is_masking_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


@given(st.dictionaries(st.sampled_from(INNOCENT), st.integers() | st.booleans() | st.lists(st.floats(allow_nan=False))))
def test_a_config_without_credentials_is_unchanged(config: dict[str, object]) -> None:
    assert redacted_values(config) == config
    assert redacted(yaml.safe_dump(config)) == yaml.safe_dump(config)


def test_long_texts_take_no_time() -> None:
    """What takes time by the square of a text's length takes hours here."""
    begin = time.process_time()
    texts = ("a", "token", "'", "x.token=", "a://", '"a', "'token", "token: ", "{token:[", ",token:", "/token", "{a,")
    for text in texts:
        redacted(text * (200_000 // len(text)))
    assert time.process_time() - begin < 10


def test_a_mask_that_is_too_eager_or_too_lazy_is_noticed() -> None:
    eager = mutated(redact, "|token|", "|tokens?|")
    assert eager.is_credential("max_tokens")
    lazy = mutated(redact, "|token|", "|")
    assert not lazy.is_credential("HF_TOKEN")
