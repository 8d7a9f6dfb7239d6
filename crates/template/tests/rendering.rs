//! What templates render to, and how they fail.

use mail_template::{
    Part, RenderError, Rendered, Source, Templates, check, compile_html, compile_mjml,
};

fn source(name: &str, locale: &str, text: &str) -> Source {
    Source {
        name: name.to_owned(),
        locale: locale.to_owned(),
        version: 1,
        subject: None,
        text: Some(text.to_owned()),
        html: None,
    }
}

fn html(name: &str, html: &str) -> Source {
    Source {
        html: Some(html.to_owned()),
        text: None,
        ..source(name, "", "")
    }
}

fn render(text: &str, params: &str) -> Result<String, RenderError> {
    in_locale("", text, params)
}

fn in_locale(locale: &str, text: &str, params: &str) -> Result<String, RenderError> {
    let templates = Templates::new(vec![source("t", "", text)]);
    templates
        .render("t", Some(locale), params)
        .map(|rendered| rendered.text.expect("it has a text"))
}

fn missing(text: &str, params: &str) -> Vec<String> {
    match render(text, params) {
        Err(RenderError::Missing(names)) => names,
        other => panic!("{other:?}"),
    }
}

#[test]
fn html_is_escaped_and_subject_and_text_are_not() {
    let templates = Templates::new(vec![Source {
        subject: Some("{{ x }}".to_owned()),
        html: Some("{{ x }}".to_owned()),
        ..source("t", "", "{{ x }}")
    }]);
    let rendered = templates
        .render("t", None, r#"{"x": "a<b>\u0000\r\n  c"}"#)
        .unwrap();
    assert_eq!(
        rendered,
        Rendered {
            subject: Some("a<b> c".to_owned()),
            text: Some("a<b>\0\r\n  c".to_owned()),
            html: Some("a&lt;b&gt;\0\r\n  c".to_owned()),
            locale: String::new(),
            version: 1
        }
    );
}

#[test]
fn a_locale_falls_back_to_the_language_and_then_to_the_default() {
    let templates = Templates::new(vec![
        source("t", "", "default"),
        source("t", "de", "deutsch"),
    ]);
    let locale = |requested| templates.render("t", Some(requested), "{}").unwrap().locale;
    assert_eq!(locale("de-CH"), "de");
    assert_eq!(locale("de"), "de");
    assert_eq!(locale("fr-CH"), "");
    assert_eq!(templates.resolve("t", "de-CH").unwrap().locale, "de");
    assert_eq!(
        templates.render("u", None, "{}"),
        Err(RenderError::NoTemplate("u".to_owned()))
    );
}

#[test]
fn an_include_means_the_same_part_in_the_best_locale() {
    let templates = Templates::new(vec![
        Source {
            html: Some("<p>{% include 'f' %}</p>".to_owned()),
            ..source("t", "de", "{% include 'f' %}")
        },
        Source {
            html: Some("<b>CH</b>".to_owned()),
            ..source("f", "de-CH", "CH")
        },
        Source {
            html: Some("<b>def</b>".to_owned()),
            ..source("f", "", "def")
        },
    ]);
    let swiss = templates.render("t", Some("de-CH"), "{}").unwrap();
    assert_eq!(
        (swiss.text.as_deref(), swiss.html.as_deref()),
        (Some("CH"), Some("<p><b>CH</b></p>"))
    );
    let german = templates.render("t", Some("de"), "{}").unwrap();
    assert_eq!(
        (german.text.as_deref(), german.html.as_deref()),
        (Some("def"), Some("<p><b>def</b></p>"))
    );
}

#[test]
fn layouts_blocks_and_macros_work() {
    let templates = Templates::new(vec![
        html("layout", "<html>{% block body %}none{% endblock %}</html>"),
        html(
            "macros",
            "{% macro button(url) %}<a href=\"{{ url }}\">go</a>{% endmacro %}",
        ),
        html(
            "t",
            "{% extends 'layout' %}{% from 'macros' import button %}{% block body %}{{ super() }} {{ button(u) }}{% \
             endblock %}",
        ),
    ]);
    let rendered = templates.render("t", None, r#"{"u": "a&b"}"#).unwrap();
    assert_eq!(
        rendered.html.as_deref(),
        Some("<html>none <a href=\"a&amp;b\">go</a></html>")
    );
}

#[test]
fn all_missing_parameters_are_named_as_written() {
    let text = "{{ a }} {{ customer.name }} {% if b %}{{ c }}{% endif %} {{ d ~ 'x' }} {{ e|upper }} {{ f|money('EUR') }}";
    assert_eq!(
        missing(text, r#"{"customer": {}}"#),
        ["a", "customer.name", "b", "d", "e", "f"]
    );
    assert_eq!(
        missing(
            "{% for i in items %}{{ i.price }}{{ i.name }}{% endfor %}",
            r#"{"items": [{}, {}]}"#
        ),
        ["i.price", "i.name"]
    );
    assert_eq!(
        missing("{{ customer.name }}{{ x }}", "{}"),
        ["customer", "x"]
    );
}

#[test]
fn what_is_asked_for_only_if_defined_is_not_missing() {
    let text = "{% if x is defined %}{{ x }}{% endif %}{{ y|default('z') }}{% if false %}{{ w }}{% endif %}";
    assert_eq!(render(text, "{}").unwrap(), "z");
    assert_eq!(missing("{{ x|default(1) }}{{ y }}", "{}"), ["y"]);
}

#[test]
fn a_set_of_templates_may_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Templates>();
}

#[test]
fn numbers_keep_their_value() {
    let text = "{{ a }} {{ b }} {{ c }} {{ d }} {{ e }}";
    let params = r#"{"a": 12345678901234567890123, "b": 19.90, "c": "19.90", "d": 12345678901234567.89, "e": -3}"#;
    assert_eq!(
        render(text, params).unwrap(),
        "12345678901234567890123 19.9 19.90 12345678901234567.89 -3"
    );
}

#[test]
fn parameters_that_are_no_object_are_refused() {
    for params in ["", "[]", "{", "{\"a\": tru}", "1"] {
        assert!(
            matches!(render("x", params), Err(RenderError::Params(_))),
            "{params}"
        );
    }
}

#[test]
fn a_fault_is_told_with_line_and_column_in_characters() {
    let fault = check(Part::Text, "ä\nöü {{ a b }}").unwrap_err();
    assert_eq!((fault.line, fault.column), (2, 9), "{fault}");
    let fault = check(Part::Html, "x ~ {{ 'a' ~ b ~ c|nosuch }}").unwrap_err();
    assert_eq!(
        (fault.line, fault.column, fault.message.as_str()),
        (1, 20, "filter \"nosuch\" does not exist")
    );
    let fault = check(Part::Html, "{% if x %}").unwrap_err();
    assert_eq!(fault.line, 1, "{fault}");
    assert!(
        check(
            Part::Subject,
            "Hello {{ name }}, {% if a %}b{% else %}c{% endif %}"
        )
        .is_ok()
    );
}

#[test]
fn a_failure_is_told_where_it_is_in_the_source_of_the_template_that_has_it() {
    let templates = Templates::new(vec![
        source("t", "", "{% include 'part' %}"),
        source(
            "part",
            "",
            &format!(
                "{}\n{{{{ 'a' ~ 'b' ~ 'c' }}}} {{{{ x + 1 }}}}",
                "long text ".repeat(100)
            ),
        ),
    ]);
    let Err(RenderError::Failed {
        template,
        part,
        line,
        column,
        ..
    }) = templates.render("t", None, r#"{"x": "s"}"#)
    else {
        panic!("it must fail");
    };
    assert_eq!(
        (template.as_str(), part, line, column),
        ("part", Part::Text, 2, 26)
    );
}

#[test]
fn a_broken_template_does_not_break_others() {
    let templates = Templates::new(vec![source("broken", "", "\n{{"), source("t", "", "fine")]);
    assert_eq!(
        templates.render("t", None, "{}").unwrap().text.as_deref(),
        Some("fine")
    );
    let Err(RenderError::Failed { template, line, .. }) = templates.render("broken", None, "{}")
    else {
        panic!("it must fail");
    };
    assert_eq!((template.as_str(), line), ("broken", 2));
}

#[test]
fn the_guard_changes_nothing_that_is_written() {
    for (text, expected) in [
        ("{{ 1 + 2 * 3 }}", "7"),
        ("{{ -1 * 2 ~ 'x' }}", "-2x"),
        ("{{ 'a' ~ 'b' 'c' ~ (1 + 1) }}", "abc2"),
        ("{{ [1] + [2, 3] }}", "[1, 2, 3]"),
        ("{% set x = 'a' ~ 'b' -%} {{ x }}", "ab"),
        ("{% set x, y = 1, 2 %}{{ x + y }}", "3"),
        (
            "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "6",
        ),
        ("{{ [1, 2, 3]|map('string')|join(' + ') }}", "1 + 2 + 3"),
        ("{{ dict(a=1).a + [1, 2][1] * 2 }}", "5"),
        ("{{ (1 if true else 2) + 1 }}", "2"),
        ("{{ '-'|repeat(5) }}", "-----"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{{ 'x' ~ 2 ** 3 }}", "x8"),
        (
            "{% set x = {'y': 'abc'} %}{{ 'c' ~ x.y[:2] ~ 'd' }}",
            "cabd",
        ),
        (
            "{% for i in [1, 2, 3] if i in [1, 3] and not i == 1 %}{{ i }}{% endfor %}",
            "3",
        ),
        (
            "{{ 1 if 1 + 1 == 2 and 'a' not in 'b' and 3 is not eq 4 else 2 }}",
            "1",
        ),
        (
            "{% for k, v in {'a': 1}|items recursive %}{{ k }}{{ v }}{% endfor %}",
            "a1",
        ),
        (
            "{{ 1 < 2 }} {{ x is defined }} {{ [1, 2][1] == 2 }}",
            "True False True",
        ),
    ] {
        assert_eq!(render(text, "{}").as_deref(), Ok(expected), "{text}");
    }
    let long = "long  text\n".repeat(200);
    assert_eq!(
        render(&format!("{{% raw %}}{long}{{{{{{% endraw %}}{long}"), "{}").unwrap() + "\n",
        format!("{long}{{{{{long}")
    );
}

#[test]
fn numbers_money_and_dates_are_written_for_the_requested_locale() {
    let params =
        r#"{"n": 1234567.5, "t": "2026-11-21T15:41:24.5+00:00", "d": "2026-11-21", "m": "19.9"}"#;
    for (locale, text, expected) in [
        (
            "",
            "{{ '2026-11-21'|date }} {{ 1234.5|number }}",
            "Nov 21, 2026 1,234.5",
        ),
        ("x", "{{ '2026-11-21'|date }}", "Nov 21, 2026"),
        ("de-CH", "{{ n|number }}", "1'234'567.5"),
        ("de", "{{ n|number(2) }}", "1.234.567,50"),
        ("", "{{ 2.345|number(2) }}", "2.35"),
        ("en", "{{ m|money('EUR') }}", "€19.90"),
        ("de", "{{ m|money('EUR') }}", "19,90\u{a0}€"),
        ("de-CH", "{{ m|money('CHF') }}", "CHF\u{a0}19.90"),
        ("ja", "{{ 1234|money('JPY') }}", "￥1,234"),
        ("de", "{{ 0.125|percent }}", "12,5\u{a0}%"),
        ("en", "{{ t|date }}", "Nov 21, 2026"),
        ("de", "{{ d|date('long') }}", "21. November 2026"),
        (
            "de",
            "{{ d|date(style='full') }}",
            "Samstag, 21. November 2026",
        ),
        (
            "de",
            "{{ t|datetime('short', tz='Europe/Berlin') }}",
            "21.11.26, 16:41",
        ),
        ("de", "{{ t|time('short', tz='+02:00') }}", "17:41"),
        (
            "de",
            "{{ '2026-11-21 15:41:24'|time('short', tz='Europe/Berlin') }}",
            "15:41",
        ),
    ] {
        assert_eq!(
            in_locale(locale, text, params).as_deref(),
            Ok(expected),
            "{locale} {text}"
        );
    }
}

#[test]
fn a_value_that_a_filter_cannot_read_is_an_error_that_names_it() {
    for text in [
        "{{ 'x'|number }}",
        "{{ true|number }}",
        "{{ 1|number(21) }}",
        "{{ 1|money('eur') }}",
        "{{ '21.11.2026'|date }}",
        "{{ '2026-11-21'|time }}",
        "{{ '2026-11-21'|date(tz='Nowhere/City') }}",
        "{{ '2026-11-21'|date('tiny') }}",
        "{{ 5|datetime }}",
    ] {
        let Err(RenderError::Failed { message, .. }) = render(text, "{}") else {
            panic!("{text} must fail")
        };
        assert!(message.starts_with("filter \""), "{message}");
    }
}

#[test]
fn line_breaks_become_br_in_html_only() {
    let templates = Templates::new(vec![Source {
        html: Some("{{ x|nl2br }}".to_owned()),
        ..source("t", "", "{{ x|nl2br }}")
    }]);
    let rendered = templates.render("t", None, r#"{"x": "a<\nb"}"#).unwrap();
    assert_eq!(
        (rendered.text.as_deref(), rendered.html.as_deref()),
        (Some("a<\nb"), Some("a&lt;<br>\nb"))
    );
}

#[test]
fn parameters_that_only_filters_see_are_named_together_with_those_behind_them() {
    let text = "{{ a|money(\"EUR\") }} {{ b|date }} {{ c|number }} {{ d|percent }} {{ e }}";
    let set = Templates::new(vec![source("t", "", text)]);
    let error = set.render("t", None, "{}").expect_err("all are missing");
    let names = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    assert_eq!(error, RenderError::Missing(names));
}

#[test]
fn locales_are_compared_in_any_case_and_with_either_dash() {
    let set = Templates::new(vec![
        source("t", "de-CH", "Schweiz"),
        source("t", "", "default"),
    ]);
    for locale in ["de-CH", "de-ch", "de_CH", "DE-CH-1996"] {
        let rendered = set.render("t", Some(locale), "{}").expect("a template");
        assert_eq!(
            (rendered.text.as_deref(), &*rendered.locale),
            (Some("Schweiz"), "de-CH"),
            "{locale}"
        );
    }
}

#[test]
fn elements_nested_beyond_reason_are_refused_and_not_followed() {
    let deep = format!("<style>b {{ color: red }}</style>{}", "<b>".repeat(100_000));
    let fault = compile_html(&deep).expect_err("too deep");
    assert!(fault.message.contains("nested too deep"), "{fault}");
    let deep = format!(
        "<mjml><mj-body><mj-raw>{}</mj-raw></mj-body></mjml>",
        "<b>".repeat(100_000)
    );
    let fault = compile_mjml(&deep).expect_err("too deep");
    assert!(fault.message.contains("nested too deep"), "{fault}");
}

#[test]
fn null_prints_nothing_and_has_a_default() {
    let params = r#"{"n": null}"#;
    for (text, expected) in [
        ("Dear {{ n }}.", "Dear ."),
        ("{{ n|default('customer') }}", "customer"),
        ("{{ n|upper }}{{ n ~ 'x' }}{{ n|nl2br }}{{ n|e }}", "x"),
        ("{{ n|tojson }}", "null"),
        ("{{ n is none }}", "True"),
    ] {
        assert_eq!(render(text, params).as_deref(), Ok(expected), "{text}");
    }
    let error = render("{{ n|money('EUR') }}", params).expect_err("no amount");
    assert!(
        error.to_string().ends_with("null is not a number"),
        "{error}"
    );
    let zone = "{{ '2026-01-01T23:30:00Z'|date(tz=n) }}";
    let error = render(zone, params).expect_err("no zone");
    assert!(
        error.to_string().ends_with("tz is null, not a string"),
        "{error}"
    );
}

#[test]
fn what_a_filter_is_given_is_missing_as_anything_else() {
    assert_eq!(
        missing("{{ x|money(cur) }} {{ y }}", "{}"),
        ["x", "cur", "y"]
    );
    assert_eq!(
        missing(
            "{{ order.total|money(order.currency) }}",
            r#"{"order": {"id": 1}}"#
        ),
        ["order.total", "order.currency"]
    );
    assert_eq!(missing("{{ '2026-01-01'|date(tz=zone) }}", "{}"), ["zone"]);
}

#[test]
fn another_template_that_is_not_there_is_told_by_its_name() {
    let set = |text: &str| {
        Templates::new(vec![
            source("t", "", text),
            Source {
                text: None,
                html: Some("x".to_owned()),
                ..source("html-only", "", "")
            },
        ])
    };
    for (text, reason) in [
        ("{% extends 'nope' %}", "template \"nope\" does not exist"),
        ("{% include 'nope' %}", "template \"nope\" does not exist"),
        (
            "{% extends 'html-only' %}",
            "template \"html-only\" has no text",
        ),
    ] {
        let error = set(text)
            .render("t", None, "{}")
            .expect_err("it is not there");
        assert!(error.to_string().ends_with(reason), "{error}");
    }
}

#[test]
fn long_literal_text_is_written_as_it_stands_whatever_trims_it() {
    let words = "\u{6f22} ".repeat(300);
    let spaces = " ".repeat(600);
    for (text, expected) in [
        (
            format!("{{{{ 1 }}}}{spaces}{{{{ 2 }}}}"),
            format!("1{spaces}2"),
        ),
        (format!("{{{{ 1 -}}}}{spaces}{{{{ 2 }}}}"), "12".to_owned()),
        (format!("{{{{ 1 }}}}{spaces}{{{{- 2 }}}}"), "12".to_owned()),
        (
            format!("{{{{ 1 -}}}}{spaces}x{spaces}{{{{- 2 }}}}"),
            "1x2".to_owned(),
        ),
        (
            format!("{{{{ 1 -}}}} {words}{{{{- 2 }}}}"),
            format!("1{}2", words.trim()),
        ),
        (
            format!("{{{{ 1 -}}}}{spaces}{words}{{{{ 2 }}}}"),
            format!("1{words}2"),
        ),
        (
            format!("{{% raw %}}{{ {{ {words}{{% endraw %}}"),
            format!("{{ {{ {words}"),
        ),
        (
            format!("{{%- raw -%}} {{ {words}{{%- endraw -%}} "),
            format!("{{ {}", words.trim()),
        ),
    ] {
        assert_eq!(render(&text, "{}").as_deref(), Ok(&*expected), "{text}");
    }
}
