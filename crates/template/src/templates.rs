//! A set of templates, found by name and locale and rendered with parameters.

use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use icu_locale_core::{Locale, locale};
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};

use crate::engine::environment;
use crate::error::{
    RenderError, Undefined, bound, loading_fault, missing_template, place, undefined,
};
use crate::fault::{Part, position};
use crate::guard::guard;
use crate::params::{self, Probes};
use crate::{meter, subject};

/// The most bytes of one rendering, all parts together.
const OUTPUT: usize = 4 << 20;
/// How many missing parameters are looked for.
const MISSING: usize = 50;
/// How long they are looked for: rendering again and again must not hold up others.
const LONGEST_SEARCH: Duration = Duration::from_millis(100);

/// How dates, numbers and amounts are written for a message without a locale: CLDR's root is for nobody to read.
const ENGLISH: Locale = locale!("en");

/// One version of a template in one locale, as [`crate::check`] and the compilers left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name that it is asked for by.
    pub name: String,
    /// A BCP 47 language tag, or empty for the default.
    pub locale: String,
    /// Counts the versions; only carried through.
    pub version: i32,
    /// The Subject header's text.
    pub subject: Option<String>,
    /// The text/plain body.
    pub text: Option<String>,
    /// The text/html body, MJML already compiled.
    pub html: Option<String>,
}

/// A rendered mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line without control characters.
    pub subject: Option<String>,
    /// The text/plain body.
    pub text: Option<String>,
    /// The text/html body.
    pub html: Option<String>,
    /// The locale of the template that was found.
    pub locale: String,
    /// The version of the template that was found.
    pub version: i32,
}

/// The sources by name, then by locale.
type Sources = HashMap<String, HashMap<String, Source>>;

/// Templates that may include, extend and import each other. Each is compiled when it is first used, so that a broken
/// one breaks only those that use it. May be shared by threads.
#[derive(Debug)]
pub struct Templates {
    sources: Arc<Sources>,
    /// Every locale that some template has; the others mean the next of these that they fall back to.
    locales: HashSet<String>,
    env: Environment<'static>,
}

impl Templates {
    /// A set of templates; of two with the same name and locale the last counts.
    pub fn new(list: Vec<Source>) -> Self {
        let mut sources = Sources::new();
        let mut locales = HashSet::new();
        for source in list {
            let locale = canonical(&source.locale);
            locales.insert(locale.clone());
            sources
                .entry(source.name.clone())
                .or_default()
                .insert(locale, source);
        }
        let sources = Arc::new(sources);
        let mut env = environment();
        let held = Arc::clone(&sources);
        env.set_loader(move |full| load(&held, full));
        // Of another template the same part is meant, and for a subject the text.
        env.set_path_join_callback(|name, parent| match split_name(parent) {
            Some((part, locale, _)) => {
                full_name(if part == "subject" { "text" } else { part }, locale, name).into()
            }
            None => name.into(),
        });
        Self {
            sources,
            locales,
            env,
        }
    }

    /// Whether it was made of just these.
    pub fn is_of(&self, list: &[Source]) -> bool {
        let held = |source: &Source| {
            let locales = self.sources.get(&source.name);
            locales.and_then(|locales| locales.get(&canonical(&source.locale))) == Some(source)
        };
        list.len() == self.sources.values().map(HashMap::len).sum::<usize>()
            && list.iter().all(held)
    }

    /// The template of that name in the locale or the next one that it falls back to: `de-CH`, `de`, the default.
    pub fn resolve(&self, name: &str, locale: &str) -> Option<&Source> {
        find(&self.sources, name, &canonical(locale))
    }

    /// Renders every part that the template has. `params` is a JSON object; dates and numbers are written for the
    /// requested locale, even where the template is that of a less special one.
    pub fn render(
        &self,
        name: &str,
        locale: Option<&str>,
        params: &str,
    ) -> Result<Rendered, RenderError> {
        let locale = &*canonical(locale.unwrap_or(""));
        let source = self
            .resolve(name, locale)
            .ok_or_else(|| RenderError::NoTemplate(name.to_owned()))?;
        let values = params::read(params, None).map_err(RenderError::Params)?;
        match self.caught(source, locale, &values) {
            Err(Failure::Engine(_, error)) if undefined(&error).is_some() => {
                Err(self.missing(source, locale, params, *error))
            }
            other => other.map_err(|failure| self.told(failure, name)),
        }
    }

    /// All parameters that are missing, each found by rendering once more with a stand-in for those before it.
    fn missing(&self, source: &Source, locale: &str, params: &str, first: Error) -> RenderError {
        let probes = Probes::default();
        let mut names: Vec<String> = Vec::new();
        let mut last = Failure::Engine(Part::Text, Box::new(first));
        let until = meter::used().saturating_add(LONGEST_SEARCH);
        while names.len() < MISSING && meter::used() < until {
            let Ok(values) = params::read(params, Some(&probes)) else {
                break;
            };
            match self.caught(source, locale, &values) {
                Ok(_) => break,
                Err(failure) => last = failure,
            }
            let Failure::Engine(_, error) = &last else {
                break;
            };
            let Some(Undefined { name }) = undefined(error) else {
                break;
            };
            let Some(stubbed) = probes.stub(name.as_deref()) else {
                // What is no parameter (an attribute of a list's item, say) has no stand-in; its name is told all the
                // same.
                names.extend(name);
                break;
            };
            if !names.contains(&stubbed) {
                names.push(stubbed);
            }
        }
        if names.is_empty() {
            self.told(last, &source.name)
        } else {
            RenderError::Missing(names)
        }
    }

    /// Renders, with a panic as an error.
    fn caught(&self, source: &Source, locale: &str, values: &Value) -> Result<Rendered, Failure> {
        catch_unwind(AssertUnwindSafe(|| self.parts(source, locale, values)))
            .unwrap_or(Err(Failure::Panic))
    }

