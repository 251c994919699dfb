//! The program itself, briefly.

use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meander-bench"));
    command.args(arguments).env_remove("MEANDER_TRANSPORT");
    let output = command.output().expect("it starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).expect("text")
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&bench(&[arguments, &["--json"]].concat())).expect("JSON")
}

const BRIEF: [&str; 6] = ["--rounds", "1", "--messages", "50", "--pin", "none"];

#[test]
fn every_measure_over_every_transport() {
    for measure in ["latency", "bandwidth", "rate", "bidirectional"] {
        for (transport, raw) in [("tcp", "raw-socket"), ("shm", "raw-")] {
            let what = [measure, "--transport", transport, "--sizes", "8,100K,1M"];
            let document = json(&[&what[..], &BRIEF].concat());
            assert_eq!(document["measure"], measure);
            let rows = document["rows"].as_array().expect("rows");
            assert_eq!(rows.len(), 3);
            for row in rows {
                assert_eq!(row["transport"], transport);
                let results = row["results"].as_array().expect("results");
                let first = results[0]["contender"].as_str().expect("a name");
                assert!(first.starts_with(raw), "{first}");
                assert_eq!(results.last().expect("one")["contender"], "stream");
                for result in results {
                    assert!(result["value"].as_f64().expect("a number") > 0.0, "{row}");
                    assert_eq!(result["p999"].is_f64(), measure == "latency");
                }
            }
        }
    }
}

#[test]
fn a_move_is_measured_over_every_transport() {
    for transport in ["tcp", "shm"] {
        let what = ["migrate", "--transport", transport];
        let document = json(&[&what[..], &BRIEF].concat());
        let row = &document["rows"][0];
        assert_eq!(row["transport"], transport);
        assert_eq!(row["results"][1]["contender"], "stream");
        assert!(
            row["results"][1]["after"]["median"]
                .as_f64()
                .expect("a number")
                > 0.0
        );
        assert!(row["gap_ms"].as_f64().expect("a number") > 0.0);
        assert_eq!(row["trace"].as_array().expect("a trace").len(), 800);
    }
}

#[test]
fn a_sweep_as_a_table_and_as_csv() {
    let what = [
        "latency",
        "--transport",
        "tcp",
        "--sweep",
        "60..70",
        "--only",
        "stream",
    ];
    let what = [&what[..], &BRIEF].concat();
    let csv = bench(&[&what[..], &["--csv"]].concat());
    // 60, 61, 64, 67, 70, two contenders each, and the head.
    assert_eq!(csv.lines().count(), 1 + 5 * 2, "{csv}");
    let table = bench(&what);
    assert_eq!(table.lines().count(), 2 + 5 * 2, "{table}");
}

#[test]
fn a_report_is_drawn_of_what_was_measured() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (latency, moves, page) = (at("latency.json"), at("moves.json"), at("page.html"));
    let tcp = ["--transport", "tcp", "--json"];
    let sizes = ["latency", "--sizes", "8,64"];
    let measured = bench(&[&sizes[..], &tcp, &BRIEF].concat());
    std::fs::write(&latency, measured).expect("written");
    let measured = bench(&[&["migrate"], &tcp[..], &BRIEF].concat());
    std::fs::write(&moves, measured).expect("written");
    bench(&["report", &latency, &moves, "--output", &page]);
    let page = std::fs::read_to_string(&page).expect("a page");
    // Raw, two streams and their tails; and the move.
    assert_eq!(page.matches("<polyline").count(), 5 + 1);
    assert!(!page.contains("NaN"));
}
