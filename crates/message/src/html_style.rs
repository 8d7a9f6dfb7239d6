//! What of HTML its own styles keep from being shown: texts for the list of mails, and copies for other readers.

use crate::html::{Tag, is_void};

/// More changes of size within each other than this are not told apart.
const MAX_OPEN: usize = 32;

/// What an element's own attributes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Neither it nor anything within it is shown.
    pub hidden: bool,
    /// The size of its text.
    pub size: Size,
}

/// The size of a text: what is within the element has it too, unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Size {
    /// That of what is around it, or relative to it.
    #[default]
    Inherited,
    /// Zero, as around columns (MJML does so), lest the space between them be shown. Images are shown all the same.
    Zero,
    /// Any other.
    Visible,
}

impl Style {
    pub fn of(tag: &Tag<'_>) -> Self {
        let mut style = Self {
            hidden: tag.attribute("hidden").is_some(),
            // A class may have a size, which is not looked up: better too much is shown than too little.
            size: if tag.attribute("class").is_some() || tag.is("font") {
                Size::Visible
            } else {
                Size::Inherited
            },
        };
        let text = tag.attribute("style").unwrap_or_default();
        for declaration in text.split(';') {
            let Some((name, value)) = declaration.split_once(':') else {
                continue;
            };
            let name = name.trim().to_ascii_lowercase();
            let value = value.split('!').next().unwrap_or_default();
            let value = value.trim().to_ascii_lowercase();
            match name.as_str() {
                "display" => style.hidden |= value == "none",
                "opacity" | "max-height" => style.hidden |= is_zero(&value),
                // As a link it is a button, to which Outlook alone has another one, in a comment.
                "mso-hide" => style.hidden |= value == "all" && !tag.is("a"),
                "font-size" => style.size = font_size(&value).unwrap_or(style.size),
                "font" => style.size = font(&value).unwrap_or(style.size),
                _ => {}
            }
        }
        style
    }
}

/// A number that is zero, with any unit or none.
fn is_zero(value: &str) -> bool {
    let number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-');
    let unit = value.trim_start_matches(number);
    let number = &value[..value.len() - unit.len()];
    number.contains('0')
        && !number.contains(|c: char| matches!(c, '1'..='9'))
        && unit.chars().all(|c| c.is_ascii_alphabetic() || c == '%')
}

/// `None` for what says nothing else than what is around it.
fn font_size(value: &str) -> Option<Size> {
    let relative = [
        "%", "em", "ex", "ch", "smaller", "larger", "inherit", "unset",
    ];
    let absolute = value.ends_with("rem");
    if is_zero(value) {
        Some(Size::Zero)
    } else if value.is_empty() || (!absolute && relative.iter().any(|end| value.ends_with(end))) {
        None
    } else {
        Some(Size::Visible)
    }
}

/// All of a font at once: `italic 13px/1.5 Arial`.
fn font(value: &str) -> Option<Size> {
    let mut sizes = value.split_ascii_whitespace();
    if sizes.any(|size| is_zero(size.split('/').next().unwrap_or_default())) {
        return Some(Size::Zero);
    }
    (!matches!(value, "" | "inherit" | "unset")).then_some(Size::Visible)
}

/// Of the elements that are open those that change whether text has a size.
#[derive(Debug, Default)]
pub(crate) struct Sizes<'a>(Vec<Open<'a>>);

#[derive(Debug)]
struct Open<'a> {
    name: &'a str,
    /// With those of the same name within it.
    depth: usize,
    zero: bool,
}

impl<'a> Sizes<'a> {
    /// Whether text that stands here is too small to be seen.
    pub fn is_zero(&self) -> bool {
        self.0.last().is_some_and(|open| open.zero)
    }

    pub fn open(&mut self, tag: &Tag<'a>, size: Size) {
        if is_void(tag.name) {
            return;
        }
        if tag.is("p") {
            // It ends the one before.
            self.close(tag.name);
        }
        for open in self.0.iter_mut().filter(|open| tag.is(open.name)) {
            open.depth += 1;
        }
        let zero = match size {
            Size::Inherited => return,
            Size::Zero => true,
            Size::Visible => false,
        };
        if zero != self.is_zero() && self.0.len() < MAX_OPEN {
            self.0.push(Open {
                name: tag.name,
                depth: 1,
                zero,
            });
        }
    }

