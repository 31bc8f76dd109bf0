"""What stands beside tokenizer.json so that `AutoTokenizer` and `generate()` know the special tokens."""

from typing import Any

from minimind.tokenizer.bpe import BPE, END_OF_TEXT

TOKENIZER = "tokenizer.json"
START, END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (  # ChatML: a role and a text between two tokens of their own
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tokenizer_config(tokenizer: BPE, context_length: int) -> dict[str, Any]:
    """tokenizer_config.json; the chat template is in it where the tokenizer has ChatML's tokens."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
    }
    if _chat_end(tokenizer) is not None:
        config |= {"chat_template": CHAT_TEMPLATE, "additional_special_tokens": [START, END]}
    return config


def generation_config(tokenizer: BPE) -> dict[str, Any]:
    """generation_config.json: a text ends at the end of a document, and where there is one at the end of a turn."""
    end_of_text, end_of_turn = tokenizer.end_of_text, _chat_end(tokenizer)
    return {
        "bos_token_id": end_of_text,  # what stands before a document in training
        "eos_token_id": end_of_text if end_of_turn is None else [end_of_text, end_of_turn],
        "pad_token_id": end_of_text,
    }


def _chat_end(tokenizer: BPE) -> int | None:
    start, end = (tokenizer.tokenizer.token_to_id(token) for token in (START, END))
    return end if start is not None else None
