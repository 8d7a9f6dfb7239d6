//! Templates that would take all memory, all time or all stack without the bounds. Every test runs on the 2 MB stack
//! of a test's thread.

use mail_template::{Part, RenderError, Source, Templates, check};

fn source(name: &str, text: &str) -> Source {
    Source {
        name: name.to_owned(),
        locale: String::new(),
        version: 1,
        subject: None,
        text: Some(text.to_owned()),
        html: None,
    }
}

fn render(text: &str) -> Result<(), RenderError> {
    let templates = Templates::new(vec![
        source("t", text),
        source("self", "{% include 'self' %}"),
        source("a", "{% extends 'b' %}"),
        source("b", "{% extends 'a' %}"),
    ]);
    templates
        .render("t", None, r#"{"s": "0123456789abcdef", "rows": [1, 2, 3]}"#)
        .map(|_| ())
}

/// The greatest resident size of this process so far, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .expect("the kernel tells the peak");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<u64>().ok())
        .expect("it is in kB")
        / 1024
}

#[track_caller]
fn too_much(text: &str, expected: &str) {
    match render(text) {
        // A slow machine may come to the end of its time first.
        Err(RenderError::TooMuch { what }) => {
            assert!([expected, "time"].contains(&what), "{what} {text:.200}");
        }
        other => panic!("{other:?} {text:.200}"),
    }
    assert!(peak() < 1500, "{} MB {text:.200}", peak());
}

fn looped(body: &str) -> String {
    format!(
        "{{% set ns = namespace(x=s) %}}{{% for i in range(100000) %}}{body}{{% endfor %}}{{{{ ns.x|length }}}}"
    )
}

#[test]
fn a_loop_of_a_billion_ends() {
    let nested = "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}x{% endfor %}{% endfor %}{% endfor %}";
    too_much(nested, "instructions");
}

#[test]
fn text_that_doubles_ends() {
    for body in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = (ns.x) ~ (ns.x) ~ 'a' %}",
        "{% set ns.x = ns.x|replace('0', ns.x) %}",
        "{% set ns.x = ns.x|join(ns.x) %}",
        "{% set ns.x = [ns.x, ns.x]|join %}",
        "{% set ns.x = '%s%s'|format(ns.x, ns.x) %}",
        "{% set ns.x = ns.x|tojson|tojson %}",
        "{% set ns.x = ns.x|repeat(2) %}",
        "{% set ns.x = [ns.x, ns.x]|string %}",
        "{% set ns.x = ([ns.x] + [ns.x])|string %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% macro m(y) %}{{ y }}{{ y }}{% endmacro %}{% set ns.x = m(ns.x) %}",
        "{% set ns.x %}{% filter replace('0', ns.x) %}{{ ns.x }}{% endfilter %}{% endset %}",
    ] {
        too_much(&looped(body), "memory");
    }
}

#[test]
fn lists_that_double_end() {
    for body in [
        "{% set ns.x = ns.x|list + ns.x|list %}",
        "{% set ns.x = [ns.x, ns.x]|sum(start=[]) if i else [1, 2] %}",
        "{% set ns.x = ns.x|chain(ns.x)|list if i else [1, 2] %}",
    ] {
        too_much(&looped(body), "memory");
    }
}

#[test]
fn one_great_step_ends() {
    for text in [
        "{{ s|repeat(100000000) }}",
        "{{ s|indent(1000000000, true) }}",
        "{{ s|indent(width=1000000000, first=true) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '%.1000000000f'|format(1) }}",
        "{{ '%*d'|format(1000000000, 1) }}",
        "{{ [1]|batch(1000000000, 0)|list|length }}",
        "{{ [1]|slice(1000000000, 0)|list|length }}",
        "{{ rows|tojson(indent=1000000000) }}",
        "{{ range(100000)|join('x'|repeat(1000000)) }}",
        "{{ ('x'|repeat(1000000))|replace('', 'x'|repeat(1000000)) }}",
    ] {
        too_much(text, "memory");
    }
    assert!(matches!(
        render("{{ 'x' * 99999999 }}"),
        Err(RenderError::Failed { .. })
    ));
    assert!(matches!(
        render("{{ ([1] * 99999999)|list }}"),
        Err(RenderError::Failed { .. })
    ));
    assert!(matches!(
        render("{{ range(1000000000)|list }}"),
        Err(RenderError::Failed { .. })
    ));
}