    fn parts(&self, source: &Source, locale: &str, values: &Value) -> Result<Rendered, Failure> {
        let known = fallbacks(locale)
            .find(|locale| self.locales.contains(*locale))
            .unwrap_or("");
        let formatting = fallbacks(locale)
            .filter_map(|tag| tag.parse::<Locale>().ok())
            .find(|locale| !locale.id.language.is_unknown())
            .unwrap_or(ENGLISH);
        meter::open(formatting);
        let mut left = OUTPUT;
        let mut part = |part: Part, text: &Option<String>| {
            text.as_ref()
                .map(|_| {
                    self.part(
                        &full_name(part.name(), known, &source.name),
                        part,
                        values,
                        &mut left,
                    )
                })
                .transpose()
        };
        Ok(Rendered {
            subject: part(Part::Subject, &source.subject)?.map(|text| subject::one_line(&text)),
            text: part(Part::Text, &source.text)?,
            html: part(Part::Html, &source.html)?,
            locale: source.locale.clone(),
            version: source.version,
        })
    }

    fn part(
        &self,
        full: &str,
        part: Part,
        values: &Value,
        left: &mut usize,
    ) -> Result<String, Failure> {
        let mut output = Bounded {
            bytes: Vec::new(),
            left,
        };
        self.env
            .get_template(full)
            .and_then(|template| {
                template
                    .render_captured_to(values.clone(), &mut output)
                    .map(|_| ())
            })
            .map_err(|error| Failure::Engine(part, Box::new(error)))?;
        String::from_utf8(output.bytes).map_err(|_| Failure::Panic)
    }

    /// The error as the caller hears it: with the place in the source that its author wrote.
    fn told(&self, failure: Failure, name: &str) -> RenderError {
        let failed = |template: &str, part, line, column, message: String| RenderError::Failed {
            template: template.to_owned(),
            part,
            line,
            column,
            message,
        };
        let Failure::Engine(part, error) = failure else {
            return failed(name, Part::Text, 0, 0, "the engine failed".to_owned());
        };
        if let Some(what) = bound(&error) {
            return RenderError::TooMuch { what };
        }
        let (full, offset, message) = place(&error);
        let template = full.and_then(split_name).map_or(name, |(_, _, name)| name);
        if let Some(fault) = loading_fault(&error) {
            return failed(
                template,
                fault.part,
                fault.line,
                fault.column,
                fault.message.clone(),
            );
        }
        let (line, column) = full
            .and_then(split_name)
            .zip(offset)
            .and_then(|((part, locale, name), offset)| {
                let source = source_of(find(&self.sources, name, locale)?, part)?;
                Some(position(
                    source,
                    guard(Part::Text, source).ok()?.original(offset),
                ))
            })
            .unwrap_or((0, 0));
        let message = self.not_found(&error).unwrap_or(message);
        failed(template, part, line, column, message)
    }

    /// What to say of another template that could not be loaded: the engine knows it by its part and locale too.
    fn not_found(&self, error: &Error) -> Option<String> {
        let full = missing_template(error)?;
        let (part, name) = match split_name(full) {
            Some((part, _, name)) => (Some(part), name),
            None => (None, full),
        };
        Some(match (self.sources.contains_key(name), part) {
            (true, Some(part)) => format!("template \"{name}\" has no {part}"),
            (true, None) => format!("template \"{name}\" has no such part"),
            (false, _) => format!("template \"{name}\" does not exist"),
        })
    }
}

/// Why a rendering ended.
enum Failure {
    Engine(Part, Box<Error>),
    Panic,
}

/// A language tag as it is compared: in lower case (RFC 5646 section 2.1.1), with `-` between its parts.
fn canonical(locale: &str) -> String {
    locale.to_ascii_lowercase().replace('_', "-")
}

/// The locale, then without its last subtag, and so on to the default.
fn fallbacks(locale: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(locale), |tag| {
        (!tag.is_empty()).then(|| tag.rfind('-').map_or("", |dash| &tag[..dash]))
    })
}

fn find<'a>(sources: &'a Sources, name: &str, locale: &str) -> Option<&'a Source> {
    let locales = sources.get(name)?;
    fallbacks(locale).find_map(|locale| locales.get(locale))
}

/// The name that the engine knows a part by.
fn full_name(part: &str, locale: &str, name: &str) -> String {
    format!("{part}/{locale}/{name}")
}

fn split_name(full: &str) -> Option<(&str, &str, &str)> {
    let (part, rest) = full.split_once('/')?;
    let (locale, name) = rest.split_once('/')?;
    Some((part, locale, name))
}

fn source_of<'a>(source: &'a Source, part: &str) -> Option<&'a str> {
    match part {
        "subject" => source.subject.as_deref(),
        "html" => source.html.as_deref(),
        _ => source.text.as_deref(),
    }
}

fn load(sources: &Sources, full: &str) -> Result<Option<String>, Error> {
    let Some((part, locale, name)) = split_name(full) else {
        return Ok(None);
    };
    let Some(source) = find(sources, name, locale).and_then(|source| source_of(source, part))
    else {
        return Ok(None);
    };
    let kind = match part {
        "subject" => Part::Subject,
        "html" => Part::Html,
        _ => Part::Text,
    };
    crate::check(kind, source)
        .and_then(|()| guard(kind, source))
        .map(|guarded| Some(guarded.source))
        .map_err(|fault| {
            Error::new(ErrorKind::SyntaxError, fault.message.clone()).with_source(fault)
        })
}

/// Takes bytes until too many have come.
struct Bounded<'a> {
    bytes: Vec<u8>,
    left: &'a mut usize,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.left = self
            .left
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
