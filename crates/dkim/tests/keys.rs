//! Keys as other tools write them, and keys that are refused.

use mail_dkim::{Algorithm, KeyError, PrivateKey, Signer, generate, sign};

/// The public part of a PEM file of a public key: its base64 without the armour.
fn armoured(pem: &str) -> String {
    pem.lines()
        .filter(|line| !line.starts_with("-----"))
        .collect()
}

#[test]
fn rsa_keys_of_openssl_are_read_with_their_public_part() {
    let record = format!(
        "v=DKIM1; k=rsa; p={}",
        armoured(include_str!("keys/rsa-2048-public.pem"))
    );
    for pem in [
        include_str!("keys/rsa-2048.pem"),
        include_str!("keys/rsa-2048-pkcs1.pem"),
    ] {
        let key = PrivateKey::from_pem(pem).expect("a key");
        assert_eq!(key.algorithm(), Algorithm::RsaSha256);
        assert_eq!(key.dns_record(), record);
    }
    for pem in [
        include_str!("keys/rsa-3072.pem"),
        include_str!("keys/rsa-4096.pem"),
    ] {
        assert!(PrivateKey::from_pem(pem).is_ok());
    }
}

#[test]
fn ed25519_keys_of_openssl_are_read_with_their_public_part() {
    let key = PrivateKey::from_pem(include_str!("keys/ed25519.pem")).expect("a key");
    assert_eq!(key.algorithm(), Algorithm::Ed25519Sha256);
    // The SubjectPublicKeyInfo is the 32 octets after 12 others: 16 characters of base64.
    let public = armoured(include_str!("keys/ed25519-public.pem"));
    assert_eq!(
        key.dns_record(),
        format!("v=DKIM1; k=ed25519; p={}", &public[16..])
    );
}

#[test]
fn a_pkcs8_key_of_version_2_is_read() {
    // RFC 8410 §10.3, with attributes left out as few tools write them.
    let pem = "-----BEGIN PRIVATE KEY-----\n\
               MFECAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
               gSEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
               -----END PRIVATE KEY-----\n";
    let key = PrivateKey::from_pem(pem).expect("a key");
    assert_eq!(
        key.dns_record(),
        "v=DKIM1; k=ed25519; p=Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
    );
}

#[test]
fn ed25519_seeds_are_read_bare() {
    // RFC 8463 §A.2.
    let record = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    for text in [
        "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
        " nWGxne/9WmC6hEr0kuws\r\n xERJxWl7MmkZcDusAxyuf2A= \n",
        "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==",
    ] {
        assert_eq!(
            PrivateKey::from_pem(text).expect("a key").dns_record(),
            record,
            "{text}"
        );
    }
}

#[test]
fn line_ends_and_text_around_the_pem_do_not_matter() {
    let pem = include_str!("keys/rsa-2048.pem");
    for text in [
        pem.replace('\n', "\r\n"),
        pem.replace("-----BEGIN", " -----BEGIN")
            .replace('\n', " \n    "),
        pem.trim_end().to_owned(),
        format!("Bag Attributes\n  friendlyName: x\n{pem}\nand more\n"),
        format!("{}{pem}", include_str!("keys/certificate.pem")),
    ] {
        assert!(PrivateKey::from_pem(&text).is_ok(), "{text}");
    }
}

#[test]
fn unusable_keys_are_refused_with_a_reason() {
    for (name, text, reason) in [
        ("no text", "", KeyError::Missing),
        ("other text", "hunter2", KeyError::Missing),
        (
            "base64 of another length",
            "aHVudGVyMg==",
            KeyError::Missing,
        ),
        (
            "RSA-1024",
            include_str!("keys/rsa-1024.pem"),
            KeyError::TooWeak,
        ),
        (
            "exponent 3",
            include_str!("keys/rsa-2048-exponent-3.pem"),
            KeyError::TooWeak,
        ),
        (
            "RSA-4608",
            include_str!("keys/rsa-4608.pem"),
            KeyError::TooLong,
        ),
        (
            "RSA-2056",
            include_str!("keys/rsa-2056.pem"),
            KeyError::Length,
        ),
        (
            "P-256",
            include_str!("keys/ec-p256.pem"),
            KeyError::Algorithm,
        ),
        (
            "P-256 in SEC 1",
            include_str!("keys/ec-p256-sec1.pem"),
            KeyError::Algorithm,
        ),
        (
            "X25519",
            include_str!("keys/x25519.pem"),
            KeyError::Algorithm,
        ),
        (
            "encrypted",
            include_str!("keys/rsa-2048-encrypted.pem"),
            KeyError::Encrypted,
        ),
        (
            "encrypted PKCS #1",
            include_str!("keys/rsa-2048-pkcs1-encrypted.pem"),
            KeyError::Encrypted,
        ),
        (
            "public RSA",
            include_str!("keys/rsa-2048-public.pem"),
            KeyError::Public,
        ),
        (
            "public Ed25519",
            include_str!("keys/ed25519-public.pem"),
            KeyError::Public,
        ),
        (
            "certificate",
            include_str!("keys/certificate.pem"),
            KeyError::Public,
        ),
    ] {
        assert_eq!(PrivateKey::from_pem(text).err(), Some(reason), "{name}");
    }
}

#[test]
fn damaged_keys_are_refused_when_they_are_read() {
    for (name, pem) in [
        ("RSA", include_str!("keys/rsa-2048.pem")),
        ("PKCS #1", include_str!("keys/rsa-2048-pkcs1.pem")),
    ] {
        let lines: Vec<&str> = pem.lines().collect();
        // All lines after the version and the algorithm hold numbers of the key; the exponent `d` is not used.
        for damaged in (1..lines.len() - 1).filter(|line| !(7..=12).contains(line)) {
            let mut lines = lines.clone();
            let changed: String = lines[damaged].chars().rev().collect();
            lines[damaged] = &changed;
            let error = PrivateKey::from_pem(&lines.join("\n")).err();
            assert!(error.is_some(), "{name}, line {damaged}");
        }
        let cut = [&lines[..20], &lines[lines.len() - 1..]]
            .concat()
            .join("\n");
        assert_eq!(
            PrivateKey::from_pem(&cut).err(),
            Some(KeyError::Damaged),
            "{name}, cut"
        );
        assert_eq!(
            PrivateKey::from_pem(&lines[..20].join("\n")).err(),
            Some(KeyError::Damaged),
            "{name}, open"
        );
    }
    let swapped =
        "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGh==";
    assert!(PrivateKey::from_pem(swapped).is_err());
}

#[test]
fn generated_keys_are_read_sign_and_differ() {
    for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
        let generated = generate(algorithm).expect("a key");
        let key = PrivateKey::from_pem(&generated.private_pem).expect("a key");
        assert_eq!(key.algorithm(), algorithm);
        assert_eq!(key.dns_record(), generated.dns_record);
        assert_ne!(
            generate(algorithm).expect("a key").private_pem,
            generated.private_pem
        );
        let signer = Signer::new("example.com", "s", key).expect("a signer");
        assert!(sign(&[&signer], &["From: a@example.com\r\n"], 0).is_ok());
    }
}

#[test]
fn nothing_secret_is_shown() {
    let generated = generate(Algorithm::Ed25519Sha256).expect("a key");
    let secret = armoured(&generated.private_pem);
    let key = PrivateKey::from_pem(&generated.private_pem).expect("a key");
    assert_eq!(format!("{key:?}"), "PrivateKey(ed25519-sha256)");
    let shown = format!("{generated:?}");
    assert!(
        shown.contains(&generated.dns_record) && !shown.contains(&secret),
        "{shown}"
    );
}
