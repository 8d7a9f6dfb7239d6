//! The plain text for a mail that was given as HTML alone: blocks on lines of their own, links with their addresses,
//! lists with bullets or numbers, the cells of a row side by side, images by their alternative texts.

use crate::{
    html::{Scanner, Tag, Token, decode, is_void},
    html_style::{Sizes, Style},
};

/// A longer text ends here: nobody reads it, and the HTML has it all.
const MAX_TEXT: usize = 1 << 20;
/// Deeper lists and quotations look like this one.
const MAX_DEPTH: usize = 6;
/// More open links and lists than this are not kept apart.
const MAX_OPEN: usize = 64;

/// Elements that stand on lines of their own.
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "aside",
    "body",
    "center",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "header",
    "html",
    "li",
    "main",
    "nav",
    "ol",
    "section",
    "summary",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "tr",
    "ul",
];
/// The same, with an empty line around them.
const PARAGRAPHS: &[&str] = &["blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "p", "pre"];
/// Elements whose content is not shown.
const UNSEEN: &[&str] = &[
    "audio", "canvas", "datalist", "head", "iframe", "math", "noscript", "object", "script",
    "select", "style", "svg", "template", "textarea", "title", "video",
];

fn among(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Makes the text; empty if the HTML shows none. Linear in time; the result is at most 1 MB.
pub(crate) fn from_html(html: &str) -> String {
    let mut writer = Writer::default();
    let mut skipped: Option<(&str, usize)> = None;
    let mut sizes = Sizes::default();
    for token in Scanner::new(html) {
        if writer.out.len() >= MAX_TEXT {
            break;
        }
        if let Some((name, depth)) = &mut skipped {
            match token {
                // What needs no end tag ends here; a body also ends a head.
                Token::Open(tag)
                    if tag.is("body") || (tag.is("p") && name.eq_ignore_ascii_case("p")) =>
                {
                    skipped = None;
                }
                Token::Open(tag) if tag.is(name) => {
                    *depth += 1;
                    continue;
                }
                Token::Close(closed) if closed.eq_ignore_ascii_case(name) => {
                    *depth -= 1;
                    if *depth == 0 {
                        skipped = None;
                    }
                    continue;
                }
                _ => continue,
            }
        }
        match token {
            Token::Text(_) if sizes.is_zero() => {}
            Token::Text(text) => writer.text(&decode(text)),
            Token::Open(tag) => {
                let style = Style::of(&tag);
                let unseen = among(UNSEEN, tag.name) || style.hidden;
                if unseen && !is_void(tag.name) {
                    skipped = Some((tag.name, 1));
                } else if !unseen {
                    sizes.open(&tag, style.size);
                    writer.open(&tag);
                }
            }
            Token::Close(name) => {
                sizes.close(name);
                writer.close(name);
            }
        }
    }
    writer.finish()
}

/// What is due before the next word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Space,
    Cell,
    Line,
    Paragraph,
}

/// An open link.
#[derive(Debug)]
struct Link {
    /// Where its text begins, once there is any.
    start: Option<usize>,
    /// Empty if it is not worth showing.
    address: String,
}

#[derive(Debug, Default)]
struct Writer {
    out: String,
    gap: Gap,
    /// Of each open list, the number of its next item; `None` for bullets.
    lists: Vec<Option<u32>>,
    quotes: usize,
    preformatted: usize,
    links: Vec<Link>,
    /// Where the last link ended, if it says anything.
    link_end: Option<usize>,
    /// A bullet or number that its item's first word will follow.
    marker: Option<String>,
}

impl Writer {
    fn need(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    fn open(&mut self, tag: &Tag<'_>) {
        let name = tag.name;
        if among(PARAGRAPHS, name) {
            self.need(Gap::Paragraph);
        } else if among(BLOCKS, name) {
            self.need(Gap::Line);
        }
        match name.to_ascii_lowercase().as_str() {
            "br" => self.line_break(),
            "hr" => {
                self.need(Gap::Paragraph);
                self.word("----------");
                self.need(Gap::Paragraph);
            }
            "td" | "th" => self.need(Gap::Cell),
            "ul" => self.open_list(None),
            "ol" => {
                let start = tag.attribute("start").and_then(|start| start.parse().ok());
                self.open_list(Some(start.unwrap_or(1)));
            }
            "li" => self.item(),
            "blockquote" => self.quotes += 1,
            "pre" => self.preformatted += 1,
            "a" => self.open_link(tag),
            "img" => {
                if let Some(alt) = tag.attribute("alt") {
                    self.text(&alt);
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        match name.to_ascii_lowercase().as_str() {
            "ul" | "ol" => {
                self.lists.pop();
                self.marker = None;
                self.need(if self.lists.is_empty() {
                    Gap::Paragraph
                } else {
                    Gap::Line
                });
            }
            "blockquote" => self.quotes = self.quotes.saturating_sub(1),
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            "a" => self.close_link(),
            _ => {}
        }
        if among(PARAGRAPHS, name) {
            self.need(Gap::Paragraph);
        } else if among(BLOCKS, name) {
            self.need(Gap::Line);
        }
    }

    fn open_list(&mut self, next: Option<u32>) {
        self.need(if self.lists.is_empty() {
            Gap::Paragraph
        } else {
            Gap::Line
        });
        if self.lists.len() < MAX_OPEN {
            self.lists.push(next);
        }
    }

    fn item(&mut self) {
        self.marker = Some(match self.lists.last_mut() {
            Some(Some(number)) => {
                let marker = format!("{number}. ");
                *number = number.saturating_add(1);
                marker
            }
            _ => "* ".to_owned(),
        });
    }

    fn open_link(&mut self, tag: &Tag<'_>) {
        let address = tag.attribute("href").unwrap_or_default();
        let address = address.trim();
        let scheme = address.split_once(':').map_or("", |(scheme, _)| scheme);
        let shown = ["http", "https", "mailto", "tel", "sms"];
        let clean = !address.contains(|c: char| c.is_whitespace() || c.is_control());
        let known = shown.iter().any(|s| s.eq_ignore_ascii_case(scheme));
        if self.links.len() < MAX_OPEN {
            let kept = if known && clean { address } else { "" };
            self.links.push(Link {
                start: None,
                address: kept.to_owned(),
            });
        }
    }

    fn close_link(&mut self) {
        // One that holds nothing, or only an image without words, says nothing.
        let Some(Link {
            start: Some(start),
            address,
        }) = self.links.pop()
        else {
            return;
        };
        if address.is_empty() {
            return;
        }
        self.show_address(start, &address);
        self.link_end = Some(self.out.len());
    }

    /// Writes the address of a link, unless its text is the address.
    fn show_address(&mut self, start: usize, address: &str) {
        let text = self.out.get(start..).unwrap_or_default().trim();
        let bare = address
            .strip_prefix("mailto:")
            .or_else(|| address.strip_prefix("tel:"))
            .unwrap_or(address);
        let same = |text: &str| {
            text == address
                || text == bare
                || text.trim_end_matches('/') == bare.trim_end_matches('/')
        };
        if same(text) || same(&format!("https://{text}")) {
            return;
        }
        // In angle brackets (RFC 3986 appendix C), so that readers see where it ends.
        self.need(Gap::Space);
        self.word(&format!("<{bare}>"));
    }

    fn line_break(&mut self) {
        if self.gap >= Gap::Line {
            self.gap = Gap::Paragraph;
        } else {
            self.gap = Gap::Line;
        }
    }

    fn text(&mut self, text: &str) {
        if self.preformatted > 0 {
            for (i, line) in text.split('\n').enumerate() {
                if i > 0 {
                    self.line_break();
                }
                // White space of HTML that is none in mail.
                let line = line.trim_end().replace(['\r', '\u{c}'], " ");
                if !line.is_empty() {
                    self.word(&line);
                }
            }
            return;
        }
        let mut first = true;
        for word in text.split(|c: char| c.is_ascii_whitespace()) {
            if !first {
                self.need(Gap::Space);
            }
            first = false;
            // Fillers that keep a reader from showing more after a hidden text, and soft hyphens.
            let invisible = |c: char| {
                matches!(
                    c,
                    '\u{200b}'..='\u{200d}' | '\u{feff}' | '\u{ad}' | '\u{34f}'
                )
            };
            if !word.is_empty() && !word.chars().all(|c| invisible(c) || c == '\u{a0}') {
                self.word(word);
            }
        }
    }

    /// Writes what is due, then the word.
    fn word(&mut self, word: &str) {
        if self.out.len() >= MAX_TEXT {
            // The rest of a long token; marks of quotations and lists would make far more of it.
            return;
        }
        let mut gap = std::mem::take(&mut self.gap);
        let linked = self.links.last().is_some_and(|l| !l.address.is_empty());
        if gap == Gap::None && linked && self.link_end == Some(self.out.len()) {
            // Two links, which colours or borders tell apart.
            gap = Gap::Space;
        }
        let fresh = self.out.is_empty();
        match gap {
            _ if fresh => {}
            Gap::None => {}
            Gap::Space => self.out.push(' '),
            Gap::Cell => self.out.push_str("  "),
            Gap::Line => self.out.push('\n'),
            Gap::Paragraph => {
                self.out.push('\n');
                self.out.push_str(self.quote_marks().trim_end());
                self.out.push('\n');
            }
        }
        if fresh || gap >= Gap::Line {
            self.begin_line();
        }
        for link in self.links.iter_mut().rev() {
            if link.start.is_some() {
                break;
            }
            link.start = Some(self.out.len());
        }
        for c in word.chars() {
            self.out.push(if c == '\u{a0}' { ' ' } else { c });
        }
    }

    fn quote_marks(&self) -> String {
        "> ".repeat(self.quotes.min(MAX_DEPTH))
    }

    fn begin_line(&mut self) {
        self.out.push_str(&self.quote_marks());
        let depth = self.lists.len().min(MAX_DEPTH);
        match self.marker.take() {
            Some(marker) => {
                self.out.push_str(&"  ".repeat(depth.saturating_sub(1)));
                self.out.push_str(&marker);
            }
            None => self.out.push_str(&"  ".repeat(depth)),
        }
    }

    fn finish(mut self) -> String {
        if self.out.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT)
                .rev()
                .find(|at| self.out.is_char_boundary(*at));
            self.out.truncate(end.unwrap_or(0));
            self.out.push('…');
        }
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{MAX_TEXT, from_html};

    #[test]
    fn one_long_token_makes_no_more_than_a_text_may_be() {
        let mut writer = super::Writer {
            quotes: 9,
            preformatted: 1,
            ..super::Writer::default()
        };
        writer.text(&"a\n\n".repeat(MAX_TEXT));
        assert!(writer.out.len() < MAX_TEXT + 100, "{}", writer.out.len());
    }

    #[test]
    fn html_becomes_readable_text() {
        for (html, expected) in [
            ("", ""),
            ("<p> </p>", ""),
            ("<p>a  b\n c</p><p>d</p>", "a b c\n\nd\n"),
            ("a<br>b<br><br>c", "a\nb\n\nc\n"),
            ("<h1>T</h1>x", "T\n\nx\n"),
            ("<div>a</div><div>b</div>", "a\nb\n"),
            (
                "<p><b>bo</b>ld &amp; <i>it</i> &lt;x&gt; &euro;",
                "bold & it <x> €\n",
            ),
            (
                "<head><title>no</title><style>p{}</style></head><body>x",
                "x\n",
            ),
            ("<head><body>x", "x\n"),
            ("<script>a<b</script>x<!-- y -->", "x\n"),
            (
                r#"<a href="https://x.org/a?b&amp;c">here</a>."#,
                "here <https://x.org/a?b&c>.\n",
            ),
            (r#"<a href="https://x.org">x.org</a>"#, "x.org\n"),
            (r#"<a href="mailto:a@b.c">a@b.c</a>"#, "a@b.c\n"),
            (
                "<a href='javascript:x()'>no</a> <a href='#x'>y</a>",
                "no y\n",
            ),
            (
                "<ul><li>a<li>b<ol start=3><li>c</li><li>d</ol></ul>e",
                "* a\n* b\n  3. c\n  4. d\n\ne\n",
            ),
            (
                "<table><tr><td>a</td> <td>1</td></tr><tr><th>b<th>2</table>",
                "a  1\nb  2\n",
            ),
            (
                "<blockquote><p>a</p><p>b</p></blockquote>c",
                "> a\n>\n> b\n\nc\n",
            ),
            ("<pre>a  b\n  c</pre>", "a  b\n  c\n"),
            ("<pre>a&#12;b&#13;c\r\nd</pre>", "a b c\nd\n"),
            (
                "<img src='data:image/png;base64,AAAA' alt='Logo'> x",
                "Logo x\n",
            ),
            ("<img src=x> x<hr>y", "x\n\n----------\n\ny\n"),
            ("<div style='display: none'>pre<div>x</div></div>y", "y\n"),
            ("<p style='display:none'>pre<p>y", "y\n"),
            (
                "<p style='display:none'>pre<p style='display:none'>z</p>y",
                "y\n",
            ),
            ("a&nbsp;b&#9;c", "a b c\n"),
            (
                "<blockquote><p>a</p><blockquote><p>b</p><p>c</p></blockquote><p>d</p></blockquote>",
                "> a\n> >\n> > b\n> >\n> > c\n>\n> d\n",
            ),
        ] {
            assert_eq!(from_html(html), expected, "{html:?}");
        }
    }

    #[test]
    fn links_stand_apart_and_say_something() {
        for (html, expected) in [
            (
                "<a href=https://f.example>Facebook</a><a href=https://t.example>Twitter</a>",
                "Facebook <https://f.example> Twitter <https://t.example>\n",
            ),
            (
                "<a href=https://f.example>f.example</a><span><a href=https://t.example>t.example</a></span>",
                "f.example t.example\n",
            ),
            (
                "<a href=https://f.example>F</a>, <a href=https://t.example>T</a>.",
                "F <https://f.example>, T <https://t.example>.\n",
            ),
            (
                "<a href=https://f.example>F</a><br><a href=https://t.example>T</a>",
                "F <https://f.example>\nT <https://t.example>\n",
            ),
            (
                "Hello <a href=https://f.example><img src=x></a> you",
                "Hello you\n",
            ),
            ("Hello<a href=https://f.example></a>.", "Hello.\n"),
            (
                "Hello <a href=https://f.example> <img src=x alt=''>&nbsp;</a>",
                "Hello\n",
            ),
            ("<a href=https://f.example><img src=x></a>", ""),
            (
                "<a href=https://f.example>F</a><a href=https://g.example></a>! <a href=https://t.example>T</a>",
                "F <https://f.example>! T <https://t.example>\n",
            ),
            (
                "<a href=https://f.example><img src=x alt='Our shop'></a><a href=https://f.example>Shop</a>",
                "Our shop <https://f.example> Shop <https://f.example>\n",
            ),
            (
                "<ul><li><a href=https://f.example>f.example</a><li><a href=https://t.example>T</a></ul>",
                "* f.example\n* T <https://t.example>\n",
            ),
        ] {
            assert_eq!(from_html(html), expected, "{html:?}");
        }
    }

    #[test]
    fn what_is_hidden_is_left_out() {
        for (html, expected) in [
            ("<div hidden>a<div>b</div></div>c", "c\n"),
            ("<img hidden alt=a>b", "b\n"),
            ("<div style='font-size:0'>a</div>b", "b\n"),
            ("<span style='font-size:0px;'>a</span>b", "b\n"),
            ("<div style='opacity:0'>a<p>b</div>c", "c\n"),
            (
                "<div style='max-height: 0; overflow: hidden'>a</div>b",
                "b\n",
            ),
            ("<div style='mso-hide:all'>a</div>b", "b\n"),
            (
                "<div style='font-size:0'>a <a href=https://x.example>b</a></div>c",
                "c\n",
            ),
            // A button as for every reader but Outlook.
            (
                "<!--[if mso]><v:roundrect>Go</v:roundrect><![endif]--><a href=https://x.example style='mso-hide:all'>Go</a>",
                "Go <https://x.example>\n",
            ),
            // As MJML writes columns, texts and images.
            (
                "<div style='display:none;font-size:1px;max-height:0px;opacity:0'>In short</div>\
                 <table><tr><td style='direction:ltr;font-size:0px;padding:20px 0'><div style='font-size:0px;display:inline-block'>\
                 <table><tr><td style='font-size:0px;padding:10px 25px'><img alt='Shop' src=x style='font-size:13px'></td></tr>\
                 <tr><td style='font-size:0px'> <div style='font-family:Ubuntu;font-size:13px'>Hello <b>you</b></div> </td></tr>\
                 <tr><td style='font-size:0px'>&#8202;</td></tr></table></div></td></tr></table><p>End",
                "Shop\nHello you\n\nEnd\n",
            ),
            (
                "<td style='font-size:0;line-height:0'><a href=https://x.example><img alt='Shop'></a></td>",
                "Shop <https://x.example>\n",
            ),
            (
                "<style>.t{font-size:14px}</style><td style='font-size:0'><span class=t>Hello</span></td>",
                "Hello\n",
            ),
        ] {
            assert_eq!(from_html(html), expected, "{html:?}");
        }
    }

    #[test]
    fn hostile_html_takes_neither_stack_nor_time_nor_memory() {
        for piece in [
            "<div>",
            "<blockquote>",
            "<ul><li>a",
            "<table><tr><td>",
            "<a href=x>",
            "<a href=https://x>y",
            "<b",
            "<!--",
            "<script>",
            "<style>x</",
            "<p style=",
            "<p style='",
            "<p style=font-size:0>",
            "<i style=font-size:0><b class=x>",
            "<td style=font-size:0></td>",
            "</p>",
            "&",
            "&#",
            "<svg>",
            "<head>",
            "<",
            "\"",
        ] {
            let html = piece.repeat(4_000_000 / piece.len());
            let start = Instant::now();
            let text = from_html(&html);
            assert!(text.len() <= MAX_TEXT + 4, "{piece}");
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{piece}: {:?}",
                start.elapsed()
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_out(html in "(\\PC|[<>/=\"'a-c! -]{0,6}|<(p|a|li|ul|td|pre|blockquote|br)[ >]|&[a-z#0-9]{1,4};){0,60}") {
            let text = from_html(&html);
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
        }
    }
}
