//! HTML and MJML templates are compiled and keep their tags.

use mail_template::{Part, Source, Templates, compile_html, compile_mjml};
use proptest::prelude::*;

fn render(html: &str, params: &str) -> String {
    let source = Source {
        name: "t".to_owned(),
        locale: String::new(),
        version: 1,
        subject: None,
        text: None,
        html: Some(html.to_owned()),
    };
    Templates::new(vec![source])
        .render("t", None, params)
        .unwrap()
        .html
        .unwrap()
}

#[test]
fn html_without_style_stays_byte_for_byte() {
    let html = "<table>{% for r in rows %}<tr><td {% if r %}class='y'{% endif %}>&nbsp;{{ r }}{% endfor %}</table>";
    assert_eq!(compile_html(html).unwrap(), html);
}

#[test]
fn rules_go_into_style_attributes_and_the_rest_stays_byte_for_byte() {
    let before = "<style>p { color: red } .a { margin: 0 } td { padding: 1px }</style>";
    for (source, expected) in [
        ("<p>{{ x }}</p>", "<p style=\"color: red;\">{{ x }}</p>"),
        (
            "<p class=a >x",
            "<p style=\"color: red;margin: 0;\" class=a >x",
        ),
        (
            "<p style=\"width: 1px\" href=\"{{ 'a\"b' }}\">&copy;<br/>",
            "<p style=\"color: red;width: 1px\" href=\"{{ 'a\"b' }}\">&copy;<br/>",
        ),
        (
            "<p class=\"{{ x }} a\">",
            "<p style=\"color: red;margin: 0;\" class=\"{{ x }} a\">",
        ),
        (
            "<table>{% for r in rows %}<tr><td>{{ r }}</td></tr>{% endfor %}</table>",
            "<table>{% for r in rows %}<tr><td style=\"padding: 1px;\">{{ r }}</td></tr>{% endfor %}</table>",
        ),
        (
            "<p {% if x %}class=\"a\"{% endif %}>",
            "<p {% if x %}class=\"a\"{% endif %}>",
        ),
        ("<p style=\"{{ s }}\">", "<p style=\"{{ s }}\">"),
        (
            "<!--[if mso]><p>{{ x }}</p><![endif]-->",
            "<!--[if mso]><p>{{ x }}</p><![endif]-->",
        ),
        (
            "{% raw %}<p>{{ x }}{% endraw %}",
            "{% raw %}<p>{{ x }}{% endraw %}",
        ),
        (
            "{# <p> #}<P>ä</P>",
            "{# <p> #}<P style=\"color: red;\">ä</P>",
        ),
        (
            "{% block b %}<p>{% endblock %}",
            "{% block b %}<p style=\"color: red;\">{% endblock %}",
        ),
        (
            "<a title=\"a > b\"></a><p>",
            "<a title=\"a > b\"></a><p style=\"color: red;\">",
        ),
    ] {
        assert_eq!(
            compile_html(&format!("{before}{source}")).unwrap(),
            format!("{before}{expected}")
        );
    }
}

#[test]
fn a_style_element_with_tags_is_left_to_the_client() {
    let html = "<style>p { color: {{ c }} }</style><style>b{margin:0}</style><p><b>";
    assert_eq!(
        compile_html(html).unwrap(),
        "<style>p { color: {{ c }} }</style><style>b{margin:0}</style><p><b style=\"margin: 0;\">"
    );
}

#[test]
fn a_whole_document_and_a_child_of_a_layout_compile() {
    let html = "<!DOCTYPE html>\n<html><head><title>{{ t }}</title><style>p{margin:0}@media print{p{color:red}}</style></head>\
                <body>{% block body %}<p>x</p>{% endblock %}</body></html>";
    assert_eq!(
        compile_html(html).unwrap(),
        html.replace("<p>x", "<p style=\"margin: 0;\">x")
    );
    let child = "{% extends 'layout' %}{% block body %}<style>p{margin:0}</style><p>{{ super() }}</p>{% endblock %}";
    assert_eq!(
        compile_html(child).unwrap(),
        child.replace("<p>", "<p style=\"margin: 0;\">")
    );
}

#[test]
fn rendering_the_compiled_is_compiling_the_rendered() {
    let html = "<style>p{margin:0}.a b{color:red}</style>{% for i in items %}<p class=\"a\">{{ i }}<b>{{ i }}</b></p>{% endfor %}";
    let params = r#"{"items": ["x", "y & z"]}"#;
    assert_eq!(
        render(&compile_html(html).unwrap(), params),
        compile_html(&render(html, params)).unwrap()
    );
}

