"""Messages of a conversation as callers give them (OpenAI's fields), checked and made plain for a renderer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimind.utils.errors import UserError
from minimind.utils.files import parse_json

ROLES = ("system", "user", "assistant", "tool")
MISPLACED = {  # fields that other formats have, and that would be dropped silently
    "tools": "give the tools of a conversation beside its messages",
    "functions": "give them beside the messages, as `tools`",
    "function_call": "name it `tool_calls`, a list",
    "reasoning": "name it `reasoning_content`",
    "thinking": "name it `reasoning_content`",
}


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: str  # a JSON object, as written


@dataclass(frozen=True)
class Message:
    role: str
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Raises: UserError, which names the first message that is wrong, counted from 1."""
    if isinstance(messages, str | Mapping) or not messages:
        raise UserError("A conversation must be a list of at least one message, such as a user's.")
    return [_message(message, f"Message {number}") for number, message in enumerate(messages, 1)]


def read_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Each tool's description as JSON; raises UserError, which names the first that is wrong."""
    if isinstance(tools, str | Mapping):
        raise UserError(f"`tools` must be a list of JSON objects, but is a {type(tools).__name__}.")
    for number, tool in enumerate(tools or (), 1):
        if not isinstance(tool, Mapping):
            raise UserError(f"Tool {number} must be a JSON object, but is a {type(tool).__name__}.")
    return [_to_json(tool, f"Tool {number}") for number, tool in enumerate(tools or (), 1)]


def _message(message: Mapping[str, Any], where: str) -> Message:
    if not isinstance(message, Mapping):
        raise UserError(f"{where} must be an object with `role` and `content`, but is a {type(message).__name__}.")
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"{where} must have one of the roles {', '.join(ROLES)}, but has {_shown(role)}.")
    for name, remedy in MISPLACED.items():
        if message.get(name):
            raise UserError(f"{where} must not have `{name}`: {remedy}.")
    if role != "assistant":
        for name in ("tool_calls", "reasoning_content"):
            if message.get(name):
                raise UserError(f"{where} must not have `{name}`, as its role is {role}: only an assistant's may.")
        return Message(role, _text(message.get("content"), f"{where} must have a string as `content`"))
    calls = _tool_calls(message.get("tool_calls"), where)
    content = message.get("content")
    if content is None and calls:
        content = ""  # OpenAI's way of saying that a message is its tool calls alone
    content = _text(content, f"{where} must have a string as `content`, or `tool_calls`")
    return _with_reasoning(message.get("reasoning_content"), content, calls, where)


def _with_reasoning(reasoning: Any, content: str, calls: tuple[ToolCall, ...], where: str) -> Message:
    """An assistant's message, whose reasoning is in a field of its own or before the last </think> of its content."""
    if reasoning is not None:
        reasoning = _text(reasoning, f"{where} must have a string as `reasoning_content`")
    elif "</think>" in content:
        reasoning = content.split("</think>")[0].split("<think>")[-1]
        content = content.split("</think>")[-1].lstrip("\n")
    return Message("assistant", content, (reasoning or "").strip("\n"), calls)


def _tool_calls(calls: Any, where: str) -> tuple[ToolCall, ...]:
    if not calls:
        return ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise UserError(f"{where} must have a list as `tool_calls`, but has a {type(calls).__name__}.")
    return tuple(_tool_call(call, f"{where}, tool call {number},") for number, call in enumerate(calls, 1))


def _tool_call(call: Any, where: str) -> ToolCall:
    if isinstance(call, Mapping) and call.get("function"):
        call = call["function"]
    if not isinstance(call, Mapping):
        raise UserError(f"{where} must be an object with `name` and `arguments`, but is a {type(call).__name__}.")
    name = call.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} must have a `name`, but has {_shown(name)}.")
    if _to_json(name, where) != f'"{name}"':  # the format writes it between quotes as it is
        raise UserError(f"{where} must have a `name` without quotes, backslashes and line breaks, but has {name!r}.")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        _check_object(_text(arguments, f"{where} must have `arguments`"), where)
        return ToolCall(name, arguments)
    if not isinstance(arguments, Mapping):
        raise UserError(f"{where} must have a JSON object as `arguments`, but has {_shown(arguments)}.")
    return ToolCall(name, _to_json(arguments, where))


def _check_object(text: str, where: str) -> None:
    try:
        value = parse_json(text.encode())
    except ValueError as error:
        raise UserError(f"{where} must have a JSON object as `arguments`, but: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} must have a JSON object as `arguments`, but has {_shown(text)}.")


def _to_json(value: Any, where: str) -> str:
    """As transformers writes it into templates: any character as it is, none escaped for HTML."""
    try:
        text = json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where} must be what JSON can say, but: {reason}.") from None
    return _text(text, f"{where} must be text")


def _text(value: Any, must: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{must}, but has {_shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{must}, but character {error.start + 1} is half of a surrogate pair, which is no text."
        ) from None
    return value


def _shown(value: Any) -> str:
    """What was found, for a message, without pouring a whole conversation into it."""
    if value is None:
        return "none"
    return repr(value)[:80] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
