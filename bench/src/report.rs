//! The results, for people and for programs.

use anyhow::Result;
use serde_json::json;

use crate::measure::{Measure, Row};
use crate::migrate::Results;

/// One line of the table, after its head where it is the first.
pub fn print_row(measure: Measure, row: &Row, first: bool) {
    if first {
        println!("{}", head(measure, row));
    }
    let mut line = format!("{:>10}", row.size);
    for result in &row.results {
        line += &format!(" {:>12.2}", result.value);
        if let Some(p99) = result.p99 {
            line += &format!(" {p99:>8.2}");
        }
        line += &format!(" {:>6.2}", result.of_raw);
    }
    println!("{line}");
}

fn head(measure: Measure, row: &Row) -> String {
    let (unit, tail) = match measure {
        Measure::Latency => (
            "half round trip, microseconds: median, 99 %, times raw",
            "     p99",
        ),
        Measure::Bandwidth => ("10^6 bytes a second: median, times raw", ""),
    };
    let columns = row.results.iter().map(|result| {
        let name = result.contender.name();
        let tail = if tail.is_empty() {
            String::new()
        } else {
            format!(" {tail}")
        };
        format!(" {name:>12}{tail} {:>6}", "x raw")
    });
    format!("{unit}\n{:>10}{}", "bytes", columns.collect::<String>())
}

/// Before, after, and the gap between.
pub fn print_migration(results: &Results) {
    println!("half round trip of {} bytes, microseconds", results.size);
    println!(
        "{:>12} {:>10} {:>10} {:>12}",
        "", "before", "after", "after/before"
    );
    let (before, after) = (&results.before, &results.after);
    for (name, before, after) in [
        ("raw-socket", before.raw_socket, after.raw_socket),
        ("stream", before.stream, after.stream),
    ] {
        println!(
            "{name:>12} {before:>10.2} {after:>10.2} {:>12.2}",
            after / before
        );
    }
    println!(
        "longest round trip while the port moved: {:.2} ms",
        results.gap_ms
    );
}

/// Everything, every round too.
pub fn json(measure: Measure, rows: &[Row]) -> Result<String> {
    let unit = match measure {
        Measure::Latency => "microseconds, half round trip",
        Measure::Bandwidth => "10^6 bytes a second",
    };
    let document = json!({ "measure": measure, "unit": unit, "rows": rows });
    Ok(serde_json::to_string_pretty(&document)?)
}
