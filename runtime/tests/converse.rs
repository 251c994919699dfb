//! The example, as three processes.

use std::process::Command;

#[test]
fn two_processes_converse_and_one_is_replaced() {
    let output = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--package",
            "meander-streams",
            "--example",
            "converse",
        ])
        .env("MEANDER_TCP_ADDR", "127.0.0.1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}");
    assert!(
        said.ends_with("all 20000 answers came, once each and in order\n"),
        "{said}"
    );
    assert!(said.contains("another process attaches it"));
}
