//! Signatures of whole messages, verified by an independent reading of the RFC and, where it is installed, by dkimpy.

mod verifier;

use std::io::Write as _;
use std::process::{Command, Stdio};

use mail_dkim::{PrivateKey, SignError, Signer, sign};
use proptest::prelude::*;

const TIME: i64 = 1_752_292_837;

/// Raw messages as users write them.
const MESSAGES: [&[u8]; 14] = [
    b"From: a@example.com\r\nSubject: Hi\r\n\r\nHello\r\n",
    b"From: a@example.com\nSubject: Hi\n\nHello\n\nThere",
    b"From: a@example.com\rSubject: Hi\r\rHello\r",
    b"From: a@example.com",
    b"From: a@example.com\r\n",
    b"From: a@example.com\r\n\r\n",
    b"From: a@example.com\r\n\r\n\r\n \t\r\n\r\n",
    b"From: a@example.com\r\n\r\n\r\n\r\nHello  there \t \r\n\tindented \r\n \r\n",
    b"FROM:  a@example.com  \r\nSubject:\r\n folded\r\n\t  twice \r\nTo: b@example.org,\r\n c@example.org\r\n\r\n.\r\n..\r\n",
    b"Received: x\r\nTo: b\r\nTo: c\r\nFrom: a@example.com\r\nTo: d\r\nX-Other: e\r\n\r\nHello",
    b"From: a@example.com\r\nSubject:\r\nCc:   \r\n\r\n \r\n x\r\n",
    b"From: a@example.com\r\n\r\nFrom: not a field\r\n\r\nnot a header\r\n",
    b"From: a@example.com\r\nList-Unsubscribe: <https://example.com/u?a=b>\r\n\
      List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n<p>Hi\r\n",
    b"From: a@example.com\r\n\r\na\r\r\nb\n\rc\r\n\r",
];

/// More of them, which dkimpy reads otherwise: it knows no white space before a colon, takes further control characters
/// for white space, and the signature that one brings along is not good.
const ODD_MESSAGES: [&[u8]; 3] = [
    b"From \t: a@example.com\r\nSubject : Hi\r\n\r\nHello\r\n",
    b"From: \xc3\xa9 <a@example.com>\r\nSubject: caf\xe9 \xa0\r\n\r\n\xe9 \xa0 \x85\r\n\x00\x0b\x0c\r\n",
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=old; b=\r\nFrom: a@example.com\r\n\r\nHello\r\n",
];

fn key(pem: &str) -> PrivateKey {
    PrivateKey::from_pem(pem).expect("a key")
}

fn rsa() -> Signer {
    Signer::new("example.com", "rsa", key(include_str!("keys/rsa-2048.pem"))).expect("a signer")
}

fn ed25519() -> Signer {
    Signer::new("example.com", "ed", key(include_str!("keys/ed25519.pem"))).expect("a signer")
}

fn signed(signers: &[&Signer], raw: &[u8]) -> Vec<u8> {
    let fields = sign(signers, &[raw], TIME).expect("a signature");
    verifier::wire(&[fields.as_bytes(), raw].concat())
}

fn verify(signers: &[&Signer], message: &[u8]) -> Vec<Result<(), String>> {
    verifier::verify(message, |name| {
        let signer = signers.iter().find(|signer| signer.dns_name() == name)?;
        Some(signer.dns_record())
    })
}

/// Verifies with dkimpy, which Debian installs for its own Python; `None` where it is not installed.
fn verify_by_dkimpy(signers: &[&Signer], message: &[u8]) -> Option<bool> {
    let python = ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let found = Command::new(python).args(["-c", "import dkim"]).output();
        found.is_ok_and(|output| output.status.success())
    })?;
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py"))
        .args(
            signers
                .iter()
                .map(|signer| format!("{}={}", signer.dns_name(), signer.dns_record())),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    // A broken pipe means that the script has ended early, as its status tells.
    let _ = child.stdin.take().expect("a pipe").write_all(message);
    match child.wait().expect("a status").code() {
        Some(0) => Some(true),
        Some(1) => Some(false),
        _ => None,
    }
}

