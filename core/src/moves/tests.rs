//! Both machines and a directory in one world, with everything going wrong at any point.
//!
//! A script of bytes chooses what happens next. Safety is checked after every step: never can both
//! the original and the copy run. Then the faults stop, and the move must come to an end.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::directory::{Directory, Entry, Identity, Request};
use crate::ids::{JobId, MoveId, NodeName, PortId};
use crate::location::Location;
use crate::time::Time;

const PORT: PortId = PortId(1);

struct World {
    now: Time,
    directory: Directory,
    directory_up: bool,
    source: Source,
    destination: Option<Destination>,
    to_guardian: VecDeque<ToGuardian>,
    from_guardian: VecDeque<FromGuardian>,
    connected: bool,
    told_lost: (bool, bool),
    original: Process,
    copy: Process,
    copy_died: bool,
    /// Effects taken and not yet answered.
    source_doing: VecDeque<SourceEffect>,
    destination_doing: VecDeque<DestinationEffect>,
    source_end: Option<SourceEnd>,
    destination_end: Option<DestinationEnd>,
    trace: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    None,
    Running,
    Held,
}

fn plan() -> Plan {
    Plan {
        port: PORT,
        from: Epoch(4),
        move_id: MoveId(1),
        reclaim_id: MoveId(2),
        here: NodeName("a".into()),
        host_pid: 10,
        there: NodeName("b".into()),
        shadow: None,
    }
}

impl World {
    fn new() -> World {
        let mut directory = Directory::default();
        let identity = Identity {
            job: JobId("j".into()),
            rank: 0,
            size: 2,
            program: "p".into(),
        };
        let location = Location {
            node: NodeName("a".into()),
            cards: vec![],
        };
        let entry = Entry {
            identity,
            epoch: Epoch(4),
            location,
            uid: 1,
            pid: 10,
            host_pid: 10,
            shadow: None,
        };
        directory.handle(Request::Register { port: PORT, entry });
        World {
            now: Time(0),
            directory,
            directory_up: true,
            source: Source::new(plan(), MoveLimits::default(), Time(0)),
            destination: None,
            to_guardian: VecDeque::new(),
            from_guardian: VecDeque::new(),
            connected: false,
            told_lost: (false, false),
            original: Process::Running,
            copy: Process::None,
            copy_died: false,
            source_doing: VecDeque::new(),
            destination_doing: VecDeque::new(),
            source_end: None,
            destination_end: None,
            trace: Vec::new(),
        }
    }

    fn over(&self) -> bool {
        self.source_end.is_some() && (self.destination.is_none() || self.destination_end.is_some())
    }

    fn epoch(&mut self) -> (Epoch, String) {
        match self.directory.handle(Request::Lookup { port: PORT }).0 {
            Reply::Found(Some(entry)) => (entry.epoch, entry.location.node.0),
            other => panic!("{other:?}"),
        }
    }

