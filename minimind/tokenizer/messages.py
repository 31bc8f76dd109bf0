"""Validates the messages of a conversation (in OpenAI's format) and normalizes them for rendering."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimind.utils.errors import UserError
from minimind.utils.files import parse_json

ROLES = ("system", "user", "assistant", "tool")
UNSUPPORTED = {  # fields of other formats, which would otherwise be dropped silently
    "tools": "pass the tools of a conversation separately from its messages",
    "functions": "pass them separately from the messages, as `tools`",
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
    """Raises: UserError, which names the first invalid message, counted from 1."""
    if isinstance(messages, str | Mapping) or not messages:
        raise UserError("A conversation must be a list of at least one message.")
    return [_message(message, f"Message {number}") for number, message in enumerate(messages, 1)]


def read_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Tool descriptions as JSON.

    Raises:
        UserError: a tool is invalid; names the first one, counted from 1.
    """
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
        raise UserError(f"{where} must have one of the roles {', '.join(ROLES)}, but has {_describe(role)}.")
    for name, remedy in UNSUPPORTED.items():
        if message.get(name):
            raise UserError(f"{where} must not have `{name}`: {remedy}.")
    if role != "assistant":
        for name in ("tool_calls", "reasoning_content"):
            if message.get(name):
                raise UserError(f"{where} must not have `{name}`, as its role is {role}: only assistant messages may.")
        return Message(role, _text(message.get("content"), f"{where} must have a string as `content`"))
    calls = _tool_calls(message.get("tool_calls"), where)
    content = message.get("content")
    if content is None and calls:
        content = ""  # in OpenAI's format, a message with tool calls only
    content = _text(content, f"{where} must have a string as `content`, or `tool_calls`")
    return _with_reasoning(message.get("reasoning_content"), content, calls, where)


def _with_reasoning(reasoning: Any, content: str, calls: tuple[ToolCall, ...], where: str) -> Message:
    """Assistant message, with its reasoning from `reasoning_content` or from the content before </think>."""
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
        raise UserError(f"{where} must have a `name`, but has {_describe(name)}.")
    if _to_json(name, where) != f'"{name}"':  # the format puts it between quotes without escaping
        raise UserError(f"{where} must have a `name` without quotes, backslashes or line breaks, but has {name!r}.")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        _check_object(_text(arguments, f"{where} must have `arguments`"), where)
        return ToolCall(name, arguments)
    if not isinstance(arguments, Mapping):
        raise UserError(f"{where} must have a JSON object as `arguments`, but has {_describe(arguments)}.")
    return ToolCall(name, _to_json(arguments, where))


def _check_object(text: str, where: str) -> None:
    try:
        value = parse_json(text.encode())
    except ValueError as error:
        raise UserError(f"{where} must have a JSON object as `arguments`, but parsing failed: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} must have a JSON object as `arguments`, but has {_describe(text)}.")


def _to_json(value: Any, where: str) -> str:
    """JSON as transformers writes it in templates: neither non-ASCII nor HTML characters are escaped."""
    try:
        text = json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where} must be a valid JSON value, but is not: {reason}.") from None
    return _text(text, f"{where} must be valid Unicode")


def _text(value: Any, requirement: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{requirement}, but has {_describe(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{requirement}, but character {error.start + 1} is an unpaired surrogate.") from None
    return value


def _describe(value: Any) -> str:
    """Short description of a value for an error message, which must not contain a whole conversation."""
    if value is None:
        return "none"
    return repr(value)[:80] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
