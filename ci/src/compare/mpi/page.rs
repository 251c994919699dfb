//! The results as `docs/performance.md` has them.

use std::fs;
use std::process::Command;

use super::tools::Tool;
use crate::compare::rows::Row;

/// Debian's packages of those who are compared with.
const PACKAGES: [(&str, &str); 4] = [
    ("openmpi-bin", "Open MPI"),
    ("mpich", "MPICH"),
    ("ucx-utils", "UCX"),
    ("netpipe-tcp", "NetPIPE"),
];

/// Date, machine, versions and command, then a table for each path: of each other its own value, and how many
/// times as good ours is.
pub fn markdown(rows: &[Row], rounds: usize) -> String {
    let mut text = format!("{}\n\n{}\n", command_line(), circumstances(rounds));
    let mut paths: Vec<&str> = rows.iter().map(|row| row.path.as_str()).collect();
    paths.dedup();
    for path in paths {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.path == path).collect();
        text += &table(path, &rows);
    }
    text
}

/// As the user may type it.
fn command_line() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("    cargo xtask {}", words.join(" "))
}

fn circumstances(rounds: usize) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("a processor", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let versions: Vec<String> = PACKAGES
        .iter()
        .filter_map(|(package, name)| Some(format!("{name} {}", version(package)?)))
        .collect();
    format!(
        "{}, {processor}, {count} processors, Linux {}, {}; medians of {rounds} rounds; load at the end {load}.",
        output(&["date", "-u", "+%F"]).unwrap_or_default(),
        kernel.trim(),
        versions.join(", ")
    )
}

/// Without what Debian adds.
fn version(package: &str) -> Option<String> {
    let version = output(&["dpkg-query", "-W", "-f", "${Version}", package])?;
    Some(version.split('-').next()?.to_owned())
}

fn output(words: &[&str]) -> Option<String> {
    let (program, rest) = words.split_first()?;
    let output = Command::new(program).args(rest).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let said = said.trim();
    (output.status.success() && !said.is_empty()).then(|| said.to_owned())
}

fn table(path: &str, rows: &[&Row]) -> String {
    let columns: Vec<&str> = Tool::OTHERS
        .map(Tool::name)
        .into_iter()
        .filter(|name| rows.iter().any(|row| row.other_name == *name))
        .collect();
    let rule = "---: | ".repeat(columns.len() + 1);
    let mut text = format!(
        "\n| {path} | ours | {} |\n| --- | {}\n",
        columns.join(" | "),
        rule.trim_end()
    );
    let mut told: Vec<String> = Vec::new();
    for row in rows {
        let name = line_name(row);
        if told.contains(&name) {
            continue;
        }
        let cells = columns.iter().map(|column| {
            let of_line = |row: &&&Row| row.other_name == *column && line_name(row) == name;
            let cell = rows.iter().find(of_line);
            cell.map_or(String::new(), |row| {
                format!("{} ({:.2})", digits(row.other), row.ratio)
            })
        });
        let cells: Vec<String> = cells.collect();
        text += &format!(
            "| {name} | {} | {} |\n",
            digits(row.ours),
            cells.join(" | ")
        );
        told.push(name);
    }
    text
}

/// What a line of the table is about: a metric, or NetPIPE's kind of it.
fn line_name(row: &Row) -> String {
    let netpipe = if row.other_name.starts_with("netpipe") {
        "NetPIPE, "
    } else {
        ""
    };
    let (metric, unit) = row.metric.split_once('_').unwrap_or((row.metric, ""));
    let unit = match unit {
        "us" => "µs",
        "MBps" => "MB/s",
        "Mps" => "M/s",
        other => other,
    };
    let size = match row.bytes {
        0 => String::new(),
        bytes if bytes.is_multiple_of(1 << 20) => format!(", {} MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!(", {} KiB", bytes >> 10),
        bytes => format!(", {bytes} B"),
    };
    let ranks = match row.ranks {
        Some(ranks) if unit == "µs" && metric != "latency" => format!(", {ranks} ranks"),
        _ => String::new(),
    };
    format!("{netpipe}{metric}{size}{ranks}, {unit}")
}

/// Three digits that count, or all before the point.
fn digits(value: f64) -> String {
    let places = match value {
        value if value < 1.0 => 3,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: &'static str, bytes: usize, other_name: &'static str, other: f64) -> Row {
        Row {
            path: "shm".to_owned(),
            metric,
            bytes,
            ranks: Some(2),
            ours: 0.5,
            other,
            other_name,
            ratio: other / 0.5,
        }
    }

    #[test]
    fn a_line_has_all_who_are_compared_in_it() {
        let rows = [
            row("latency_us", 8, "openmpi", 0.25),
            row("latency_us", 8, "mpich", 1.0),
            row("latency_us", 8, "netpipe-openmpi", 2.0),
            row("bcast_us", 65536, "openmpi", 123.4),
        ];
        let rows: Vec<&Row> = rows.iter().collect();
        let expected = "
| shm | ours | openmpi | mpich | netpipe-openmpi |
| --- | ---: | ---: | ---: | ---: |
| latency, 8 B, µs | 0.500 | 0.250 (0.50) | 1.00 (2.00) |  |
| NetPIPE, latency, 8 B, µs | 0.500 |  |  | 2.00 (4.00) |
| bcast, 64 KiB, 2 ranks, µs | 0.500 | 123 (246.80) |  |  |
";
        assert_eq!(table("shm", &rows), expected);
    }
}