#[test]
fn the_verifier_accepts_both_signatures_of_rfc_8463() {
    let message = verifier::wire(include_bytes!("messages/rfc8463.eml"));
    let results = verifier::verify(&message, |name| {
        let record = match name {
            "brisbane._domainkey.football.example.com" => {
                "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
            }
            "test._domainkey.football.example.com" => {
                "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi\
                 Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2\
                 kryOTIKT+l/K4w3QIDAQAB"
            }
            _ => return None,
        };
        Some(record.into())
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

#[test]
fn raw_messages_verify_as_they_are_on_the_wire() {
    let signers = [&rsa(), &ed25519()];
    for raw in [&MESSAGES[..], &ODD_MESSAGES].concat() {
        let results = verify(&signers, &signed(&signers, raw));
        assert_eq!(results[..2], [Ok(()), Ok(())], "{}", raw.escape_ascii());
    }
}

#[test]
fn raw_messages_verify_by_dkimpy_where_it_is_installed() {
    let signers = [&rsa(), &ed25519()];
    for raw in MESSAGES {
        let message = signed(&signers, raw);
        let Some(verified) = verify_by_dkimpy(&signers, &message) else {
            eprintln!("dkimpy is not installed: nothing tested");
            return;
        };
        assert!(verified, "{}", raw.escape_ascii());
        let altered = [&b"To: someone@example.org\r\n"[..], &message].concat();
        assert_eq!(
            verify_by_dkimpy(&signers, &altered),
            Some(false),
            "{}",
            raw.escape_ascii()
        );
    }
}

#[test]
fn the_field_is_folded_and_ends_with_its_signature() {
    let message = b"From: a@example.com\r\nDate: now\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n\r\nHello\r\n";
    let seed = key("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=");
    let signer = Signer::new("example.com", "2025-07", seed).expect("a signer");
    let field = sign(&[&signer], &[message], TIME).expect("a signature");
    let (tags, signature) = field.split_once(" b=").expect("b=");
    assert_eq!(
        tags,
        "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com;\r\n \
         s=2025-07; t=1752292837; h=From:From:Reply-To:Subject:To:Cc:Date:Date:\r\n \
         Message-ID:Message-ID:MIME-Version:MIME-Version;\r\n \
         bh=Ba3gj8+xBPQLJTahTfzW6RbWQ/XPgESxkCi2B66PSQg=;"
    );
    assert!(signature.ends_with("==\r\n"));
    assert_eq!(signature.split_whitespace().collect::<String>().len(), 88);
}

#[test]
fn lines_are_short_even_for_the_longest_names() {
    let label = "a".repeat(59);
    let domain = [&label[..]; 4].join(".");
    let long = Signer::new(&domain, "s", key(include_str!("keys/rsa-4096.pem"))).expect("a signer");
    for raw in MESSAGES {
        let field = sign(&[&long], &[raw], TIME).expect("a signature");
        assert!(field.ends_with("\r\n"));
        for line in field.split_terminator("\r\n") {
            assert!(line.len() <= 76 || line.starts_with(" d="), "{line}");
            assert!(!line.trim().is_empty() && !line.ends_with(' '), "{line}");
        }
        assert_eq!(verify(&[&long], &signed(&[&long], raw))[0], Ok(()));
    }
}

#[test]
fn one_more_field_that_is_oversigned_breaks_the_signature() {
    let signer = ed25519();
    let message = signed(
        &[&signer],
        b"From: a@example.com\r\nDate: now\r\nContent-Type: text/plain\r\n\r\nHello\r\n",
    );
    assert_eq!(verify(&[&signer], &message), [Ok(())]);
    for name in [
        "From",
        "Reply-To",
        "Subject",
        "To",
        "Cc",
        "Date",
        "Content-Type",
    ] {
        let added = [format!("{name}: x\r\n").as_bytes(), &message].concat();
        assert_eq!(verify(&[&signer], &added), [Err("b=".into())], "{name}");
    }
    for name in [
        "Received",
        "Return-Path",
        "Message-ID",
        "Sender",
        "List-Id",
        "Authentication-Results",
    ] {
        let added = [format!("{name}: x\r\n").as_bytes(), &message].concat();
        assert_eq!(verify(&[&signer], &added), [Ok(())], "{name}");
    }
}

#[test]
fn the_same_input_gives_the_same_fields_in_the_order_of_the_signers() {
    let (rsa, ed25519) = (rsa(), ed25519());
    let both = sign(&[&rsa, &ed25519], &[MESSAGES[0]], TIME).expect("signatures");
    assert_eq!(
        sign(&[&rsa, &ed25519], &[MESSAGES[0]], TIME).as_ref(),
        Ok(&both)
    );
    let one_by_one =
        [&rsa, &ed25519].map(|signer| sign(&[signer], &[MESSAGES[0]], TIME).expect("a signature"));
    assert_eq!(both, one_by_one.concat());
    assert_eq!(sign(&[], &[MESSAGES[0]], TIME), Ok(String::new()));
}

#[test]
fn a_message_without_from_or_with_a_broken_header_is_not_signed() {
    let signer = ed25519();
    for raw in [
        &b""[..],
        b"\r\n",
        b"\r\nFrom: a\r\n",
        b"Subject: x\r\n\r\nFrom: a\r\n",
        b"X-From: a\r\n",
    ] {
        assert_eq!(
            sign(&[&signer], &[raw], TIME),
            Err(SignError::NoFrom),
            "{}",
            raw.escape_ascii()
        );
    }
    for (raw, line) in [
        (&b"From: a\r\nhello\r\n\r\n"[..], 2),
        (b"From: a\rhello\r\n\r\n", 2),
        (b" From: a\r\n\r\n", 1),
    ] {
        assert_eq!(
            sign(&[&signer], &[raw], TIME),
            Err(SignError::Header { line }),
            "{}",
            raw.escape_ascii()
        );
    }
    let none: [&[u8]; 0] = [];
    assert_eq!(sign(&[&signer], &none, TIME), Err(SignError::NoFrom));
}

proptest! {
    #[test]
    fn every_message_verifies_however_it_is_cut(
        header in "(Subject:|To :|X-A:|List-Unsubscribe:)?((\r\n|\n|\r) ?|[a-z:;=]{1,9}|\r\n[ \t]| |\t|\u{e9}){0,20}",
        body in "(\r\n|\n|\r|[a-z.]{1,9}| |\t|\u{e9}){0,40}",
        size in 1usize..30,
    ) {
        let signer = ed25519();
        let raw = format!("From: a@example.com\r\n{header}\r\n\r\n{body}").into_bytes();
        let whole = sign(&[&signer], &[&raw], TIME);
        prop_assert_eq!(&sign(&[&signer], &raw.chunks(size).collect::<Vec<_>>(), TIME), &whole);
        if let Ok(field) = whole {
            let message = verifier::wire(&[field.as_bytes(), &raw].concat());
            prop_assert_eq!(&verify(&[&signer], &message), &[Ok(())]);
        }
    }
}
