//! Templates in a session: read once, forgotten with the rest of the configuration.

use std::{cell::RefCell, sync::Arc};

use mail_message::{Invalid, Rendered, TemplateResult, TemplateUse};
use mail_template::{Fault, Part, RenderError, Source, Templates};
use pgrx::{PgSqlErrorCode, Spi};

use crate::{error, pg};

/// What was read, and in which transaction, if it is good for that one only.
type Entry = (Arc<Templates>, Option<i64>);

thread_local! {
    static CACHE: RefCell<Option<Entry>> = const { RefCell::new(None) };
}

/// Forgets what was read.
pub fn forget() {
    CACHE.with_borrow_mut(|cache| *cache = None);
}

/// The templates in force, with the rights of the current role read if need be.
pub fn get() -> Arc<Templates> {
    let now = pg::keeps_snapshot().then(pg::transaction_start);
    let known = CACHE.with_borrow(|cache| {
        let (templates, only_in) = cache.as_ref()?;
        (only_in.is_none() || *only_in == now).then(|| Arc::clone(templates))
    });
    known.unwrap_or_else(|| {
        let sources = sources().unwrap_or_else(|e| {
            error::raise(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("could not read mail.template: {e}"),
                None,
            )
        });
        let read = Arc::new(Templates::new(sources));
        CACHE.with_borrow_mut(|cache| *cache = Some((Arc::clone(&read), now)));
        read
    })
}

/// The rows of the templates in force.
pub fn sources() -> pgrx::spi::Result<Vec<Source>> {
    // Not as a read-only statement, which might take an older snapshot than what announced the change.
    Spi::connect_mut(|client| {
        let query = "SELECT t.name, t.locale, t.version, t.subject, t.text, t.compiled FROM mail.template t";
        let mut all = Vec::new();
        for row in client.update(query, None, &[])? {
            all.push(Source {
                name: row.get(1)?.unwrap_or_default(),
                locale: row.get(2)?.unwrap_or_default(),
                version: row.get(3)?.unwrap_or_default(),
                subject: row.get(4)?,
                text: row.get(5)?,
                html: row.get(6)?,
            });
        }
        Ok(all)
    })
}

/// Renders a template as it is now.
pub fn render(template: &TemplateUse<'_>) -> Result<TemplateResult, Invalid> {
    let done = get()
        .render(&template.name, template.locale.as_deref(), template.params)
        .map_err(|error| refusal(&template.name, &error))?;
    Ok(TemplateResult {
        rendered: Rendered {
            subject: done.subject,
            text: done.text,
            html: done.html,
        },
        locale: done.locale,
        version: done.version,
    })
}

fn refusal(name: &str, error: &RenderError) -> Invalid {
    match error {
        RenderError::NoTemplate(name) if name.trim_start().starts_with('{') => {
            let hint =
                "An uncast literal is taken as text: write message => '…', or cast it to jsonb.";
            error::missing("the template's name looks like a JSON message", Some(hint))
        }
        RenderError::NoTemplate(name) => Invalid::unknown_template(name),
        RenderError::Missing(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Invalid::missing_parameters(name, &names)
        }
        other => Invalid::rendering_failed(name, &other.to_string()),
    }
}

/// The HTML of a template as it is to be rendered; raises what is wrong with a part of it.
pub fn compile(
    name: &str,
    locale: &str,
    subject: Option<&str>,
    text: Option<&str>,
    html: Option<&str>,
    mjml: Option<&str>,
) -> Option<String> {
    let refuse = |fault: Fault| -> ! {
        let of = if locale.is_empty() {
            String::new()
        } else {
            format!(" ({locale})")
        };
        error::bad_argument(format!("template \"{name}\"{of}: {fault}"), None)
    };
    for (part, source) in [(Part::Subject, subject), (Part::Text, text)] {
        if let Some(source) = source {
            mail_template::check(part, source).unwrap_or_else(|fault| refuse(fault));
        }
    }
    let compiled = match (html, mjml) {
        (Some(html), _) => mail_template::compile_html(html),
        (None, Some(mjml)) => mail_template::compile_mjml(mjml),
        (None, None) => return None,
    };
    Some(compiled.unwrap_or_else(|fault| refuse(fault)))
}
