//! Questions to the directory: they may not get there, and their answers may be lost.

use meander_core::PortId;
use meander_core::directory::Request as Question;
use meander_core::moves::Asked;

use crate::world::{Later, World};

/// Who asks. The number counts his lives: an answer to one who was killed reaches nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker {
    /// The owner of a move.
    Mover(usize, u32),
    /// The guardian of a move.
    Guardian(usize, u32),
    /// The agent of a node.
    Agent(usize, u32),
    /// Somebody who has died since.
    Nobody,
}

#[derive(Clone, Debug)]
pub(crate) enum Asking {
    Question(Question),
    Answer(Asked),
}

/// How long a question may be on its way, in microseconds.
const LATE_US: u64 = 80_000;

impl World {
    /// A question goes out.
    pub(crate) fn ask(&mut self, asker: Asker, question: Question) {
        let reached = self
            .node_of(asker)
            .is_some_and(|node| self.reaches_directory(node));
        if !reached || self.mishap(8, "fault: directory not reached") {
            self.coverage.hit("fault: directory not reached");
            return self.answer(asker, Asked::NotSent("out of reach".to_owned()));
        }
        let decides = matches!(question, Question::Commit { .. });
        let late = decides && self.mishap(12, "fault: question comes late");
        let pause = self.pause(if late { LATE_US } else { 4000 });
        self.at(pause, Later::Asking(asker, Asking::Question(question)));
    }

    /// A question that whoever asked it did not outlive.
    pub(crate) fn asked_in_vain(&mut self, question: Question) {
        let pause = self.pause(LATE_US);
        self.at(
            pause,
            Later::Asking(Asker::Nobody, Asking::Question(question)),
        );
    }

    pub(crate) fn asking(&mut self, asker: Asker, asking: Asking) {
        match asking {
            Asking::Question(question) => {
                let text = format_args!("{asker:?}: {question:?}");
                self.trace.note(self.now, "question", &[], text);
                let port = port_of(&question);
                let reply = self.directory.ask(question);
                if let Some(port) = port {
                    self.look_whether_ended(port);
                }
                if !self.directory.is_up() {
                    self.directory_goes_down();
                }
                let lost = self.mishap(8, "fault: directory's answer lost");
                self.answer(
                    asker,
                    match reply {
                        Some(reply) if !lost => Asked::Answered(reply),
                        _ => Asked::Unknown("no answer".to_owned()),
                    },
                );
            }
            Asking::Answer(asked) => {
                let text = format_args!("{asker:?}: {asked:?}");
                self.trace.note(self.now, "answer", &[], text);
                self.answered(asker, asked);
            }
        }
    }

    fn answer(&mut self, asker: Asker, asked: Asked) {
        let pause = self.pause(4000);
        self.at(pause, Later::Asking(asker, Asking::Answer(asked)));
    }

    fn answered(&mut self, asker: Asker, asked: Asked) {
        let now = self.now;
        match asker {
            Asker::Mover(number, life) => {
                if let Some(moving) = self.movings.get_mut(&number)
                    && let (true, Some(source)) = (moving.lives[0] == life, &mut moving.source)
                {
                    source.handle_directory(now, asked);
                }
            }
            Asker::Guardian(number, life) => {
                if let Some(moving) = self.movings.get_mut(&number)
                    && let (true, Some(guardian)) = (moving.lives[1] == life, &mut moving.guardian)
                {
                    guardian.handle_directory(now, asked);
                }
            }
            Asker::Agent(node, life) => self.burial_answered(node, life, asked),
            Asker::Nobody => {}
        }
    }

    fn node_of(&self, asker: Asker) -> Option<usize> {
        match asker {
            Asker::Mover(number, _) => Some(self.movings.get(&number)?.here),
            Asker::Guardian(number, _) => Some(self.movings.get(&number)?.there),
            Asker::Agent(node, _) => Some(node),
            Asker::Nobody => None,
        }
    }

    /// Whether a node can reach the directory's process, which lives on node 0.
    pub(crate) fn reaches_directory(&self, node: usize) -> bool {
        self.directory.is_up() && !self.is_parted(node, 0)
    }
}

fn port_of(question: &Question) -> Option<PortId> {
    match question {
        Question::Register { port, .. }
        | Question::Locate { port, .. }
        | Question::Commit { port, .. }
        | Question::Settle { port, .. }
        | Question::Lookup { port }
        | Question::Remove { port, .. } => Some(*port),
        Question::List { .. } => None,
    }
}
