"""Chat templates are run: jinja programs that came with a model, in a sandbox and within bounds.

The environment is that of transformers (`transformers.utils.chat_template_utils`), so that a template
writes the same text. A template sees plain data only, takes a limited number of steps and makes
texts of a limited length: one that does not end is stopped.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from functools import lru_cache, wraps
from types import FrameType
from typing import Any, ClassVar

import jinja2
import jinja2.ext
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cutaway.base.errors import UserError

LONGEST = 10_000_000  # characters of a text that a template makes
_STEPS = 5_000_000  # lines of Python that a template may take for one conversation
_TEMPLATE = "<template>"  # the file that jinja names for what it compiles
_BITS = 4096  # of a whole number
# a format that asks for very many characters, or for as many as a value says
_WIDE = re.compile(r"%[^a-zA-Z%]*(\*|\d{5})|\{[^{}]*(\{|\d{5})")
# functions of texts and lists whose results may be much longer than what they are given
_GROWING = frozenset(
    ("batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace",
     "rjust", "translate", "wordwrap", "zfill")
)  # fmt: skip


class Refusal(UserError):
    """A template does not write this conversation (roles that do not alternate, for example)."""


class _Stopped(Exception):
    """The template went beyond a bound."""


def rendered(source: str, values: Mapping[str, Any], day: str | None = None) -> str:
    """What a template writes of `values`; `day` (ISO) is the date that it is given, else today's.

    Raises Refusal where it refuses them, UserError where it is not a template, reaches for what the
    sandbox does not give, or goes beyond the bounds.
    """
    try:
        template = _compiled(source)
        template.globals["strftime_now"] = _clock(day)
        parts, length = [], 0
        with _bounded():
            for part in template.generate(**values):
                length += len(part)
                if length > LONGEST:
                    raise _Stopped(f"writes more than {LONGEST:,} characters")
                parts.append(part)
        return "".join(parts)
    except (_Stopped, SecurityError, TemplateSyntaxError, RecursionError, MemoryError) as error:
        said = "takes too much memory" if isinstance(error, MemoryError) else _first_line(error)
        raise UserError(f"the model's chat template: {said}") from None
    except Exception as error:  # somebody else's program: errors of every kind
        raise Refusal(f"the model's chat template refuses it: {_first_line(error)}") from None


# -- inside ----------------------------------------------------------------------------------------


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "") or (
        type(error).__name__
    )


def _clock(day: str | None) -> Callable[[str], str]:
    def strftime_now(format: str) -> str:
        now = datetime.now()
        if day is not None:
            now = datetime.combine(date.fromisoformat(day), time())
        return now.strftime(format)

    return strftime_now


@contextmanager
def _bounded() -> Iterator[None]:
    """Counts the steps of what runs inside, and measures the texts that its functions return."""
    left = _STEPS

    def each(frame: FrameType, event: str, value: Any) -> Any:
        nonlocal left
        if event == "return":
            _require_short(value)
            return each
        left -= 1
        if left < 0:
            raise _Stopped("does not end")
        if event == "call":  # of jinja's own functions only the calls are counted
            frame.f_trace_lines = frame.f_code.co_filename == _TEMPLATE
        return each

    before = sys.gettrace()
    sys.settrace(each)
    try:
        yield
    finally:
        sys.settrace(before)


def _require_short(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > LONGEST:
        raise _Stopped(f"makes a text or list of {len(value):,}")
    return value


class _Environment(ImmutableSandboxedEnvironment):
    """Of transformers, with arithmetic that cannot take the whole memory."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = abs(left).bit_length()
            many = bits * abs(right) if operator == "**" else bits + abs(right).bit_length()
            if many > _BITS:
                raise _Stopped("makes a number too large")
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
                _require_product(len(one), other)
        if operator == "+" and isinstance(left, str | list | tuple) and hasattr(right, "__len__"):
            _require_product(len(left) + len(right), 1)
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise _Stopped("formats too wide a text")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:  # `value` is the method of a text
            _require_modest("format", value.__self__, [])
        return wrapped

    def call(self, context: Any, called: Any, /, *given: Any, **named: Any) -> Any:
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if name in _GROWING and isinstance(owner, str | list | tuple):
            given = tuple(_listed(one) for one in given) if name == "join" else given
            _require_modest(name, owner, [*given, *named.values()])
        return super().call(context, called, *given, **named)


def _modest(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to make very much of little."""

    @wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        values = [_listed(one) if name == "join" else one for one in given]
        at = next((n for n, one in enumerate(values) if isinstance(one, str | list | tuple)), None)
        if at is not None:
            _require_modest(name, values[at], [*values[at + 1 :], *named.values()])
        return function(*values, **named)

    return checked


def _listed(value: Any) -> Any:
    """What is iterated over as a list; a text, and what is not iterated over, as it is."""
    plain = isinstance(value, str) or not isinstance(value, Iterable)
    return value if plain else list(value)


def _require_modest(name: str, subject: Any, given: list[Any]) -> None:
    """Refuse what a function in `_GROWING` would make of `subject`, where that may be very long."""
    if name.startswith("format"):
        if isinstance(subject, str) and _WIDE.search(subject):
            raise _Stopped("formats too wide a text")
        return
    texts = [one for one in given if isinstance(one, str)]
    most = max([1, *map(len, texts), *(abs(one) for one in given if isinstance(one, int))])
    lists = [one for one in (subject, *given) if isinstance(one, list | tuple)]
    if name == "join" and lists:
        most = max([1, *map(len, texts), len(subject) if isinstance(subject, str) else 1])
        made = len(lists[0]) * most + sum(len(one) for one in lists[0] if isinstance(one, str))
    elif name == "replace" and isinstance(subject, str) and len(texts) > 1:
        made = subject.count(texts[0]) * len(texts[1])
    else:
        made = max(1, len(subject)) * most
    if made > 10 * LONGEST or name == "translate":
        raise _Stopped("makes too long a text or list")


def _require_product(length: int, times: int) -> None:
    if length * times > LONGEST:
        raise _Stopped(f"makes a text or list of {length * times:,}")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks, which mark what the model says and write nothing themselves."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        called = self.call_method("_written")
        return jinja2.nodes.CallBlock(called, [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dictionary:
    """`dict`, of which a template reaches no attribute."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


class _Namespace(jinja2.utils.Namespace):
    """`namespace`, without names that begin with an underscore."""

    def __init__(*given: Any, **named: Any) -> None:
        self, *values = given
        for name in (attributes := dict(*values, **named)):
            _require_plain(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"stores the attribute {name!r}, which begins with an underscore")


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > 100:
        raise _Stopped("indents too far")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    filters = environment.filters
    filters |= {name: _modest(name, filters[name]) for name in _GROWING & filters.keys()}
    filters["tojson"] = _json
    environment.globals["raise_exception"] = _raise_exception
    del environment.globals["lipsum"]  # random text
    environment.globals["dict"] = _Dictionary()
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)
