//! `mail.preview`: what would be sent.

use std::time::SystemTime;

use bytes::Bytes;
use mail_message::{Extras, File, Prepared};
use pgrx::PgSqlErrorCode;

use crate::{
    error,
    look::look,
    pg,
    produce::{self, Form},
    queues, templates,
};

/// What would become of a message.
struct Preview {
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    mime: String,
    size: i32,
    warnings: Vec<String>,
}

fn preview(message: &str, queue: &str) -> Preview {
    let queues = queues::get();
    let caller = pg::current_role();
    let queue = queues.by_name(queue, &caller);
    if queue.external {
        error::bad_argument(
            format!("queue \"{}\" has transport external", queue.name),
            Some("What becomes of its messages is up to the programs that claim them."),
        );
    }
    pg::as_role(queues.owner, || {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs().cast_signed());
        let prepared = produce::prepare(&Form::Json(message), &queues, queue, now, &caller);
        let rendered = mail_message::template_of(&prepared.content)
            .map(|template| templates::render(&template))
            .transpose()
            .unwrap_or_else(|e| error::invalid(e))
            .map(|result| result.rendered);
        let shown = mail_message::preview(
            &prepared.content,
            &prepared.files,
            rendered.clone(),
            queue.bulk,
        )
        .unwrap_or_else(|e| error::bad_argument(e.to_string(), None));
        let files = files(&prepared);
        let composed = mail_message::compose(&prepared.content, now, Extras { rendered, files })
            .unwrap_or_else(|e| error::bad_argument(e.to_string(), None));
        let mut warnings: Vec<String> =
            shown.warnings.into_iter().map(|found| found.text).collect();
        let domain = composed.from_domain.as_deref();
        // Without a dot there is nothing that DNS could have a key for.
        if let Some(domain) = domain.filter(|domain| domain.contains('.') && !is_signed(domain)) {
            warnings.push(format!(
                "mail from {domain} is not signed: mail.generate_dkim_key makes a key"
            ));
        }
        let mime = composed.to_vec();
        Preview {
            subject: shown.subject,
            text: shown.text,
            html: shown.html,
            size: i32::try_from(mime.len()).unwrap_or(i32::MAX),
            // A raw message may be in any encoding.
            mime: String::from_utf8(mime)
                .unwrap_or_else(|e| e.into_bytes().into_iter().map(char::from).collect()),
            warnings,
        }
    })
}

/// The files that go with the message, those that were stored before too.
fn files(prepared: &Prepared) -> Vec<Vec<Bytes>> {
    let read = |file: &File| match file {
        File::Bytes(bytes) => Bytes::from(bytes.clone()),
        File::Stored(id) => {
            let query =
                "SELECT a.content FROM mail.attachment a WHERE a.id OPERATOR(pg_catalog.=) $1";
            let content = look(query, &[(*id).into()], |rows| {
                rows.first().get_one::<Vec<u8>>()
            });
            Bytes::from(content.unwrap_or_else(|e| internal(&e)).unwrap_or_default())
        }
    };
    prepared.files.iter().map(|file| vec![read(file)]).collect()
}

/// Whether there is a key for that domain, or for one above it.
fn is_signed(domain: &str) -> bool {
    let query = "SELECT EXISTS (SELECT FROM mail.dkim_key k WHERE k.enabled AND NOT EXISTS (SELECT FROM mail.dkim_trouble t \
                 WHERE t.domain OPERATOR(pg_catalog.=) k.domain AND t.selector OPERATOR(pg_catalog.=) k.selector) AND (k.domain OPERATOR(pg_catalog.=) $1 \
                 OR pg_catalog.right($1, pg_catalog.length(k.domain) OPERATOR(pg_catalog.+) 1) \
                    OPERATOR(pg_catalog.=) pg_catalog.concat('.', k.domain)))";
    look(query, &[domain.into()], |rows| {
        rows.first().get_one::<bool>()
    })
    .unwrap_or_else(|e| internal(&e))
    .unwrap_or_default()
}

fn internal(e: &pgrx::spi::Error) -> ! {
    let code = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
    error::raise(code, format!("could not preview the message: {e}"), None)
}

#[allow(unsafe_code, reason = "expansions of pg_extern")]
mod function {
    use pgrx::{iter::TableIterator, name, pg_extern};

    use crate::{error, pg};

    #[pg_extern(sql = false)]
    #[expect(clippy::type_complexity, reason = "the row that SQL sees")]
    fn preview_message(
        message: Option<pg::JsonText>,
        queue: Option<&str>,
    ) -> TableIterator<
        'static,
        (
            name!(subject, Option<String>),
            name!(text, Option<String>),
            name!(html, Option<String>),
            name!(mime, String),
            name!(size, i32),
            name!(warnings, Vec<String>),
        ),
    > {
        let (Some(message), Some(queue)) = (message, queue) else {
            error::bad_argument("message and queue must be given", None)
        };
        let found = super::preview(&message.0, queue);
        TableIterator::once((
            found.subject,
            found.text,
            found.html,
            found.mime,
            found.size,
            found.warnings,
        ))
    }
}
