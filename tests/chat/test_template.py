"""Chat templates of imported models are rendered as by transformers, in a sandbox with limits; ours can be exported."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conversations import CASES, CLEAN, CONVERSATION, LONGEST, MINIMIND3, SOME_TOOLS, TOOLS, Messages
from hypothesis import given, settings
from make_fixture import FIXTURE, digest
from tokenizers import AddedToken

from minimind.interop.tokenizer_files import read_chat_template, tokenizer_config
from minimind.tokenizer import imported_template
from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.chat import MARKERS, render_parts
from minimind.tokenizer.chat_template import CHATML, WITH_THINKING
from minimind.tokenizer.imported_template import ChatTemplate
from minimind.tokenizer.sandbox import environment, render
from minimind.utils.errors import UserError

HELLO = [{"role": "user", "content": "hi <&> 梨"}]
OURS = environment().from_string(WITH_THINKING)
FEATURES = """\
{% set ns = namespace(seen=0) %}
{{ bos_token }}
{%- for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {%- set ns.seen = ns.seen + 1 %}
    {% generation %}
    {{ loop.index }} {{ message['content'] | trim }}{{ message.nothing }}
    {% endgeneration %}
    {% if ns.seen == 3 %}
        {% break %}
    {% endif %}
{% endfor %}
{% for tool in tools %}{{ tool | tojson }}{{ tool | tojson(indent=2) }}{% endfor %}
{{ dict(a=1) }} {{ kind is defined }} {{ kind }} {% if add_generation_prompt %}go{% endif %}
"""


def test_template_features_are_rendered_as_by_transformers() -> None:
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages, options = CLEAN["two turns"].messages, {"bos_token": "<s>", "kind": "x"}
    (theirs,), _ = chat_template_utils.render_jinja_template(
        [messages], tools=TOOLS, chat_template=FEATURES, add_generation_prompt=True, **options
    )
    ours = ChatTemplate(FEATURES, {"bos_token": "<s>"}).render(messages, TOOLS, add_generation_prompt=True, kind="x")
    assert ours == theirs


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__html__ = 1 %}", "must not have the name"),
        ("{{ namespace(__call__=1) }}", "must not have the name"),
        ("{{ dict.mro() }}", "no attribute"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{" + "(" * 10**5 + ")" * 10**5 + "}}", "recursion"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.more }}", "no attribute 'nothing'"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ 'ab' | random }}", "No filter"),
        ("{{ strftime_now('%Y') }}", "undefined"),
        ("{% for", "unexpected"),
    ],
)
def test_the_sandbox_rejects(source: str, problem: str) -> None:
    result = render({"source": source, "names": {"messages": [{}]}}, max_text=100)
    assert re.search(problem, result["error"])


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ 'a' | center(10**10) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% for i in range(99999) %}{% for i in range(99999) %}aaaaaaaaaa{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_exceeds_a_limit_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_template, "CPU_S", 1)
    with pytest.raises(
        UserError, match="must render within 1 s, 512 MiB of memory and 8,388,608 characters, but this one"
    ):
        ChatTemplate(source).render(HELLO)


def test_the_process_inherits_no_other_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    run = imported_template.subprocess.run
    monkeypatch.setattr(
        imported_template.subprocess, "run", lambda command, **options: given.update(options) or run(command, **options)
    )
    assert ChatTemplate("{{ messages[0].content }}").render(HELLO) == "hi <&> 梨"
    assert set(given["env"]) <= {"PYTHONPATH", *imported_template.PYTHON_VARIABLES}


def test_errors_are_reported() -> None:
    with pytest.raises(UserError, match="The chat template cannot render this: roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(HELLO)
    with pytest.raises(UserError, match="an unpaired surrogate"):
        ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": "\ud800"}])
    with pytest.raises(UserError, match="must be valid JSON values"):
        ChatTemplate("").render([{"role": "user", "content": {1}}])
    with pytest.raises(UserError, match="must have at most 1,048,576 characters, but has 1,048,577"):
        ChatTemplate("a" * (imported_template.MAX_SOURCE + 1))


def write(folder: Path, config: Any, jinja: str | None = None) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja)


def test_an_error_message_of_a_template_is_truncated() -> None:
    assert len(render({"source": "{{ raise_exception('a' * 10**6) }}", "names": {}}, max_text=100)["error"]) == 1000


def test_template_and_special_tokens_are_read_from_a_folder(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
    write(tmp_path, tokens)
    assert read_chat_template(tmp_path) is None
    write(tmp_path, {**tokens, "chat_template": "old"})
    assert read_chat_template(tmp_path) == ChatTemplate("old", {"bos_token": "<s>", "eos_token": "</s>"})
    several = [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]
    write(tmp_path, {"chat_template": several})
    assert read_chat_template(tmp_path) == ChatTemplate("b")
    write(tmp_path, {"chat_template": "old"}, jinja="new")
    assert read_chat_template(tmp_path) == ChatTemplate("new")


def test_a_template_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"chat_template": 3})
    with pytest.raises(UserError, match="must be a string, but has type int"):
        read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja must be a chat template in UTF-8"):
        read_chat_template(tmp_path)


@pytest.mark.skipif(not MINIMIND3.is_dir(), reason="needs MiniMind-3's tokenizer; set MINIMIND3_TOKENIZER")
def test_the_template_of_minimind_3_agrees_with_our_renderer() -> None:
    theirs = read_chat_template(MINIMIND3)
    assert theirs is not None
    for case in LONGEST[::9]:
        text = theirs.render(case.messages, case.tools, add_generation_prompt=True, open_thinking=True)
        parts = render_parts(case.messages, case.tools, generation_prompt="open")
        assert text == "".join(part.text for part in parts)


def test_the_exported_template_agrees_with_our_renderer() -> None:
    """On the whole grid; that our environment agrees with transformers is tested above."""
    found: dict[str, list[str]] = {}
    for case in CASES:
        text = OURS.render(
            messages=case.messages, tools=case.tools,
            add_generation_prompt=case.prompt is not None, open_thinking=case.prompt == "open",
        )  # fmt: skip
        found.setdefault(case.name.partition(" turns=")[0], []).append(digest(text))
    assert found == json.loads(FIXTURE.read_text(encoding="utf-8"))["digests"]


@given(CONVERSATION, SOME_TOOLS)
@settings(max_examples=50, deadline=None)
def test_the_exported_template_agrees_with_our_renderer_on_random_conversations(messages: Messages, tools: Any) -> None:
    text = "".join(part.text for part in render_parts(messages, tools))
    assert OURS.render(messages=messages, tools=tools) == text


def test_the_exported_template_depends_on_the_tokens_of_the_tokenizer() -> None:
    tokenizer = BPE.train(["some text"] * 5, vocab_size=300, reserved=[]).tokenizer
    assert tokenizer_config(BPE(tokenizer), 8)["chat_template"] == CHATML
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS[2:]])
    assert tokenizer_config(BPE(tokenizer), 8)["chat_template"] == WITH_THINKING
