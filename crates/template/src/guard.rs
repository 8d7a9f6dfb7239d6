//! Makes a template's source pay for what it copies, before the engine compiles it.
//!
//! The engine has no hook at its operators, but its tokens tell where each one stands. So calls of four internal
//! filters are put in behind operands and stored expressions, and one into every long piece of literal text:
//! - `a ~ b`: both operands pay for their text;
//! - `a + b`: both pay for their length;
//! - comparisons and `in`: what is looked at pays for all that it holds;
//! - `is` and slices: what is looked at pays for its length (tests that compare pay by themselves);
//! - `a * b`: both must be numbers (text is repeated by the filter `repeat`, which pays);
//! - `{% set a = … %}`: what is kept must be of bounded depth and no chain of unevaluated iterators;
//! - literal text pays for its length each time it is written, as it may be captured in a variable.
//!
//! Nothing else changes, and [`Guarded::original`] leads from the guarded source back to the author's.
//! The same pass refuses what would make the compiler itself recurse too deep.

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use crate::fault::{Fault, Part};

/// The names of the internal filters; an author's template cannot name them, see [`guard`].
pub(crate) const TEXT: &str = "pay__text";
pub(crate) const ITEMS: &str = "pay__items";
pub(crate) const COMPARED: &str = "pay__compared";
pub(crate) const NUMBER: &str = "pay__number";
pub(crate) const SETTLE: &str = "pay__settle";
pub(crate) const LITERAL: &str = "pay__literal";
/// What marks the internal names.
const RESERVED: &str = "pay__";

/// Literal text up to this many bytes costs an instruction and no more.
const LONG: usize = 256;
/// The longest source of one part, in bytes, as written and as compiled.
pub(crate) const SOURCE: usize = 1 << 20;
/// How many tokens one tag may have: chains of operators nest as deep as they are long.
const TOKENS: usize = 400;
/// How deep tags may stand in each other, `elif` counted as one deeper.
const BLOCKS: usize = 60;
/// How deep brackets may stand in each other.
const BRACKETS: usize = 32;

/// A source that pays for itself.
#[derive(Debug)]
pub(crate) struct Guarded {
    /// What the engine compiles.
    pub source: String,
    /// Where something was put in: the offset in the author's source and the number of bytes, in order.
    inserted: Vec<(usize, usize)>,
}

impl Guarded {
    /// The offset in the author's source for the one in the guarded source.
    pub fn original(&self, offset: usize) -> usize {
        let mut added = 0;
        for (at, length) in &self.inserted {
            if at + added >= offset {
                break;
            }
            added += length.min(&(offset - at - added));
        }
        offset - added
    }
}

type Tokens<'a> = [(Token<'a>, Span)];

/// Guards the source of a part; the error is the author's: bad syntax, an unclosed tag or a limit of this module.
pub(crate) fn guard(part: Part, source: &str) -> Result<Guarded, Fault> {
    if source.len() > SOURCE {
        return Err(Fault::at(
            part,
            source,
            0,
            "the template is longer than 1 MB",
        ));
    }
    let tokens = tokenize(source, false, SyntaxConfig::default())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Fault::from_engine(part, source, &error))?;
    limits(part, source, &tokens)?;
    let mut puts = Vec::new();
    let mut start = 0;
    for (index, (token, span)) in tokens.iter().enumerate() {
        match token {
            Token::TemplateData(_) => literal(source, *span, &mut puts),
            Token::BlockStart | Token::VariableStart => start = index,
            Token::BlockEnd | Token::VariableEnd => tag(&tokens[start + 1..index], &mut puts),
            _ => {}
        }
    }
    puts.sort_by_key(|put| put.at);
    puts.dedup_by(|next, kept| {
        // An operand between two operators pays once; that it must be a number says more than that it pays.
        let same = next.at == kept.at && next.operand && kept.operand;
        if same && next.text.contains(NUMBER) {
            kept.text.clone_from(&next.text);
        }
        same
    });
    Ok(apply(source, &puts))
}

/// Something to put into the source.
struct Put {
    at: usize,
    text: String,
    /// It follows an operand, so that two of the same place are one.
    operand: bool,
}

fn apply(source: &str, puts: &[Put]) -> Guarded {
    let mut guarded = Guarded {
        source: String::with_capacity(source.len() + puts.len() * 16),
        inserted: Vec::new(),
    };
    let mut done = 0;
    for put in puts {
        guarded.source.push_str(&source[done..put.at]);
        guarded.source.push_str(&put.text);
        guarded.inserted.push((put.at, put.text.len()));
        done = put.at;
    }
    guarded.source.push_str(&source[done..]);
    guarded
}

