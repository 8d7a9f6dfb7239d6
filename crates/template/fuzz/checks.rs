//! What must hold for any bytes. The fuzz targets and the tests on stable share it.

use mail_template::{
    Fault, Part, RenderError, Source, Templates, check, compile_html, compile_mjml,
};
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// The most bytes that a rendering writes.
const OUTPUT: usize = 4 << 20;
/// The longest source, compiled or not.
const SOURCE: usize = 1 << 20;

/// One line that says something of ours.
fn said(message: &str) {
    let inner = ["pay__", "tplq", "engine failed"];
    assert!(
        !inner.iter().any(|word| message.contains(word)),
        "{message}"
    );
    assert!(
        !message.contains(['\r', '\n']) && !message.is_empty(),
        "{message:?}"
    );
}

/// A fault stands at a place of the source.
fn placed(fault: &Fault, source: &str) {
    if !source.contains("pay__") && !source.contains("tplq") {
        said(&fault.message);
    }
    let line = source.split('\n').nth((fault.line.max(1) - 1) as usize);
    let line = line.expect("there is such a line");
    assert!(fault.column as usize <= line.chars().count() + 1, "{fault}");
    assert!(fault.column > 0 || fault.line == 0, "{fault}");
}

/// Source of each part: checked without harm, and rendered where it is accepted.
pub fn source(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    for part in [Part::Subject, Part::Text, Part::Html, Part::Mjml] {
        if let Err(fault) = check(part, text) {
            assert_eq!(fault.part, part);
            placed(&fault, text);
        }
    }
    rendered(text, r#"{"x": "a", "rows": [1, {"k": 2}]}"#);
}

/// Parameters, then behind a NUL a source.
pub fn render(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let (params, source) = text.split_once('\0').unwrap_or((text, "{{ x }}"));
    rendered(source, params);
}

fn rendered(text: &str, params: &str) {
    let part = || Some(text.to_owned());
    let source = Source {
        name: "t".to_owned(),
        locale: String::new(),
        version: 1,
        subject: part(),
        text: part(),
        html: part(),
    };
    match Templates::new(vec![source]).render("t", Some("de-CH"), params) {
        Ok(mail) => {
            let subject = mail.subject.expect("there is one");
            assert!(!subject.contains(|c: char| c.is_control()), "{subject:?}");
            let text = mail.text.expect("there is one");
            assert!(text.len() + mail.html.expect("there is one").len() <= OUTPUT);
        }
        Err(RenderError::Failed { message, line, .. }) => {
            if !text.contains("pay__") && !text.contains("tplq") {
                said(&message);
            }
            assert!(line as usize <= text.split('\n').count());
        }
        Err(RenderError::Missing(names)) => assert!(!names.is_empty()),
        Err(RenderError::Params(why)) => said(&why),
        Err(RenderError::TooMuch { .. }) => {}
        Err(error @ RenderError::NoTemplate(_)) => panic!("{error}"),
    }
}

/// The tokens of all template tags: of those that print, and of those that steer.
fn tokens(source: &str) -> (Vec<String>, Vec<String>) {
    let (mut printing, mut steering, mut prints) = (Vec::new(), Vec::new(), false);
    for (token, _) in tokenize(source, false, SyntaxConfig::default()).map_while(Result::ok) {
        match token {
            Token::TemplateData(_) => continue,
            Token::VariableStart => prints = true,
            Token::BlockStart => prints = false,
            _ => {}
        }
        let token = format!("{token:?}");
        if prints { &mut printing } else { &mut steering }.push(token);
    }
    (printing, steering)
}

/// HTML: compiled, it has the same template tags, and without rules it is what it was.
pub fn html(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let compiled = match compile_html(text) {
        Ok(compiled) => compiled,
        Err(fault) => return placed(&fault, text),
    };
    assert!(compiled.len() <= SOURCE);
    assert_eq!(tokens(&compiled), tokens(text), "{compiled}");
    assert!(check(Part::Html, &compiled).is_ok(), "{compiled}");
    if !text.to_ascii_lowercase().contains("<style") {
        assert_eq!(compiled, text);
    }
    let again = compile_html(&compiled).expect("it compiled before");
    assert_eq!(tokens(&again), tokens(text), "{again}");
}

/// MJML: compiled, it has the same steering tags in the same order.
pub fn mjml(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let compiled = match compile_mjml(text) {
        Ok(compiled) => compiled,
        Err(fault) => return placed(&fault, text),
    };
    assert!(compiled.len() <= SOURCE);
    assert_eq!(tokens(&compiled).1, tokens(text).1, "{compiled}");
    assert!(
        !compiled.contains("tplq") || text.contains("tplq"),
        "{compiled}"
    );
    assert!(check(Part::Html, &compiled).is_ok(), "{compiled}");
}