#[test]
fn mjml_keeps_tags_between_elements_in_attributes_and_in_text() {
    let mjml = "{# a mail #}<mjml><mj-head><mj-title>{{ title }}</mj-title><mj-style>.a { color: {{ c }} }</mj-style></mj-head><mj-body>\
                {% for s in sections %}<mj-section><mj-column>{% if s %}<mj-text css-class=\"{{ k }}\">Hello {{ name }}\
                {% if x %}<b>y</b>{% endif %}</mj-text>{% endif %}<mj-button href=\"{{ url }}\">go</mj-button>\
                <mj-table>{% for r in s.rows %}<tr><td {% if r %}class=\"o\"{% endif %}>{{ r }}</td></tr>{% endfor %}</mj-table>\
                </mj-column></mj-section>{% endfor %}</mj-body></mjml>";
    let html = compile_mjml(mjml).unwrap();
    assert!(!html.contains("tplq"), "{html}");
    assert!(html.contains("href=\"{{ url }}\""), "{html}");
    let params = r##"{"title": "T", "c": "#000", "k": "kk", "name": "N", "x": true, "url": "https://example.com/?a&b",
        "sections": [{"rows": [1, 2]}, {"rows": []}]}"##;
    let rendered = render(&html, params);
    assert_eq!(rendered.matches("Hello N").count(), 2, "{rendered}");
    assert!(
        rendered.contains("https://example.com/?a&amp;b"),
        "{rendered}"
    );
}

#[test]
fn mjml_that_is_wrong_is_a_fault_at_its_place() {
    let faults = [
        ("<mjml>\n<mj-body>", (2, 10)),
        ("<p>Hello</p>", (1, 1)),
        (
            "<mjml><mj-body>\n<mj-include path=\"x\"/></mj-body></mjml>",
            (2, 1),
        ),
        ("<mjml><mj-body>{% if x %}</mj-body></mjml>", (1, 26)),
        (
            "<mjml><mj-body>\n{{ x }}<mj-section x=>a</mj-section></mj-body></mjml>",
            (2, 19),
        ),
        (
            "<mjml><mj-body>\n{# \u{e4} #}\n{% if x %}<mj-section y=></mj-section>{% endif %}</mj-body></mjml>",
            (3, 22),
        ),
        (
            "<mjml><mj-body>\n <mj-txt>a</mj-txt></mj-body></mjml>",
            (2, 2),
        ),
    ];
    for (source, place) in faults {
        let fault = compile_mjml(source).unwrap_err();
        assert_eq!(
            (fault.part, (fault.line, fault.column)),
            (Part::Mjml, place),
            "{source}: {fault}"
        );
    }
}

/// Pieces of templates, each well-formed by itself.
fn piece() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("{{ x }}".to_owned()),
        Just("{# <p> #}".to_owned()),
        Just("{% raw %}{{ <p> {% endraw %}".to_owned()),
        Just("<!--[if mso]><p>{{ x }}</p><![endif]-->".to_owned()),
        Just("<img src=\"{{ x }}\" alt='>'>".to_owned()),
        Just("<style>p { color: {{ x }} }</style>".to_owned()),
        Just("<style>p, td { margin: 0 } .a { color: red }</style>".to_owned()),
        Just("&nbsp;\u{e4}<br/>".to_owned()),
        "[ -~]{0,8}".prop_map(|text| text.replace(['{', '}', '%', '#', '<'], "")),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        let all = proptest::collection::vec(inner, 0..4).prop_map(|all| all.concat());
        (all, 0..7u8).prop_map(|(inner, kind)| match kind {
            0 => format!("{{% if x %}}{inner}{{% else %}}{inner}{{% endif %}}"),
            1 => format!("{{% for i in y -%}}{inner}{{%- endfor %}}"),
            2 => format!("<p class=\"a {{{{ x }}}}\">{inner}</p>"),
            3 => format!(
                "<table><tr {{% if x %}}class='a'{{% endif %}}><td>{inner}</td></tr></table>"
            ),
            4 => format!("<p style=\"width: {{{{ x }}}}\">{inner}</p>"),
            5 => format!(
                "<table>{{% for i in y %}}<tr><td class=a>{inner}</td></tr>{{% endfor %}}</table>"
            ),
            _ => format!("<html><body>{inner}</body></html>"),
        })
    })
}

/// The source without its `style` attributes in double quotes.
fn without_styles(html: &str) -> String {
    let mut left = String::new();
    let mut rest = html;
    while let Some((before, behind)) = rest.split_once(" style=\"") {
        left.push_str(before);
        rest = behind.split_once('"').map_or("", |(_, rest)| rest);
    }
    left + rest
}