fn limits(part: Part, source: &str, tokens: &Tokens) -> Result<(), Fault> {
    let (mut blocks, mut brackets, mut in_tag) = (0usize, 0usize, 0usize);
    for (index, (token, span)) in tokens.iter().enumerate() {
        let fault =
            |message: &str| Err(Fault::at(part, source, span.start_offset as usize, message));
        in_tag += 1;
        match token {
            Token::BlockStart | Token::VariableStart => (in_tag, brackets) = (0, 0),
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => brackets += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                brackets = brackets.saturating_sub(1);
            }
            Token::Ident(name) if name.contains(RESERVED) => {
                return fault("names that contain \"pay__\" are reserved");
            }
            _ => {}
        }
        if matches!(token, Token::BlockStart)
            && let Some((Token::Ident(name), _)) = tokens.get(index + 1)
        {
            if name.starts_with("end") {
                blocks = blocks.saturating_sub(1);
            } else if !matches!(
                *name,
                "else" | "include" | "import" | "from" | "extends" | "do" | "set"
            ) {
                blocks += 1;
            }
            // A run of `elif` nests in the compiler; its `endif` takes only one level back, which errs on the safe
            // side.
        }
        if matches!(token, Token::BracketOpen)
            && is_slice(tokens, index)
            && !matches!(tokens[index - 1].0, Token::Ident(_))
        {
            return fault("only a variable can be sliced: set one first");
        }
        if in_tag > TOKENS {
            return fault("the tag is too long");
        }
        if brackets > BRACKETS {
            return fault("brackets are nested too deep");
        }
        if blocks > BLOCKS {
            return fault("blocks are nested too deep");
        }
    }
    Ok(())
}

/// Lets long literal text pay, at a place inside that white space control does not reach: something else than white
/// space stays on both sides of it.
fn literal(source: &str, span: Span, puts: &mut Vec<Put>) {
    let (from, to) = (span.start_offset as usize, span.end_offset as usize);
    let text = &source[from..to];
    let trims = |mark: Option<u8>| mark == Some(b'-');
    let bytes = source.as_bytes();
    let begin = match from.checked_sub(3).map(|at| bytes[at]) {
        mark if trims(mark) => text.len() - text.trim_start().len(),
        _ => 0,
    };
    let end = match bytes.get(to + 2).copied() {
        mark if trims(mark) => text.trim_end().len(),
        _ => text.len(),
    };
    if end.saturating_sub(begin) <= LONG {
        return;
    }
    // Behind a brace the tag would begin with it; the last character keeps what is behind it from being trimmed.
    let inside = &text[begin..end];
    let mut places = inside.char_indices().skip(1).map(|(at, _)| at);
    let Some(at) = places.find(|at| !inside[..*at].ends_with('{')) else {
        return;
    };
    let pays = format!("{{{{{}|{LITERAL}}}}}", end - begin);
    puts.push(Put {
        at: from + begin + at,
        text: if ends_with_raw_tag(&source[..from]) {
            format!("{{%endraw%}}{pays}{{%raw%}}")
        } else {
            pays
        },
        operand: false,
    });
}

/// Whether the text ends with an opened `{% raw %}`.
fn ends_with_raw_tag(before: &str) -> bool {
    let Some(tag) = before
        .strip_suffix("%}")
        .and_then(|rest| rest.rfind("{%").map(|at| &rest[at + 2..]))
    else {
        return false;
    };
    tag.trim_matches(['-', '+']).trim() == "raw"
}

