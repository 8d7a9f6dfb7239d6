//! Bounds of what the HTML parser of the inliner builds: it keeps elements open that a template did not close, and
//! what goes over its tree does so by recursion.
//!
//! This reading of a document finds elements open for at least as long as the parser does: an end tag counts only
//! where it ends what was opened last, apart from elements that need none. So the tree is at most a few times as deep
//! (implied elements such as `tbody`), and has at most [`FORMATTING`] times as many nodes as there are elements.

/// How many elements may stand in each other, or be left open.
const OPEN: usize = 400;
/// How many of those may be formatting elements, which the parser opens again wherever text follows
/// (HTML standard, section 13.2.4.3).
const FORMATTING: usize = 20;
/// How many elements there may be.
const ELEMENTS: usize = 30_000;

/// Elements without an end tag (HTML standard, section 13.1.2).
pub(crate) const VOID: &[&str] = &[
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
];
/// Elements that end where the next of their kind begins, or the element that they are in ends.
const IN_FLOW: &[&str] = &["p", "li", "dt", "dd", "option"];
const CELLS: &[&str] = &["td", "th"];
const ROWS: &[&str] = &["td", "th", "tr", "thead", "tbody", "tfoot"];
/// Those that are opened again. Of links there is never more than one.
const REOPENED: &[&str] = &[
    "b", "big", "code", "em", "font", "i", "s", "small", "strike", "strong", "tt", "u",
];

/// What is open at a place in a document.
#[derive(Debug, Default)]
pub(crate) struct Nesting {
    open: Vec<String>,
    elements: usize,
}

impl Nesting {
    /// A start tag, its name in lower case. Says what there is too much of.
    pub(crate) fn start(&mut self, name: &str) -> Result<(), &'static str> {
        self.elements += 1;
        if self.elements > ELEMENTS {
            return Err("there are too many elements");
        }
        if VOID.contains(&name) {
            return Ok(());
        }
        if CELLS.contains(&name) || name == "tr" {
            self.close(CELLS);
        }
        if (IN_FLOW.contains(&name) || ROWS.contains(&name)) && self.top() == name {
            self.open.pop();
        }
        self.open.push(name.to_owned());
        let reopened = |name: &&String| REOPENED.contains(&name.as_str());
        if self.open.len() > OPEN || self.open.iter().filter(reopened).count() > FORMATTING {
            return Err("elements are nested too deep, or not closed");
        }
        Ok(())
    }

    /// An end tag, its name in lower case.
    pub(crate) fn end(&mut self, name: &str) {
        let table = name == "table" || ROWS.contains(&name);
        let ends_itself =
            |open: &&String| IN_FLOW.contains(&&***open) || table && ROWS.contains(&&***open);
        let above = self
            .open
            .iter()
            .rev()
            .take_while(|open| *open != name && ends_itself(open))
            .count();
        let at = self.open.len() - above;
        if at > 0 && self.open[at - 1] == name {
            self.open.truncate(at - 1);
        }
    }

    fn close(&mut self, names: &[&str]) {
        if names.contains(&self.top()) {
            self.open.pop();
        }
    }

    fn top(&self) -> &str {
        self.open.last().map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `piece` again and again: each word is a start tag, or an end tag with `/` before it.
    fn read(piece: &str, times: usize) -> Result<(), &'static str> {
        let mut nesting = Nesting::default();
        for _ in 0..times {
            for word in piece.split(' ') {
                match word.strip_prefix('/') {
                    Some(name) => nesting.end(name),
                    None => nesting.start(word)?,
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_stays_open_is_counted() {
        for piece in [
            "div",
            "div /i",
            "div object /div",
            "p table td /p",
            "table",
            "b",
            "p b /p",
            "ul",
        ] {
            assert!(read(piece, OPEN + 1).is_err(), "{piece}");
        }
        assert!(read("br", ELEMENTS + 1).is_err());
    }

    #[test]
    fn what_ends_by_itself_is_not() {
        for piece in [
            "div /div",
            "br",
            "p",
            "li",
            "ul li li p /ul",
            "table tr td td tr th /table",
            "div p /div",
            "b /b",
            "a i /i /a",
            "table tbody tr td /td /tr tbody tr td p /tbody /table",
        ] {
            assert_eq!(read(piece, OPEN + 1), Ok(()), "{piece}");
        }
    }
}
