"""The chat template of an imported model: Jinja by somebody else, rendered in a sandbox and within limits."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minimind.utils.child import python_module, search_path
from minimind.utils.errors import UserError, in_brief

MAX_SOURCE = 1 << 20  # characters of a template; the largest published ones have some 20,000
MAX_TEXT = 8 << 20  # characters that it may render
CPU_S, WAIT_S = 5, 60  # the second is for a machine so busy that the first takes as long
MEMORY_MIB = 512
WHERE_PYTHON_IS = ("LD_LIBRARY_PATH", "PYTHONHOME")


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens that it may name, such as `bos_token`.

    It is given what transformers gives it, but neither the time nor chance, so that a conversation is always rendered
    alike. What comes out is text: a template cannot say which <|im_end|> in it is its own and which one was typed.
    """

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.source) > MAX_SOURCE:
            raise UserError(
                f"A chat template must have at most {MAX_SOURCE:,} characters, but has {len(self.source):,}."
            )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str:
        """Starts a process for it, which takes 0.1 s.

        Args:
            options: further names for the template, such as `enable_thinking`.

        Raises:
            UserError: the template is none, refuses the messages, or takes too much time, memory or text.
        """
        names = {**self.special_tokens, **options, "messages": messages, "tools": tools}
        names |= {"documents": None, "add_generation_prompt": add_generation_prompt}
        try:
            task = json.dumps({"source": self.source, "names": names})
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"Messages and tools must be what JSON can say, but: {in_brief(error)}.") from None
        return _text(_in_a_process_of_its_own(task))


def _in_a_process_of_its_own(task: str) -> dict[str, Any]:
    """Its answer. It inherits no variables, which may hold secrets, but where Python is."""
    env = {name: os.environ[name] for name in WHERE_PYTHON_IS if name in os.environ} | {"PYTHONPATH": search_path()}
    command = python_module("minimind.tokenizer.sandbox", str(CPU_S), str(MEMORY_MIB), str(MAX_TEXT))
    try:
        ended = subprocess.run(command, input=task.encode(), capture_output=True, timeout=WAIT_S, env=env)
    except subprocess.TimeoutExpired:
        return {"limit": True}
    if ended.returncode < 0:  # killed by the system
        return {"limit": True}
    if ended.returncode > 0:
        raise RuntimeError(f"The process that renders chat templates failed: {ended.stderr.decode()[-2000:]}")
    return json.loads(ended.stdout)


def _text(answer: dict[str, Any]) -> str:
    if "limit" in answer:
        raise UserError(
            f"A chat template must do with {CPU_S} s, {MEMORY_MIB} MiB of memory and {MAX_TEXT:,} characters, but this "
            "one takes more; use the model without it."
        )
    if "error" in answer:
        raise UserError(f"The chat template cannot render this: {in_brief(ValueError(answer['error']))}.")
    try:
        answer["text"].encode()
    except UnicodeEncodeError:
        raise UserError("The chat template must render text, but half of a surrogate pair came out.") from None
    return answer["text"]
