"""Converts conversations into token ids and target flags, in MiniMind-3's chat format.

Each message becomes parts: explicit tokens, such as <|im_start|>, and text, which is encoded separately and never
produces such a token, so <|im_start|>assistant typed by a user stays text. The concatenated text of all parts equals
what MiniMind-3's chat template renders, byte for byte.

Source: chat_template in MiniMind-3's tokenizer_config.json (github.com/jingyaogong/minimind, Apache-2.0), adapted there
from Qwen3's. The sentences about tools are part of the format: models were trained on exactly these bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer

from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.messages import Message, ToolCall, read_messages, read_tools
from minimind.utils.errors import UserError

START, END = "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
RESPONSE, END_RESPONSE = "<tool_response>", "</tool_response>"
MARKERS = (START, END, THINK, END_THINK, CALL, END_CALL, RESPONSE, END_RESPONSE)

BEFORE_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
END_OF_TOOLS = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
XML_TAGS = " XML tags:\n"
EXAMPLE = '\n{"name": <function-name>, "arguments": <args-json-object>}\n'
AFTER_TOOLS = f"{END_OF_TOOLS}{CALL}{END_CALL}{XML_TAGS}{CALL}{EXAMPLE}{END_CALL}"

# How the assistant's next turn begins: "closed" skips the reasoning, "open" requests it.
GenerationPrompt = Literal["closed", "open"]


class Part(NamedTuple):
    """An explicit token, or text."""

    text: str
    is_target: bool = False
    is_token: bool = False


class ChatTokens(NamedTuple):
    ids: list[int]
    targets: list[bool]  # whether each id is a target


class ChatRenderer:
    """Renders conversations with one tokenizer.

    The ids of the first i messages are a prefix of those of the first i + 1, and the generation prompt is a prefix of
    the turn that answers it: "open" if that turn has reasoning, "closed" if not. One exception: consecutive tool
    messages share a turn, so between those the common prefix ends before <|im_end|>.
    """

    def __init__(self, tokenizer: BPE) -> None:
        plain = _without_added_tokens_in_text(tokenizer)
        self._encode = plain.encode_batch
        self._markers: dict[str, int] = {}
        for marker in MARKERS:
            index = tokenizer.tokenizer.token_to_id(marker)
            # Text must not produce a marker, as it could if the marker were a learned token or a result of merges.
            if index is not None and tokenizer.is_added(index) and not _can_come_from_text(plain, marker):
                self._markers[marker] = index

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        generation_prompt: GenerationPrompt | None = None,
        mask_generation_prompt: bool = True,
    ) -> ChatTokens:
        """Ids and targets of a conversation; see `render_parts` and `encode` for arguments and errors."""
        return self.encode(
            render_parts(
                messages, tools, generation_prompt=generation_prompt, mask_generation_prompt=mask_generation_prompt
            )
        )

    def encode(self, parts: Iterable[Part]) -> ChatTokens:
        """Raises: UserError, if the tokenizer lacks one of the explicit tokens."""
        parts = list(parts)
        self._check_tokens({part.text for part in parts if part.is_token})
        encoded = iter(self._encode([part.text for part in parts if not part.is_token]))
        ids: list[int] = []
        targets: list[bool] = []
        for part in parts:
            part_ids = [self._markers[part.text]] if part.is_token else next(encoded)
            ids += part_ids
            targets += [part.is_target] * len(part_ids)
        return ChatTokens(ids, targets)

    def _check_tokens(self, needed: set[str]) -> None:
        if missing := [marker for marker in MARKERS if marker in needed - self._markers.keys()]:
            raise UserError(
                f"This conversation needs a tokenizer with the added tokens {', '.join(missing)}, but this one lacks "
                "them. Every tokenizer trained from now on has them (`tokenizer.reserved`), and so has MiniMind-3's."
            )


def render_parts(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    generation_prompt: GenerationPrompt | None = None,
    mask_generation_prompt: bool = True,
) -> list[Part]:
    """Split a conversation into parts, before any tokenization; their concatenated texts are the rendered text.

    Targets are what an assistant generates: reasoning, content, tool calls and the <|im_end|> of each of its turns.

    Args:
        messages: with `role`, `content`, and for an assistant `reasoning_content` and `tool_calls`; the content may
            also contain the reasoning, before </think>.
        tools: JSON objects that describe the tools.
        mask_generation_prompt: exclude the generation prompt from the targets. False gives the labels of MiniMind's
            own training: everything in a turn after its header, including the line break after <|im_end|>.

    Raises:
        UserError: a message or tool is invalid; names the first one.
    """
    if generation_prompt not in (None, "closed", "open"):
        raise UserError(f'`generation_prompt` must be "closed", "open" or None, but is {generation_prompt!r}.')
    conversation, descriptions = read_messages(messages), read_tools(tools)
    parts: list[Part] = []
    if descriptions:
        system = f"{conversation.pop(0).content}\n\n" if conversation[0].role == "system" else ""
        parts += _tools(system, descriptions)
    for number, message in enumerate(conversation):
        if message.role == "assistant":
            parts += _assistant(message, mask_generation_prompt)
        elif message.role == "tool":
            parts += _tool_response(conversation, number)
        else:
            parts += [_token(START), Part(f"{message.role}\n{message.content}"), _token(END), Part("\n")]
    return parts + (_generation_prompt(generation_prompt) if generation_prompt else [])


def _token(name: str, is_target: bool = False) -> Part:
    return Part(name, is_target, is_token=True)


def _tools(system: str, descriptions: list[str]) -> list[Part]:
    """System turn of a conversation with tools: the system message, the tool descriptions, and how to call them."""
    lines = "".join(f"\n{description}" for description in descriptions)
    introduction = f"system\n{system}{BEFORE_TOOLS}{lines}{END_OF_TOOLS}"
    return [
        _token(START), Part(introduction), _token(CALL), _token(END_CALL), Part(XML_TAGS),
        _token(CALL), Part(EXAMPLE), _token(END_CALL), _token(END), Part("\n"),
    ]  # fmt: skip


def _generation_prompt(kind: GenerationPrompt) -> list[Part]:
    header = [_token(START), Part("assistant\n"), _token(THINK)]
    return [*header, Part("\n")] if kind == "open" else [*header, Part("\n\n"), _token(END_THINK), Part("\n\n")]


def _assistant(message: Message, mask_generation_prompt: bool) -> list[Part]:
    """Assistant turn: the generation prompt, and then, as separate parts, what the assistant generates."""
    prompt = _generation_prompt("open" if message.reasoning else "closed")
    if not mask_generation_prompt:
        prompt = [part if n < 2 else part._replace(is_target=True) for n, part in enumerate(prompt)]
    generated: list[Part] = []
    before_content = ""
    if message.reasoning:
        generated += [Part(f"{message.reasoning}\n", True), _token(END_THINK, True)]
        before_content = "\n\n"
    text = before_content + message.content.lstrip("\n")
    for number, call in enumerate(message.tool_calls):
        separator = "\n" if number or message.content else ""
        generated += [*_text(text + separator), *_tool_call(call)]
        text = ""
    ending = [_token(END, True), Part("\n", is_target=not mask_generation_prompt)]
    return [*prompt, *generated, *_text(text), *ending]


def _tool_call(call: ToolCall) -> list[Part]:
    text = f'\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n'
    return [_token(CALL, True), Part(text, True), _token(END_CALL, True)]


def _text(text: str) -> list[Part]:
    return [Part(text, True)] if text else []


def _tool_response(conversation: list[Message], number: int) -> list[Part]:
    """Tool message; consecutive ones share a user turn."""
    after_tool, before_tool = (
        0 <= other < len(conversation) and conversation[other].role == "tool" for other in (number - 1, number + 1)
    )
    opening = [Part("\n")] if after_tool else [_token(START), Part("user\n")]
    closing = [] if before_tool else [_token(END), Part("\n")]
    return [*opening, _token(RESPONSE), Part(f"\n{conversation[number].content}\n"), _token(END_RESPONSE), *closing]


def has_added_tokens(tokenizer: BPE, names: Iterable[str]) -> bool:
    """Whether the tokenizer has all of these as added tokens."""
    ids = [tokenizer.tokenizer.token_to_id(name) for name in names]
    return all(index is not None and tokenizer.is_added(index) for index in ids)


def _without_added_tokens_in_text(tokenizer: BPE) -> BPE:
    """Copy of the tokenizer that matches no added tokens in text, not even ordinary ones such as <think>."""
    content = json.loads(tokenizer.tokenizer.to_str())
    if all(token["special"] for token in content["added_tokens"]):
        return tokenizer
    for token in content["added_tokens"]:
        token["special"] = True  # `encode` treats special tokens in text as text
    return BPE(Tokenizer.from_str(json.dumps(content, ensure_ascii=False)))


def _can_come_from_text(plain: BPE, marker: str) -> bool:
    return any(token.value == marker for token in plain.tokenizer.model.tokenize(marker))