#[test]
fn looking_at_long_text_again_and_again_ends() {
    for look in [
        "{% if x == y %}",
        "{% if x < y %}",
        "{% if 'zz' in x %}",
        "{% if x is eq(y) %}",
        "{% if x[1:2] %}",
        "{% if x[-1:] %}",
        "{% if x|length %}",
    ] {
        let text = format!(
            "{{% set x = 'x'|repeat(1000000) %}}{{% set y = 'x'|repeat(1000000) %}}{{% for i in range(100000) %}}{look}{{% endif %}}{{% endfor %}}"
        );
        too_much(&text, "memory");
    }
}

#[test]
fn literal_text_captured_again_and_again_ends() {
    for long in [
        "some text ".repeat(10_000),
        "\u{6f22}".repeat(40_000),
        "\u{6f22} ".repeat(30_000),
        " ".repeat(100_000),
    ] {
        captured(&long);
    }
}

fn captured(long: &str) {
    for text in [
        format!("{{% set x %}}{{% for i in range(100000) %}}{long}{{% endfor %}}{{% endset %}}"),
        format!(
            "{{% set x %}}{{% for i in range(100000) %}}{{% raw %}}{long}{{% endraw %}}{{% endfor %}}{{% endset %}}"
        ),
        format!(
            "{{% macro m() %}}{{% for i in range(100000) %}}{long}{{% endfor %}}{{% endmacro %}}{{% set x = m() %}}"
        ),
    ] {
        too_much(&text, "memory");
    }
}

#[test]
fn comparing_what_is_large_again_and_again_ends() {
    for look in [
        "-1 in l",
        "-1 is in(l)",
        "l == m",
        "[l] == [m]",
        "l is eq(m)",
    ] {
        let text = format!(
            "{{% set l = range(20000)|list %}}{{% set m = range(20000)|list %}}{{% for i in range(100000) %}}{{% if {look} %}}{{% endif %}}{{% endfor %}}"
        );
        too_much(&text, "memory");
    }
}

#[test]
fn tests_of_every_item_end() {
    for select in ["select('in', l)", "reject('in', l)", "select('eq', l)"] {
        too_much(
            &format!("{{% set l = range(20000)|list %}}{{{{ l|{select}|list|length }}}}"),
            "memory",
        );
    }
}

#[test]
fn a_text_as_a_list_of_its_characters_ends() {
    let chars = "{{ s|list|length }}".repeat(10);
    too_much(
        &format!("{{% set s = 'x'|repeat(1000000) %}}{chars}"),
        "memory",
    );
}

#[test]
fn parameters_of_too_many_values_are_refused() {
    let set = Templates::new(vec![source("t", "{{ l|length }}")]);
    let params = format!("{{\"l\": [{}[]]}}", "[],".repeat(100_000));
    let error = set.render("t", None, &params).expect_err("too many");
    assert!(matches!(error, RenderError::Params(_)), "{error:?}");
}

#[test]
fn output_beyond_four_megabytes_ends() {
    too_much(
        "{% for i in range(100000) %}{{ 'x'|repeat(100) }}{% endfor %}",
        "output",
    );
}

#[test]
fn recursion_ends() {
    too_much("{% include 'self' %}", "recursion");
    too_much(
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "recursion",
    );
    too_much(
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "recursion",
    );
    assert!(render("{% extends 'a' %}").is_err());
    assert!(render("{% block a %}{{ self.a() }}{% endblock %}").is_err());
}

