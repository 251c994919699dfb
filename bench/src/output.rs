//! The results, for people and for programs.

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::measure::{ContenderResult, Measure, Row};

/// A measurement with every round of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    pub measure: Measure,
    pub unit: String,
    pub rows: Vec<Row>,
}

/// How results are printed.
#[derive(Args, Clone, Copy, Default)]
pub struct Format {
    /// Print JSON, with every round, not a table.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print comma-separated values, not a table.
    #[arg(long)]
    pub csv: bool,
}

impl Document {
    pub fn new(measure: Measure, rows: Vec<Row>) -> Document {
        let unit = measure.unit().to_owned();
        Document {
            measure,
            unit,
            rows,
        }
    }
}

impl Format {
    /// Prints a size when it is measured, if that is how it is printed.
    pub fn print_row(self, measure: Measure, row: &Row, first: bool) {
        if self.json {
            return;
        }
        let (head, lines) = if self.csv {
            (CSV_HEAD.to_owned(), csv_lines(measure, row))
        } else {
            (table_head(measure), table_lines(measure, row))
        };
        if first {
            println!("{head}");
        }
        lines.iter().for_each(|line| println!("{line}"));
    }

    /// Prints what is printed as a whole.
    pub fn print_all(self, document: &Document) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(document)?);
        }
        Ok(())
    }
}

const CSV_HEAD: &str = "measure,transport,bytes,contender,value,p99,p99.9,times_raw";

fn csv_lines(measure: Measure, row: &Row) -> Vec<String> {
    let measure = serde_json::to_value(measure).unwrap_or_default();
    let measure = measure.as_str().unwrap_or_default();
    let line = |result: &ContenderResult| {
        let optional = |value: Option<f64>| value.map(|it| it.to_string()).unwrap_or_default();
        let (name, value, of_raw) = (result.contender.name(), result.value, result.of_raw);
        let (p99, p999) = (optional(result.p99), optional(result.p999));
        format!(
            "{measure},{},{},{name},{value},{p99},{p999},{of_raw}",
            row.transport, row.size
        )
    };
    row.results.iter().map(line).collect()
}

fn table_head(measure: Measure) -> String {
    let columns = format!("{:<6} {:>10} {:<14}", "", "bytes", "");
    let unit = measure.unit();
    match measure {
        Measure::Latency => format!(
            "{unit}\n{columns} {:>10} {:>10} {:>10} {:>10}",
            "median", "99 %", "99.9 %", "times raw"
        ),
        _ => format!("{unit}\n{columns} {:>10} {:>10}", "median", "times raw"),
    }
}

fn table_lines(measure: Measure, row: &Row) -> Vec<String> {
    let line = |(number, result): (usize, &ContenderResult)| {
        let size = if number == 0 {
            row.size.to_string()
        } else {
            String::new()
        };
        let transport = if number == 0 {
            row.transport.as_str()
        } else {
            ""
        };
        let mut line = format!(
            "{transport:<6} {size:>10} {:<14} {:>10}",
            result.contender.name(),
            digits(result.value)
        );
        if measure == Measure::Latency {
            for value in [result.p99, result.p999] {
                line += &format!(" {:>10}", value.map(digits).unwrap_or_default());
            }
        }
        line + &format!(" {:>10.2}", result.of_raw)
    };
    row.results.iter().enumerate().map(line).collect()
}

/// Three digits at least that mean something.
pub fn digits(value: f64) -> String {
    match value.abs() {
        it if it >= 100.0 => format!("{value:.0}"),
        it if it >= 10.0 => format!("{value:.1}"),
        it if it >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Contender;

    fn row() -> Row {
        let result = |contender, value, of_raw| ContenderResult {
            contender,
            value,
            p99: Some(2.5),
            p999: None,
            of_raw,
            rounds: vec![value],
            per_message: None,
        };
        let results = vec![
            result(Contender::RawSocket, 2.0, 1.0),
            result(Contender::Stream, 3.0, 1.5),
        ];
        Row {
            transport: "tcp".into(),
            size: 8,
            messages: 10,
            results,
        }
    }

    #[test]
    fn a_line_of_csv_has_what_its_head_says() {
        let lines = csv_lines(Measure::Latency, &row());
        assert_eq!(lines[1], "latency,tcp,8,stream,3,2.5,,1.5");
        let columns = |line: &str| line.split(',').count();
        assert_eq!(columns(&lines[0]), columns(CSV_HEAD));
    }

    #[test]
    fn columns_of_the_table_stand_below_their_heads() {
        for measure in [Measure::Latency, Measure::Rate] {
            let head = table_head(measure);
            let width = head.lines().last().map(str::len);
            let lines = table_lines(measure, &row());
            assert!(
                lines.iter().all(|line| Some(line.len()) == width),
                "{lines:#?}"
            );
        }
    }

    #[test]
    fn json_can_be_read_again() {
        let document = Document::new(Measure::Rate, vec![row()]);
        let text = serde_json::to_string(&document).unwrap();
        let again: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(again.rows[0].results[1].value, 3.0);
        assert!(text.contains("\"rate\"") && text.contains("\"raw-socket\""));
    }
}
