//! CSS into `style` attributes, as many mail clients ask for it.
//!
//! The source is not parsed and written anew: a copy, with a number on each start tag and without template tags,
//! goes through the inliner, and what it says about each element's `style` goes into the source. So everything else
//! stays byte for byte: template tags, fragments, comments, the `<style>` elements themselves (for the rules that
//! cannot be inlined, such as `@media`).

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use css_inline::CSSInliner;

use crate::engine::check;
use crate::fault::{Fault, Part, fitting};
use crate::scanner::{NUMBER, Scanned, scan};
use crate::tags::{Tag, restore, tags};

/// How often a rule may be tried on an element, all together.
const TRIALS: usize = 5_000_000;

/// Checks the HTML part and writes the rules of its `<style>` elements into `style` attributes too.
///
/// Without `<style>` the source stays as it is. An element with template tags between its attributes, and a `<style>`
/// element with template tags in it, stay as they are: what they will be is not known yet.
pub fn compile_html(source: &str) -> Result<String, Fault> {
    check(Part::Html, source)?;
    if !source.to_ascii_lowercase().contains("<style") {
        return Ok(source.to_owned());
    }
    let tags = tags(source);
    let scanned = scan(source, &tags)?;
    let rules = scanned.copy.bytes().filter(|byte| *byte == b'{').count();
    if rules.saturating_mul(scanned.elements.len()) > TRIALS {
        let message = "there are too many rules in <style> for so many elements";
        return Err(Fault::at(Part::Html, source, 0, message));
    }
    // An inliner that fails costs the inlining, not the template.
    let compiled = catch_unwind(AssertUnwindSafe(|| inline(source, &tags, &scanned)))
        .ok()
        .flatten()
        .unwrap_or_else(|| source.to_owned());
    fitting(Part::Html, source, compiled)
}

fn inline(source: &str, tags: &[Tag], scanned: &Scanned) -> Option<String> {
    let inliner = CSSInliner::options().load_remote_stylesheets(false).build();
    let styles = styles(&inliner.inline(&scanned.copy).ok()?);
    let mut compiled = String::with_capacity(source.len() * 2);
    let mut done = 0;
    for (number, element) in scanned.elements.iter().enumerate() {
        let Some(style) = styles.get(&number) else {
            continue;
        };
        let (style, found) = restore(style, source, tags, "", "");
        // Each tag of the attribute once and in order, or the element stays as it is.
        if found != element.style_tags
            || element
                .style
                .as_ref()
                .is_some_and(|range| source[range.clone()] == style)
        {
            continue;
        }
        let at = element
            .style
            .clone()
            .unwrap_or(element.name_end..element.name_end);
        compiled.push_str(&source[done..at.start]);
        if element.style.is_some() {
            compiled.push_str(&style);
        } else {
            compiled.extend([" style=\"", style.as_str(), "\""]);
        }
        done = at.end;
    }
    compiled.push_str(&source[done..]);
    Some(compiled)
}

/// The `style` of each numbered element, as the inliner wrote it: escaped for double quotes.
fn styles(inlined: &str) -> HashMap<usize, String> {
    let mut styles = HashMap::new();
    let open = format!(" {NUMBER}=\"");
    for (at, _) in inlined.match_indices(&open) {
        let number = inlined[at + open.len()..]
            .split('"')
            .next()
            .and_then(|number| number.parse().ok());
        let start = inlined[..at].rfind('<').unwrap_or(at);
        let end = tag_end(inlined, at);
        let value = inlined[start..end]
            .split_once(" style=\"")
            .and_then(|(_, rest)| rest.split('"').next());
        if let (Some(number), Some(value)) = (number, value) {
            styles.insert(number, value.to_owned());
        }
    }
    styles
}

/// The `>` that ends the tag, attribute values passed over.
fn tag_end(html: &str, from: usize) -> usize {
    let mut quoted = false;
    html[from..]
        .bytes()
        .position(|byte| {
            quoted ^= byte == b'"';
            byte == b'>' && !quoted
        })
        .map_or(html.len(), |at| from + at)
}
