//! Prints what a mail costs: `cargo run --release -p mail-message --example bench`.

use std::{hint::black_box, time::Instant};

use mail_message::{Context, Simple, compose, prepare_json, prepare_simple};

fn time(what: &str, mut run: impl FnMut()) {
    const ROUNDS: u32 = 100_000;
    for _ in 0..ROUNDS / 10 {
        run();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        run();
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    println!("{what:<44} {micros:8.2} µs");
}

fn main() {
    let ascii = "The quick brown fox jumps over the lazy dog, \"again\".\n".repeat(37);
    let german = "Die schöne Müllerin läuft über den grünen Hügel, hin und zurück.\n".repeat(30);
    let html = format!(
        "<html><body><p>{}</p></body></html>",
        ascii.replace('\n', "<br>\n")
    );
    let context = Context {
        default_sender: Some("Shop <shop@example.com>"),
        return_path: Some("bounces@example.com"),
        id: 7_234_567_890_123,
        nonce: 0x1234_5678_9abc_def0,
        max_size: 10_000_000,
        external: false,
    };
    let simple = |text, html| Simple {
        recipient: "someone@example.net",
        subject: Some("Your order 12345"),
        text_body: Some(text),
        html_body: html,
        sender: None,
        options: None,
    };
    let cases = [
        ("2 KB ascii text", simple(&ascii, None)),
        ("2 KB text, umlauts", simple(&german, None)),
        ("2 KB text + 2 KB html", simple(&ascii, Some(&html))),
    ];
    for (name, case) in cases {
        time(&format!("prepare_simple, {name}"), || {
            black_box(prepare_simple(black_box(&case), &context).is_ok());
        });
        let Ok(prepared) = prepare_simple(&case, &context) else {
            continue;
        };
        time(&format!("prepare_json,   {name}"), || {
            black_box(prepare_json(black_box(&prepared.content), &context).is_ok());
        });
        time(&format!("compose,        {name}"), || {
            black_box(compose(black_box(&prepared.content), 1_700_000_000).is_ok());
        });
    }
}
