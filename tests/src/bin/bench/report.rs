//! What was measured, as a table and as a page with plots.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The results of one side, one value for each run.
pub struct Series {
    pub name: String,
    pub values: Vec<f64>,
}

impl Series {
    pub fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            values,
        }
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn least(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }
}

/// Names, each with its results.
pub fn named<const N: usize>(names: [&str; N], columns: [Vec<f64>; N]) -> Vec<Series> {
    let series = names.into_iter().zip(columns);
    series
        .map(|(name, values)| Series::new(name, values))
        .collect()
}

/// What is to be reached.
pub struct Goal {
    pub what: String,
    pub value: f64,
    pub bound: Bound,
}

pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub fn new(what: impl Into<String>, value: f64, bound: Bound) -> Self {
        Self {
            what: what.into(),
            value,
            bound,
        }
    }

    fn text(&self) -> String {
        let (sign, bound, reached) = match self.bound {
            Bound::AtLeast(bound) => ("≥", bound, self.value >= bound),
            Bound::AtMost(bound) => ("≤", bound, self.value <= bound),
        };
        let verdict = if reached { "reached" } else { "MISSED" };
        format!(
            "{}: {} (goal {sign} {}): {verdict}",
            self.what,
            number(self.value),
            number(bound)
        )
    }
}

/// Sides that were measured by turns.
pub struct Section {
    pub title: &'static str,
    pub unit: &'static str,
    pub series: Vec<Series>,
    pub goals: Vec<Goal>,
    /// Lines of text, as of a profile.
    pub notes: Vec<String>,
}

impl Section {
    pub fn new(title: &'static str, unit: &'static str, series: Vec<Series>) -> Self {
        Self {
            title,
            unit,
            series,
            goals: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn goal(mut self, what: impl Into<String>, value: f64, bound: Bound) -> Self {
        self.goals.push(Goal::new(what, value, bound));
        self
    }

    pub fn print(&self) {
        println!("\n{} ({})", self.title, self.unit);
        for series in &self.series {
            println!(
                "  {:<58} {:>10}   {} to {}, {} runs",
                series.name,
                number(series.median()),
                number(series.least()),
                number(series.most()),
                series.values.len()
            );
        }
        for goal in &self.goals {
            println!("  → {}", goal.text());
        }
        for note in &self.notes {
            println!("    {note}");
        }
    }

    fn html(&self) -> String {
        const HEIGHT: usize = 26;
        const BARS: f64 = 420.0;
        let most = self
            .series
            .iter()
            .map(Series::most)
            .fold(f64::MIN_POSITIVE, f64::max);
        let place = |value: f64| 360.0 + BARS * value / most;
        let mut page = format!(
            "<h2>{} <small>({})</small></h2>\n<svg width=\"900\" height=\"{}\">\n",
            escaped(self.title),
            escaped(self.unit),
            HEIGHT * self.series.len() + 4
        );
        for (at, series) in self.series.iter().enumerate() {
            let top = at * HEIGHT;
            let (from, to, middle) = (
                place(series.least()),
                place(series.most()),
                place(series.median()),
            );
            let _ = writeln!(
                page,
                "<text x=\"350\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"360\" y=\"{}\" width=\"{:.1}\" height=\"16\"/>\
                 <path d=\"M{from:.1} {1}H{to:.1}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
                top + 16,
                escaped(&series.name),
                top + 4,
                middle - 360.0,
                to + 6.0,
                top + 16,
                number(series.median()),
            );
        }
        page.push_str("</svg>\n");
        for goal in &self.goals {
            let _ = writeln!(page, "<p>{}</p>", escaped(&goal.text()));
        }
        if !self.notes.is_empty() {
            let _ = writeln!(page, "<pre>{}</pre>", escaped(&self.notes.join("\n")));
        }
        page
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Writes the page to the build's folder; returns where.
pub fn write(machine: &str, sections: &[Section]) -> PathBuf {
    let this = std::env::current_exe().expect("it runs");
    let target = this.ancestors().nth(2).unwrap_or(Path::new("target"));
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).expect("a folder");
    let body: String = sections.iter().map(Section::html).collect();
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>pgmq_mail: measurements</title>\n\
         <style>body{{font:15px sans-serif;max-width:960px;margin:2em auto}} rect{{fill:#7aa6da}} \
         path{{stroke:#333;stroke-width:2}} text{{font-size:13px}}</style>\n\
         <h1>pgmq_mail: measurements</h1>\n<p>{}</p>\n<p>Bars are medians, lines go from the least to the most of the \
         runs, which alternate.</p>\n{body}",
        escaped(machine)
    );
    let file = folder.join("report.html");
    std::fs::write(&file, page).expect("the report");
    file
}

/// What it was measured on.
pub fn machine(server: &str) -> String {
    let read = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_else(|| "unknown".into())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{server}; {cores} cores of {}; {} of memory; fsync and synchronous_commit on",
        read("/proc/cpuinfo", "model name"),
        read("/proc/meminfo", "MemTotal")
    )
}
