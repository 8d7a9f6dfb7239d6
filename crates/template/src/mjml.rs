//! From MJML to HTML, template tags kept.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use htmlparser::{ElementEnd, Token, Tokenizer};
use mrml::prelude::parser::{Error, ParserOptions};
use mrml::prelude::render::RenderOptions;

use crate::engine::check;
use crate::fault::{Fault, Part, fitting};
use crate::html::compile_html;
use crate::marked::Marked;
use crate::nesting::VOID;
use crate::tags::{Tag, restore, tags};

/// Checks the MJML part and makes the HTML part of it. Nothing is loaded: an `mj-include` is a fault.
///
/// Each `{% … %}` is once in the HTML, in the same order; a `{{ … }}` may be there more often, as MJML writes some
/// attributes for several clients. A tag where MJML drops it is a fault at its place.
pub fn compile_mjml(source: &str) -> Result<String, Fault> {
    check(Part::Mjml, source)?;
    catch_unwind(AssertUnwindSafe(|| compile(source))).unwrap_or_else(|_| {
        Err(Fault::at(
            Part::Mjml,
            source,
            0,
            "the MJML cannot be compiled",
        ))
    })
}

fn compile(source: &str) -> Result<String, Fault> {
    let tags = tags(source);
    if let Some(at) = source.find("<mj-include") {
        return Err(Fault::at(
            Part::Mjml,
            source,
            at,
            "mj-include is not supported; include a template instead",
        ));
    }
    let (before, document, after) = around(source, &tags);
    let marked = Marked::new(source, &tags, document);
    if let Some(at) = too_deep(&marked.text) {
        let message = "elements are nested too deep";
        return Err(Fault::at(Part::Mjml, source, marked.in_source(at), message));
    }
    let parsed = mrml::parse_with_options(&marked.text, &ParserOptions::default())
        .map_err(|error| fault(source, &marked, &error))?;
    // Without these a font's name alone would make readers load it from elsewhere; mj-font still can.
    let options = RenderOptions {
        fonts: HashMap::new(),
        ..RenderOptions::default()
    };
    let html = parsed
        .element
        .render(&options)
        .map_err(|error| Fault::at(Part::Mjml, source, 0, error.to_string().replace('\n', " ")))?;
    if let Some(at) = html.find("<mj-") {
        let name = html[at..]
            .split([' ', '>', '/', '\n'])
            .next()
            .unwrap_or_default();
        return Err(Fault::at(
            Part::Mjml,
            source,
            source.find(name).unwrap_or(0),
            format!("MJML has no element {name}>"),
        ));
    }
    let (html, _) = restore(&html, source, &tags, " ", "=\"\"");
    let (html, _) = restore(&html, source, &tags, "<!--", "-->");
    let (html, _) = restore(&html, source, &tags, "", "");
    let html = format!("{before}{html}{after}");
    complete(source, &tags, &html)?;
    if source.contains("inline=\"inline\"") {
        compile_html(&html)
    } else {
        fitting(Part::Mjml, source, html)
    }
}

/// How deep elements may stand in each other: the parser and the renderer go down by recursion.
const DEEPEST: usize = 400;

/// Where elements are nested too deep. What the parser sees comes from the same tokenizer, and to it any end tag ends
/// the last element.
fn too_deep(document: &str) -> Option<usize> {
    let (mut depth, mut name) = (0usize, "");
    for token in Tokenizer::from(document).map_while(Result::ok) {
        match token {
            Token::ElementStart { local, .. } => name = local.as_str(),
            Token::ElementEnd { end, span } => match end {
                ElementEnd::Open if VOID.contains(&name) => {}
                ElementEnd::Open if depth == DEEPEST => return Some(span.start()),
                ElementEnd::Open => depth += 1,
                ElementEnd::Close(..) => depth = depth.saturating_sub(1),
                ElementEnd::Empty => {}
            },
            _ => {}
        }
    }
    None
}

/// What the parser found, at its place in the source.
fn fault(source: &str, marked: &Marked, error: &Error) -> Fault {
    let (at, message) = match error {
        Error::UnexpectedElement { position, .. } => {
            (position.start, "this element cannot stand here".to_owned())
        }
        Error::UnexpectedToken { position, .. } => {
            (position.start, "this cannot stand here".to_owned())
        }
        Error::MissingAttribute { name, position, .. } => (
            position.start,
            format!("the attribute \"{name}\" is missing"),
        ),
        Error::InvalidAttribute { position, .. } => {
            (position.start, "this attribute is not valid".to_owned())
        }
        Error::InvalidFormat { position, .. } => (position.start, "this is not valid".to_owned()),
        _ if !source.contains("<mjml") => (0, "there is no <mjml> element".to_owned()),
        Error::EndOfStream { .. } => (marked.text.len(), "an element is not closed".to_owned()),
        // Its own text has the place in the marked document.
        Error::ParserError { source, .. } => {
            let (place, text) = (source.pos(), source.to_string());
            let kind = text.split(" at ").next().unwrap_or_default();
            (marked.offset(place.row, place.col), kind.to_owned())
        }
        other => (0, other.to_string().replace('\n', " ")),
    };
    Fault::at(Part::Mjml, source, marked.in_source(at), message)
}

/// What stands before and after `<mjml>…</mjml>`, which MJML would drop, and the document between.
fn around<'a>(source: &'a str, tags: &[Tag]) -> (&'a str, std::ops::Range<usize>, &'a str) {
    let inside = |at: usize| tags.iter().any(|tag| tag.range.contains(&at));
    let start = source
        .match_indices("<mjml")
        .map(|(at, _)| at)
        .find(|at| !inside(*at))
        .unwrap_or(0);
    let end = source
        .rfind("</mjml>")
        .map_or(source.len(), |at| at + "</mjml>".len())
        .max(start);
    (
        source[..start].trim_start(),
        start..end,
        source[end..].trim_end(),
    )
}

/// Whether every tag is still there, the steering ones once and in order.
fn complete(source: &str, tags: &[Tag], html: &str) -> Result<(), Fault> {
    let lost = |tag: &Tag| {
        Err(Fault::at(
            Part::Mjml,
            source,
            tag.range.start,
            "a template tag cannot stand here: MJML leaves it out",
        ))
    };
    let left = crate::tags::tags(html);
    let mut steering = left
        .iter()
        .filter(|tag| !tag.prints)
        .map(|tag| &html[tag.range.clone()]);
    for tag in tags {
        let text = &source[tag.range.clone()];
        let there = if tag.prints {
            html.contains(text)
        } else {
            steering.next() == Some(text)
        };
        if !there {
            return lost(tag);
        }
    }
    match steering.next() {
        Some(_) => Err(Fault::at(
            Part::Mjml,
            source,
            0,
            "MJML repeats a template tag",
        )),
        None => Ok(()),
    }
}
