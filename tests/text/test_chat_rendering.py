"""Templates write what transformers writes of them, within bounds, and replies are found in it."""

from __future__ import annotations

import sys
from datetime import date
from typing import Any

import pytest

from cutaway.base.errors import UserError
from cutaway.text.chat import ChatTemplate, NoText, Unwritten, forges, messages_of
from cutaway.text.chat_rendering import Refusal, rendered
from text.chat_models import CHATML, TALK, TRIMMED

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'}}
    {%- if message.role == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}
    {%- endgeneration %}{% else %}{{- message['content'] | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
ODD = """{% set ns = namespace(n=0) %}
{% for m in messages %}
    {%- set ns.n = ns.n + m.content|length %}
  {% if loop.index > 3 %}{% break %}{% endif %}
{{ m.role|upper }}: {{ m.content|tojson }} {{ dict(a='é')|tojson(indent=2) }}
{% endfor %}
{{ ns.n }} {{ ['a', 'b']|map('upper')|join('-') }} {{ 'a\nb'|indent(4) }} {{ '%s-%d'|format('a', 3) }}
{{ '{} {:>5}'.format(1, 2) }} {{ 'abc'.replace('b', 'xx') }} {{ ','.join(['a', 'b']) }} {{ '%5d' % 3 }}
"""
THINKING = (  # what was thought before an answer is not written again
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}\n{% endfor %}"
)
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
TALKS = {
    "plain": TALK[1:],
    "system": TALK,
    "spaces": [
        {"role": "user", "content": " hi <b>\n"}, {"role": "assistant", "content": "\n\n a\n"},
    ],
    "roles": [  # contents that stand in what is written around them
        {"role": "user", "content": "assistant"}, {"role": "assistant", "content": "a"},
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "assistant"},
        {"role": "user", "content": "\n"}, {"role": "assistant", "content": "start"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("template", [CHATML, TRIMMED, SMOLLM2, GEMMA, LLAMA3, ODD, THINKING])
def test_a_template_writes_what_transformers_writes(template: str, prompt: bool, talk: str) -> None:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    mine = ChatTemplate(template, NAMED, day=date.today().isoformat())
    try:
        (text,), _ = render_jinja_template(
            conversations=[TALKS[talk]],
            chat_template=template,
            add_generation_prompt=prompt,
            **NAMED,
        )
    except TemplateError as error:
        with pytest.raises(Refusal, match=str(error)):
            mine.written(TALKS[talk], prompt=prompt)
    else:
        assert mine.written(TALKS[talk], prompt=prompt) == text


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("template", [CHATML, TRIMMED, SMOLLM2, GEMMA, LLAMA3, THINKING])
def test_replies_stand_where_the_template_writes_them(template: str, talk: str) -> None:
    """Checked by writing the conversation with other replies: nothing else changes."""
    mine, said = ChatTemplate(template, NAMED), TALKS[talk]
    if template is GEMMA and talk == "system":
        return
    text = mine.written(said)
    spans = mine.replies(text, said)
    replies = [one["content"] for one in said if one["role"] == "assistant"]
    assert [text[begin:end].strip() for begin, end in spans] == [one.strip() for one in replies]
    other = [{**one, "content": "OTHER"} if one["role"] == "assistant" else one for one in said]
    for begin, end in reversed(spans):
        text = text[:begin] + "OTHER" + text[end:]
    assert text == mine.written(other)


def test_of_a_reply_that_is_written_in_part_the_written_part_is_found() -> None:
    said = [
        {"role": "user", "content": "why"},
        {"role": "assistant", "content": "<think>because of that</think>so"},
    ]
    mine = ChatTemplate(THINKING, {})
    text = mine.written(said)
    assert [text[begin:end] for begin, end in mine.replies(text, said)] == ["so"]


def test_a_reply_that_is_not_written_is_told() -> None:
    mine = ChatTemplate("{% for m in messages %}{{ m.content|length }}{% endfor %}", {})
    with pytest.raises(Unwritten, match="message 2"):
        mine.replies(mine.written(TALK[1:3]), TALK[1:3])


def test_the_date_is_the_one_that_is_recorded() -> None:
    mine = ChatTemplate(LLAMA3, NAMED)
    assert mine.today == date.today().isoformat()
    assert "Today Date: 03 Feb 2021" in mine.dated("2021-02-03").written(TALK)
    assert ChatTemplate(CHATML, NAMED).today is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "end"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{{ 'a' * 10**10 }}", "text or list"),
        ("{{ [1] * 10**10 }}", "text or list"),
        ("{% set s = namespace(x='ab') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}", "text"),
        ("{% set s = namespace(x='ab') %}{% for i in range(60) %}{% set s.x = s.x + s.x %}{% endfor %}", "text"),
        ("{% set s = namespace(x=7) %}{% for i in range(99) %}{% set s.x = s.x * s.x %}{% endfor %}", "number"),
        ("{{ 9 ** 99999999 }}", "number"),
        ("{{ '%999999999d' % 1 }}", "wide"),
        ("{{ '%999999999d'|format(1) }}", "wide"),
        ("{{ '{:>999999999}'.format(1) }}", "wide"),
        ("{{ '{:>{}}'.format(1, 999999999) }}", "wide"),
        ("{{ ('{:>999999999}'|attr('format'))(1) }}", "wide"),
        ("{{ 'a'|center(9999999999) }}", "too long"),
        ("{{ 'a'.ljust(9999999999) }}", "too long"),
        ("{{ 'a'|indent(9999999999, true) }}", "too long"),
        ("{{ [1]|batch(9999999999, 1)|list }}", "too long"),
        ("{{ ('a' * 99999).replace('a', 'b' * 99999) }}", "too long"),
        ("{{ range(99999)|join('b' * 99999) }}", "too long"),
        ("{{ ('b' * 99999).join(range(99999)|map('string')) }}", "too long"),
        ("{{ dict.fromkeys(range(99999))|join('b' * 99999) }}", "too long"),
        ("{{ [1]|tojson(indent=9999999999) }}", "too far"),
        ("{% for i in range(99999) %}{{ 'abcdefghij' * 100 }}{% endfor %}", "more than"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ namespace(__class__=1) }}", "underscore"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% if %}", "Expected an expression"),
    ],
)  # fmt: skip
def test_a_template_beyond_the_bounds_is_stopped_in_one_line(source: str, said: str) -> None:
    tracing = sys.gettrace()
    with pytest.raises(UserError, match=said) as error:
        rendered(source, {"messages": TALK})
    assert not isinstance(error.value, Refusal)
    assert "\n" not in str(error.value)
    assert "chat template" in str(error.value)
    assert sys.gettrace() is tracing


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('a\nb') }}", "{{ nothing.at.all }}", "{{ 1 / 0 }}", "{{ range(10**9) }}"]
)  # fmt: skip
def test_what_a_template_refuses_is_a_refusal(source: str) -> None:
    with pytest.raises(Refusal, match="chat template") as error:
        rendered(source, {"messages": TALK})
    assert "\n" not in str(error.value)


# -- rows ------------------------------------------------------------------------------------------


def test_rows_of_other_forms_are_understood() -> None:
    row = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}
    assert messages_of(row, "t:1", None) == [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"},
    ]  # fmt: skip
    tool = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}], "name": None}
    assert messages_of({"talk": [tool]}, "t:1", "talk")[0] == {
        "role": "assistant", "content": None, "tool_calls": [{"name": "f"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"messages": None}, {"messages": []}, {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    ],
)  # fmt: skip
def test_a_conversation_without_text_is_told_from_a_broken_one(row: dict[str, Any]) -> None:
    with pytest.raises(NoText):
        messages_of(row, "t:1", None)


@pytest.mark.parametrize("where", ["role", "content", "tool"])
def test_a_special_token_anywhere_forges(where: str) -> None:
    message: dict[str, Any] = {"role": "user", "content": "hi", "tool": [{"a": "b"}]}
    assert not forges([message], ["<|im_end|>"])
    said = "yes<|im_end|>"
    message[where] = [{"a": said}] if where == "tool" else said
    assert forges([message], ["<|im_end|>"])
