"""A guess at the language of a text by py3langid: naive Bayes on byte sequences, 140 languages (Lui and Baldwin, 2012).

Short or mixed text makes it wrong, so it is shown as a guess with its evidence and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

MAX_CHARACTERS = 400_000
"""A tenth of a second; loading the model takes half a second."""
_LEAST_SHARE = 0.4  # code, tables of numbers and two words come to 0.02 to 0.15, one sentence to 0.6 and more
_NO_LANGUAGE = "zxx"
_NAMES = """
ace Acehnese, af Afrikaans, am Amharic, an Aragonese, ar Arabic, ary Moroccan Arabic, arz Egyptian Arabic, as Assamese,
az Azerbaijani, ba Bashkir, bcl Central Bikol, be Belarusian, bg Bulgarian, bn Bengali, br Breton, bs Bosnian,
ca Catalan, crh Crimean Tatar, cs Czech, cy Welsh, da Danish, de German, dz Dzongkha, el Greek, en English,
eo Esperanto, es Spanish, et Estonian, eu Basque, ext Extremaduran, fa Persian, fi Finnish, fo Faroese, fr French,
fuv Fulfulde, fy Frisian, ga Irish, gcf Guadeloupean Creole, gcr Guianese Creole, gd Scottish Gaelic, gl Galician,
gom Konkani, grc Ancient Greek, gu Gujarati, gug Guarani, guw Gun, ha Hausa, hbo Biblical Hebrew, he Hebrew, hi Hindi,
hr Croatian, ht Haitian Creole, hu Hungarian, hy Armenian, id Indonesian, ig Igbo, is Icelandic, it Italian,
ja Japanese, jv Javanese, ka Georgian, kab Kabyle, kik Kikuyu, kk Kazakh, km Khmer, kn Kannada, ko Korean, ku Kurdish,
ky Kyrgyz, la Latin, lb Luxembourgish, lg Luganda, lij Ligurian, ln Lingala, lo Lao, lt Lithuanian, ltg Latgalian,
lv Latvian, mg Malagasy, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese, my Burmese,
ne Nepali, nl Dutch, nn Norwegian Nynorsk, no Norwegian, nso Northern Sotho, oc Occitan, om Oromo, or Odia, pa Punjabi,
pcm Nigerian Pidgin, pl Polish, ps Pashto, pt Portuguese, qu Quechua, ro Romanian, ru Russian, rw Kinyarwanda,
sa Sanskrit, sdh Southern Kurdish, se Northern Sami, si Sinhala, sk Slovak, sl Slovenian, sn Shona, so Somali,
sq Albanian, sr Serbian, st Sotho, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg Tajik, th Thai, tk Turkmen,
tl Tagalog, tr Turkish, tt Tatar, ug Uyghur, uk Ukrainian, ur Urdu, uz Uzbek, uzs Southern Uzbek, vec Venetian,
vi Vietnamese, vo Volapük, wa Walloon, wuu Wu Chinese, xh Xhosa, yo Yoruba, yue Cantonese, zh Chinese, zu Zulu
"""


@dataclass(frozen=True)
class Guess:
    """language is None when nothing stands out. share: how probable it is among the languages that are known."""

    language: str | None
    share: float
    evidence: str


def guess_language(text: str) -> Guess:
    """The most likely language of `text`; its first 400,000 characters are looked at."""
    text = text[:MAX_CHARACTERS]
    if not any(character.isalpha() for character in text):
        return Guess(None, 0.0, "no letters")
    first, second = [(_name(code), float(share)) for code, share in _identifier().rank(text)[:2]]
    if first[0] is None or first[1] < _LEAST_SHARE:
        return Guess(None, first[1], f"no language stands out ({_list(first, second)})")
    return Guess(first[0], first[1], f"most likely of 140 languages ({_list(first, second)})")


def _list(*found: tuple[str | None, float]) -> str:
    return ", ".join(f"{name or 'none of them'} {share:.1%}" for name, share in found)


def _name(code: str) -> str | None:
    """The English name; None for text that the model knows as no language."""
    return None if code == _NO_LANGUAGE else _names().get(code, code)


@cache
def _names() -> dict[str, str]:
    return dict(entry.split(maxsplit=1) for entry in _NAMES.replace("\n", " ").split(","))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
