//! Measures the rendering of a realistic mail: text and HTML of 2 KB together, a layout and a footer, five rows.
//!
//! `cargo run --release -p mail-template --example measure`

use std::time::{Duration, Instant};

use mail_template::{Source, Templates};

const LAYOUT: &str = "<!DOCTYPE html><html><body style=\"margin: 0; font-family: sans-serif\"><table width=\"600\">\
<tr><td style=\"padding: 16px\">{% block body %}{% endblock %}</td></tr></table>{% include \"footer\" %}</body></html>";
const FOOTER: &str = "<p style=\"color: #888\">Example Ltd, 1 Example Street, {{ support }}</p>";
const HTML: &str = "{% extends \"layout\" %}{% block body %}<h1 style=\"font-size: 20px\">Thank you, {{ customer.name }}!\
</h1><p style=\"margin: 0 0 16px 0\">We have received your order {{ order }} and will send it soon.</p><table>\
{% for item in items %}<tr><td style=\"padding: 4px; border-bottom: 1px solid #ddd\">{{ item.name }}</td>\
<td style=\"padding: 4px; text-align: right\">{{ item.count }}</td><td style=\"padding: 4px; text-align: right\">\
{{ item.price }}</td></tr>{% endfor %}</table><p>{% if note is defined %}{{ note|nl2br }}{% else %}No note.{% endif %}\
</p><p><a href=\"{{ url }}\" style=\"background: #06c; color: #fff; padding: 8px\">Show the order</a></p>{% endblock %}";
const TEXT: &str = "Thank you, {{ customer.name }}!\n\nWe have received your order {{ order }} and will send it soon.\n\n\
{% for item in items %}- {{ item.count }} x {{ item.name }}, {{ item.price }}\n{% endfor %}\n{{ url }}\n\n-- \n\
{% include \"footer\" %}\n";
const PARAMS: &str = r#"{"customer": {"name": "Jane & John"}, "order": 4711, "url": "https://example.com/orders/4711",
    "support": "support@example.com", "total": 99.5, "when": "2026-11-21T15:41:24+00:00", "items": [
    {"name": "Blue pen", "count": 2, "price": "1.90"}, {"name": "Paper", "count": 1, "price": "4.50"},
    {"name": "Ink", "count": 3, "price": "9.90"}, {"name": "Ruler", "count": 1, "price": "2.20"},
    {"name": "Stapler", "count": 1, "price": "12.00"}]}"#;

fn source(name: &str, text: &str, html: &str) -> Source {
    Source {
        name: name.to_owned(),
        locale: String::new(),
        version: 1,
        subject: Some("Your order {{ order }}".to_owned()),
        text: Some(text.to_owned()),
        html: Some(html.to_owned()),
    }
}

fn measure(what: &str, templates: &Templates, name: &str) {
    let start = Instant::now();
    templates
        .render(name, Some("de-CH"), PARAMS)
        .expect("it renders");
    let first = start.elapsed();
    let mut all: Vec<Duration> = (0..20_000)
        .map(|_| {
            let start = Instant::now();
            templates
                .render(name, Some("de-CH"), PARAMS)
                .expect("it renders");
            start.elapsed()
        })
        .collect();
    all.sort();
    println!(
        "{what}: first {first:?}, median {:?}, 99 % {:?}",
        all[all.len() / 2],
        all[all.len() * 99 / 100]
    );
}

fn main() {
    let formats = format!(
        "{TEXT}{{{{ total|money('CHF') }}}} {{{{ when|date('long') }}}} {{{{ total|number(2) }}}}"
    );
    let mut list = vec![
        source("layout", "", LAYOUT),
        source("footer", "Example Ltd, {{ support }}", FOOTER),
        source("order", TEXT, HTML),
        source("formats", &formats, HTML),
    ];
    list.extend((0..500).map(|number| source(&format!("other {number}"), TEXT, HTML)));
    let start = Instant::now();
    let templates = Templates::new(list);
    println!("a set of 504 templates: {:?}", start.elapsed());
    measure("text and HTML", &templates, "order");
    measure("with money, date and number", &templates, "formats");
    let start = Instant::now();
    for _ in 0..100 {
        let html = format!("<style>td {{ color: red }} p {{ margin: 0 }}</style>{HTML}");
        mail_template::compile_html(&html).expect("it compiles");
    }
    println!("compile_html: {:?}", start.elapsed() / 100);
}
