"""Reproducible text for golden runs, generated from a seed: several scripts, documents of unequal length."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

SYLLABLES = (
    "ba do ri mu ke lan sto vel tin or",
    "é ü ñ ø ß ção",
    "日 本 語 山 川",
    "при вет до мо",
    "λο γο σ",
    "👩‍🔬 🌧 ✓",
)
NUM_WORDS = 300
ENDINGS = (".", ".", "?", " (1.5 %).", "!\n", ":\n\t")


def numbers(seed: str) -> Iterator[float]:
    """Pseudorandom numbers in [0, 1), from hashes because library generators may change between versions."""
    for block in itertools.count():
        digest = hashlib.sha256(f"{seed}/{block}".encode()).digest()
        yield from (int.from_bytes(digest[i : i + 4], "little") / 2**32 for i in range(0, 32, 4))


def made_documents(seed: str, count: int, most_words: int) -> Iterator[str]:
    """Documents in which, as in natural language, most words are rare; nine in ten words use the first script."""
    number = numbers(seed)
    words = []
    for _ in range(NUM_WORDS):
        script = SYLLABLES[0] if next(number) < 0.9 else SYLLABLES[int(next(number) * len(SYLLABLES))]
        parts = script.split()
        words.append("".join(parts[int(next(number) * len(parts))] for _ in range(1 + int(3 * next(number)))))
    for _ in range(count):
        length = 3 + int(most_words * next(number) ** 2)
        chosen = [words[int(NUM_WORDS * next(number) ** 3)] for _ in range(length)]
        ends = [ENDINGS[int(len(ENDINGS) * next(number))] if next(number) < 0.1 else "" for _ in range(length)]
        yield " ".join(word + end for word, end in zip(chosen, ends, strict=True))


def write_records(path: Path, documents: Iterable[str]) -> None:
    """Write the documents as JSON lines."""
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
    path.write_text("".join(lines), encoding="utf-8")


def write_corpora(folder: Path) -> None:
    """Write `prose.txt` with one document per line and `notes.jsonl` with one record per line."""
    prose = (" ".join(text.split()) + "\n" for text in made_documents("prose", 700, 120))
    (folder / "prose.txt").write_text("".join(prose), encoding="utf-8")
    write_records(folder / "notes.jsonl", made_documents("notes", 600, 90))
