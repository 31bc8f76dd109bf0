"""Process that renders one untrusted chat template in Jinja's sandbox, with resource limits of the operating system.

The sandbox keeps a template from accessing Python's internals, but not from using memory and time: it allows
`{{ "a" * 10**9 }}` and nested loops. Only the operating system can stop those.
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

MAX_ERROR = 1000  # characters; the template controls the message


class Generation(Extension):
    """`{% generation %}`, which marks the assistant's text in training templates; renders as its body."""

    tags = {"generation"}  # noqa: RUF012 (declared like this in Jinja)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Namespace without underscore names: with __html__, Jinja's own could pass for another kind of object."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace must not have the name {name!r}")
        super().__setitem__(name, value)


def namespace(*pairs: Any, **names: Any) -> Namespace:
    result = PlainNamespace()
    for name, value in dict(*pairs, **names).items():
        result[name] = value
    return result


def new_dict(*pairs: Any, **names: Any) -> dict[str, Any]:
    """Replaces the class `dict`, whose methods a template could access."""
    return dict(*pairs, **names)


def limit(cpu_s: int, memory_mib: int) -> None:
    """Limit this process, which also must not write files or start other processes."""
    for kind, maximum in (("CPU", cpu_s), ("FSIZE", 0), ("CORE", 0), ("NPROC", 0), ("AS", memory_mib << 20)):
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (maximum, maximum))
        except (ValueError, OSError):
            if kind != "AS":  # not supported by macOS
                raise


def environment() -> ImmutableSandboxedEnvironment:
    """Environment of transformers, without the nondeterministic `strftime_now`, `lipsum` and `random`."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    env.filters["tojson"] = to_json
    del env.globals["lipsum"], env.filters["random"]
    env.globals |= {
        "raise_exception": raise_exception,
        "namespace": namespace,
        "dict": new_dict,
    }
    return env


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's own filter, does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    raise TemplateError(message)


def render(task: dict[str, Any], max_text: int) -> dict[str, Any]:
    """Rendered `text`, the `error` that occurred, or `limit` if a limit was reached."""
    pieces, length = [], 0
    try:
        for piece in environment().from_string(task["source"]).generate(task["names"]):
            length += len(piece)
            if length > max_text:
                return {"limit": True}
            pieces.append(piece)
    except MemoryError:
        return {"limit": True}
    except Exception as error:  # a template's arithmetic, calls and recursion can raise anything
        return {"error": _error_text(error)[:MAX_ERROR]}
    return {"text": "".join(pieces)}


def _error_text(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # its value may be nested too deeply for str()
        return type(error).__name__


def main(cpu_s: str, memory_mib: str, max_text: str) -> None:
    limit(int(cpu_s), int(memory_mib))
    try:
        result = json.dumps(render(json.load(sys.stdin), int(max_text)))
    except MemoryError:
        result = json.dumps({"limit": True})
    say(result, end="", raw=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