    /// One step, chosen by `choice`; `fault` (0: none) makes it go wrong.
    fn step(&mut self, choice: u8, fault: u8) {
        self.now = Time(self.now.0 + 20_000_000);
        match choice % 6 {
            0 => self.source_step(fault),
            1 => self.destination_step(fault),
            2 => {
                if let (true, Some(message)) = (self.connected, self.to_guardian.pop_front()) {
                    self.trace.push(format!("to guardian: {message:?}"));
                    self.destination.as_mut().unwrap().handle_source(message);
                }
            }
            3 => {
                if let (true, Some(message)) = (self.connected, self.from_guardian.pop_front()) {
                    self.trace.push(format!("from guardian: {message:?}"));
                    self.source.handle_guardian(self.now, message);
                }
            }
            4 => {
                if self.source.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.source.handle_timeout(self.now);
                }
                if let Some(destination) = &mut self.destination {
                    destination.handle_timeout(self.now);
                }
            }
            _ => self.mishap(fault),
        }
        self.report_lost();
        self.check();
    }

    fn mishap(&mut self, fault: u8) {
        match fault {
            1 => {
                self.trace.push("the link is lost for good".into());
                self.connected = false;
            }
            2 => self.directory_up = !self.directory_up,
            3 if self.copy == Process::Held => {
                self.trace.push("the held copy is killed".into());
                self.copy = Process::None;
                self.copy_died = true;
                let destination = self.destination.as_mut().unwrap();
                destination.handle_copy_ended(Trouble::new("killed"));
            }
            4 => self.now = Time(self.now.0 + 400_000_000_000),
            5 if self.source_end.is_none() => {
                self.trace.push("the owner of the move is killed".into());
                self.source = Source::recover(plan(), MoveLimits::default(), self.now);
                self.connected = false;
                self.told_lost.0 = true;
            }
            _ => {}
        }
    }

    fn report_lost(&mut self) {
        if self.connected || self.destination.is_none() {
            return;
        }
        if !self.told_lost.0 {
            self.told_lost.0 = true;
            self.source
                .handle_guardian_lost(self.now, Trouble::new("lost"));
        }
        if !self.told_lost.1 {
            self.told_lost.1 = true;
            self.destination
                .as_mut()
                .unwrap()
                .handle_source_lost(Trouble::new("lost"));
        }
    }

    fn source_step(&mut self, fault: u8) {
        let Some(effect) = self
            .source_doing
            .pop_front()
            .or_else(|| self.source.poll_effect())
        else {
            return;
        };
        self.trace.push(format!("source: {effect:?} fault {fault}"));
        let result = if fault == 1 {
            Err(Trouble::new("fault"))
        } else {
            Ok(())
        };
        let now = self.now;
        match effect {
            SourceEffect::Check => {
                if result.is_ok() {
                    self.destination =
                        Some(Destination::new(PORT, MoveId(1), MoveLimits::default()));
                    self.connected = true;
                }
                self.source.handle_checked(now, result);
            }
            SourceEffect::Suspend => self.source.handle_suspended(now, result),
            SourceEffect::Freeze => {
                // Held first, so that a failing dump leaves it held.
                self.original = Process::Held;
                self.source.handle_frozen(now, result);
            }
            SourceEffect::Copy => self.source.handle_copied(now, result),
            SourceEffect::Ask(request) => {
                let asked = self.ask(request, fault);
                self.source.handle_directory(now, asked);
            }
            SourceEffect::TellCommitted(epoch) => {
                self.to_guardian.push_back(ToGuardian::Committed { epoch });
            }
            SourceEffect::TellAbort(why) => self.to_guardian.push_back(ToGuardian::Abort { why }),
            SourceEffect::Resume { .. } => {
                self.original = Process::Running;
                self.source.handle_resumed(now, Ok(()));
            }
            SourceEffect::Shadow => {
                self.original = Process::None;
                self.source.handle_shadowed(now, result);
            }
            SourceEffect::Finish(end) => {
                assert_eq!(self.source_end.replace(end), None, "finished twice");
            }
        }
    }

    fn destination_step(&mut self, fault: u8) {
        let Some(destination) = &mut self.destination else {
            return;
        };
        let Some(effect) = self
            .destination_doing
            .pop_front()
            .or_else(|| destination.poll_effect())
        else {
            return;
        };
        self.trace
            .push(format!("destination: {effect:?} fault {fault}"));
        let failed = || Trouble::new("fault");
        match effect {
            DestinationEffect::Receive => {
                destination.handle_received(if fault == 1 { Err(failed()) } else { Ok(()) });
            }
            DestinationEffect::Restore if fault == 1 => {
                destination.handle_restored(Err(failed()));
            }
            DestinationEffect::Restore => {
                self.copy = Process::Held;
                destination.handle_restored(Ok((99, vec![])));
            }
            DestinationEffect::Tell(message) => self.from_guardian.push_back(message),
            DestinationEffect::Ask(request) => {
                let asked = self.ask(request, fault);
                let now = self.now;
                self.destination
                    .as_mut()
                    .unwrap()
                    .handle_directory(now, asked);
            }
            DestinationEffect::Release { .. } if fault == 1 || self.copy_died => {
                destination.handle_released(Err(failed()));
            }
            DestinationEffect::Release { .. } => {
                self.copy = Process::Running;
                destination.handle_released(Ok(()));
            }
            DestinationEffect::Discard => {
                assert_ne!(self.copy, Process::Running, "a running copy was discarded");
                self.copy = Process::None;
            }
            DestinationEffect::Finish(end) => {
                assert_eq!(self.destination_end.replace(end), None, "finished twice");
            }
        }
    }

    fn ask(&mut self, request: Request, fault: u8) -> Asked {
        if !self.directory_up || fault == 2 {
            return Asked::NotSent("down".into());
        }
        if fault == 3 {
            return Asked::Unknown("cut before it arrived".into());
        }
        let reply = self.directory.handle(request).0;
        self.trace.push(format!("directory: {reply:?}"));
        if fault == 4 {
            Asked::Unknown("the answer was lost".into())
        } else {
            Asked::Answered(reply)
        }
    }

    fn check(&self) {
        assert!(
            self.original != Process::Running || self.copy != Process::Running,
            "both run"
        );
    }

    /// No faults any more: the move must end, and the rank must run in one place.
    fn heal(&mut self) {
        self.directory_up = true;
        for round in 0..4000u32 {
            if self.over() {
                break;
            }
            self.step((round % 5) as u8, 0);
        }
        assert!(self.over(), "the move does not end");
        let (epoch, node) = self.epoch();
        match self.source_end.clone().unwrap() {
            SourceEnd::Moved {
                epoch: at,
                warnings,
                ..
            } => {
                assert_eq!((epoch, at, node.as_str()), (Epoch(5), Epoch(5), "b"));
                assert_eq!(self.original, Process::None);
                if warnings.is_empty() {
                    assert_eq!(self.copy, Process::Running);
                }
            }
            SourceEnd::RolledBack { .. } => {
                assert_eq!(node, "a");
                assert!(epoch == Epoch(4) || epoch == Epoch(6));
                assert_eq!(
                    (self.original, self.copy),
                    (Process::Running, Process::None)
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

fn run(script: &[(u8, u8)]) -> World {
    let mut world = World::new();
    for &(choice, fault) in script {
        if world.over() {
            break;
        }
        world.step(choice, fault);
    }
    world.heal();
    world
}

#[test]
fn a_move_without_faults_moves() {
    let world = run(&[]);
    let Some(SourceEnd::Moved {
        times, warnings, ..
    }) = &world.source_end
    else {
        panic!("{:#?}", world.trace)
    };
    assert!(warnings.is_empty());
    let phases: Vec<_> = times.phases().iter().map(|(phase, _)| *phase).collect();
    assert_eq!(phases, Phase::ALL);
    assert!(times.downtime().unwrap() > Duration::ZERO);
}

/// Runs fault-free until the source is in `phase`, then lets its next effect fail.
fn fail_in(phase: Phase) -> World {
    let mut world = World::new();
    for round in 0..4000u32 {
        if world.over() {
            break;
        }
        let fault = u8::from(round % 5 == 0 && world.source.phase() == phase);
        world.step((round % 5) as u8, fault);
    }
    world.heal();
    world
}

/// `[R28]`
#[test]
fn a_fault_of_the_source_rolls_back_before_the_commit_and_only_warns_after_it() {
    for phase in [Phase::Check, Phase::Suspend, Phase::Freeze, Phase::Copy] {
        let world = fail_in(phase);
        match world.source_end {
            Some(SourceEnd::RolledBack { phase: at, .. }) => assert_eq!(at, phase),
            other => panic!("{phase}: {other:?}"),
        }
    }
    let Some(SourceEnd::Moved { warnings, .. }) = fail_in(Phase::Shadow).source_end else {
        panic!("a shadow that can't be made does not undo the move")
    };
    assert_eq!(warnings.len(), 1);
}

#[test]
fn a_directory_that_is_down_rolls_back_after_a_while() {
    let mut world = World::new();
    world.directory_up = false;
    for round in 0..4000u32 {
        if world.over() {
            break;
        }
        world.step((round % 5) as u8, 0);
    }
    let Some(SourceEnd::RolledBack {
        phase: Phase::Commit,
        why,
        ..
    }) = world.source_end
    else {
        panic!("{:#?}", world.trace)
    };
    assert!(why.what.contains("directory"), "{why}");
}

#[test]
fn a_lost_answer_to_the_commit_is_asked_for_again() {
    let mut world = World::new();
    let mut lost = 0;
    for round in 0..4000u32 {
        if world.over() {
            break;
        }
        let committing = world.source.phase() == Phase::Commit && lost < 3;
        lost += u32::from(committing);
        world.step((round % 5) as u8, if committing { 4 } else { 0 });
    }
    assert!(
        matches!(world.source_end, Some(SourceEnd::Moved { .. })),
        "{:#?}",
        world.trace
    );
}

/// `[R29]`
#[test]
fn a_copy_killed_after_the_commit_brings_the_original_back() {
    let mut world = World::new();
    for round in 0..4000u32 {
        if world.over() {
            break;
        }
        let killed = world.epoch().0 == Epoch(5) && world.copy == Process::Held;
        if killed {
            world.step(5, 3);
        }
        world.step((round % 5) as u8, 0);
    }
    world.heal();
    assert_eq!(world.epoch(), (Epoch(6), "a".into()));
    assert!(matches!(
        world.source_end,
        Some(SourceEnd::RolledBack { .. })
    ));
}

#[test]
fn a_rank_that_ends_by_itself_ends_the_move() {
    let phases = [
        Phase::Check,
        Phase::Suspend,
        Phase::Freeze,
        Phase::Copy,
        Phase::Commit,
    ];
    for phase in phases {
        let mut world = World::new();
        let mut round = 0u8;
        while world.source.phase() != phase {
            assert!(!world.over(), "{phase} was left out");
            world.step(round % 5, 0);
            round = round.wrapping_add(1);
        }
        world.source.handle_ended(world.now);
        world.original = Process::None;
        for round in 0..100u8 {
            world.step(round % 5, 0);
        }
        assert!(
            matches!(world.source_end, Some(SourceEnd::Ended { .. })),
            "{phase}"
        );
        if world.destination.is_some() {
            let end = &world.destination_end;
            assert!(
                matches!(end, Some(DestinationEnd::Discarded { .. })),
                "{phase}"
            );
        }
        assert_eq!(
            (world.original, world.copy),
            (Process::None, Process::None),
            "{phase}"
        );
        assert_eq!(world.epoch().0, Epoch(4), "{phase}");
    }
}

#[test]
fn a_move_that_another_overtook_leaves_the_original_held() {
    let mut world = World::new();
    let (mut round, mut overtaken) = (0u32, false);
    while !world.over() && round < 4000 {
        if world.source.phase() == Phase::Commit && !overtaken {
            overtaken = true;
            let commit = crate::directory::Commit {
                move_id: MoveId(77),
                from: Epoch(4),
                node: NodeName("c".into()),
                host_pid: 1,
                shadow: None,
            };
            world
                .directory
                .handle(Request::Commit { port: PORT, commit });
        }
        world.step((round % 5) as u8, 0);
        round += 1;
    }
    assert!(
        matches!(world.source_end, Some(SourceEnd::Fenced { .. })),
        "{:#?}",
        world.trace
    );
    assert_eq!((world.original, world.copy), (Process::Held, Process::None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// `[R27]`
    #[test]
    fn never_two_live_copies_and_always_an_end(
        script in proptest::collection::vec(
            (0..6u8, prop_oneof![12 => Just(0u8), 1 => 1..6u8]), 0..160)
    ) {
        run(&script);
    }

    #[test]
    fn the_same_under_heavy_fire(
        script in proptest::collection::vec((0..6u8, 0..6u8), 0..120)
    ) {
        run(&script);
    }
}
