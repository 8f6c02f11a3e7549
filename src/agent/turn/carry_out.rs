//! The calls of an answer: each runs once, between two entries in the host's journal.

use serde_json::{Value, json};

use super::super::call::Call;
use super::super::limits;
use super::super::model::Reply;
use super::super::tools::{Bounds, CallOutcome, CallPlace};
use super::words::INTERRUPTED;
use super::{Progress, Turn, TurnError};
use crate::protocol::{Event, Failure, JournalRound, Limit};

/// Calls of one answer that are run; the rest are refused.
const CALLS_MAX: usize = 4;
/// The same call with the same result this often in a row: the model is told.
const REPEATS_TOLD: usize = 3;
/// The same call with the same result this often in a row: the turn ends.
const REPEATS_MAX: usize = 5;

impl Turn<'_> {
    /// Takes over a round of an earlier attempt.
    pub(super) async fn go_on(
        &mut self,
        progress: &mut Progress,
        earlier: &JournalRound,
    ) -> Result<(), TurnError> {
        progress.round = earlier.round + 1;
        self.remember(progress, earlier.message.clone());
        for (index, call) in (0_u32..).zip(calls_of(&earlier.message)) {
            let known = earlier.calls.iter().find(|known| known.index == index);
            let result = match known.map(|known| known.result.clone()) {
                Some(Some(result)) => result,
                Some(None) if self.tools.may_be_repeated(&call.tool) => {
                    self.finish_call(progress, earlier.round, index, &call).await?
                }
                Some(None) => {
                    let result = INTERRUPTED.to_owned();
                    let round = earlier.round;
                    self.report(Event::CallEnded { round, index, result: result.clone() }).await?;
                    result
                }
                None => self.run_call(progress, earlier.round, index, &call).await?,
            };
            self.remember(progress, result_message(&call, &result));
        }
        Ok(())
    }

    /// Runs the calls of an answer, in order.
    pub(super) async fn run_calls(
        &mut self,
        progress: &mut Progress,
        reply: &Reply,
    ) -> Result<(), TurnError> {
        let round = progress.round;
        progress.round += 1;
        let message = call_message(reply);
        self.report(Event::Round { round, message: message.clone() }).await?;
        self.remember(progress, message);
        for (index, call) in (0_u32..).zip(&reply.calls) {
            let result = self.run_call(progress, round, index, call).await?;
            self.remember(progress, result_message(call, &result));
        }
        self.break_loops(progress)
    }

    /// Runs one call between two entries in the journal.
    async fn run_call(
        &mut self,
        progress: &mut Progress,
        round: u32,
        index: u32,
        call: &Call,
    ) -> Result<String, TurnError> {
        let (tool, arguments) = (call.tool.clone(), call.arguments.clone());
        let began = Event::CallBegan { round, index, tool, arguments };
        if let Some(result) = self.why_skipped(index) {
            // In the journal too: what was skipped is not made up for after a restart.
            let ended = Event::CallEnded { round, index, result: result.clone() };
            self.link.report(&self.order.turn, &[began, ended]).await?;
            return Ok(result);
        }
        self.report(began).await?;
        self.finish_call(progress, round, index, call).await
    }

    /// Runs a call that is in the journal as begun.
    async fn finish_call(
        &mut self,
        progress: &mut Progress,
        round: u32,
        index: u32,
        call: &Call,
    ) -> Result<String, TurnError> {
        let place = CallPlace { turn: &self.order.turn, round, index };
        let (limits, disk) = self.limits;
        let before = limits.count();
        let room = disk.room().await;
        let bounds = Bounds { disk, room, cancel: &self.cancel };
        let mut result = match self.tools.call(&call.tool, &call.arguments, place, bounds).await {
            CallOutcome::Result(result) => result,
            CallOutcome::Cancelled => return Err(TurnError::cancelled()),
        };
        let mut struck = limits.count().since(before);
        for limit in &struck {
            result.push_str(&format!("\n[{}]", limits::words(*limit)));
        }
        if let Some((words, grew)) = disk.verdict(room).await {
            result.push_str(&format!("\n[{words}]"));
            struck.extend(grew.then_some(Limit::Disk));
        }
        let mut events: Vec<Event> =
            struck.into_iter().map(|limit| Event::Struck { limit }).collect();
        events.push(Event::CallEnded { round, index, result: result.clone() });
        self.link.report(&self.order.turn, &events).await?;
        progress.recent.push(format!("{}\0{}\0{result}", call.tool, call.arguments));
        Ok(result)
    }

    /// Why a call is not run, if it is not.
    fn why_skipped(&self, index: u32) -> Option<String> {
        if index as usize >= CALLS_MAX {
            Some(format!("skipped: at most {CALLS_MAX} calls at once"))
        } else if self.steering.is_waiting() {
            Some("skipped: the user sent a new message".to_owned())
        } else {
            None
        }
    }

    fn break_loops(&self, progress: &mut Progress) -> Result<(), TurnError> {
        let Some(last) = progress.recent.last() else { return Ok(()) };
        let repeats = progress.recent.iter().rev().take_while(|recent| *recent == last).count();
        if repeats >= REPEATS_MAX {
            return Err(TurnError::Failed {
                reason: Failure::Answer,
                message: format!("the model made the same call {repeats} times in a row"),
            });
        }
        if repeats >= REPEATS_TOLD {
            let content = format!(
                "You made the same call {repeats} times with the same result. \
                 Do something else, or answer."
            );
            progress.window.push(json!({"role": "user", "content": content}));
        }
        Ok(())
    }
}

/// The assistant's message with its calls, as it goes back to the model and into the journal.
fn call_message(reply: &Reply) -> Value {
    let calls: Vec<Value> = (0..)
        .zip(&reply.calls)
        .map(|(index, call)| {
            json!({"id": call.id, "function": {
                "index": index, "name": call.tool, "arguments": call.arguments,
            }})
        })
        .collect();
    json!({"role": "assistant", "content": reply.content, "tool_calls": calls})
}

/// The calls of a message made by [`call_message`].
fn calls_of(message: &Value) -> Vec<Call> {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    calls
        .iter()
        .map(|call| Call {
            id: text(&call["id"]),
            tool: text(&call["function"]["name"]),
            arguments: call["function"]["arguments"].clone(),
        })
        .collect()
}

fn result_message(call: &Call, result: &str) -> Value {
    json!({"role": "tool", "tool_name": call.tool, "tool_call_id": call.id, "content": result})
}
