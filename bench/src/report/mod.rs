//! One HTML page with what was measured, that needs nothing besides.

mod chart;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use self::chart::{Axis, Chart, Series, bars, bytes, escaped};
use crate::measure::{ContenderResult, Measure};
use crate::migrate::{self, Moved};
use crate::output::{Document, digits};

#[derive(Args)]
pub struct Options {
    /// What `latency`, `bandwidth`, `rate`, `bidirectional` and `migrate` printed with --json, and lists of
    /// ratios such as target/rxe-compare.json.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The page that is written.
    #[arg(long, short, default_value = "meander-report.html")]
    output: PathBuf,
}

/// What a file may have in it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Moves(migrate::Document),
    Sizes(Document),
    Peers(Vec<Peer>),
}

/// A row of a comparison with others; more fields are its own.
#[derive(Deserialize)]
struct Peer {
    path: String,
    metric: String,
    bytes: usize,
    #[serde(default)]
    ranks: Option<usize>,
    other_name: String,
    /// Above 1 where ours is better.
    ratio: f64,
}

/// Draws the page.
pub fn run(options: &Options) -> Result<()> {
    let mut sections = String::new();
    for file in &options.files {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let input: Input = serde_json::from_str(&text)
            .with_context(|| format!("{} has no results of meander-bench", file.display()))?;
        let more = drawn(&input);
        ensure!(!more.is_empty(), "{} has no row", file.display());
        sections += &more;
    }
    fs::write(&options.output, page(&sections))
        .with_context(|| format!("writing {}", options.output.display()))?;
    println!("{}", options.output.display());
    Ok(())
}

fn drawn(input: &Input) -> String {
    match input {
        Input::Sizes(document) => curves(document),
        Input::Moves(document) => document.rows.iter().map(around_a_move).collect(),
        Input::Peers(rows) => peers(rows),
    }
}

fn page(sections: &str) -> String {
    let css = include_str!("page.css");
    let host = rustix::system::uname();
    let (node, kernel) = (
        host.nodename().to_string_lossy(),
        host.release().to_string_lossy(),
    );
    let about = escaped(&format!("drawn on {node}, Linux {kernel}"));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Meander streams</title><style>\n{css}</style></head>\n<body>\
         <h1>Meander streams</h1><p>Medians of rounds in which all take turns; {about}.</p>\n<main>\n{sections}</main></body></html>\n"
    )
}

/// A chart for each transport.
fn curves(document: &Document) -> String {
    let mut transports: Vec<&str> = document
        .rows
        .iter()
        .map(|it| it.transport.as_str())
        .collect();
    transports.dedup();
    let (name, note) = match document.measure {
        Measure::Latency => (
            "Latency",
            "microseconds (half a round trip) against bytes: lower is better",
        ),
        Measure::Bandwidth => (
            "Bandwidth",
            "10^6 bytes a second against bytes of a message: higher is better",
        ),
        Measure::Rate => (
            "Message rate",
            "10^6 messages a second against bytes: higher is better",
        ),
        Measure::Bidirectional => (
            "Bandwidth, both ways at once",
            "10^6 bytes a second, both together: higher is better",
        ),
    };
    let chart = |transport: &str| Chart {
        title: format!("{name} over {transport}"),
        note: note.to_owned(),
        across: Axis::Bytes,
        up: Axis::Decades,
        series: series(document, transport),
    };
    transports
        .into_iter()
        .map(|it| chart(it).section())
        .collect()
}

/// The medians of every contender, and for streams the tail of a latency.
fn series(document: &Document, transport: &str) -> Vec<Series> {
    let rows = || {
        document
            .rows
            .iter()
            .filter(|row| row.transport == transport)
    };
    let Some(first) = rows().next() else {
        return Vec::new();
    };
    let along = |number: usize, value: fn(&ContenderResult) -> Option<f64>| -> Vec<(f64, f64)> {
        let of =
            |row: &crate::measure::Row| Some((row.size as f64, value(row.results.get(number)?)?));
        rows().filter_map(of).collect()
    };
    let mut series = Vec::new();
    for (number, result) in first.results.iter().enumerate() {
        let name = result.contender.name();
        series.push(Series {
            name: name.to_owned(),
            points: along(number, |it| Some(it.value)),
        });
        if result.p99.is_some() && !result.contender.is_raw() {
            series.push(Series {
                name: format!("{name}, 99 %"),
                points: along(number, |it| it.p99),
            });
        }
    }
    series
}

fn around_a_move(row: &Moved) -> String {
    let stream = row.results.iter().find(|it| !it.contender.is_raw());
    let beside = stream.map_or_else(String::new, |it| {
        let (before, after) = (digits(it.before.median), digits(it.after.median));
        format!(
            "; medians {before} before and {after} after, {} ms the gap",
            digits(row.gap_ms)
        )
    });
    Chart {
        title: format!("A move over {}, {} B", row.transport, bytes(row.size)),
        note: format!(
            "microseconds (half a round trip) of each message against milliseconds{beside}"
        ),
        across: Axis::Milliseconds,
        up: Axis::Decades,
        series: vec![Series {
            name: "stream".into(),
            points: row.trace.clone(),
        }],
    }
    .section()
}

/// A chart of ratios for each path and metric.
fn peers(rows: &[Peer]) -> String {
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let kind = (row.path.as_str(), row.metric.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let section = |(path, metric): (&str, &str)| {
        let these = rows
            .iter()
            .filter(|row| row.path == path && row.metric == metric);
        let ratios: Vec<_> = these.map(|row| (row.name(), row.ratio)).collect();
        let note = "times as good as the other: above 1, streams are better";
        bars(
            &format!("{metric} over {path}, beside others"),
            note,
            &ratios,
        )
    };
    kinds.into_iter().map(section).collect()
}

impl Peer {
    fn name(&self) -> String {
        let ranks = self
            .ranks
            .map(|it| format!(", {it} ranks"))
            .unwrap_or_default();
        format!("{} {}{ranks}", self.other_name, bytes(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_contender_of_each_transport_has_a_curve() {
        let result = |name: &str| {
            format!(
                r#"{{"contender":"{name}","value":2,"p99":3,"p999":4,"of_raw":1,"rounds":[2],"per_message":null}}"#
            )
        };
        let row = |transport: &str, size| {
            format!(
                r#"{{"transport":"{transport}","size":{size},"messages":9,"results":[{},{}]}}"#,
                result("raw-socket"),
                result("stream")
            )
        };
        let rows = [row("shm", 1), row("shm", 8), row("tcp", 1), row("tcp", 8)].join(",");
        let text = format!(r#"{{"measure":"latency","unit":"","rows":[{rows}]}}"#);
        let drawn = drawn(&serde_json::from_str(&text).unwrap());
        assert_eq!(drawn.matches("<section>").count(), 2);
        // The stream has its tail besides.
        assert_eq!(drawn.matches("<polyline").count(), 2 * 3);
    }

    #[test]
    fn every_row_of_a_comparison_has_a_bar() {
        let row = |path: &str, ratio| {
            format!(
                r#"{{"path":"{path}","metric":"latency_us","bytes":8,"ours":1.0,"other":2.0,"other_name":"MPICH","ratio":{ratio}}}"#
            )
        };
        let text = format!(
            "[{},{},{}]",
            row("shm", 0.5),
            row("tcp", 2.0),
            row("tcp", 1.0)
        );
        let drawn = drawn(&serde_json::from_str(&text).unwrap());
        assert_eq!(drawn.matches("<section>").count(), 2);
        assert_eq!(drawn.matches("<rect").count(), 3);
    }
}
