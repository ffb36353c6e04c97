"""Secrets never reach an output: keys and tokens are replaced before anything is printed or written."""

from __future__ import annotations

import os
import re

HIDDEN = "[redacted]"

_SHAPES = (
    r"hf_[A-Za-z0-9]{16,}",  # Hugging Face; also hf_oauth_
    r"hf_oauth_[A-Za-z0-9._-]{16,}",
    r"api_org_[A-Za-z0-9]{16,}",
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and those that follow them
    r"gh[opsur]_[A-Za-z0-9]{16,}",
    r"github_pat_[A-Za-z0-9_]{16,}",
    r"glpat-[A-Za-z0-9_-]{16,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"xox[abprs]-[A-Za-z0-9-]{10,}",
    r"nvapi-[A-Za-z0-9_-]{16,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web token
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^\"]*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=\")|\Z)",
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:" + "|".join(_SHAPES) + ")")
_AFTER = re.compile(
    r"(?i)(\bbearer\s+|[?&](?:token|key|api_key|access_token|sig|signature|x-amz-signature)=|://[^\s/:@\"'<>]*:(?=[^\s/]*@))"
    r"[^\s/@&\"'<>]+"
)
_SECRET_NAME = re.compile(r"(?i)(?:^|_)(?:TOKEN|API_?KEY|ACCESS_KEY|ACCESS_KEY_ID|SECRET_KEY|SECRET|PASSWORD|PASSWD)$")
_MIN_SECRET_CHARACTERS = 8

# Control and direction characters, which could move the cursor or reverse what is read, shown as pictures instead.
_VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F), 0xFFFD),
}


def redact(text: str) -> str:
    """`text` with every key, token and password in it replaced by `[redacted]`.

    Known shapes are replaced (hf_..., sk-..., ghp_..., AKIA..., web tokens, private keys, passwords in URLs), and so
    are the values of environment variables whose name says that they are secret (HF_TOKEN, WANDB_API_KEY, ...).
    """
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    return _AFTER.sub(rf"\1{HIDDEN}", _TOKEN.sub(HIDDEN, text))


def count_secrets(text: str) -> int:
    """How many keys, tokens and private keys of a known shape stand in `text`."""
    return sum(1 for _ in _TOKEN.finditer(text))


def _environment_secrets() -> list[str]:
    """Secret values of the environment, longest first; paths to secrets are not secrets."""
    values = {value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    long_enough = [v for v in values if len(v) >= _MIN_SECRET_CHARACTERS and not v.startswith(("/", "~", "."))]
    return sorted(long_enough, key=len, reverse=True)


def visible(text: str) -> str:
    """`text` with control characters as pictures, so that showing it cannot move a cursor or turn text around."""
    return text.translate(_VISIBLE)


def first_line(error: BaseException) -> str:
    """The first line of an error, at most 200 characters, without secrets."""
    return redact((str(error).strip() or type(error).__name__).splitlines()[0][:200])
