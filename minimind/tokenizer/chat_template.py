"""Our chat format as a Jinja template, which exported models include for transformers and other libraries."""

import json

from minimind.tokenizer.bpe import BPE
from minimind.tokenizer.chat import AFTER_TOOLS, BEFORE_TOOLS, END, MARKERS, START, has_added_tokens

CHATML = (  # role and text between <|im_start|> and <|im_end|>
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The format of `chat.render_parts`; `open_thinking` selects the "open" generation prompt.
WITH_THINKING = (
    r"""
{%- set system_is_first = messages[0].role == 'system' %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if system_is_first %}
        {{- messages[0].content ~ '\n\n' }}
    {%- endif %}
    {{- BEFORE_TOOLS }}
    {%- for tool in tools %}
        {{- '\n' ~ (tool | tojson) }}
    {%- endfor %}
    {{- AFTER_TOOLS ~ '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n<think>\n' ~ reasoning.strip('\n') ~ '\n</think>\n\n' ~ content.lstrip('\n') }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set call = tool_call.function or tool_call %}
            {%- set arguments = call.arguments if call.arguments is string else (call.arguments | tojson) %}
            {{- '\n' if content or not loop.first }}
            {{- '<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' ~ arguments ~ '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' }}
        {{- '\n<tool_response>\n' ~ content ~ '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}
    {%- elif not (tools and system_is_first and loop.first) %}
        {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n' }}
    {{- '\n</think>\n\n' if not open_thinking }}
{%- endif %}
""".strip()
    .replace("BEFORE_TOOLS", json.dumps(BEFORE_TOOLS))
    .replace("AFTER_TOOLS", json.dumps(AFTER_TOOLS))
)


def chat_template(tokenizer: BPE) -> str | None:
    """Most complete template whose tokens the tokenizer has; None: it lacks even those of ChatML."""
    if has_added_tokens(tokenizer, MARKERS):
        return WITH_THINKING
    return CHATML if has_added_tokens(tokenizer, (START, END)) else None
