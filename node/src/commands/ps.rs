//! `meander ps`: the jobs, where their ranks are, and how often they have moved.

use std::collections::BTreeMap;

use meander::{NodeName, PortId};
use meander_core::directory::Entry;
use serde_json::{Value, json};

use super::{exit, say};
use crate::Error;
use crate::user::{self, FromUser, Health, Reason, ToUser};

/// Prints a table, or JSON. Returns the exit code.
pub fn run(as_json: bool) -> Result<u8, Error> {
    let mut stream = user::ask(&FromUser::List)?;
    let mut ranks = Vec::new();
    let mut unwell = BTreeMap::new();
    while let Some(message) = user::hear(&mut stream)? {
        match message {
            ToUser::Ranks(more) => ranks.extend(more),
            ToUser::Unwell(nodes) => unwell.extend(nodes),
            ToUser::Refused { reason, why } => {
                say(&why.what, &why.mend);
                return Ok(code(reason));
            }
            other => {
                let why = format!("answered {other:?}");
                return Err(Error::Protocol {
                    peer: "the agent".into(),
                    why,
                });
            }
        }
    }
    ranks.sort_by(|(_, a), (_, b)| order(a).cmp(&order(b)));
    if as_json {
        println!("{:#}", to_json(&ranks, &unwell));
    } else {
        print!("{}", to_table(&ranks, &unwell));
    }
    Ok(exit::DONE)
}

/// The exit code for a refusal.
pub(super) fn code(reason: Reason) -> u8 {
    match reason {
        Reason::NotPossible => exit::NOT_POSSIBLE,
        Reason::Unreachable => exit::UNREACHABLE,
    }
}

fn order(entry: &Entry) -> (&str, u32) {
    (&entry.identity.job.0, entry.identity.rank)
}

/// The nodes that are not well.
type Unwell = BTreeMap<NodeName, Health>;

fn to_json(ranks: &[(PortId, Entry)], unwell: &Unwell) -> Value {
    let mut jobs: BTreeMap<&str, Vec<&(PortId, Entry)>> = BTreeMap::new();
    for rank in ranks {
        jobs.entry(&rank.1.identity.job.0).or_default().push(rank);
    }
    let jobs = jobs.into_iter().map(|(job, ranks)| {
        let first = &ranks[0].1;
        let (program, size) = (&first.identity.program, first.identity.size);
        let ranks: Vec<Value> = ranks
            .iter()
            .map(|(port, entry)| rank_json(*port, entry, unwell))
            .collect();
        json!({"job": job, "program": program, "size": size, "ranks": ranks})
    });
    json!({ "jobs": jobs.collect::<Vec<_>>() })
}

fn rank_json(port: PortId, entry: &Entry, unwell: &Unwell) -> Value {
    let shadow = entry.shadow.as_ref();
    json!({
        "rank": entry.identity.rank,
        "node": entry.location.node.0,
        "pid": entry.host_pid,
        "own_pid": entry.pid,
        "epoch": entry.epoch.0,
        "uid": entry.uid,
        "state": state(entry, unwell),
        "shadow": shadow.map(|s| json!({"node": s.node.0, "pid": s.host_pid})),
        "port": port.to_string(),
    })
}

/// A rank without a way to reach it is between two places. What is known of one on a node that is
/// not heard of is old.
fn state(entry: &Entry, unwell: &Unwell) -> &'static str {
    match unwell.get(&entry.location.node) {
        Some(Health::Dead) => "dead",
        Some(Health::NoAgent) => "no agent",
        None if entry.location.cards.is_empty() => "moving",
        None => "running",
    }
}

fn to_table(ranks: &[(PortId, Entry)], unwell: &Unwell) -> String {
    if ranks.is_empty() {
        return "no ranks (they appear once they have found an agent)\n".into();
    }
    let header = [
        "JOB", "RANK", "NODE", "PID", "MOVES", "STATE", "SHADOW", "PROGRAM",
    ];
    let mut rows = vec![header.map(String::from)];
    rows.extend(ranks.iter().map(|(_, entry)| {
        let shadow = entry.shadow.as_ref();
        [
            entry.identity.job.to_string(),
            format!("{}/{}", entry.identity.rank, entry.identity.size),
            entry.location.node.to_string(),
            entry.host_pid.to_string(),
            entry.epoch.to_string(),
            state(entry, unwell).into(),
            shadow.map_or("-".into(), |s| format!("{}:{}", s.node, s.host_pid)),
            entry.identity.program.clone(),
        ]
    }));
    let widths: Vec<usize> = (0..8)
        .map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0))
        .collect();
    let mut table = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        table += line.trim_end();
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use meander::{Epoch, JobId, Location};
    use meander_core::Identity;
    use meander_core::directory::Shadow;

    use super::*;

    fn ranks() -> Vec<(PortId, Entry)> {
        let entry = |rank, node: &str, shadow| Entry {
            identity: Identity {
                job: JobId("0a1b2c3d".into()),
                rank,
                size: 2,
                program: "heat2d".into(),
            },
            epoch: Epoch(u64::from(rank)),
            location: Location {
                node: NodeName(node.into()),
                cards: vec![],
            },
            uid: 1000,
            pid: 7,
            host_pid: 4711,
            shadow,
        };
        let shadow = Shadow {
            node: NodeName("b".into()),
            host_pid: 99,
        };
        vec![
            (PortId(1), entry(0, "a", None)),
            (PortId(2), entry(1, "c", Some(shadow))),
        ]
    }

    #[test]
    fn the_table_lines_up() {
        let expected = "\
JOB       RANK  NODE  PID   MOVES  STATE   SHADOW  PROGRAM
0a1b2c3d  0/2   a     4711  0      moving  -       heat2d
0a1b2c3d  1/2   c     4711  1      dead    b:99    heat2d
";
        let unwell = Unwell::from([(NodeName("c".into()), Health::Dead)]);
        assert_eq!(to_table(&ranks(), &unwell), expected);
    }

    #[test]
    fn the_json_has_jobs_with_their_ranks() {
        let json = to_json(&ranks(), &Unwell::new());
        let job = &json["jobs"][0];
        assert_eq!(
            (job["job"].as_str(), job["size"].as_u64()),
            (Some("0a1b2c3d"), Some(2))
        );
        assert_eq!(job["ranks"][1]["node"], "c");
        assert_eq!(job["ranks"][1]["pid"], 4711);
        assert_eq!(job["ranks"][1]["epoch"], 1);
        assert_eq!(job["ranks"][1]["shadow"]["node"], "b");
        assert_eq!(job["ranks"][0]["shadow"], Value::Null);
    }
}
