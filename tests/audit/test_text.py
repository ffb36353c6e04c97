"""The patterns meet what they should and pass over what only looks alike."""

from __future__ import annotations

import pytest

from tunesmith.audit import language
from tunesmith.audit.language import guess_language
from tunesmith.audit.text import count_emails, count_misread, count_phones, holds_private, scan_texts
from tunesmith.redact import count_secrets


@pytest.mark.parametrize(
    "text",
    [
        "call +49 30 1234567 now",
        "(030) 123-4567-89",
        "555-123-4567",
        "0171 2345678",
        "+1-800-555-0199",
        "06 12 34 56 78",
    ],
)
def test_telephone_numbers(text: str) -> None:
    assert count_phones(text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "1 000 000 000",
        "2020-01-02",
        "from 1999-2003 and 2005",
        "3.141592653",
        "192.168.100.200",
        "ISBN 978-3-16-148410-0",
        "pages 100-200",
        "12:34:56.789012",
        "in 1990 2000 people came",
        "03.12.2021 12:30",
        "order 1234567890123",
        "0.123456789012",
    ],
)
def test_other_numbers_are_no_telephone_numbers(text: str) -> None:
    assert count_phones(text) == 0


def test_e_mail_addresses() -> None:
    assert count_emails("write to a.b+c@example.co.uk or user@host.com.") == 2
    assert count_emails("@handle, x@y, 3 @ 4.50, a@b@c.de") == 0
    assert count_emails("a" * 100_000 + "@" + "b" * 100_000) == 0


@pytest.mark.parametrize("text", ["caf\u00c3\u00a9", "don\u00e2\u20ac\u2122t", "\u00d0\u00bf\u00d1\u20ac"])
def test_utf8_read_as_something_else(text: str) -> None:
    assert count_misread(text) >= 1


@pytest.mark.parametrize("text", ["café", "À la carte", "Ã la", "São Paulo", "ÄÖÜ «naïve»", "привет", "plain"])
def test_sound_accents(text: str) -> None:
    assert count_misread(text) == 0


def test_secrets() -> None:
    assert count_secrets("hf_" + "a" * 20 + " sk-" + "b" * 20 + " AKIA" + "A1" * 8) == 3
    assert count_secrets("-----BEGIN RSA PRIVATE KEY-----\nabc") == 1
    assert count_secrets("hf_short, sk-ip, task-aaaaaaaaaaaaaaaaaaaaaaaa") == 0
    assert holds_private("sk-" + "b" * 20)
    assert not holds_private("One fine morning.")


def test_rows_are_named_and_counted() -> None:
    texts = [(f"a.csv:{row}", "\0x\0" if row % 2 else "fine <|end|>") for row in range(20)]
    scan = scan_texts(texts, ["<|end|>"])
    assert scan.num_rows == 20
    assert (scan.nul.num_rows, scan.nul.num_hits) == (10, 20)
    assert scan.nul.rows == ["a.csv:1", "a.csv:3", "a.csv:5", "a.csv:7", "a.csv:9"]
    assert scan.special.num_rows == 10
    assert scan.control.num_rows == 0


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("English", "One fine morning the boy went to the sea, and it was the best day of his life."),
        ("German", "Der Hund ist nicht in dem Haus, sondern auf der Straße und bellt mit den anderen."),
        ("French", "Le chien est dans la maison et il ne veut pas sortir avec les enfants."),
        ("Spanish", "Él no quiere que los niños vayan a la playa con su perro por la mañana."),
        ("Russian", "Это русский текст, и он не на английском."),
        ("Japanese", "これは日本語の文章です。"),
        ("Chinese", "这是一个中文句子。"),
        ("Korean", "한국어 문장입니다."),
        ("Arabic", "ذهب الولد إلى البحر في صباح جميل وكان أفضل يوم في حياته."),
        ("Danish", "Hunden er ikke i huset, men på gaden og gør ad de andre."),
        ("Finnish", "Koira ei ole talossa vaan kadulla ja haukkuu muita."),
        ("Hindi", "एक सुंदर सुबह लड़का समुद्र के पास गया।"),
        (None, "SELECT id, name FROM users WHERE age > 3;"),
        (None, "CC(=O)OC1=CC=CC=C1C(=O)O CN1C=NC2=C1C(=O)N(C(=O)N2C)C " * 30),
        (None, "def f(x): return x + 1"),
        (None, "12345 !!"),
    ],
)
def test_language_guess(language: str | None, text: str) -> None:
    assert guess_language(text).language == language


def test_every_language_of_the_model_has_a_name() -> None:
    labels = language._identifier().labels
    assert {code for code in labels if language._name(code) == code} == set()
    assert language._names().keys() | {"zxx"} == set(labels)


def test_a_guess_says_how_sure_it_is() -> None:
    guess = guess_language("One fine morning the boy went to the sea, and it was the best day of his life.")
    assert guess.share > 0.9
    assert guess.evidence.startswith("most likely of 140 languages (English 99.")
    assert guess_language("x = 1").evidence.startswith("no language stands out (")
    assert guess_language("1 2 3").evidence == "no letters"
