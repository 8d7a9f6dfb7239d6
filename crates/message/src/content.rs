//! The canonical content: what is stored for a message, shown to external consumers and composed.
//!
//! The same field names as the JSON form; `from`, `to` and `message_id` always (without a sender, as only an
//! external queue has it, neither `from` nor a `message_id` made from it), of the rest only what is not empty. Strings
//! are borrowed from the JSON where they hold no escapes. Three fields differ from the JSON form: `attachments` has no
//! bytes (the n-th belongs to the n-th file), `raw` is `true` (the message is file 0), `template` is an object.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::{Deserialize, Deserializer, Serialize, de};

use serde_json::value::RawValue;

use crate::{attachment::Attachment, dsn::Dsn, list_unsubscribe::ListUnsubscribe};

/// A string that is borrowed from the JSON wherever it can be, also within lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl<'a> From<Cow<'a, str>> for Text<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self(text)
    }
}

struct TextVisitor;

impl<'de> de::Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A JSON object with its members in the order given, keys repeated if they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members<'a, V>(pub Vec<(Text<'a>, V)>);

impl<V> Default for Members<'_, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Members<'_, V> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<V: Serialize> Serialize for Members<'_, V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

struct MembersVisitor<V>(std::marker::PhantomData<V>);

impl<'de, V: Deserialize<'de>> de::Visitor<'de> for MembersVisitor<V> {
    type Value = Members<'de, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(map.size_hint().unwrap_or(8));
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Members<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(std::marker::PhantomData))
    }
}

/// The canonical content. An empty string or list means that the field is absent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Content<'a> {
    // Not to be composed without: no `default` for reading.
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub from: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub sender: Text<'a>,
    #[serde(borrow, default)]
    pub to: Vec<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub cc: Vec<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub bcc: Vec<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub reply_to: Vec<Text<'a>>,
    /// Only what the message itself gave; absent where the queue's or the sender's address is used.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub return_path: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dsn: Option<Dsn>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub subject: Text<'a>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub message_id: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub in_reply_to: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub references: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Members::is_empty")]
    pub headers: Members<'a, Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub text: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub html: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub list_unsubscribe: Option<ListUnsubscribe<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment<'a>>,
    /// To be rendered when it is composed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template<'a>>,
    /// What `subject`, `text` and `html` were rendered from.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<RenderedFrom<'a>>,
    /// The message is file 0, complete; the other fields say what is known of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

/// A template with what it is rendered from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Template<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "is_empty")]
    pub locale: Text<'a>,
    /// A JSON object, as given.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub params: Option<&'a RawValue>,
}

/// Which template was rendered at enqueue.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RenderedFrom<'a> {
    #[serde(borrow)]
    pub template: Text<'a>,
    #[serde(borrow)]
    pub locale: Text<'a>,
    pub version: i32,
}

pub(crate) fn is_empty(text: &Text<'_>) -> bool {
    text.0.is_empty()
}
