//! From stored content to signed mail.

use std::sync::Arc;

use mail_composer::{Composer, RenderedFrom};
use mail_dkim::{Algorithm, PrivateKey, Signer, generate};
use mail_template::{Source, Templates};

fn templates(text: &str) -> Arc<Templates> {
    Arc::new(Templates::new(vec![Source {
        name: "welcome".to_owned(),
        locale: "de".to_owned(),
        version: 7,
        subject: Some("Hallo {{ name }}".to_owned()),
        text: Some(text.to_owned()),
        html: None,
    }]))
}

fn signer(domain: &str, selector: &str) -> Signer {
    let made = generate(Algorithm::Ed25519Sha256).expect("a key");
    let key = PrivateKey::from_pem(&made.private_pem).expect("a key");
    Signer::new(domain, selector, key).expect("a signer")
}

fn content(from: &str) -> String {
    format!(
        r#"{{"from":"{from}","to":["a@example.org"],"message_id":"<1@example.com>",
            "template":{{"name":"welcome","locale":"de-CH","params":{{"name":"Ann"}}}}}}"#
    )
}

#[test]
fn a_template_is_rendered_signed_and_remembered() {
    let composer = Composer::new(
        templates("Tag {{ name }}"),
        vec![signer("example.com", "s1")],
    );
    let message = composer
        .compose(&content("a@example.com"), Vec::new(), 0, 0)
        .expect("a message");
    let text = String::from_utf8(message.text.to_vec()).expect("ASCII");
    assert!(text.starts_with("DKIM-Signature: "), "{text}");
    assert!(
        text.contains("\r\nSubject: Hallo Ann\r\n") && text.ends_with("Tag Ann\r\n"),
        "{text}"
    );
    let from = RenderedFrom {
        name: "welcome".to_owned(),
        locale: "de".to_owned(),
        version: 7,
    };
    assert_eq!(message.rendered, Some(from));
}

#[test]
fn the_keys_of_the_nearest_domain_sign_and_all_of_them() {
    let signers = [
        "example.com",
        "mail.example.com",
        "mail.example.com",
        "other.test",
    ];
    let signers = signers
        .iter()
        .enumerate()
        .map(|(n, domain)| signer(domain, &format!("s{n}")));
    let composer = Composer::new(templates("x"), signers.collect());
    let signed_by = |from: &str| {
        let message = composer
            .compose(&content(from), Vec::new(), 0, 0)
            .expect("a message");
        let text = String::from_utf8(message.text.to_vec()).expect("ASCII");
        let domains = text
            .split("d=")
            .skip(1)
            .filter_map(|rest| rest.split(';').next());
        domains.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(signed_by("a@example.com"), ["example.com"]);
    assert_eq!(
        signed_by("a@deep.mail.example.com"),
        ["mail.example.com", "mail.example.com"]
    );
    assert_eq!(signed_by("a@shop.example.com"), ["example.com"]);
    assert_eq!(signed_by("a@notexample.com"), [""; 0]);
    assert_eq!(signed_by("a@com"), [""; 0]);
}

#[test]
fn what_cannot_be_rendered_says_why() {
    let composer = Composer::new(templates("{{ other }}"), Vec::new());
    let why = composer
        .compose(&content("a@example.com"), Vec::new(), 0, 0)
        .expect_err("a parameter is missing");
    assert!(why.contains("other"), "{why}");
    let why = Composer::default()
        .compose(&content("a@example.com"), Vec::new(), 0, 0)
        .expect_err("there is no template");
    assert!(why.contains("welcome"), "{why}");
}
