//! Templates: when they are rendered, and what of them is stored.

mod common;

use std::cell::Cell;

use common::{DATE, QUEUE, extras, to};
use mail_message::{
    ComposeError, Context, Extras, Invalid, InvalidKind, Rendered, Simple, TemplateResult,
    TemplateUse, compose, prepare_json, prepare_simple, template_of,
};
use serde_json::{Value, json as j};

fn some(subject: &str, text: &str) -> Rendered {
    Rendered {
        subject: Some(subject.to_owned()),
        text: Some(text.to_owned()),
        html: None,
    }
}

/// Knows `welcome`, which needs `name`.
fn render(template: &TemplateUse<'_>) -> Result<TemplateResult, Invalid> {
    if template.name != "welcome" {
        return Err(Invalid::unknown_template(&template.name));
    }
    let params: Value = serde_json::from_str(template.params).expect("JSON");
    let Some(name) = params["name"].as_str() else {
        return Err(Invalid::missing_parameters(&template.name, &["name"]));
    };
    Ok(TemplateResult {
        rendered: some(&format!("Hi {name}"), &format!("Dear {name}")),
        locale: template.locale.as_deref().unwrap_or("en").to_owned(),
        version: 3,
    })
}

fn queue() -> Context<'static> {
    Context {
        render: &render,
        ..QUEUE
    }
}

fn mail(fields: Value) -> Result<mail_message::Prepared, Invalid> {
    let mut mail = fields;
    mail["to"] = j!("a@example.org");
    prepare_json(&mail.to_string(), &queue())
}

