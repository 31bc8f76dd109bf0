"""Writes reference.json: our conversations as rendered by transformers with MiniMind-3's tokenizer and template.

Run: python tests/chat/make_fixture.py FOLDER, where FOLDER has MiniMind-3's tokenizer.json and tokenizer_config.json.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from conversations import CASES, CLEAN, Case

FIXTURE = Path(__file__).with_name("reference.json")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rendered(tokenizer: Any, case: Case) -> str:
    options = {None: {}, "closed": {"add_generation_prompt": True}}
    options["open"] = {"add_generation_prompt": True, "open_thinking": True}
    return tokenizer.apply_chat_template(case.messages, tools=case.tools, tokenize=False, **options[case.prompt])


def labels(tokenizer: Any, ids: list[int]) -> list[int]:
    """1 for MiniMind's targets: everything after an `<|im_start|>assistant` line, including the `<|im_end|>` line."""
    header, ending = (tokenizer.encode(text) for text in ("<|im_start|>assistant\n", "<|im_end|>\n"))
    found, at = [0] * len(ids), 0
    while at < len(ids):
        if ids[at : at + len(header)] != header:
            at += 1
            continue
        at += len(header)
        while at < len(ids) and ids[at : at + len(ending)] != ending:
            found[at] = 1
            at += 1
        found[at : at + len(ending)] = [1] * len(ids[at : at + len(ending)])
    return found


def main(folder: str) -> None:
    from transformers import (
        AutoTokenizer,
    )  # imported here because the tests import this file without needing transformers

    tokenizer = AutoTokenizer.from_pretrained(folder)
    digests: dict[str, list[str]] = {}
    for case in CASES:
        digests.setdefault(case.name.partition(" turns=")[0], []).append(digest(rendered(tokenizer, case)))
    clean = {}
    for name, case in CLEAN.items():
        text = rendered(tokenizer, case)
        ids = tokenizer.encode(text, add_special_tokens=False)
        clean[name] = {"ids": ids, "labels": "".join(map(str, labels(tokenizer, ids))), "sha256": digest(text)}
    used = sorted({index for found in clean.values() for index in found["ids"]})
    lines = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in digests.items()]
    tokens = {index: tokenizer.decode([index]) for index in used}
    assert "\ufffd" not in "".join(tokens.values()), "a token of the clean texts is an incomplete character"
    parts = {"clean": clean, "tokens": tokens}
    head = ",\n".join(f" {json.dumps(name)}: {json.dumps(part, ensure_ascii=False)}" for name, part in parts.items())
    FIXTURE.write_text(f'{{\n{head},\n "digests": {{\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
