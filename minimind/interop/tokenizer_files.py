"""What stands beside tokenizer.json so that `AutoTokenizer` and `generate()` know the special tokens."""

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
    """tokenizer_config.json; the chat template is in it where the tokenizer has the tokens for one."""
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
    """generation_config.json: a text ends at the end of a document, and where there is one at the end of a turn."""
    end_of_text = tokenizer.end_of_text
    end_of_turn = tokenizer.tokenizer.token_to_id(END) if chat_template(tokenizer) is not None else None
    return {
        "bos_token_id": end_of_text,  # what stands before a document in training
        "eos_token_id": end_of_text if end_of_turn is None else [end_of_text, end_of_turn],
        "pad_token_id": end_of_text,
    }


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The template of a model in Hugging Face's format; None: it has none.

    Raises:
        UserError: a file of it cannot be read, or the template is too long.
    """
    path = folder / TOKENIZER_CONFIG
    config = read_object(path) if path.is_file() else {}
    source = config.get("chat_template")
    if isinstance(source, list):  # older folders of models with several, by name
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if (folder / TEMPLATE).is_file():  # where newer versions write it, and look first
        try:
            source = (folder / TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{folder / TEMPLATE} must be a chat template in UTF-8, but cannot be read.") from None
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f"{path} must have text as `chat_template`, but has a {type(source).__name__}.")
    tokens = {name: _content(token) for name, token in config.items() if name.endswith("_token")}
    return ChatTemplate(source, {name: token for name, token in tokens.items() if token is not None})


def _content(token: Any) -> str | None:
    """A special token's text, which may stand in an object with its other settings."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
