//! Random templates: nothing panics, aborts or takes long, and what is checked can be rendered or fails with an error.

use mail_template::{Part, RenderError, Source, Templates, check};
use proptest::prelude::*;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

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
