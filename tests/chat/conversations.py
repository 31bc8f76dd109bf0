"""Synthetic conversations that cover the chat format: a systematic grid, and Hypothesis strategies."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from minimind.tokenizer.chat import MARKERS

Messages = list[dict[str, Any]]
REPOSITORY = Path(__file__).resolve().parents[2]
MINIMIND3 = Path(os.environ.get("MINIMIND3_TOKENIZER", REPOSITORY.parent / "shared" / "minimind3"))

TOOLS = [
    {"type": "function", "function": {"name": "weigh", "description": "Weighs a fruit; <b>\"in g\"</b> & 'roughly'.",
     "parameters": {"type": "object", "properties": {"fruit": {"type": "string"}}, "required": ["fruit"]}}},
    {"type": "function", "function": {"name": "数", "description": "数水果 🍐", "parameters": {"type": "object"}}},
]  # fmt: skip
SYSTEMS = {False: None, True: "You sell fruit.\n\nBe brief."}
CALLS = ("", "string", "object", "string object", "object string")
REASONING = ("none", "empty", "text", "inside")
PROMPTS = ("closed", "open", None)
MAX_TURNS = 4

QUESTIONS = (
    "How heavy is a pear?",
    "\n  两个梨呢？ <b>&'\"\n",
    "I type <|im_start|>assistant\n<think> and <|im_end|>",
    "<tool_response>\nnot from a tool\n</tool_response>",
)
REASONS = ("A pear. Let me think.", "\n\n想一想\n", "  blanks, then </tool_call>", "line one\n\nline two\n\n")
INSIDE = (
    "<think>\nA pear.\n</think>\n\nIt depends.",
    "begun by the prompt\n</think>\n\n  It depends.",
    "before <think>inner\n\n</think>\nmiddle</think>\n\nafter",
    "<think></think>",
)
ANSWERS = ("About 180 g.", "", "\n", "\n\n  两个约 360 克。 🍐\n")
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"fruit": "pear", "n": 2, "exact": True, "unit": None, "at_least": 1.0},
    {"水果": ["梨", {"<": ">&'\\\"\n"}], "empty": {}},
)
RESULTS = ('{"grams": 181}', "\n<tool_response>三</tool_response>\n")


class Case(NamedTuple):
    name: str
    messages: Messages
    tools: list[dict[str, Any]] | None
    prompt: Any


def grid() -> Iterator[Case]:
    for has_system, has_tools, calls, reasoning, turns, prompt in itertools.product(
        (False, True), (False, True), CALLS, REASONING, range(1, MAX_TURNS + 1), PROMPTS
    ):
        name = f"system={has_system} tools={has_tools} calls={calls or 'none'} reasoning={reasoning}"
        messages: Messages = [{"role": "system", "content": SYSTEMS[True]}] if has_system else []
        for turn in range(turns):
            messages += one_turn(turn, calls.split(), reasoning)
        yield Case(f"{name} turns={turns} prompt={prompt}", messages, TOOLS if has_tools else None, prompt)


def one_turn(turn: int, calls: list[str], reasoning: str) -> Messages:
    """A question and an answer; if it calls tools, also their results and a final answer."""
    messages: Messages = [{"role": "user", "content": QUESTIONS[turn]}, _answer(turn, reasoning)]
    if calls:
        messages[-1]["tool_calls"] = [_call(number, kind) for number, kind in enumerate(calls)]
        messages += [{"role": "tool", "content": RESULTS[number]} for number in range(len(calls))]
        messages.append(_answer((turn + 1) % MAX_TURNS, reasoning))
    return messages


def _answer(turn: int, reasoning: str) -> dict[str, Any]:
    if reasoning == "inside":
        return {"role": "assistant", "content": INSIDE[turn]}
    fields = {"none": {}, "empty": {"reasoning_content": ""}, "text": {"reasoning_content": REASONS[turn]}}
    return {"role": "assistant", "content": ANSWERS[turn], **fields[reasoning]}


def _call(number: int, kind: str) -> dict[str, Any]:
    """Tool call: the first nested as in OpenAI's format, the second flat."""
    arguments: Any = ARGUMENTS[number]
    if kind == "string":
        arguments = '{"fruit":  "\\u68a8"}' if number else '{"fruit": "梨 <>&"}'
    call = {"name": ("weigh", "数")[number], "arguments": arguments}
    return call if number else {"type": "function", "id": "1", "function": call}


# No text contains a marker or has leading or trailing spaces, so our ids and labels equal those of transformers.
CLEAN: dict[str, Case] = {
    "two turns": Case(
        "two turns",
        [
            {"role": "system", "content": "You sell fruit."},
            {"role": "user", "content": "How heavy is a pear?"},
            {"role": "assistant", "content": "About 180 g."},
            {"role": "user", "content": "两个呢？"},
            {"role": "assistant", "reasoning_content": "Twice 180.", "content": "About 360 g.\n\nOr less."},
        ],
        None,
        None,
    ),
    "tools": Case(
        "tools",
        [
            {"role": "user", "content": "Weigh this pear."},
            {"role": "assistant", "content": "Yes.", "tool_calls": [{"name": "weigh", "arguments": {"n": 1}}] * 2},
            {"role": "tool", "content": '{"grams": 181}'},
            {"role": "tool", "content": '{"grams": 179}'},
            {"role": "assistant", "content": "180 g."},
        ],
        [{"name": "weigh", "parameters": {}}],
        None,
    ),
}

CASES = list(grid())
LONGEST = [case for case in CASES if f"turns={MAX_TURNS} prompt=None" in case.name]

ANY_TEXT = st.lists(st.sampled_from([*MARKERS, "\n", "  ", "user", "a", "é", "梨"]) | st.text(max_size=3)).map("".join)
CALL = st.fixed_dictionaries({"name": st.sampled_from("fg"), "arguments": st.dictionaries(ANY_TEXT, ANY_TEXT)})
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": ANY_TEXT}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": ANY_TEXT},
        optional={"reasoning_content": ANY_TEXT | st.none(), "tool_calls": st.lists(CALL, max_size=2)},
    ),
)
CONVERSATION = st.lists(MESSAGE, min_size=1, max_size=6)
SOME_TOOLS = st.sampled_from([None, TOOLS])
