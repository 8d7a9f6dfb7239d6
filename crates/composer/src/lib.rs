//! From what is stored of a message to what goes out: its template rendered, composed, and signed, as templates and keys
//! are now.
//!
//! This crate knows nothing of Postgres, of queues or of relays.

mod envelope;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use mail_dkim::Signer;
use mail_message::{Extras, Rendered, TemplateResult, TemplateUse};
use mail_smtp::{Dsn, Text};
use mail_template::{RenderError, Templates};

/// The templates and keys in force.
#[derive(Debug)]
pub struct Composer {
    templates: Arc<Templates>,
    /// By their domain.
    signers: HashMap<String, Vec<Signer>>,
}

/// A message as it goes out.
#[derive(Debug)]
pub struct Message {
    /// The RFC 5322 message, signed.
    pub text: Text,
    /// What is asked about its delivery.
    pub dsn: Dsn,
    /// The template that it was rendered from.
    pub rendered: Option<RenderedFrom>,
}

/// Which template it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedFrom {
    /// Its name.
    pub name: String,
    /// The locale that was found; empty: the default.
    pub locale: String,
    /// Its version.
    pub version: i32,
}

/// Knows no template and signs nothing.
impl Default for Composer {
    fn default() -> Self {
        Self::new(Arc::new(Templates::new(Vec::new())), Vec::new())
    }
}

impl Composer {
    /// One that renders these templates, and signs with these keys.
    pub fn new(templates: Arc<Templates>, signers: Vec<Signer>) -> Self {
        let mut by_domain: HashMap<String, Vec<Signer>> = HashMap::new();
        for signer in signers {
            let domain = signer.domain().to_owned();
            by_domain.entry(domain).or_default().push(signer);
        }
        Self {
            templates,
            signers: by_domain,
        }
    }

    /// The templates that it renders.
    pub fn templates(&self) -> &Arc<Templates> {
        &self.templates
    }

    /// Makes the message. `content` and `files` are what `mail_message::prepare_*` gave; `date` becomes its `Date`, `now`
    /// the time of its signatures, both in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Why it cannot be made: one line.
    pub fn compose(
        &self,
        content: &str,
        files: Vec<Vec<Bytes>>,
        date: i64,
        now: i64,
    ) -> Result<Message, String> {
        let (rendered, from) = match mail_message::template_of(content) {
            Some(template) => self
                .render(template)
                .map(|(text, from)| (Some(text), Some(from)))?,
            None => (None, None),
        };
        let extras = Extras { rendered, files };
        let composed =
            mail_message::compose(content, date, extras).map_err(|error| error.to_string())?;
        let mut blocks = composed.data;
        let signers = self.signers_of(composed.from_domain.as_deref());
        if !signers.is_empty() {
            let signatures =
                mail_dkim::sign(&signers, &blocks, now).map_err(|error| error.to_string())?;
            blocks.insert(0, Bytes::from(signatures));
        }
        Ok(Message {
            text: Text::from(blocks),
            dsn: composed.dsn.as_ref().map(envelope::dsn).unwrap_or_default(),
            rendered: from,
        })
    }

    fn render(&self, template: TemplateUse<'_>) -> Result<(Rendered, RenderedFrom), String> {
        let done =
            render(&self.templates, &template).map_err(|error| self.told(&template, &error))?;
        let from = RenderedFrom {
            name: template.name.into_owned(),
            locale: done.locale,
            version: done.version,
        };
        Ok((done.rendered, from))
    }

    /// The error, with the template that it is about.
    fn told(&self, template: &TemplateUse<'_>, error: &RenderError) -> String {
        if let RenderError::NoTemplate(_) | RenderError::Failed { .. } = error {
            return error.to_string();
        }
        let locale = template.locale.as_deref().unwrap_or_default();
        let version = match self.templates.resolve(&template.name, locale) {
            Some(found) if found.locale.is_empty() => format!(" version {}", found.version),
            Some(found) => format!(" ({}) version {}", found.locale, found.version),
            None => String::new(),
        };
        format!("template \"{}\"{version}: {error}", template.name)
    }

    /// The keys of a domain, or else of the nearest one above it that has any: such a signature is aligned in the relaxed
    /// sense of DMARC (RFC 7489 section 3.1.1).
    fn signers_of(&self, domain: Option<&str>) -> Vec<&Signer> {
        let mut above = domain;
        while let Some(domain) = above {
            if let Some(signers) = self.signers.get(domain) {
                return signers.iter().collect();
            }
            above = domain.split_once('.').map(|(_, rest)| rest);
        }
        Vec::new()
    }
}

/// Renders the template of a message.
pub fn render(
    templates: &Templates,
    template: &TemplateUse<'_>,
) -> Result<TemplateResult, RenderError> {
    let done = templates.render(&template.name, template.locale.as_deref(), template.params)?;
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
