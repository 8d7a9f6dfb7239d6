use proptest::prelude::*;

use super::*;

fn plain(secret: &str) -> String {
    STANDARD.encode(format!("\0bob@example.com\0{secret}"))
}

fn mask(secret: &str) -> Mask {
    let bearer = STANDARD.encode(format!("user=bob\x01auth=Bearer {secret}\x01\x01"));
    Mask::new(secret, [plain(secret).as_str(), bearer.as_str()])
}

fn masked(secret: &str, text: &str) -> String {
    mask(secret).text(text).into_owned()
}

#[test]
fn a_secret_is_masked_in_every_form_it_goes_out_in_and_when_cut_off() {
    let secret = "correct horse";
    let plain = plain(secret);
    let login = STANDARD.encode(secret);
    for echo in [
        secret,
        &plain,
        &login,
        &plain[..20],
        &plain[9..],
        &login[..12],
        &login[5..],
        "rrect ho",
        "CORRECT HORSE",
        "correct%20horse",
        "correct+horse",
        "636f727265637420686f727365",
        &plain.replace('=', "%3D"),
    ] {
        let text = masked(secret, &format!("what is {echo} (1) {echo}"));
        assert_eq!(text, "what is *** (1) ***", "{echo}");
    }
}

#[test]
fn short_secrets_are_masked_as_a_whole_and_an_empty_one_masks_nothing() {
    assert_eq!(masked("a", "banana"), "b***n***n***");
    assert_eq!(masked("seven77", "not seven7 seven77."), "not seven7 ***.");
    assert_eq!(masked("seven77", "it is seve\nn77!"), "it is ***\n***!");
    assert_eq!(masked("seven77", &STANDARD.encode("seven77")), "***");
    assert_eq!(masked("", "no such thing"), "no such thing");
}

#[test]
fn what_is_foreign_is_masked_with_the_word_it_stands_in() {
    let secret = "pässwörter-ß";
    assert_eq!(masked(secret, "no (pässwörter-ß)! x"), "no *** x");
    assert_eq!(masked(secret, "no p\u{fffd}\u{fffd}sswörter-ß"), "no ***");
    assert_eq!(
        masked("пароль-пароль", "ваш пароль-паро\nль, да"),
        "ваш ***\n***"
    );
}

#[test]
fn a_token_is_masked_wherever_it_stands_in_base64() {
    let secret = "ya29.A0ARrdaM-token";
    for before in ["", "x", "xx", "user=bob\u{1}auth=Bearer "] {
        let echo = STANDARD.encode(format!("{before}{secret} and more"));
        assert_eq!(masked(secret, &echo), "***");
    }
    let mask = Mask::new(secret, [plain(secret).as_str()]);
    assert!(matches!(mask.text("dXNlcj1ib2I="), Cow::Borrowed(_)));
}

#[test]
fn what_a_line_break_takes_apart_is_masked_on_both_sides() {
    let secret = "Tr0ub4dor&3-hunter2";
    for (text, expected) in [
        (
            "5.7.8 pw was Tr0ub4\ndor&3-hunter2\nx",
            "5.7.8 pw was ***\n***\nx",
        ),
        (
            "5.7.8 pw Tr0ub4d\n5.7.8 or&3-hunter2\n5.7.8 x",
            "5.7.8 pw ***\n***\n5.7.8 x",
        ),
        ("pw Tr0ub4dor&3-\n> hunter2", "pw ***\n***"),
        (
            "> Tr0\n> ub4\n> dor\n> &3-\n> hun\n> ter\n> 2",
            "> ***\n***\n***\n***\n***\n***\n***",
        ),
        ("not Tr0ub\n* 4dor&3-hunter2, no", "not ***\n***"),
        ("no Tr0ub4dor&3-hun…\n5.7.8 try", "no ***\n***"),
        (
            "no Tr0ub4dor&3-hunter2\n5.7.8 try again",
            "no ***\n5.7.8 try again",
        ),
        ("5.7.8 no\n5.7.8 Tr0ub4dor&3-hunter2", "5.7.8 no\n5.7.8 ***"),
    ] {
        assert_eq!(masked(secret, text), expected);
    }
}

#[test]
fn ordinary_words_are_left_alone() {
    let mask = mask("correct horse battery staple");
    for text in [
        "",
        "\n",
        "ok",
        "5.7.8 Error: authentication failed: bob@example.com",
        "mail.example greets bob@example.com\nPIPELINING\nSIZE 10240000\nAUTH PLAIN LOGIN",
        "100% of %41 %",
        "a horse, correctly so",
    ] {
        assert!(matches!(mask.text(text), Cow::Borrowed(_)), "{text}");
    }
}

