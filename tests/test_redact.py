"""No key, token or password gets through; ordinary text does."""

from __future__ import annotations

import pytest

from tunesmith.redact import HIDDEN, redact

SECRETS = [
    "hf_" + "aB3" * 11,
    "hf_oauth_" + "x9" * 20,
    "api_org_" + "a" * 34,
    "sk-" + "a1" * 20,
    "sk-proj-" + "a_1-" * 20,
    "sk-ant-api03-" + "Z" * 60,
    "ghp_" + "a" * 36,
    "github_pat_" + "a" * 60,
    "glpat-" + "a" * 20,
    "AKIA" + "A1B2" * 4,
    "AIza" + "a" * 35,
    "xoxb-" + "1234-" * 5 + "a",
    "nvapi-" + "a" * 60,
    "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 20,
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "token={}", '"{}"', "https://h/x?q={}&b=1", "a\n{}\nb", "/tmp/{}/model", "({})."]
)
def test_known_shapes_are_replaced_and_the_rest_stays(secret: str, around: str) -> None:
    assert redact(around.format(secret)) == around.format(HIDDEN)


def test_passwords_in_urls_headers_and_queries() -> None:
    assert redact("https://me:pa55@host/x") == f"https://me:{HIDDEN}@host/x"
    assert redact("Authorization: Bearer abc.def") == f"Authorization: Bearer {HIDDEN}"
    assert redact("https://h/f?a=1&token=abc&b=2") == f"https://h/f?a=1&token={HIDDEN}&b=2"
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----"
    assert redact(f"x {key} y") == f"x {HIDDEN} y"
    assert redact(key[:40]) == HIDDEN


def test_secret_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "correct horse")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("AUTH_TOKEN", "/run/secrets/token")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    text = "key 0123456789abcdef0123456789abcdef, correct horse, /home/me/token /run/secrets/token short"
    assert redact(text) == f"key {HIDDEN}, {HIDDEN}, /home/me/token /run/secrets/token short"


@pytest.mark.parametrize(
    "text",
    [
        "train.tokens_per_step: 4096",
        "http://127.0.0.1:8000/v1 at 10:30 with a@b.c",
        "a task-oriented sk-learn half_precision hf_hub disk-usage of AKIA",
        "She whispered: the password: nobody knows. Bearers of news.",
        "sha256 " + "0123456789abcdef" * 4,
        "EleutherAI/gpt-neo-125m",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text