#[test]
fn it_is_rendered_when_it_is_sent() {
    let prepared =
        mail(j!({"template": "welcome", "params": {"name": "Ann"}, "locale": "de-AT"})).unwrap();
    assert_eq!(prepared.subject.as_deref(), Some("Hi Ann"));
    assert_eq!(
        prepared.content,
        r#"{"from":"Shop <shop@example.com>","to":["a@example.org"],"message_id":"<100.abc@example.com>","template":{"name":"welcome","locale":"de-AT","params":{"name":"Ann"}}}"#
    );
    let template = template_of(&prepared.content).unwrap();
    assert_eq!(
        (&*template.name, template.locale.as_deref(), template.params),
        ("welcome", Some("de-AT"), r#"{"name":"Ann"}"#)
    );
    let composed = compose(
        &prepared.content,
        DATE,
        extras(&prepared, Some(render(&template).unwrap().rendered)),
    );
    let text = String::from_utf8(composed.unwrap().to_vec()).unwrap();
    assert!(text.contains("Subject: Hi Ann\r\n") && text.ends_with("\r\n\r\nDear Ann\r\n"));
    assert!(matches!(
        compose(&prepared.content, DATE, Extras::default()),
        Err(ComposeError::NotRendered)
    ));
    for bad in [
        some("a\r\nBcc: x@y", "t"),
        some("s", "a\0"),
        Rendered::default(),
    ] {
        let error = compose(&prepared.content, DATE, extras(&prepared, Some(bad))).unwrap_err();
        assert!(matches!(error, ComposeError::Rendered(_)));
    }
    assert_eq!(template_of("{\"text\": \"\\\"template\\\"\"}"), None);
    assert_eq!(template_of("\"template\""), None);
}

#[test]
fn or_once_when_it_is_enqueued() {
    let prepared =
        mail(j!({"template": "welcome", "params": {"name": "Ann"}, "render": "enqueue"})).unwrap();
    assert_eq!(
        prepared.content,
        r#"{"from":"Shop <shop@example.com>","to":["a@example.org"],"subject":"Hi Ann","message_id":"<100.abc@example.com>","text":"Dear Ann","rendered":{"template":"welcome","locale":"en","version":3}}"#
    );
    assert_eq!(template_of(&prepared.content), None);
    assert!(common::composed(&prepared).contains("Subject: Hi Ann\r\n"));
}

#[test]
fn a_subject_given_wins() {
    for when in ["send", "enqueue"] {
        let prepared = mail(
            j!({"template": "welcome", "params": {"name": "A"}, "render": when, "subject": "Mine"}),
        )
        .unwrap();
        assert_eq!(prepared.subject.as_deref(), Some("Mine"));
        let composed = compose(
            &prepared.content,
            DATE,
            extras(&prepared, Some(some("other", "t"))),
        )
        .unwrap();
        assert!(
            String::from_utf8(composed.to_vec())
                .unwrap()
                .contains("Subject: Mine\r\n")
        );
    }
}

#[test]
fn the_text_form_has_the_same_fields() {
    let given = Simple {
        template: Some("welcome"),
        params: Some(" {\"name\": \"Ann\"}"),
        locale: Some("de"),
        ..to("a@example.org")
    };
    let prepared = prepare_simple(&given, &queue()).unwrap();
    let template = template_of(&prepared.content).unwrap();
    assert_eq!(template.params, r#"{"name": "Ann"}"#);
    let options = Simple {
        options: Some(r#"{"template": "x"}"#),
        ..given
    };
    let error = prepare_simple(&options, &queue()).unwrap_err();
    assert!(
        error.message.contains("already given as argument"),
        "{error}"
    );
    let error = prepare_simple(
        &Simple {
            params: Some("[]"),
            ..given
        },
        &queue(),
    )
    .unwrap_err();
    assert_eq!(error.message, "\"params\" must be an object, not an array");
    let error = prepare_simple(
        &Simple {
            params: Some("{"),
            ..given
        },
        &queue(),
    )
    .unwrap_err();
    assert!(error.message.starts_with("\"params\" is not valid JSON"));
    let error = prepare_simple(
        &Simple {
            text_body: Some("x"),
            ..given
        },
        &queue(),
    )
    .unwrap_err();
    assert_eq!(error.field, "text_body");
}

#[test]
fn an_empty_locale_is_none() {
    let fields =
        |locale: Value| j!({"template": "welcome", "params": {"name": "A"}, "locale": locale});
    let none = mail(fields(j!(null))).unwrap();
    assert!(!none.content.contains("locale"));
    assert_eq!(mail(fields(j!(""))).unwrap(), none);
    let given = Simple {
        template: Some("welcome"),
        params: Some(r#"{"name":"A"}"#),
        locale: Some(""),
        ..to("a@example.org")
    };
    assert_eq!(prepare_simple(&given, &queue()).unwrap(), none);
    let options = Simple {
        options: Some(r#"{"locale": "de"}"#),
        ..given
    };
    let prepared = prepare_simple(&options, &queue()).unwrap();
    assert_eq!(prepared, mail(fields(j!("de"))).unwrap());
    // Nor is it anything beside a message that has no template.
    assert!(mail(j!({"text": "x", "locale": ""})).is_ok());
    let plain = Simple {
        locale: Some(""),
        ..to("a@example.org")
    };
    assert!(prepare_simple(&plain, &queue()).is_ok());
}

#[test]
fn what_is_wrong_is_said_at_once() {
    for (fields, field, kind) in [
        (j!({"template": "other"}), "template", InvalidKind::Missing),
        (j!({"template": ""}), "template", InvalidKind::Missing),
        (j!({"template": "a\nb"}), "template", InvalidKind::BadValue),
        (j!({"template": 7}), "template", InvalidKind::BadValue),
        (j!({"template": "welcome"}), "params", InvalidKind::BadValue),
        (
            j!({"template": "welcome", "params": []}),
            "params",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "params": {"name": "a\r\nBcc: x"}}),
            "template",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "params": {"name": "a\0"}}),
            "template",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "locale": "de DE"}),
            "locale",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "locale": "d\ne"}),
            "locale",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "locale": " "}),
            "locale",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "render": "later"}),
            "render",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "text": "x"}),
            "text",
            InvalidKind::BadValue,
        ),
        (
            j!({"template": "welcome", "html": "x"}),
            "html",
            InvalidKind::BadValue,
        ),
        (j!({"params": {}}), "params", InvalidKind::BadValue),
        (j!({"locale": "de"}), "locale", InvalidKind::BadValue),
        (j!({"render": "send"}), "render", InvalidKind::BadValue),
    ] {
        let error = mail(fields.clone()).expect_err(&fields.to_string());
        assert_eq!(
            (error.field.as_str(), error.kind),
            (field, kind),
            "{fields}: {error}"
        );
    }
    let nothing = |_: &TemplateUse<'_>| {
        Ok(TemplateResult {
            rendered: Rendered::default(),
            locale: String::new(),
            version: 1,
        })
    };
    let context = Context {
        render: &nothing,
        ..QUEUE
    };
    let error = prepare_json(r#"{"to": "a@b.example", "template": "x"}"#, &context).unwrap_err();
    assert_eq!(error.message, "template \"x\" renders into nothing");
    let large = |_: &TemplateUse<'_>| {
        Ok(TemplateResult {
            rendered: some("s", &"x".repeat(1000)),
            locale: String::new(),
            version: 1,
        })
    };
    let context = Context {
        render: &large,
        max_size: 1000,
        ..QUEUE
    };
    let error = prepare_json(r#"{"to": "a@b.example", "template": "x"}"#, &context).unwrap_err();
    assert_eq!(error.kind, InvalidKind::TooLarge);
}

#[test]
fn an_external_consumer_renders_it_by_itself() {
    let called = Cell::new(false);
    let render = |template: &TemplateUse<'_>| {
        called.set(true);
        Err(Invalid::unknown_template(&template.name))
    };
    let context = Context {
        render: &render,
        external: true,
        default_sender: None,
        ..QUEUE
    };
    let given = Simple {
        template: Some("any"),
        params: Some("{\"a\":1}"),
        ..to("a@example.org")
    };
    let prepared = prepare_simple(&given, &context).unwrap();
    assert_eq!(
        prepared.content,
        r#"{"to":["a@example.org"],"template":{"name":"any","params":{"a":1}}}"#
    );
    assert!(!called.get());
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let given = Simple {
        params: Some(&deep),
        ..given
    };
    let prepared = prepare_simple(&given, &context).unwrap();
    assert_eq!(template_of(&prepared.content).unwrap().params, deep);
}
