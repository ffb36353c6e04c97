"""A guess at the language of a text from its script and its most common words. No model, no list beyond this file.

It knows 14 languages by their small words and names the script of others. Short or mixed text makes it wrong, so it is
shown as a guess with its evidence and decides nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

MAX_CHARACTERS = 400_000
_LEAST_SHARE = 0.08  # of words that are small words of the language; running prose has 0.25 to 0.5
_WORD = re.compile(r"[^\W\d_]+")

_SMALL_WORDS = {
    "English": "the of and to in is that it was for on are with his they at be this from have by her she an but which",
    "German": "der die das und ist nicht ein eine zu den mit von sich auf für dem im auch es sie als wird aus bei",
    "French": "le la les des et est un une que qui dans pour pas sur au avec ce il elle sont du par plus mais leur",
    "Spanish": "el la los las y es que en un una por con no para su se del al lo como más pero sus una fue",
    "Italian": "il che di non è un una per con del della sono nel gli le si più anche ma dei alla suo i lo ha",
    "Portuguese": "o os as que não um uma com por para do da em se mais dos das ao na no são foi mas seu pela",
    "Dutch": "de het een en van is dat niet op te zijn met voor er aan ook maar hij naar bij om zij uit wordt als",
    "Swedish": "och att det som en är av för på med den inte till ett han hon var om sig så men från kan när ska",
    "Polish": "i w na z nie się do jest to że o jak po ale za od co przez tym jego który są być dla tak",
    "Turkish": "ve bir bu da de için ile çok ne gibi daha olarak ama olan var onun kadar sonra değil ki mi en her şey",
    "Indonesian": "yang dan di ini itu dengan untuk tidak dari dalam pada akan ke ada adalah mereka juga oleh kita dia",
    "Russian": "и в не на что с он как его к это по но из у за от для она они так же был все ее",
    "Ukrainian": "і в не на що з він як його до це та але із у за від для вона вони так й був усе її",
    "Vietnamese": "và của là có không một được trong cho với những các người này đã khi từ đến ở để về vào cũng như",
}
_SETS = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}
_BY_SCRIPT = {
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CJK": "Chinese",
    "GREEK": "Greek",
    "HEBREW": "Hebrew",
    "THAI": "Thai",
    "GEORGIAN": "Georgian",
    "ARMENIAN": "Armenian",
}


@dataclass(frozen=True)
class Guess:
    """language is None when nothing stands out. share: of its small words among all words, or of its letters."""

    language: str | None
    script: str | None
    share: float
    evidence: str


def guess_language(text: str) -> Guess:
    """The most likely language of `text`; its first 400,000 characters are looked at."""
    text = text[:MAX_CHARACTERS]
    scripts = _scripts(text)
    if not scripts:
        return Guess(None, None, 0.0, "no letters")
    script, num_letters = scripts.most_common(1)[0]
    share = num_letters / scripts.total()
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if script == "CJK" and kana > 0.05 * scripts.total():
        script, share = "HIRAGANA", (kana + scripts["CJK"]) / scripts.total()
    if script in _BY_SCRIPT:
        return Guess(_BY_SCRIPT[script], _title(script), share, f"{share:.0%} of the letters are {_title(script)}")
    return _by_words(text, _title(script))


def _scripts(text: str) -> Counter[str]:
    """Letters by the first word of their Unicode name: LATIN, CYRILLIC, CJK, HANGUL, ..."""
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            scripts[unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]] += count
    return scripts


def _by_words(text: str, script: str) -> Guess:
    words = Counter(_WORD.findall(text.lower()))
    total = words.total()
    shares = {name: sum(words[word] for word in small) / total for name, small in _SETS.items()}
    ranked = sorted(shares, key=lambda name: -shares[name])
    best, second = ranked[0], ranked[1]
    if shares[best] < _LEAST_SHARE:
        return Guess(None, script, shares[best], f"{script} letters, small words of no language that is known here")
    evidence = f"{shares[best]:.0%} of the words are small {best} words, {shares[second]:.0%} {second}"
    return Guess(best, script, shares[best], evidence)


def _title(script: str) -> str:
    return "Chinese characters" if script == "CJK" else script.capitalize()
