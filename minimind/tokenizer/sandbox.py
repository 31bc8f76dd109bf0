"""The process that renders one chat template of somebody else: Jinja's sandbox, inside limits of the system.

The sandbox keeps a template from reaching Python's objects, but not from taking memory and time: `{{ "a" * 10**9 }}`
or loops in loops are fine with it. Only the system can stop those.
"""

import json
import resource
import sys
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from minimind.utils.terminal import say

MAX_ERROR = 1000  # characters, as a template chooses what it says


class Generation(Extension):
    """`{% generation %}`, by which training templates mark what an assistant says; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja wants it)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Jinja's own takes any name, __html__ among them, by which it would pass for another kind of object."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace must not have the name {name!r}")
        super().__setitem__(name, value)


def namespace(*pairs: Any, **names: Any) -> Namespace:
    made = PlainNamespace()
    for name, value in dict(*pairs, **names).items():
        made[name] = value
    return made


def new_dict(*pairs: Any, **names: Any) -> dict[str, Any]:
    """In place of the class, whose methods would be in reach."""
    return dict(*pairs, **names)


def limit(cpu_s: int, memory_mib: int) -> None:
    """Of this process alone, which is also to write no file and to start no other."""
    for kind, most in (("CPU", cpu_s), ("FSIZE", 0), ("CORE", 0), ("NPROC", 0), ("AS", memory_mib << 20)):
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))
        except (ValueError, OSError):
            if kind != "AS":  # which macOS refuses
                raise


def environment() -> ImmutableSandboxedEnvironment:
    """As transformers makes it, without `strftime_now`, `lipsum` and `random`, which differ from call to call."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = to_json
    del made.globals["lipsum"], made.filters["random"]
    made.globals |= {
        "raise_exception": refuse,
        "namespace": namespace,
        "dict": new_dict,
    }
    return made


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes what is special to HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message: str) -> None:
    raise TemplateError(message)


def answer(task: dict[str, Any], max_text: int) -> dict[str, Any]:
    """Its `text`, the `error` that ended it, or that a `limit` was reached."""
    pieces, length = [], 0
    try:
        for piece in environment().from_string(task["source"]).generate(task["names"]):
            length += len(piece)
            if length > max_text:
                return {"limit": True}
            pieces.append(piece)
    except MemoryError:
        return {"limit": True}
    except Exception as error:  # whatever a template's own arithmetic, calls and recursion may end in
        return {"error": _said(error)[:MAX_ERROR]}
    return {"text": "".join(pieces)}


def _said(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # what it holds may be nested too deeply to be written
        return type(error).__name__


def main(cpu_s: str, memory_mib: str, max_text: str) -> None:
    limit(int(cpu_s), int(memory_mib))
    try:
        said = json.dumps(answer(json.load(sys.stdin), int(max_text)))
    except MemoryError:
        said = json.dumps({"limit": True})
    say(said, end="", raw=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
