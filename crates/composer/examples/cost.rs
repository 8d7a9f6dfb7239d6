//! CPU for a templated mail of 2 KB in text and HTML, rendered, composed and signed:
//! `cargo run --release -p mail-composer --example cost`.

use std::{sync::Arc, time::Instant};

use mail_composer::Composer;
use mail_dkim::{Algorithm, PrivateKey, Signer, generate};
use mail_template::{Source, Templates};

const ROUNDS: u32 = 5000;

fn main() {
    let source = |name: &str, subject: Option<&str>, text: Option<&str>, html: &str| Source {
        name: name.to_owned(),
        locale: String::new(),
        version: 1,
        subject: subject.map(str::to_owned),
        text: text.map(str::to_owned),
        html: Some(html.to_owned()),
    };
    let layout = "<html><body style=\"font-family: sans-serif\"><h1>The shop</h1>{% block body %}{% endblock %}\
                  <p style=\"color: #888\">You get this mail since you ordered with us. The Shop Ltd, 1 High Street, Anytown.</p></body></html>";
    let html = "{% extends \"layout\" %}{% block body %}<p>Dear {{ name }},</p><p>thank you for your order {{ number }}.</p><table>\
                {% for item in items %}<tr><td>{{ item.title }}</td><td>{{ item.count }}</td><td>{{ item.price|money(\"EUR\") }}</td></tr>{% endfor %}</table>{% endblock %}";
    let text = "Dear {{ name }},\n\nthank you for your order {{ number }}.\n\n{% for item in items %}{{ item.count }} x {{ item.title }}: {{ item.price|money(\"EUR\") }}\n{% endfor %}\n\
                You get this mail since you ordered with us.\nThe Shop Ltd, 1 High Street, Anytown.\n";
    let templates = Arc::new(Templates::new(vec![
        source("layout", None, None, layout),
        source("order", Some("Your order {{ number }}"), Some(text), html),
    ]));
    let items: Vec<String> = (1..=8)
        .map(|n| format!(r#"{{"title":"A useful thing, number {n}","count":{n},"price":{n}.9}}"#))
        .collect();
    let content = format!(
        r#"{{"from":"Shop <shop@example.com>","to":["someone@example.org"],"message_id":"<1@example.com>",
            "template":{{"name":"order","locale":"","params":{{"name":"Ann Example","number":4711,"items":[{}]}}}}}}"#,
        items.join(",")
    );
    let keys = |algorithms: &[Algorithm]| {
        let signer = |algorithm: &Algorithm| {
            let made = generate(*algorithm).expect("a key");
            let key = PrivateKey::from_pem(&made.private_pem).expect("a key");
            Signer::new("example.com", "s1", key).expect("a signer")
        };
        algorithms.iter().map(signer).collect::<Vec<_>>()
    };
    for (name, signers) in [
        ("not signed", keys(&[])),
        ("Ed25519", keys(&[Algorithm::Ed25519Sha256])),
        ("RSA-2048", keys(&[Algorithm::RsaSha256])),
    ] {
        let composer = Composer::new(Arc::clone(&templates), signers);
        let make = || {
            composer
                .compose(&content, Vec::new(), 1_700_000_000, 1_700_000_000)
                .expect("a message")
        };
        let size = make().text.len();
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            std::hint::black_box(make());
        }
        println!(
            "{name}: {:.1?} for a mail of {size} octets",
            begin.elapsed() / ROUNDS
        );
    }
}