/// How a relay may write down what it was told.
fn forms(secret: &str) -> Vec<String> {
    let standard = STANDARD.encode(secret);
    let url = |text: &str| text.replace('+', "-").replace('/', "_");
    let percent = |keep: fn(&u8) -> bool| {
        let octet = |octet: u8| match octet {
            octet if keep(&octet) => char::from(octet).to_string(),
            octet => format!("%{octet:02X}"),
        };
        secret.bytes().map(octet).collect::<String>()
    };
    let hex = secret.bytes().map(|octet| format!("{octet:02x}"));
    let hex = hex.collect::<Vec<_>>().concat();
    vec![
        secret.to_owned(),
        secret.to_uppercase(),
        url(&standard),
        standard,
        plain(secret),
        url(&plain(secret)),
        STANDARD.encode(format!("user=bob\x01auth=Bearer {secret}")),
        // Without the digits that it shares with what it stands behind.
        STANDARD.encode(format!("x{secret}")).split_off(2),
        percent(|octet| octet.is_ascii_alphanumeric() || b"-._~".contains(octet)),
        hex,
        // Of these, only whole ones are surely found.
        percent(u8::is_ascii_alphanumeric),
        percent(|octet| octet.is_ascii_graphic() && *octet != b'%'),
    ]
}

/// From the `form`th of these, a piece of at least eight characters.
fn piece(secret: &str, form: usize, cut: (usize, usize)) -> String {
    let echo = forms(secret).swap_remove(form);
    if form >= 10 {
        return echo;
    }
    let chars: Vec<char> = echo.trim_end_matches('=').chars().collect();
    let from = cut.0.min(chars.len() - PIECE);
    let to = chars.len() - cut.1.min(chars.len() - PIECE - from);
    chars[from..to].iter().collect()
}

/// `text` in lines of so many characters, each behind `prefix`.
fn wrapped(text: &str, width: usize, prefix: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let lines = chars.chunks(width).map(|line| {
        let line: String = line.iter().collect();
        format!("{prefix}{line}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    // What is left of a line is what no relay was told: nothing of the secret, however short.
    #[test]
    fn nothing_is_left_of_a_secret_that_is_cut_and_wrapped(
        secret in prop_oneof![
            "[!-~]{8,130}",
            "[A-Za-z0-9]{8,130}",
            "[a-z]{3,9}( [a-z]{3,9}){2,8}",
        ],
        form in 0usize..12,
        cut in (0usize..200, 0usize..200),
        width in 1usize..90,
        lead in prop::sample::select(vec!["", "5.7.8 ", "5.7.8 what is: ", "who? \"", "("]),
        prefix in prop::sample::select(vec!["", "5.7.8 ", "  ", "\t", "5.7.8  "]),
        tail in prop::sample::select(vec!["", " ", "\n", "\n5.7.8 so", "\nno"]),
    ) {
        // Whose spaces they are cannot be told.
        let prefix = match prefix.trim() {
            "" if secret.contains(' ') => "",
            "5.7.8" if secret.contains(' ') => "5.7.8 ",
            _ => prefix,
        };
        let echo = wrapped(&piece(&secret, form, cut), width, prefix);
        let echo = format!("{lead}{}{tail}", &echo[prefix.len()..]);
        let masked = masked(&secret, &echo);
        prop_assert_eq!(masked.matches('\n').count(), echo.matches('\n').count());
        for (n, line) in masked.split('\n').enumerate() {
            let begin = if n == 0 { lead } else { prefix };
            let line = line.replace("***", "");
            let line = line.trim();
            prop_assert!(
                begin.trim().starts_with(line) || tail.trim_start().ends_with(line),
                "{line:?} is left of {echo:?}: {masked:?}"
            );
        }
    }

    // Prefixes that nobody knows beforehand: what is long enough is found by itself, and what is left over
    // at the ends of lines goes with it.
    #[test]
    fn nothing_is_left_of_a_secret_behind_unknown_prefixes(
        secret in "[A-Za-z0-9./+-]{8,130}",
        form in 0usize..10,
        cut in (0usize..200, 0usize..200),
        width in 8usize..90,
        numbered in any::<bool>(),
    ) {
        let lines = wrapped(&piece(&secret, form, cut), width, "| ");
        let number = |n: usize| if numbered { n.to_string() } else { String::new() };
        let lines = lines.lines().enumerate();
        let lines: Vec<String> = lines.map(|(n, line)| number(n) + line).collect();
        let masked = masked(&secret, &lines.join("\n"));
        for (line, was) in masked.split('\n').zip(&lines) {
            let rest = line.replace("***", "");
            let kept = rest.rsplit('|').next().unwrap_or_default().trim();
            prop_assert!(kept.is_empty(), "{line:?} is left of {was:?}: {masked:?}");
        }
    }

    #[test]
    fn any_text_is_read_without_harm(
        secret in ".{0,40}",
        texts in proptest::collection::vec("(?s).{0,12}", 0..6),
        at in 0usize..40,
    ) {
        let part: String = secret.chars().skip(at).collect();
        let text = texts.join(&part);
        let masked = masked(&secret, &text);
        prop_assert_eq!(masked.matches('\n').count(), text.matches('\n').count());
    }
}