/// The operators and the assignment of one tag.
fn tag(tokens: &Tokens, puts: &mut Vec<Put>) {
    if let Some((Token::Ident("set"), _)) = tokens.first()
        && let Some(assign) = top_level_assign(tokens)
        && let (Some(first), Some(last)) = (tokens.get(assign + 1), tokens.last())
    {
        puts.push(Put {
            at: first.1.start_offset as usize,
            text: "(".to_owned(),
            operand: false,
        });
        // What a namespace keeps must not be a namespace: it could come to hold itself.
        let inside = tokens[..assign]
            .iter()
            .any(|(token, _)| matches!(token, Token::Dot));
        puts.push(Put {
            at: last.1.end_offset as usize,
            text: format!(")|{SETTLE}({inside})"),
            operand: false,
        });
    }
    for (index, (token, _)) in tokens.iter().enumerate() {
        let filter = match token {
            Token::Tilde => TEXT,
            Token::Plus | Token::Ident("is") => ITEMS,
            Token::Eq
            | Token::Ne
            | Token::Lt
            | Token::Lte
            | Token::Gt
            | Token::Gte
            | Token::Ident("in") => COMPARED,
            Token::BracketOpen => {
                slice(tokens, index, puts);
                continue;
            }
            Token::Mul => NUMBER,
            _ => continue,
        };
        let Some((before, span)) = index.checked_sub(1).and_then(|left| tokens.get(left)) else {
            continue;
        };
        if !ends_operand(before) {
            continue;
        }
        let mut pays = |at: u32| {
            puts.push(Put {
                at: at as usize,
                text: format!("|{filter}"),
                operand: true,
            });
        };
        // What stands before `in` may be the variable of a loop, what stands behind `is` is the name of a test.
        if !matches!(token, Token::Ident("in")) {
            pays(span.end_offset);
        }
        if !matches!(token, Token::Ident("is"))
            && let Some(end) = operand_end(tokens, index + 1)
        {
            pays(tokens[end].1.end_offset);
        }
    }
    // The end of a stored expression comes after what its last operand pays.
    puts.sort_by_key(|put| (put.at, put.text.starts_with(')')));
}

/// `a.b[1:2]` pays for `a.b` first: finding a character of a text goes through all before it.
fn slice(tokens: &Tokens, open: usize, puts: &mut Vec<Put>) {
    if !is_slice(tokens, open) {
        return;
    }
    let mut start = open - 1;
    while start >= 2 && matches!(tokens[start - 1].0, Token::Dot) {
        start -= 2;
    }
    puts.push(Put {
        at: tokens[start].1.start_offset as usize,
        text: "(".to_owned(),
        operand: false,
    });
    puts.push(Put {
        at: tokens[open - 1].1.end_offset as usize,
        text: format!("|{ITEMS})"),
        operand: false,
    });
}

/// Whether the bracket at `open` is behind an operand and has a `:` of its own in it.
fn is_slice(tokens: &Tokens, open: usize) -> bool {
    let behind_operand = open > 0 && ends_operand(&tokens[open - 1].0);
    let end = group_end(tokens, open).min(tokens.len());
    let mut depth = 0usize;
    behind_operand
        && tokens[open..end].iter().any(|(token, _)| {
            match token {
                Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
                Token::ParenClose | Token::BracketClose | Token::BraceClose => depth -= 1,
                _ => {}
            }
            depth == 1 && matches!(token, Token::Colon)
        })
}

fn top_level_assign(tokens: &Tokens) -> Option<usize> {
    let mut depth = 0usize;
    tokens.iter().position(|(token, _)| {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        depth == 0 && matches!(token, Token::Assign)
    })
}

/// Whether an operand may end with the token, so that an operator behind it has two sides.
fn ends_operand(token: &Token) -> bool {
    match token {
        Token::Ident(name) => !matches!(
            *name,
            "and" | "or" | "not" | "in" | "is" | "if" | "else" | "elif" | "set"
        ),
        Token::Str(_)
        | Token::String(_)
        | Token::Int(_)
        | Token::Int128(_)
        | Token::Float(_)
        | Token::ParenClose
        | Token::BracketClose
        | Token::BraceClose => true,
        _ => false,
    }
}

/// The index of the last token of the operand that starts at `at`: signs, one primary and what is attached to it.
fn operand_end(tokens: &Tokens, mut at: usize) -> Option<usize> {
    while matches!(
        tokens.get(at)?.0,
        Token::Minus | Token::Plus | Token::Ident("not")
    ) {
        at += 1;
    }
    let mut end = group_end(tokens, at);
    while let Some((next, _)) = tokens.get(end + 1) {
        end = match next {
            Token::ParenOpen | Token::BracketOpen => group_end(tokens, end + 1),
            Token::Dot | Token::Pipe => end + 2,
            // Strings side by side are one.
            Token::Str(_) | Token::String(_)
                if matches!(tokens[end].0, Token::Str(_) | Token::String(_)) =>
            {
                end + 1
            }
            _ => break,
        };
    }
    (end < tokens.len()).then_some(end)
}

/// The index of the bracket that closes the one at `at`; `at` itself when it is none.
fn group_end(tokens: &Tokens, at: usize) -> usize {
    let mut depth = 0usize;
    for (index, (token, _)) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len()
}
