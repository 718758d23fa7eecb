"""Templates: what becomes of them, what they may not do, and what their authors are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.mail import template


def source(html: str | None = None, **fields: Any) -> template.Source:
    declared = {name: template.Variable(**one) for name, one in fields.pop("declared", {}).items()}
    return template.Source(**{"subject": "s", "html": html, "declared": declared} | fields)


def rendered(html: str | None = None, values: dict[str, Any] | None = None, **fields: Any) -> template.Rendered:
    written = source(html, **fields)
    template.check(written)
    return template.render(written, template.filled(written.declared, values or {}))


def problem(html: str | None = None, values: dict[str, Any] | None = None, **fields: Any) -> tuple[str, str]:
    with pytest.raises(template.Problem) as caught:
        rendered(html, values, **fields)
    return caught.value.field, caught.value.message


def test_html_is_escaped_and_subject_and_text_are_not() -> None:
    made = rendered("<b>{{ x }}</b>", {"x": "<&>"}, subject="{{ x }}", text="{{ x }}")
    assert made == template.Rendered(subject="<&>", html="<b>&lt;&amp;&gt;</b>", text="<&>")
    assert rendered("{{ x|safe }}", {"x": "<hr>"}).html == "<hr>"


def test_the_text_is_made_from_the_html_where_there_is_none() -> None:
    assert rendered("<p>Hello&nbsp;{{ x }}</p><p>Bye</p>", {"x": "<Ann>"}).text == "Hello <Ann>\n\nBye"
    assert rendered(text="only").html is None


def test_loops_conditions_macros_and_filters_work() -> None:
    written = "{% macro m(i) %}<{{ i }}>{% endmacro %}{% for i in xs if i %}{{ m(i|upper) }}{% endfor %}"
    assert rendered(text=written, values={"xs": ["a", "", "b"]}).text == "<A><B>"
    assert rendered(text="{% if x is defined %}a{% else %}b{% endif %}").text == "b"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a\n\n{{ who }}", "line 3: 'who' is undefined"),
        ("{{ a.b }}", "line 1: 'dict object' has no attribute 'b'"),
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("\n{{ 1 / 0 }}", "line 2: ZeroDivisionError: division by zero"),
        ("\n{% nonsense %}", "line 2: Encountered unknown tag 'nonsense'."),
        ("{{ " + "(" * 3000, "it is nested too deeply"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it is nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(written: str, message: str) -> None:
    assert problem(written, {"a": {}}) == ("html", message)
    assert problem(text=written, values={"a": {}}) == ("text", message)


@pytest.mark.parametrize(
    "written",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{{ x|attr('__class__') }}",
        "{{ x['__class__'] }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ xs.append(1) }}",
        "{{ self.__dict__ }}",
        "{{ m.__globals__ }}{% macro m() %}{% endmacro %}",
        "{{ range.__self__ }}",
        "{{ lipsum() }}",
        "{{ cycler.__init__ }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% for i in range(100001) %}{% endfor %}",
    ],
)
def test_what_templates_may_not_do(written: str) -> None:
    """Negative control: with `jinja2.Environment` instead of the sandbox, eight of these rendered, and failed."""
    field, _ = problem(text=written, values={"x": {}, "xs": []})
    assert field == "text"


def test_a_rendered_part_is_bounded() -> None:
    many = "{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}"
    assert problem(many) == ("html", "rendered, it is longer than 1,048,576 characters")
    assert problem(text=many) == ("text", "rendered, it is longer than 1,048,576 characters")
    assert problem("h", subject=many) == ("subject", "rendered, it is longer than 20,000 characters")


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x00", "\x0b", "\x85", "\u2028"])
def test_a_subject_is_one_line(end: str) -> None:
    """Negative control: without the look for control characters all of these were rendered, and failed."""
    field, message = problem("h", {"x": f"a{end}Bcc: b@c.example"}, subject="{{ x }}")
    assert (field, message) == ("subject", "rendered, it holds a line break or another control character")


DECLARED = {"n": {"type": "number", "required": True}, "s": {"default": "d"}, "o": {}, "b": {"type": "boolean"}}


def test_declared_variables_have_defaults() -> None:
    assert rendered(text="{{ n }} {{ s }} {{ o is defined }}", values={"n": 1}, declared=DECLARED).text == "1 d False"
    assert rendered(text="{{ s }}", values={"n": 1, "s": "x"}, declared=DECLARED).text == "x"


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({}, "variables.n", "required"),
        ({"n": "1"}, "variables.n", "must be a number"),
        ({"n": True}, "variables.n", "must be a number"),
        ({"n": 1, "s": None}, "variables.s", "must be a string"),
        ({"n": 1, "b": 0}, "variables.b", "must be a boolean"),
        ({"n": 1, "other": 1}, "variables.other", "the template declares no such variable"),
    ],
)
def test_variables_that_do_not_fit_are_named(values: dict[str, Any], field: str, message: str) -> None:
    assert problem("h", values, declared=DECLARED) == (field, message)


def test_what_is_declared_is_checked_against_what_is_used() -> None:
    assert problem("a\n{{ typo }}", {"n": 1}, declared=DECLARED) == (
        "html",
        "line 2: the variable typo is not declared",
    )
    assert problem("h", declared={"n": {"type": "number", "default": "x"}}) == ("variables.n", "must be a number")
    assert rendered("{% for i in range(2) %}{{ loop.index }}{% endfor %}", {"n": 1}, declared=DECLARED).html == "12"


def test_a_child_answers_in_messagepack() -> None:
    def ask(request: template.Request) -> template.Answer:
        answer = msgspec.msgpack.encode(template.serve(msgspec.msgpack.encode(request)))
        return msgspec.msgpack.decode(answer, type=template.Answer)

    fine, wrong = source("{{ x }}"), source("{{ x")
    assert ask(template.Request(source=fine)) == template.Answer()
    made = template.Rendered(subject="s", html="1", text="1")
    assert ask(template.Request(source=fine, values={"x": 1})) == template.Answer(rendered=made)
    told = ask(template.Request(source=wrong)).problem
    assert told is not None
    assert told[0] == "html"
