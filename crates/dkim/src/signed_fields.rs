//! Which header fields a signature covers: its `h=` (RFC 6376 §5.4), and the data that it stands for.

use crate::header::{Field, write_relaxed};

/// Whether a field's name is listed once more than it occurs (RFC 6376 §8.15), so that one added on the way breaks the
/// signature instead of being shown as if it were signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oversign {
    /// Also when the message has none: what a reader sees of who writes to whom about what.
    Always,
    /// When the message has one: there may be only one of it (RFC 5322 §3.6), but a submission server may add it when it
    /// is missing (RFC 6409 §8).
    IfPresent,
    /// Not at all: a list or a provider may add its own beside it.
    Never,
}

use Oversign::{Always, IfPresent, Never};

/// The fields that are signed, all of each, in the order of `h=`. Those of RFC 6376 §5.4.1 without the resending ones,
/// oversigned as rspamd does by default, and the two of one-click unsubscription, which RFC 8058 §4 wants signed. Fields
/// that change on the way (`Return-Path`, `Received`) are never signed.
const SIGNED: [(&str, Oversign); 25] = [
    ("From", Always),
    ("Reply-To", Always),
    ("Subject", Always),
    ("To", Always),
    ("Cc", Always),
    ("Sender", IfPresent),
    ("Date", IfPresent),
    ("Message-ID", IfPresent),
    ("In-Reply-To", IfPresent),
    ("References", IfPresent),
    ("MIME-Version", IfPresent),
    ("Content-Type", IfPresent),
    ("Content-Transfer-Encoding", IfPresent),
    ("List-Unsubscribe", IfPresent),
    ("List-Unsubscribe-Post", IfPresent),
    ("Content-ID", Never),
    ("Content-Description", Never),
    ("List-Id", Never),
    ("List-Help", Never),
    ("List-Subscribe", Never),
    ("List-Post", Never),
    ("List-Owner", Never),
    ("List-Archive", Never),
    ("Auto-Submitted", Never),
    ("Feedback-ID", Never),
];

/// What a signature covers of a header.
pub(crate) struct Signed {
    /// The names of `h=`, in its order.
    pub(crate) names: Vec<&'static str>,
    /// The fields that they stand for, in relaxed form, each with its line end.
    pub(crate) data: Vec<u8>,
}

/// Chooses the fields to sign; of several with one name the last one first (RFC 6376 §5.4.2).
pub(crate) fn choose(fields: &[Field<'_>]) -> Signed {
    let (mut names, mut data) = (Vec::new(), Vec::new());
    for (name, oversign) in SIGNED {
        let before = names.len();
        for field in fields.iter().rev().filter(|field| field.is(name)) {
            names.push(name);
            write_relaxed(field.name, field.value, &mut data);
            data.extend_from_slice(b"\r\n");
        }
        let is_present = names.len() > before;
        if oversign == Always || (oversign == IfPresent && is_present) {
            names.push(name);
        }
    }
    Signed { names, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::fields;

    fn chosen(header: &str) -> (String, String) {
        let signed = choose(&fields(header.as_bytes()).expect("fields"));
        (
            signed.names.join(":"),
            String::from_utf8(signed.data).expect("text"),
        )
    }

    #[test]
    fn what_readers_see_is_listed_once_more_than_it_occurs() {
        let (names, data) = chosen("from: a\nSubject: b\nX-Other: c\nReceived: d\n");
        assert_eq!(names, "From:From:Reply-To:Subject:Subject:To:Cc");
        assert_eq!(data, "from:a\r\nsubject:b\r\n");
    }

    #[test]
    fn what_a_submission_server_may_add_is_listed_once_more_when_present() {
        let (names, _) = chosen("Date: a\nMessage-ID: b\nSender: c\nFrom: d\nMIME-Version: 1.0\n");
        assert_eq!(
            names,
            "From:From:Reply-To:Subject:To:Cc:Sender:Sender:Date:Date:Message-ID:Message-ID:MIME-Version:MIME-Version"
        );
    }

    #[test]
    fn both_fields_of_one_click_unsubscription_are_covered() {
        let (names, data) = chosen(
            "From: a\nList-Unsubscribe: <https://example.com/u>\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\n",
        );
        let covered =
            "Cc:List-Unsubscribe:List-Unsubscribe:List-Unsubscribe-Post:List-Unsubscribe-Post";
        assert!(names.ends_with(covered), "{names}");
        assert!(data.contains("list-unsubscribe:<https://example.com/u>\r\n"));
        assert!(data.contains("list-unsubscribe-post:List-Unsubscribe=One-Click\r\n"));
    }

    #[test]
    fn of_several_fields_with_one_name_the_last_comes_first() {
        let (names, data) = chosen("To: a\nFrom: b\nTO: c\nList-Id: d\nList-Id: e\n");
        assert_eq!(
            names,
            "From:From:Reply-To:Subject:To:To:To:Cc:List-Id:List-Id"
        );
        assert_eq!(data, "from:b\r\nto:c\r\nto:a\r\nlist-id:e\r\nlist-id:d\r\n");
    }
}