    pub fn close(&mut self, name: &str) {
        let mut ended = None;
        for (at, open) in self.0.iter_mut().enumerate().rev() {
            if open.name.eq_ignore_ascii_case(name) {
                open.depth -= 1;
                if open.depth == 0 {
                    ended = Some(at);
                }
            }
        }
        if let Some(at) = ended {
            self.0.truncate(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Size, Sizes, Style};
    use crate::html::{Scanner, Token};

    fn style(tag: &str) -> Style {
        let Some(Token::Open(tag)) = Scanner::new(tag).next() else {
            panic!("{tag}");
        };
        Style::of(&tag)
    }

    #[test]
    fn what_hides_an_element_is_told_from_what_does_not() {
        for tag in [
            "<p hidden>",
            "<p HIDDEN='until-found'>",
            "<p style='display:none'>",
            "<p style='color:red;DISPLAY : None !important'>",
            "<p style=opacity:0>",
            "<p style='opacity: 0.0'>",
            "<p style='max-height:0'>",
            "<p style='max-height: 0px; color: red'>",
            "<p style='mso-hide:all'>",
        ] {
            assert!(style(tag).hidden, "{tag}");
        }
        for tag in [
            "<p>",
            "<p class=hidden>",
            "<p title='display:none'>",
            "<p style='display:block'>",
            "<p style='opacity:0.5'>",
            "<p style='opacity:.05'>",
            "<p style='max-height:10px;min-height:0'>",
            "<p style='max-height:calc(0px + 1em)'>",
            "<p style='mso-hide:none'>",
            "<a style='mso-hide:all'>",
            "<p style='font-size:0'>",
            "<p style='display'>",
        ] {
            assert!(!style(tag).hidden, "{tag}");
        }
    }

    #[test]
    fn sizes_are_zero_relative_or_visible() {
        for (value, size) in [
            ("font-size:0", Size::Zero),
            ("font-size: 0px !important", Size::Zero),
            ("FONT-SIZE:0.0PT", Size::Zero),
            ("font:0/0 a", Size::Zero),
            ("font-size:0;font-size:13px", Size::Visible),
            ("font-size:13px", Size::Visible),
            ("font-size:0.5px", Size::Visible),
            ("font-size:1rem", Size::Visible),
            ("font-size:small", Size::Visible),
            ("font:italic 13px/1.5 Arial", Size::Visible),
            ("font-size:1.2em", Size::Inherited),
            ("font-size:100%", Size::Inherited),
            ("font-size:larger", Size::Inherited),
            ("font-size:inherit", Size::Inherited),
            ("font:inherit", Size::Inherited),
            ("line-height:0", Size::Inherited),
        ] {
            assert_eq!(style(&format!("<p style='{value}'>")).size, size, "{value}");
        }
        assert_eq!(style("<p class=x>").size, Size::Visible);
        assert_eq!(style("<p class=x style=font-size:0>").size, Size::Zero);
        assert_eq!(style("<font size=3>").size, Size::Visible);
    }

    #[test]
    fn a_size_holds_until_its_element_ends() {
        for (html, seen) in [
            ("<p style=font-size:0>a</p>b", "b"),
            ("<p style=font-size:0>a<p>b", "b"),
            ("<td style=font-size:0>a<br>b<td>c</td>d</td>e", "e"),
            (
                "<td style=font-size:0>a<div style=font-size:9px>b<td>c</td></div>d</td>e",
                "bce",
            ),
            (
                "<td style=font-size:0>a<b style=font-size:9px>b</td>c</b>d",
                "bcd",
            ),
            (
                "<i style=font-size:0>a<b style=font-size:2em>b</b>c</i>d",
                "d",
            ),
            ("</p>a<p style=font-size:0>b</p></p>c", "ac"),
        ] {
            let mut sizes = Sizes::default();
            let mut found = String::new();
            for token in Scanner::new(html) {
                match token {
                    Token::Text(text) if !sizes.is_zero() => found.push_str(text),
                    Token::Text(_) => {}
                    Token::Open(tag) => sizes.open(&tag, Style::of(&tag).size),
                    Token::Close(name) => sizes.close(name),
                }
            }
            assert_eq!(found, seen, "{html}");
        }
    }
}
