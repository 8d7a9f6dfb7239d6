//! Random templates: nothing panics, aborts or takes long, and what is checked can be rendered or fails with an error.
//! And the checks of the fuzz targets, on stable: over their corpora, and over arbitrary bytes. `PROPTEST_CASES` asks for
//! more of these.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

use mail_template::{Part, RenderError, Source, Templates, check};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn each(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 4, "the corpus of {target} is there");
}

#[test]
fn every_input_of_the_corpora_holds() {
    each("source", checks::source);
    each("html", checks::html);
    each("mjml", checks::mjml);
    each("render", checks::render);
}

/// Bytes that look like what is expected, here and there.
fn bytes(tokens: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => select(tokens).prop_map(|token| token.as_bytes().to_vec()),
        1 => "\\PC{0,6}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..4),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        6 => vec(piece, 0..30).prop_map(|pieces| pieces.concat()),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("x".to_owned()),
        Just("ns.a".to_owned()),
        Just("nothing".to_owned()),
        Just("'ab' 'c'".to_owned()),
        Just("-1".to_owned()),
        Just("2.5".to_owned()),
        Just("[]".to_owned()),
        Just("rows".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let operators = prop::sample::select(vec![
            "~",
            "+",
            "*",
            "-",
            "/",
            "//",
            "%",
            "**",
            "==",
            "<",
            "in",
            "not in",
            "and",
            "or",
            "if x else",
        ]);
        let filters = prop::sample::select(vec![
            "upper",
            "list",
            "join(',')",
            "replace('a', x)",
            "indent(3)",
            "batch(2, 0)",
            "tojson",
            "sum",
            "map('string')",
            "money('EUR')",
            "date",
            "format(1)",
            "sort",
            "items",
            "unique",
            "nl2br",
            "length",
            "default(1)",
            "zip(rows)",
        ]);
        prop_oneof![
            (inner.clone(), operators, inner.clone())
                .prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
            (inner.clone(), filters).prop_map(|(a, filter)| format!("({a})|{filter}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("[{a}, {a}]")),
            inner.clone().prop_map(|a| format!("{{'k': {a}}}")),
            inner.clone().prop_map(|a| format!("not {a}")),
            inner.prop_map(|a| format!("{a} is defined")),
            Just("x[1:]".to_owned()),
        ]
    })
}

fn template() -> impl Strategy<Value = String> {
    (expression(), expression(), 0..6u8).prop_map(|(a, b, kind)| match kind {
        0 => format!("{{{{ {a} }}}} {{{{- {b} -}}}}"),
        1 => format!("{{% set ns = namespace(a=x) %}}{{% for i in range(3000) %}}{{% set ns.a = {a} %}}{{% endfor %}}{{{{ {b} }}}}"),
        2 => format!("{{% set y = {a} -%}} {{% if {b} %}}{{{{ y }}}}{{% endif %}}"),
        3 => format!("{{% for i in {a} %}}{{{{ {b} }}}}{{% endfor %}}"),
        4 => format!("{{% macro m(q) %}}{{{{ q ~ ({a}) }}}}{{% endmacro %}}{{{{ m({b}) }}}}"),
        _ => format!("{{% with x = {a} %}}{{{{ {b} }}}}{{% endwith %}}"),
    })
}

fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        cases: given.cases.max(300),
        ..given
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_source_is_checked_and_renders_or_fails(
        data in bytes(&[
            "{{", "}}", "{%", "%}", "{#", "#}", "{{ x }}", "{{- x -}}", "{% if x %}", "{% endif %}", "{% for r in rows %}", "{{ r.k }}", "{% endfor %}",
            "{% raw %}", "{% endraw %}", "{% set x = ", "{% block a %}", "{% endblock %}", "{% include 't' %}", "{% extends 't' %}", "{% macro m() %}",
            "{% endmacro %}", "|", "upper", "date", "money('EUR')", "number", "replace('a','b')", "[", "]", "(", ")", "'", "\"", "\\", "~", "*", "+", "in",
            "is", "not", ".", ",", ":", "1", "9999999999", "x", "\n", " ", "-",
        ]),
    ) {
        checks::source(&data);
    }

    #[test]
    fn any_html_keeps_its_tags(
        data in bytes(&[
            "<style>", "</style>", "p{color:red}", ".a{margin:0}", "td{", "}", "<p>", "</p>", "<p class=a", "<p class=\"a\">", " style=\"", "\"", "'", ">",
            "<", "/", "=", "<table>", "<tr>", "<td>", "</table>", "<!--", "-->", "{{ x }}", "{% if x %}", "{% endif %}", "{{ '<p>' }}", "{{ \"}}\" }}", "{# > #}",
            "{% raw %}", "{% endraw %}", "<svg>", "<title>", "<script>", "<textarea>", "<b>", " ", "\n", "&amp;", "<!doctype html>", "<html>", "<body>",
        ]),
    ) {
        checks::html(&data);
        checks::html(&[b"<style>p,td{color:red}</style>", &data[..]].concat());
    }

    #[test]
    fn any_mjml_keeps_its_tags_or_is_refused(
        data in bytes(&[
            "<mj-section>", "</mj-section>", "<mj-column>", "</mj-column>", "<mj-text>", "</mj-text>", "<mj-button href=\"", "{{ x }}", "{% if x %}",
            "{% endif %}", "\">", "</mj-button>", "<mj-image src=\"x\" />", "<mj-raw>", "</mj-raw>", "<mj-head>", "</mj-head>", "<mj-style>", "</mj-style>",
            "<mj-style inline=\"inline\">", "p{color:red}", "<p>", "</p>", "<mj-include path=\"x\"/>", "<!--", "-->", "<", ">", "/>", "\"", "&", "{# x #}",
            "<mj-table>", "</mj-table>", "<mj-wrapper>", "</mj-wrapper>", "<mj-attributes>", "<mj-all color=\"red\"/>", "\n", " ", "<mj-title>", "<br>",
        ]),
    ) {
        checks::mjml(&data);
        checks::mjml(&[b"<mjml><mj-body><mj-section><mj-column><mj-text>", &data[..], b"</mj-text></mj-column></mj-section></mj-body></mjml>"].concat());
        checks::mjml(&[b"<mjml><mj-body>", &data[..], b"</mj-body></mjml>"].concat());
    }

    #[test]
    fn any_parameters_are_refused_or_render(
        data in bytes(&[
            "{", "}", "\"x\":", "\"a\"", "[", "]", ",", ":", "1", "-0", "1e400", "19.90", "9007199254740993", "99999999999999999999999999999999999999999",
            "null", "true", "\"\\u0000\"", "\"\\r\\nBcc: x\"", "\"2025-01-31T12:00:00+01:00\"", "\"0000-00-00\"", "\"é\"", "\"\\ud800\"", " ",
        ]),
        source in select(vec![
            "{{ x }}", "{{ x|date }} {{ x|time }}", "{{ x|number }} {{ x|percent }}", "{{ x|money('EUR') }}", "{% for y in x %}{{ y }}{% endfor %}",
            "{{ x|tojson }}{{ x|nl2br }}", "{{ x.y.z }}", "{{ x ~ x }}{{ x|length }}", "{{ x|datetime('full', tz='Europe/Zurich') }}",
            "{{ x|int }}{{ x|float }}{{ x|urlencode }}", "{{ x + 1 }}{{ x * 2 }}", "{{ x|default('') }}{{ x|number(digits=2) }}",
        ]),
    ) {
        checks::render(&[&data[..], b"\0", source.as_bytes()].concat());
        checks::render(&[b"{\"x\":", &data[..], b"}\0", source.as_bytes()].concat());
    }

    #[test]
    fn what_the_engine_accepts_is_accepted_and_ends(text in template()) {
        let valid = minijinja::Environment::new().template_from_str(&text).is_ok();
        prop_assert_eq!(check(Part::Text, &text).is_ok(), valid);
        prop_assume!(valid);
        let source = Source { name: "t".to_owned(), locale: String::new(), version: 1, subject: None, text: Some(text), html: None };
        let result = Templates::new(vec![source]).render("t", None, r#"{"x": "abc", "rows": [1, {"k": 2}]}"#);
        if let Err(RenderError::Failed { message, .. }) = result {
            prop_assert!(!message.contains("engine failed") && !message.contains("pay__") && !message.contains("syntax"), "{message}");
        }
    }
}
