//! A subject is one line (RFC 5322 §2.2), whatever its template and its parameters have in them.

/// The text with every run of white space and control characters as one space, none at the ends.
pub(crate) fn one_line(text: &str) -> String {
    let between = |letter: char| letter.is_whitespace() || letter.is_control();
    text.split(between)
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
