"""Templates of mail: Jinja2 in a sandbox, and the variables that they declare. Pure; it may take long, so run `serve`
where it can be killed.

What a template may do: loops, conditions, filters, macros, string methods. It sees JSON values alone, no attribute that
begins with an underscore, no other template. A variable that is used must be given, have a default, or be asked for by
`is defined`. HTML is escaped unless the template says `safe`; the plain text is made from the HTML where it has none.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import jinja2
import msgspec
from jinja2 import meta, nodes, sandbox

from gateway.mail import plain

MAX_OUTPUT: Final = 1_048_576  # characters of a rendered body
MAX_SUBJECT: Final = 20_000  # characters, rendered
FIELDS: Final = ("subject", "html", "text")
TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LOADING: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class Problem(ValueError):
    """What is wrong with a template or with what it was given."""

    def __init__(self, field: str, message: str, line: int | None = None) -> None:
        self.field = field  # subject, html, text, variables.<name>
        self.message = message if line is None else f"line {line}: {message}"
        super().__init__(self.message)


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """A variable as a template declares it."""

    type: Literal["string", "number", "boolean", "list", "object"] = "string"
    required: bool = False
    default: Any = None  # None = none; then it is undefined unless given


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A template as its author wrote it."""

    subject: str
    html: str | None = None
    text: str | None = None  # None = made from the HTML
    declared: Mapping[str, Variable] = {}  # empty = whatever is given is taken


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of it."""

    subject: str  # one line
    html: str | None
    text: str | None


# Variables


def filled(declared: Mapping[str, Variable], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is rendered with. Raises Problem: unknown, missing, or of another type."""
    if not declared:
        return dict(given)
    for name in given:
        if name not in declared:
            raise Problem(f"variables.{name}", "the template declares no such variable")
    values = {name: one.default for name, one in declared.items() if one.default is not None} | dict(given)
    for name, one in declared.items():
        if name in values:
            _check_type(name, one, values[name])
        elif one.required:
            raise Problem(f"variables.{name}", "required")
    return values


def _check_type(name: str, declared: Variable, value: Any) -> None:
    fits = isinstance(value, TYPES[declared.type]) and (declared.type == "boolean" or not isinstance(value, bool))
    if not fits:
        raise Problem(f"variables.{name}", f"must be a {declared.type}")


# Checking


def check(source: Source) -> None:
    """Raises Problem: syntax, other templates, defaults of another type, variables that are used and not declared."""
    for name, one in source.declared.items():
        if one.default is not None:
            _check_type(name, one, one.default)
    for field in FIELDS:
        if (written := getattr(source, field)) is not None:
            _check_one(field, written, source.declared)


def _check_one(field: str, written: str, declared: Mapping[str, Variable]) -> None:
    environment = _environment(field == "html")
    tree = _told(field, lambda: environment.parse(written))
    if loading := next(tree.find_all(_LOADING), None):
        raise Problem(field, "include, import and extends are not for templates of mail", loading.lineno)
    _told(field, lambda: _compiled(written, field == "html"))
    undeclared = meta.find_undeclared_variables(tree) - environment.globals.keys() - declared.keys()
    if declared and undeclared:
        name = min(undeclared)
        lines = [node.lineno for node in tree.find_all(nodes.Name) if node.name == name]
        raise Problem(field, f"the variable {name} is not declared", min(lines, default=1))


# Rendering


def render(source: Source, values: Mapping[str, Any]) -> Rendered:
    """Raises Problem, which names the field, the line and what was wrong there."""
    subject = _rendered("subject", source.subject, values, MAX_SUBJECT)
    if _CONTROL.search(subject):
        raise Problem("subject", "rendered, it holds a line break or another control character")
    html = _rendered("html", source.html, values, MAX_OUTPUT) if source.html is not None else None
    if source.text is not None:
        return Rendered(subject=subject, html=html, text=_rendered("text", source.text, values, MAX_OUTPUT))
    return Rendered(subject=subject, html=html, text=plain.of_html(html) if html is not None else None)


def _rendered(field: str, written: str, values: Mapping[str, Any], most: int) -> str:
    whole: str = _told(field, lambda: _written(field, _compiled(written, field == "html"), values, most))
    return whole


def _written(field: str, template: jinja2.Template, values: Mapping[str, Any], most: int) -> str:
    pieces: list[str] = []
    size = 0
    for piece in template.generate(values):
        size += len(piece)
        if size > most:
            raise Problem(field, f"rendered, it is longer than {most:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def _told(field: str, work: Callable[[], Any]) -> Any:
    """Whatever a template does wrong, its author is told where."""
    try:
        return work()
    except Problem:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise Problem(field, error.message or "syntax error", error.lineno) from error
    except MemoryError as error:
        raise Problem(field, "it needs too much memory") from error
    except RecursionError as error:
        raise Problem(field, "it is nested too deeply") from error
    except Exception as error:  # a template can raise nearly everything
        raise Problem(field, _message(error), _line(error)) from error


def _message(error: Exception) -> str:
    said = _CONTROL.sub(" ", str(error))[:300]
    return said if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {said}"


def _line(error: Exception) -> int | None:
    """Where in the template; Jinja2 writes the template's own lines into the traceback."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return line


@functools.cache
def _environment(html: bool) -> sandbox.ImmutableSandboxedEnvironment:
    made = sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=html, cache_size=0)
    for name in ("lipsum", "cycler", "joiner"):
        del made.globals[name]
    return made


@functools.lru_cache(maxsize=64)
def _compiled(written: str, html: bool) -> jinja2.Template:
    return _environment(html).from_string(written)


# In a child process


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is asked."""

    source: Source
    values: Mapping[str, Any] | None = None  # None = only check it


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a child answers: what was rendered, or what was wrong; neither where it was checked and is right."""

    rendered: Rendered | None = None
    problem: tuple[str, str] | None = None  # field, message


_request: Final = msgspec.msgpack.Decoder(Request)


def serve(asked: bytes) -> Answer:
    """Answers one Request in MessagePack."""
    request = _request.decode(asked)
    try:
        if request.values is not None:
            return Answer(rendered=render(request.source, request.values))
        check(request.source)
    except Problem as problem:
        return Answer(problem=(problem.field, problem.message))
    return Answer()
