//! Messages given as JSON for an external queue: kept as they are, whatever they say. Two members are looked at: the
//! subject, for the views, and which stored files go with the message.
//!
//! No tree is built, and no list of what is passed over: a message may have many megabytes.

use std::{borrow::Cow, fmt};

use serde::{Deserializer as _, de};
use serde_json::value::RawValue;

use crate::{
    attachment::{self, File, MAX_ATTACHMENTS},
    error::Invalid,
    fields,
    limit::{Budget, check_nesting},
    prepare::{Context, Prepared},
};

/// Takes a message given as JSON for an external queue: whatever it says, as it is. Its `files` are those that
/// `{"attachment": "17"}` in its array `attachments` names, in that order.
///
/// # Errors
/// [`Invalid`] where it is too large, or names a file that the caller may not use.
pub fn prepare_external(json: &str, context: &Context<'_>) -> Result<Prepared, Invalid> {
    let mut budget = Budget::empty(context.max_size);
    budget.add(json.len())?;
    check_nesting("message", json)?;
    let (mut subject, mut attachments) = (None, None);
    // Of members with the same name the last one counts, as in jsonb.
    each_member(json, |name, value| match name {
        "subject" => subject = Some(value),
        "attachments" => attachments = Some(value),
        _ => {}
    });
    let files = attachments.map(|value| stored_files(value, &mut budget, context));
    let files = files.transpose()?.unwrap_or_default();
    Ok(Prepared {
        envelope_from: String::new(),
        recipients: Vec::new(),
        subject: subject
            .and_then(|value| fields::string("subject", value).ok())
            .map(|subject| subject.0.into_owned()),
        message_id: String::new(),
        tags: Vec::new(),
        metadata: None,
        content: json.to_owned(),
        template: None,
        files,
        // As for others, although it is not known what becomes of it.
        size: json.len() + budget.files() / 3 * 4,
    })
}

/// The stored files that an array of attachments refers to. What has another shape is no reference.
fn stored_files(
    value: &RawValue,
    budget: &mut Budget,
    context: &Context<'_>,
) -> Result<Vec<File>, Invalid> {
    let mut references = Vec::new();
    let mut count = 0;
    let mut place = 0;
    each_element(value.get(), |element| {
        let mut id = None;
        each_member(element.get(), |name, value| {
            if name == "attachment" {
                id = attachment::reference(value);
            }
        });
        if let Some(id) = id {
            count += 1;
            if count <= MAX_ATTACHMENTS {
                references.push((place, id));
            }
        }
        place += 1;
    });
    if count > MAX_ATTACHMENTS {
        return Err(Invalid::too_many("attachments", count, MAX_ATTACHMENTS));
    }
    references
        .into_iter()
        .map(|(place, id)| {
            let stored = (context.stored)(id).map_err(|invalid| Invalid {
                field: format!("attachments[{place}].attachment"),
                ..invalid
            })?;
            budget.add_file(stored.size)?;
            Ok(File::Stored(id))
        })
        .collect()
}

/// Calls `see` with each member of the object that `json` is; of anything else there is none.
fn each_member<'a>(json: &'a str, see: impl FnMut(&str, &'a RawValue)) {
    struct Visitor<F>(F);

    impl<'de, F: FnMut(&str, &'de RawValue)> de::Visitor<'de> for Visitor<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: de::MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            // The names raw too: one that is JSON but not Unicode must not end it.
            while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                if let Some(name) = plain_name(name) {
                    (self.0)(&name, value);
                }
            }
            Ok(())
        }
    }

    // What is no object has no members, and Postgres has checked that it is JSON.
    let _ = serde_json::Deserializer::from_str(json).deserialize_map(Visitor(see));
}

/// Calls `see` with each element of the array that `json` is; of anything else there is none.
fn each_element<'a>(json: &'a str, see: impl FnMut(&'a RawValue)) {
    struct Visitor<F>(F);

    impl<'de, F: FnMut(&'de RawValue)> de::Visitor<'de> for Visitor<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(element) = list.next_element::<&RawValue>()? {
                (self.0)(element);
            }
            Ok(())
        }
    }

    let _ = serde_json::Deserializer::from_str(json).deserialize_seq(Visitor(see));
}

/// A member's name without its quotes and escapes; `None` if it is not Unicode.
fn plain_name(name: &RawValue) -> Option<Cow<'_, str>> {
    let text = name.get();
    if !text.contains('\\') {
        return text.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed);
    }
    fields::string("", name).ok().map(|name| name.0)
}
