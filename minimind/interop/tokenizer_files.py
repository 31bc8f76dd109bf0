"""The files next to tokenizer.json that give `AutoTokenizer` and `generate()` the special tokens."""

from pathlib import Path
from typing import Any

from minimind.tokenizer.bpe import BPE, END_OF_TEXT
from minimind.tokenizer.chat import END, START
from minimind.tokenizer.chat_template import chat_template
from minimind.tokenizer.imported_template import ChatTemplate
from minimind.utils.errors import UserError
from minimind.utils.files import read_object

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


def tokenizer_config(tokenizer: BPE, context_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json, with a chat template if the tokenizer has its tokens."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
    }
    if (template := chat_template(tokenizer)) is not None:
        config |= {"chat_template": template, "additional_special_tokens": [START, END]}
    return config


def generation_config(tokenizer: BPE) -> dict[str, Any]:
    """The content of generation_config.json: text ends at the end of a document or, in a chat, of a turn."""
    end_of_text = tokenizer.end_of_text
    end_of_turn = tokenizer.tokenizer.token_to_id(END) if chat_template(tokenizer) is not None else None
    return {
        "bos_token_id": end_of_text,  # precedes each document in training
        "eos_token_id": end_of_text if end_of_turn is None else [end_of_text, end_of_turn],
        "pad_token_id": end_of_text,
    }


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The chat template of a Hugging Face folder, or None.

    Raises:
        UserError: a file cannot be read, or the template is too long.
    """
    path = folder / TOKENIZER_CONFIG
    config = read_object(path) if path.is_file() else {}
    source = config.get("chat_template")
    if isinstance(source, list):  # older folders with several named templates
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if (folder / TEMPLATE).is_file():  # newer versions of transformers write it here, and read this first
        try:
            source = (folder / TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{folder / TEMPLATE} must be a chat template in UTF-8, but cannot be read.") from None
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f"`chat_template` in {path} must be a string, but has type {type(source).__name__}.")
    tokens = {name: _content(token) for name, token in config.items() if name.endswith("_token")}
    return ChatTemplate(source, {name: token for name, token in tokens.items() if token is not None})


def _content(token: Any) -> str | None:
    """The text of a special token, which may be an object that also has other settings."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
