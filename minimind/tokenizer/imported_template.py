"""Chat templates of imported models: untrusted Jinja, rendered in a sandboxed subprocess with resource limits."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minimind.utils.child import python_module, search_path
from minimind.utils.errors import UserError, in_brief

MAX_SOURCE = 1 << 20  # characters of a template; the largest published ones have about 20,000
MAX_TEXT = 8 << 20  # characters of rendered text
CPU_S, WAIT_S = 5, 60  # limits of CPU time and of wall time, which is longer on a busy machine
MEMORY_MIB = 512
PYTHON_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONHOME")


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens that it may refer to, such as `bos_token`.

    It gets the same variables as in transformers, except for time and randomness, so that rendering is deterministic.
    The result is text: it does not tell an <|im_end|> of the template from one that a user typed.
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
        """Render in a new process, which takes 0.1 s.

        Args:
            options: additional variables for the template, such as `enable_thinking`.

        Raises:
            UserError: the template is invalid, rejects the messages, or exceeds a limit of time, memory or text.
        """
        names = {**self.special_tokens, **options, "messages": messages, "tools": tools}
        names |= {"documents": None, "add_generation_prompt": add_generation_prompt}
        try:
            task = json.dumps({"source": self.source, "names": names})
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"Messages and tools must be valid JSON values, but are not: {in_brief(error)}.") from None
        return _rendered_text(_render_in_subprocess(task))


def _render_in_subprocess(task: str) -> dict[str, Any]:
    """Result of the sandbox process, which inherits only the variables that locate Python: others may hold secrets."""
    env = {name: os.environ[name] for name in PYTHON_VARIABLES if name in os.environ} | {"PYTHONPATH": search_path()}
    command = python_module("minimind.tokenizer.sandbox", str(CPU_S), str(MEMORY_MIB), str(MAX_TEXT))
    try:
        process = subprocess.run(command, input=task.encode(), capture_output=True, timeout=WAIT_S, env=env)
    except subprocess.TimeoutExpired:
        return {"limit": True}
    if process.returncode < 0:  # killed by the system
        return {"limit": True}
    if process.returncode > 0:
        raise RuntimeError(f"The process that renders chat templates failed: {process.stderr.decode()[-2000:]}")
    return json.loads(process.stdout)


def _rendered_text(result: dict[str, Any]) -> str:
    if "limit" in result:
        raise UserError(
            f"A chat template must render within {CPU_S} s, {MEMORY_MIB} MiB of memory and {MAX_TEXT:,} characters, "
            "but this one needs more; use the model without it."
        )
    if "error" in result:
        raise UserError(f"The chat template cannot render this: {in_brief(ValueError(result['error']))}.")
    try:
        result["text"].encode()
    except UnicodeEncodeError:
        raise UserError("The chat template must render valid Unicode, but rendered an unpaired surrogate.") from None
    return result["text"]
