import base64
import json
import secrets
import string
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.predict.secret import holds_secret, is_secret_name, is_secret_text

NAMES = ["password", "db_password", "apiKey", "X-Auth-Token", "client_secret", "Authorization", "access_key", "pin"]
PLAIN_NAMES = ["max_tokens", "path", "pattern", "author", "secretary", "keyboard", "passenger", "tokenizer", "n"]
SECRETS = [
    "ghp_" + "a1B2c3D4e5F6" * 3,
    "sk-proj-" + "Zx9" * 10,
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "curl -H 'Authorization: Bearer abcdefgh' https://x",
    "postgres://user:hunter2@db/x",
    "PASSWORD=hunter2",
    '{"token": "x"}',
    "-----BEGIN PRIVATE KEY-----",
]
PLAIN = [
    "src/sglang_paste/predict/pattern.py",
    "def test_predictor_returns_candidates(self) -> None:",
    "pytest -q tests/predict --maxfail=1 -x",
    "https://example.org/docs/getting-started.html",
    "2024-01-15T10:00:00Z",
    "the quick brown fox jumps over the lazy dog",
    "AbstractSingletonProxyFactoryBean",
    "verschlüsselungsverfahren",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("text", SECRETS)
def test_texts_with_secrets(text: str) -> None:
    assert is_secret_text(text)
    assert holds_secret({"a": [1, {"b": text}]})


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_texts(text: str) -> None:
    assert not is_secret_text(text)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_random_tokens_are_secrets(seed: int) -> None:
    source = seed.to_bytes(5, "big") * 8
    token = base64.urlsafe_b64encode(bytes((byte * 167 + at * 59) % 256 for at, byte in enumerate(source))).decode()
    assert is_secret_text(token)


def test_fresh_random_tokens_are_secrets() -> None:
    alphabet = string.ascii_letters + string.digits
    missed = 0
    for _ in range(500):
        text = "".join(secrets.choice(alphabet) for _ in range(40))
        missed += not all(is_secret_text(one) for one in (text, secrets.token_hex(16), str(uuid.uuid4())))
    assert missed <= 5


def test_a_secret_under_its_name_is_found_anywhere() -> None:
    assert holds_secret(json.loads('{"options": [{"password": 1234}]}'))
    assert not holds_secret(json.loads('{"options": [{"passage": 1234}]}'))
