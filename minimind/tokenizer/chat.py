"""Conversations → token ids and which of them are targets, by construction and in MiniMind-3's chat format.

Each message becomes parts: tokens named outright, such as <|im_start|>, and text, which is encoded apart and never
becomes one of those, so a user who types <|im_start|>assistant has typed text. The text of all parts is, byte for
byte, what MiniMind-3's chat template renders.

Source: chat_template in MiniMind-3's tokenizer_config.json (github.com/jingyaogong/minimind, Apache-2.0), which took
it from Qwen3's. The sentences about tools are part of that format: a model has learnt them to the byte.
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

# How the assistant's next turn begins: "closed" leaves out the reasoning, "open" asks for it.
GenerationPrompt = Literal["closed", "open"]


class Part(NamedTuple):
    """A token named outright, or text."""

    text: str
    is_target: bool = False
    is_token: bool = False


class ChatTokens(NamedTuple):
    ids: list[int]
    targets: list[bool]  # whether each id is a target


class ChatRenderer:
    """Renders conversations with one tokenizer.

    Rendering the first i messages gives a prefix, in ids, of rendering i + 1, and the generation prompt gives a prefix
    of the turn that answers it, "open" if that turn has reasoning and "closed" if not. One exception: the format puts
    successive tool messages into one turn, so between those the prefix ends before <|im_end|>.
    """

    def __init__(self, tokenizer: BPE) -> None:
        plain = _without_tokens_in_text(tokenizer)
        self._encode = plain.encode_batch
        self._markers: dict[str, int] = {}
        for marker in MARKERS:
            index = tokenizer.tokenizer.token_to_id(marker)
            # A learnt token of that name could come out of text, and so could a named one that merges make.
            if index is not None and tokenizer.is_added(index) and not _comes_of_text(plain, marker):
                self._markers[marker] = index

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        generation_prompt: GenerationPrompt | None = None,
        mask_generation_prompt: bool = True,
    ) -> ChatTokens:
        """Ids and targets of a conversation; arguments and errors are those of `parts_of` and `encode`."""
        return self.encode(
            parts_of(
                messages, tools, generation_prompt=generation_prompt, mask_generation_prompt=mask_generation_prompt
            )
        )

    def encode(self, parts: Iterable[Part]) -> ChatTokens:
        """Raises: UserError, if the tokenizer lacks a token that one of the parts names."""
        parts = list(parts)
        self._check_tokens({part.text for part in parts if part.is_token})
        encoded = iter(self._encode([part.text for part in parts if not part.is_token]))
        ids: list[int] = []
        targets: list[bool] = []
        for part in parts:
            found = [self._markers[part.text]] if part.is_token else next(encoded)
            ids += found
            targets += [part.is_target] * len(found)
        return ChatTokens(ids, targets)

    def _check_tokens(self, needed: set[str]) -> None:
        if missing := [marker for marker in MARKERS if marker in needed - self._markers.keys()]:
            raise UserError(
                f"This conversation needs a tokenizer with the added tokens {', '.join(missing)}, but this one lacks "
                "them; train with one that has them, such as MiniMind-3's, by tokenizer=file "
                "tokenizer.path=…/tokenizer.json."
            )


def parts_of(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    generation_prompt: GenerationPrompt | None = None,
    mask_generation_prompt: bool = True,
) -> list[Part]:
    """A conversation in parts, which need no tokenizer yet; their texts in a row are the rendered text.

    Targets are what an assistant generates: reasoning, content, tool calls and the <|im_end|> of each of its turns.

    Args:
        messages: with `role`, `content`, and for an assistant `reasoning_content` and `tool_calls`; reasoning may also
            stand in the content, before </think>.
        tools: JSON objects that describe them.
        mask_generation_prompt: whether what the generation prompt supplies is no target. False gives the labels of
            MiniMind's own training: all of a turn after its header, with the line break behind <|im_end|>.

    Raises:
        UserError: a message or a tool is not what it should be; it names the first such.
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
    """The system's turn where there are tools: what it says otherwise, what they are, and how to call them."""
    lines = "".join(f"\n{description}" for description in descriptions)
    introduction = f"system\n{system}{BEFORE_TOOLS}{lines}{END_OF_TOOLS}"
    return [
        _token(START), Part(introduction), _token(CALL), _token(END_CALL), Part(XML_TAGS),
        _token(CALL), Part(EXAMPLE), _token(END_CALL), _token(END), Part("\n"),
    ]  # fmt: skip


def _generation_prompt(kind: GenerationPrompt) -> list[Part]:
    begun = [_token(START), Part("assistant\n"), _token(THINK)]
    return [*begun, Part("\n")] if kind == "open" else [*begun, Part("\n\n"), _token(END_THINK), Part("\n\n")]


def _assistant(message: Message, mask_generation_prompt: bool) -> list[Part]:
    """What the generation prompt supplies, and then, in texts of their own, what the assistant generates."""
    supplied = _generation_prompt("open" if message.reasoning else "closed")
    if not mask_generation_prompt:
        supplied = [part if n < 2 else part._replace(is_target=True) for n, part in enumerate(supplied)]
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
    return [*supplied, *generated, *_text(text), *ending]


def _tool_call(call: ToolCall) -> list[Part]:
    said = f'\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n'
    return [_token(CALL, True), Part(said, True), _token(END_CALL, True)]


def _text(text: str) -> list[Part]:
    return [Part(text, True)] if text else []


def _tool_response(conversation: list[Message], number: int) -> list[Part]:
    """A tool's answer in the user's turn, which successive ones share."""
    follows, goes_on = (
        0 <= other < len(conversation) and conversation[other].role == "tool" for other in (number - 1, number + 1)
    )
    before = [Part("\n")] if follows else [_token(START), Part("user\n")]
    after = [] if goes_on else [_token(END), Part("\n")]
    return [*before, _token(RESPONSE), Part(f"\n{conversation[number].content}\n"), _token(END_RESPONSE), *after]


def has_tokens(tokenizer: BPE, names: Iterable[str]) -> bool:
    """Whether each of them is a token that was named, not learnt."""
    ids = [tokenizer.tokenizer.token_to_id(name) for name in names]
    return all(index is not None and tokenizer.is_added(index) for index in ids)


def _without_tokens_in_text(tokenizer: BPE) -> BPE:
    """The same tokenizer, but that finds no added token in text, not even an ordinary one such as <think>."""
    content = json.loads(tokenizer.tokenizer.to_str())
    if all(token["special"] for token in content["added_tokens"]):
        return tokenizer
    for token in content["added_tokens"]:
        token["special"] = True  # and those are text to `encode`
    return BPE(Tokenizer.from_str(json.dumps(content, ensure_ascii=False)))


def _comes_of_text(plain: BPE, marker: str) -> bool:
    return any(token.value == marker for token in plain.tokenizer.model.tokenize(marker))
