//! A whole mail in two locales against the files in `tests/golden`: a layout with a footer, macros and formats.
//!
//! Run with `UPDATE_GOLDEN=1` to write the files anew, and read the difference.

use std::fs;
use std::path::Path;

use mail_template::{Source, Templates, compile_html};

const LAYOUT: &str = "<!DOCTYPE html>\n<html>\n<head>\n<title>{% block title %}{% endblock %}</title>\n<style>\nh1 { color: \
                      #036 }\n</style>\n</head>\n<body>\n{% block body %}{% endblock %}\n{% include \"footer\" %}\n</body>\n</html>\n";
const MACROS: &str =
    "{% macro row(name, price) %}<tr><td>{{ name }}</td><td>{{ price }}</td></tr>{% endmacro %}";

fn source(name: &str, locale: &str, text: Option<&str>, html: Option<&str>) -> Source {
    Source {
        name: name.to_owned(),
        locale: locale.to_owned(),
        version: 3,
        subject: None,
        text: text.map(str::to_owned),
        html: html.map(|html| compile_html(html).expect("it compiles")),
    }
}

fn order(locale: &str, hello: &str, total: &str) -> Source {
    let html = format!(
        "{{% extends \"layout\" %}}{{% from \"macros\" import row %}}\n{{% block title %}}{hello}{{% endblock %}}\n{{% block \
         body %}}<style>td {{ padding: 4px }} h1 {{ margin: 0 }}</style>\n<h1>{hello} {{{{ name }}}}</h1>\n<table>\n{{% for \
         item in items -%}}\n{{{{ row(item.name, item.price|money(\"EUR\")) }}}}\n{{% endfor %}}<tr><td>{total}</td><td>{{{{ \
         total|money(\"EUR\") }}}}</td></tr>\n</table>\n{{% endblock %}}"
    );
    let text = format!(
        "{hello} {{{{ name }}}}\n\n{{% for item in items %}}- {{{{ item.name }}}}: {{{{ item.price|money(\"EUR\") \
         }}}}\n{{% endfor %}}{total}: {{{{ total|money(\"EUR\") }}}}\n{{{{ when|datetime(\"long\", tz=\"Europe/Zurich\") \
         }}}}\n-- \n{{% include \"footer\" %}}\n"
    );
    Source {
        subject: Some(format!("{hello} {{{{ name }}}}")),
        ..source("order", locale, Some(&text), Some(&html))
    }
}

#[test]
fn a_mail_in_two_locales_is_as_in_the_golden_files() {
    let templates = Templates::new(vec![
        source("layout", "", None, Some(LAYOUT)),
        source("macros", "", None, Some(MACROS)),
        source(
            "footer",
            "",
            Some("Example Ltd"),
            Some("<p>Example Ltd</p>"),
        ),
        source(
            "footer",
            "de",
            Some("Beispiel GmbH"),
            Some("<p>Beispiel GmbH</p>"),
        ),
        order("", "Hello", "Total"),
        order("de", "Guten Tag", "Summe"),
    ]);
    let params = r#"{"name": "Ann <& Bob>", "total": 1219.90, "when": "2026-07-01T10:00:00+00:00",
        "items": [{"name": "Pen", "price": 19.9}, {"name": "Desk", "price": "1200"}]}"#;
    for (locale, file) in [("en", "order.en"), ("de-AT", "order.de-AT")] {
        let mail = templates
            .render("order", Some(locale), params)
            .expect("it renders");
        let all = format!(
            "{}\n========\n{}\n========\n{}",
            mail.subject.expect("it has a subject"),
            mail.text.expect("it has a text"),
            mail.html.expect("it has HTML")
        );
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &all).expect("the file can be written");
        }
        assert_eq!(
            all,
            fs::read_to_string(&path).expect("the file is there"),
            "{file}"
        );
    }
}
