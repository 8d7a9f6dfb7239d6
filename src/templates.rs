//! Templates in a session: read once, forgotten with the rest of the configuration.

use std::rc::Rc;

use mail_message::{Invalid, TemplateResult, TemplateUse};
use mail_template::{Fault, Part, RenderError, Source, Templates};
use pgrx::PgSqlErrorCode;

use crate::{cached::Cached, error, look::look};

thread_local! {
    static CACHE: Cached<Templates> = const { Cached::new() };
}

/// Forgets what was read.
pub fn forget() {
    CACHE.with(Cached::forget);
}

/// The templates in force, with the rights of the current role read if need be.
fn get() -> Rc<Templates> {
    CACHE.with(|cache| cache.get(read))
}

fn read() -> Templates {
    Templates::new(sources().unwrap_or_else(|e| {
        error::raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not read mail.template: {e}"),
            None,
        )
    }))
}

/// The rows of the templates in force.
pub fn sources() -> pgrx::spi::Result<Vec<Source>> {
    let query =
        "SELECT t.name, t.locale, t.version, t.subject, t.text, t.compiled FROM mail.template t";
    look(query, &[], |rows| {
        let mut all = Vec::new();
        for row in rows {
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
    mail_composer::render(&get(), template).map_err(|error| refusal(&template.name, &error))
}

fn refusal(name: &str, error: &RenderError) -> Invalid {
    match error {
        RenderError::NoTemplate(name) if name.trim_start().starts_with('{') => error::missing(
            "the template's name looks like a JSON message",
            Some(error::UNCAST),
        ),
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
