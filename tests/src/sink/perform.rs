//! Asking the script what to do, and doing it.

use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, PoisonError};

use super::script::{Action, Event, Phase};
use super::session::{Answer, Answered, Envelope, Session};

impl Session<'_> {
    /// Answers a command as the script says, or as `usual`.
    pub(super) fn answer(&mut self, phase: Phase, command: &str, usual: &str) -> Answered {
        let action = self.action(phase, command, &self.envelope, &[]);
        self.perform(action, Some(usual))
    }

    pub(super) fn action(
        &self,
        phase: Phase,
        command: &str,
        envelope: &Envelope,
        data: &[u8],
    ) -> Action {
        // Not under the lock: scripts may block.
        let script = self
            .state
            .script
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(Arc::clone);
        let Some(script) = script else {
            return Action::Accept;
        };
        script(&Event {
            connection: self.number,
            phase,
            command,
            sender: &envelope.sender,
            recipients: &envelope.recipients,
            data,
            mails: self.mails,
        })
    }

    /// Does it; `usual` is how one agrees, if by words.
    pub(super) fn perform(&mut self, action: Action, usual: Option<&str>) -> Answered {
        let mut answer = Answer::NONE;
        match action {
            Action::Accept => {
                if let Some(usual) = usual {
                    answer.digit = self.write(usual.as_bytes(), "\r\n");
                }
            }
            Action::AcceptSilently => {
                answer.digit = usual.map_or(0, |usual| usual.as_bytes()[0]);
                self.keep();
            }
            Action::Reply(reply) => answer.digit = self.write(reply.as_bytes(), "\r\n"),
            Action::Bytes(bytes) => answer.digit = self.write(&bytes, ""),
            Action::After(pause, action) => {
                self.flush()?;
                std::thread::sleep(pause);
                answer = self.perform(*action, usual)?;
            }
            Action::Then(first, second) => {
                answer = self.perform(*first, usual)?;
                if !answer.last {
                    answer.last = self.perform(*second, usual)?.last;
                }
            }
            Action::Silence => {
                self.flush()?;
                let mut rest = [0; 4096];
                while self.stream.read(&mut rest)? > 0 {}
                answer.last = true;
            }
            Action::Drop => answer.last = true,
            Action::AcceptAndDrop => {
                self.keep();
                answer.last = true;
            }
            Action::ReplyAndDrop(reply) => {
                answer.digit = self.write(reply.as_bytes(), "\r\n");
                answer.last = true;
            }
        }
        Ok(answer)
    }

    fn write(&mut self, reply: &[u8], end: &str) -> u8 {
        self.output.extend_from_slice(reply);
        self.output.extend_from_slice(end.as_bytes());
        let digit = reply.first().copied().unwrap_or_default();
        match digit {
            0 => {}
            b'2' => self.keep(),
            _ => self.offered = None,
        }
        digit
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output)?;
            self.stream.flush()?;
            self.output.clear();
        }
        Ok(())
    }
}
