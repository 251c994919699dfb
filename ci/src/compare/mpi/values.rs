//! What the programs print, each in a way of its own: the value, in the unit of the case's metric.

use serde_json::Value;

use super::super::MIB;
use super::cases::{Case, Metric};

/// A line of `ci/programs/pace.c`: `pace METRIC BYTES RANKS VALUE`
pub fn of_pace(case: &Case, output: &str) -> Option<f64> {
    let start = format!("pace {} {} {} ", case.metric.name(), case.bytes, case.ranks);
    let value = output.lines().find_map(|line| line.strip_prefix(&start))?;
    value.trim().parse().ok()
}

/// NetPIPE's `  0:       8 bytes   7715 times -->      8.82 Mbps in       6.92 usec`: half a round trip; of which
/// NetPIPE makes a bandwidth, in 2^20 bits a second. The one with more digits is taken.
pub fn of_netpipe(case: &Case, output: &str) -> Option<f64> {
    let said = format!(" {} bytes ", case.bytes);
    let line = output.lines().find(|line| line.contains(&said))?;
    let (_, results) = line.split_once("-->")?;
    let mut words = results.split_ascii_whitespace();
    let megabits: f64 = words.next()?.parse().ok()?;
    let microseconds: f64 = words.nth(2)?.parse().ok()?;
    let from_megabits = case.bytes as f64 * 8.0 / (megabits * MIB);
    let half_us = if megabits > microseconds {
        from_megabits
    } else {
        microseconds
    };
    Some(match case.metric {
        Metric::Latency => half_us,
        _ => case.bytes as f64 / half_us,
    })
}

/// What `meander-bench --json` says of a contender.
pub fn of_bench(contender: &str, output: &str) -> Option<f64> {
    let document: Value = serde_json::from_str(output).ok()?;
    let results = document["rows"][0]["results"].as_array()?;
    let mine = results
        .iter()
        .find(|result| result["contender"] == contender)?;
    mine["value"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::super::cases::Path;
    use super::*;

    fn case(metric: Metric, bytes: usize, ranks: u32) -> Case {
        Case {
            path: Path::Shm,
            metric,
            bytes,
            ranks,
        }
    }

    #[test]
    fn what_pace_prints_is_understood() {
        let output = "a warning\npace barrier 0 4 12.500000\n";
        let four = case(Metric::Barrier, 0, 4);
        assert_eq!(of_pace(&four, output), Some(12.5));
        assert_eq!(of_pace(&case(Metric::Barrier, 0, 8), output), None);
        assert_eq!(of_pace(&four, "pace barrier 0 4 what\n"), None);
    }

    #[test]
    fn what_netpipe_prints_is_understood() {
        let start = "0: here\nNow starting the main loop\n";
        let small = "  0:       8 bytes   7715 times -->      8.82 Mbps in       6.92 usec\n";
        let latency = case(Metric::Latency, 8, 2);
        let value = of_netpipe(&latency, &[start, small].concat()).unwrap();
        assert!((value - 6.92).abs() < 0.01, "{value}");
        // Of the time only two digits are printed here, and of the bandwidth five.
        let fast = "  0:       8 bytes 178329 times -->    325.05 Mbps in       0.19 usec\n";
        let value = of_netpipe(&latency, fast).unwrap();
        assert!((value - 0.18777).abs() < 1e-4, "{value}");
        let large = "  0:   65536 bytes    500 times -->  50000.00 Mbps in      10.00 usec\n";
        let value = of_netpipe(&case(Metric::Bandwidth, 65536, 2), large).unwrap();
        assert!((value - 50000.0 * MIB / 8.0).abs() < 1e-6, "{value}");
        assert_eq!(of_netpipe(&latency, start), None);
    }

    #[test]
    fn what_meander_bench_prints_is_understood() {
        let output = r#"{"rows":[{"results":[{"contender":"raw-memcpy","value":9.0},{"contender":"raw-ring","value":4.5}]}]}"#;
        assert_eq!(of_bench("raw-ring", output), Some(4.5));
        assert_eq!(of_bench("raw-socket", output), None);
    }
}