#[test]
fn values_nested_without_end_end() {
    for body in [
        "{% set ns.x = [ns.x] %}",
        "{% set ns.x = {'a': ns.x} %}",
        "{% set ns.x = ns.x, 1 %}",
        "{% set ns.x = [ns] %}",
        "{% set ns.x = {'a': {'b': ns}} %}",
        "{% set ns.x = [ns.x]|list %}",
        "{% set ns.x = dict(a=ns.x) %}",
        "{% set ns.x = namespace(a=ns.x) %}",
    ] {
        too_much(&looped(body), "nesting");
    }
    // Slices of slices are unevaluated in the engine, one call deeper each.
    render(&looped("{% set ns.x = ns.x[0:] if i else ns.x|list %}"))
        .unwrap_or_else(|error| assert!(matches!(error, RenderError::TooMuch { .. })));
    assert!(render("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}").is_err());
}

#[test]
fn sources_nested_deep_or_long_are_refused_and_overflow_no_stack() {
    let n = 20_000;
    for text in [
        format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}1{} }}}}", "[".repeat(n), "]".repeat(n)),
        format!("{{{{ {}1 }}}}", "not ".repeat(n)),
        format!("{{{{ {}1 }}}}", "- ".repeat(n)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(n)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(n)),
        format!("{{{{ 1{} }}}}", " ** 1".repeat(n)),
        format!("{{{{ 1{} }}}}", "|string".repeat(n)),
        format!("{{{{ a{} }}}}", ".a".repeat(n)),
        format!("{{{{ a{} }}}}", "[0]".repeat(n)),
        format!("{{{{ 1{} }}}}", " if a else 1".repeat(n)),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(n)),
        format!("{}{}", "{% if a %}".repeat(n), "{% endif %}".repeat(n)),
        format!(
            "{}{}",
            "{% for a in b %}".repeat(n),
            "{% endfor %}".repeat(n)
        ),
        "x".repeat(2 << 20),
    ] {
        assert!(check(Part::Text, &text).is_err(), "{text:.80}");
        assert!(render(&text).is_err(), "{text:.80}");
    }
    let deepest = 150;
    for text in [
        format!("{{{{ {}1 }}}}", "not ".repeat(deepest * 2)),
        format!("{{{{ {}1{} }}}}", "[".repeat(30), "]".repeat(30)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(deepest)),
        format!("{{{{ 1{} }}}}", "|string".repeat(deepest)),
        format!("{{% if false %}}{}{{% endif %}}", "{% elif 1 %}".repeat(50)),
        format!("{}{}", "{% if 1 %}".repeat(60), "{% endif %}".repeat(60)),
    ] {
        let _ = render(&text);
    }
}

#[test]
fn parameters_nested_deep_are_refused() {
    let templates = Templates::new(vec![Source {
        name: "t".to_owned(),
        locale: String::new(),
        version: 1,
        subject: None,
        text: Some("x".to_owned()),
        html: None,
    }]);
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(
        templates.render("t", None, &deep),
        Err(RenderError::Params(_))
    ));
}

#[test]
fn a_report_of_thousands_of_rows_is_not_too_much() {
    render(
        "{% set ns = namespace(total=0, names=[]) %}{% for i in range(1500) %}{% set ns.total = ns.total + i * 2 %}{% set \
         ns.names = ns.names + ['name ' ~ i] %}{{ i }}: {{ 'x'|repeat(100) }}\n{% endfor %}{{ ns.total }} {{ ns.names|length }}",
    )
    .unwrap();
}

#[test]
fn recursion_of_several_kinds_at_once_ends() {
    too_much(
        "{% macro m(n) %}{% filter upper %}{% for i in [1] %}{% set y %}{{ m([n][0]) ~ 'x' }}{% endset %}{{ y }}{% endfor \
         %}{% endfilter %}{% endmacro %}{% block b %}{{ m(1) }}{% endblock %}",
        "recursion",
    );
    too_much(
        "{% macro m(n) %}{% call c() %}{{ m(n) }}{% endcall %}{% endmacro %}{% macro c() %}{{ caller() }}{% endmacro %}{{ m(1) }}",
        "recursion",
    );
    too_much(
        "{% macro m(n) %}{{ ['a']|map('upper')|list }}{% include 't' %}{% endmacro %}{{ m(1) }}",
        "recursion",
    );
}
