//! Prints what a mail costs: `cargo run --release -p mail-message --example bench`.

use std::{hint::black_box, time::Instant};

use mail_message::{Context, Extras, Invalid, Simple, compose, prepare_json, prepare_simple};

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
        render: &|template| Err(Invalid::unknown_template(&template.name)),
        stored: &|id| Err(Invalid::unknown_attachment(id)),
        may_send_as: None,
    };
    let simple = |text, html| Simple {
        recipient: "someone@example.net",
        subject: Some("Your order 12345"),
        text_body: text,
        html_body: html,
        ..Simple::default()
    };
    let cases = [
        ("2 KB ascii text", simple(Some(&ascii), None)),
        ("2 KB text, umlauts", simple(Some(&german), None)),
        ("2 KB text + 2 KB html", simple(Some(&ascii), Some(&html))),
        ("2 KB html alone", simple(None, Some(&html))),
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
            let stored = black_box(&prepared.content);
            black_box(compose(stored, 1_700_000_000, Extras::default()).is_ok());
        });
    }
    large_file();
}

/// A file of 25 MB in blocks of 1 MB: the time, and the most memory that the process ever had.
fn large_file() {
    let content = r#"{"from":"a@b.example","to":["c@d.example"],"message_id":"<x@y>","attachments":[{"filename":"x",
        "content_type":"application/pdf","disposition":"attachment"}]}"#;
    let blocks = (0..25u8).map(|i| vec![i; 1_000_000].into()).collect();
    let extras = Extras {
        rendered: None,
        files: vec![blocks],
    };
    let start = Instant::now();
    let composed = compose(content, 1_700_000_000, extras);
    let millis = start.elapsed().as_secs_f64() * 1e3;
    let size = composed.map_or(0, |composed| composed.size());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "compose, 25 MB file: {millis:.1} ms, {size} bytes, {}",
        peak.unwrap_or("peak of memory unknown")
    );
}