proptest! {
    #[test]
    fn nothing_but_style_attributes_changes(pieces in proptest::collection::vec(piece(), 0..6)) {
        let source = pieces.concat();
        let compiled = compile_html(&source).unwrap();
        prop_assert_eq!(without_styles(&compiled), without_styles(&source));
        prop_assert!(!compiled.contains("tplq"));
        // Rendering fails for neither or for both.
        let params = r#"{"x": "1px", "y": [1, 2]}"#;
        prop_assert_eq!(without_styles(&render(&compiled, params)), without_styles(&render(&source, params)));
    }

    #[test]
    fn no_source_makes_the_compilers_or_the_check_panic(source in "(<(p|style|td|mjml|mj-text)>?|[a-z \"'=/>]|\\{\\{|\\}\\}|\\{%|%\\}|\\{#|#\\}|raw|if|\u{e4}|\\PC){0,30}") {
        if mail_template::check(Part::Html, &source).is_ok() {
            compile_html(&source).unwrap();
        }
        let _ = compile_mjml(&source);
        let _ = compile_html(&format!("<style>p{{margin:0}}</style>{source}"));
    }
}

/// Tags that parsers read in ways of their own, and text that may pass for them.
const ODD: &[&str] = &[
    "<div>",
    "</div>",
    "<div/>",
    "<p>",
    "</p>",
    "<b>",
    "<b id=1>",
    "</b>",
    "<i class='x'>",
    "<a>",
    "<a href=x>",
    "<table>",
    "<td>",
    "</td>",
    "<tr>",
    "</table>",
    "<caption>",
    "<object>",
    "</object>",
    "<template>",
    "<select>",
    "<option>",
    "<ul>",
    "<li>",
    "</ul>",
    "<h1>",
    "<button>",
    "<form>",
    "</form>",
    "<title>",
    "</title>",
    "<style>",
    "</style>",
    "</stylex>",
    "<script>",
    "<!--",
    "-->",
    "<!-->",
    "<svg>",
    "<math>",
    "<title/>",
    "<![CDATA[",
    "]]>",
    "<noscript>",
    "<xmp>",
    "<plaintext>",
    "<br>",
    "</br>",
    "<body>",
    "</body>",
    "</html>",
    "<head>",
    "<nobr>",
    "<div title=\"</div>\">",
    "<div title='\"<b>'>",
    "<div \" a=\"><b>\">",
    "<div =\"><b>\">",
    "<div a=b\"c>",
    "<mj-text>",
    "</mj-text>",
    "<mj-section title=\"/>\">",
    "</mj-section>",
    "<frameset>",
    "<image>",
    "x",
    " ",
    "{{ x }}",
    "{% if x %}",
    "{% endif %}",
    "\u{e4}",
    "\"",
    "'",
    "<",
    ">",
    "=",
    "&",
];

#[test]
fn what_is_left_open_does_not_take_the_stack() {
    for piece in [
        "<div title=\"</div>\">",
        "<div><object></div>",
        "<div><template></div>",
        "<p><table><td></p>",
        "<b><p>x</b>",
        "<p><b id=1></p>x",
        "<svg><title></title><div></svg>",
        "<style></stylex><div><style></style>",
        "<div =\"><p>\">",
        "<table><b>",
    ] {
        let fault = compile_html(&format!(
            "<style>p{{color:red}}</style>{}",
            piece.repeat(20_000)
        ));
        assert!(
            fault.as_ref().is_ok_and(|html| html.len() > 40_000)
                || fault.is_err_and(|fault| fault.part == Part::Html),
            "{piece}"
        );
    }
    for piece in [
        "<div title=\"/>\">",
        "<div title=\"</div>\">",
        "<div>",
        "<br><p>",
    ] {
        let text = format!(
            "<mjml><mj-body><mj-section><mj-column><mj-text>{}</mj-text></mj-column></mj-section></mj-body></mjml>",
            piece.repeat(20_000)
        );
        let fault = compile_mjml(&text).unwrap_err();
        assert!(
            fault.message.contains("nested too deep"),
            "{piece}: {fault}"
        );
    }
}

#[test]
fn rules_for_too_many_elements_are_refused() {
    let rules = ".a p{color:red}".repeat(20_000);
    let html = format!("<style>{rules}</style>{}", "<p></p>".repeat(20_000));
    let fault = compile_html(&html).unwrap_err();
    assert!(fault.message.contains("too many rules"), "{fault}");
}

#[test]
fn what_grows_beyond_a_template_is_refused() {
    let section = "<mj-section><mj-column><mj-text>x</mj-text></mj-column></mj-section>";
    let mjml = format!("<mjml><mj-body>{}</mj-body></mjml>", section.repeat(2000));
    let fault = compile_mjml(&mjml).unwrap_err();
    assert!(fault.message.contains("more than 1 MB"), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_soup_of_tags_takes_the_stack(words in prop::collection::vec(prop::sample::select(ODD), 1..8)) {
        let piece = words.concat();
        let soup = piece.repeat(200_000 / piece.len());
        let _ = compile_html(&format!("<style>p{{color:red}}</style>{soup}"));
        let _ = compile_mjml(&format!("<mjml><mj-body>{soup}</mj-body></mjml>"));
    }
}
