//! From DATA's 354 to the verdict: the text, the final dot, what is chained behind it, and the reply.

use super::Session;
use crate::{Message, Phase, Protocol, encode::BodyEncoder, plan::Plan, turn::Turn, wire::Broken};

/// How much of a body is encoded and written at a time, each block with its own deadline.
const BLOCK: usize = 64 * 1024;

impl Session {
    /// The text, the final dot, and behind it the commands for `next`; then the reply to the dot.
    pub(super) async fn body(
        &mut self,
        message: &Message,
        next: Option<&Message>,
        turn: &mut Turn,
    ) {
        let mut encoder = BodyEncoder::default();
        self.wire
            .note(|| format!("message text, {} octets", message.data.len()));
        let mut blocks = message.data.blocks().iter().flat_map(|b| b.chunks(BLOCK));
        let (mut block, mut first) = (blocks.next().unwrap_or_default(), true);
        for following in blocks {
            self.wire.begin();
            encoder.encode(block, &mut self.wire.out);
            if !self.write_block(first, turn).await {
                return;
            }
            (block, first) = (following, false);
        }
        self.wire.begin();
        encoder.encode(block, &mut self.wire.out);
        encoder.finish(&mut self.wire.out);
        self.wire.mark_dot();
        if let Some(next) = next {
            self.chain(next);
        }
        if self.write_block(first, turn).await {
            self.judgement(turn).await;
        }
    }

    /// Appends the commands for the next message, if all of them fit one group.
    fn chain(&mut self, next: &Message) {
        let plan = Plan::new(next, &self.extensions);
        if plan.is_empty() {
            return;
        }
        let end = plan.write_group(next, 1, true, &mut self.chained);
        if end <= plan.data() {
            self.chained.clear();
        }
        let start = self.wire.out.len();
        self.wire.out.extend_from_slice(&self.chained);
        self.wire.record_commands(start);
    }

    /// Writes a block of the text. False: the turn is over, and so is the session.
    async fn write_block(&mut self, first: bool, turn: &mut Turn) -> bool {
        if !first && !self.is_our_turn(turn, Phase::Body).await {
            return false;
        }
        let (patience, doing) = (self.timeouts.data_block, "sending the message");
        let broken = match self.wire.write_text(patience, doing).await {
            Ok(true) => return true,
            // It does not want the rest.
            Ok(false) => return self.is_our_turn(turn, Phase::Body).await,
            Err(broken) => broken,
        };
        if self.wire.dot_is_out() {
            // Only the next message's commands failed; the reply to this one may still come.
            self.judgement(turn).await;
            self.wire.give_up();
            return false;
        }
        let said = self.wire.farewell().await;
        turn.lost_saying(self.kept, Phase::Body, said, broken.detail);
        false
    }

    /// Reads the reply to the final dot, or in LMTP the replies.
    async fn judgement(&mut self, turn: &mut Turn) {
        if self.protocol == Protocol::Lmtp {
            return self.judgements(turn).await;
        }
        match self
            .wire
            .read(self.timeouts.data_done, "the final dot")
            .await
        {
            Ok(reply) if reply.code == 421 => {
                self.wire.clear_dot();
                self.wire.give_up();
                turn.closing(Phase::Dot, reply);
            }
            Ok(reply) => {
                turn.judge(Phase::Dot, &reply);
                if reply.code / 100 == 3 {
                    self.wire.give_up();
                } else {
                    self.wire.clear_dot();
                }
            }
            Err(Broken { detail }) => turn.uncertain(&detail),
        }
    }

    /// Reads a reply for each accepted recipient (RFC 2033 §4.2). After a 421 only those count that have
    /// come with it.
    async fn judgements(&mut self, turn: &mut Turn) {
        let (mut replies, mut closing, mut unsure) = (vec![], false, String::new());
        while replies.len() < turn.undecided() {
            let to = "the final dot";
            let read = if closing {
                self.wire.read_soon(to).await
            } else {
                self.wire.read(self.timeouts.data_done, to).await
            };
            match read {
                Ok(reply) => {
                    closing |= reply.code == 421 || reply.code / 100 == 3;
                    replies.push(reply);
                }
                Err(Broken { detail }) => {
                    unsure = detail;
                    break;
                }
            }
        }
        let odd = replies.iter().any(|reply| reply.code / 100 == 3);
        if unsure.is_empty() && !odd {
            self.wire.clear_dot();
        }
        if closing {
            self.wire.give_up();
        }
        turn.judge_each(replies, &unsure);
    }
}
