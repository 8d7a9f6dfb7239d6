//! The engine as every template meets it: no files, no environment, nothing undefined, everything bounded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use minijinja::machinery::{Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use crate::fault::{Fault, Part};
use crate::guard::guard;
use crate::{escape, filters, formats};

/// Instructions that rendering one part may take.
const FUEL: u64 = 1_000_000;
/// The recursion that it may take: a macro's call counts 4, an include 10, a loop or a block 1. On a stack of 2 MB a
/// debug build stands it.
const RECURSION: usize = 100;
/// The prefix of the names of templates rendered as HTML.
pub(crate) const HTML: &str = "html/";

/// An environment without templates.
pub(crate) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_debug(true);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|name| {
        if name.starts_with(HTML) {
            AutoEscape::Html
        } else {
            AutoEscape::None
        }
    });
    env.set_formatter(escape::formatter);
    filters::install(&mut env);
    formats::install(&mut env);
    env
}

/// Checks the source of one part: its syntax, the names of its filters and the bounds of its size and depth.
/// Parameters and other templates are not looked at.
pub fn check(part: Part, source: &str) -> Result<(), Fault> {
    catch_unwind(AssertUnwindSafe(|| check_inner(part, source))).unwrap_or_else(|_| {
        Err(Fault::at(
            part,
            source,
            0,
            "the template cannot be compiled",
        ))
    })
}

fn check_inner(part: Part, source: &str) -> Result<(), Fault> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    let env = ENVIRONMENT.get_or_init(environment);
    let guarded = guard(part, source)?;
    parse(source, part.name(), SyntaxConfig::default())
        .map_err(|error| Fault::from_engine(part, source, &error))?;
    known_filters(env, part, source)?;
    env.template_from_named_str(part.name(), &guarded.source)
        .map(|_| ())
        .map_err(|error| {
            let mut fault = Fault::from_engine(part, &guarded.source, &error);
            if let Some(range) = error.range() {
                (fault.line, fault.column) =
                    crate::fault::position(source, guarded.original(range.start));
            }
            fault
        })
}

/// The engine asks for a filter only when it comes to it; an author wants to know at once.
fn known_filters(env: &Environment<'_>, part: Part, source: &str) -> Result<(), Fault> {
    let mut after_pipe = false;
    for (token, span) in tokenize(source, false, SyntaxConfig::default()).map_while(Result::ok) {
        if after_pipe
            && let Token::Ident(name) = token
            && env
                .empty_state()
                .apply_filter(name, &[])
                .is_err_and(|error| error.kind() == ErrorKind::UnknownFilter)
        {
            let message = format!("filter \"{name}\" does not exist");
            return Err(Fault::at(part, source, span.start_offset as usize, message));
        }
        after_pipe = matches!(token, Token::Pipe);
    }
    Ok(())
}
