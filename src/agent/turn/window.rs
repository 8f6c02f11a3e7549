//! The messages of a turn, kept within the model's window.
//!
//! What does not fit makes room in this order: results of earlier calls of this turn, the oldest
//! first, become short; then the past of the conversation goes. The newest result stays whole,
//! since the model has not read it yet, and the question is nobody's to cut.

use serde_json::Value;

use super::super::context::{BYTES_PER_TOKEN, size};

/// Share of the window, in percent, that all but the answer may fill.
const WINDOW_SHARE: usize = 75;
/// What stays of a result that is shortened, in bytes.
const SHORT: usize = 400;
/// Shorter than this, in bytes, a result is not worth shortening.
const WORTH: usize = 2 * SHORT;

/// The messages, the system prompt first.
#[derive(Debug)]
pub(super) struct Window {
    messages: Vec<Value>,
    /// How many messages of earlier turns stand between the system prompt and this turn.
    past: usize,
    /// What the messages may take, in bytes.
    room: usize,
}

impl Window {
    /// A turn that begins, in a window of `context` tokens. The descriptions of its tools take
    /// `tools` bytes.
    pub(super) fn new(
        system: Value,
        past: Vec<Value>,
        present: Value,
        context: u32,
        tools: usize,
    ) -> Self {
        let room = context as usize * BYTES_PER_TOKEN * WINDOW_SHARE / 100;
        let count = past.len();
        let messages = std::iter::once(system).chain(past).chain([present]).collect();
        Self { messages, past: count, room: room.saturating_sub(tools) }
    }

    pub(super) fn messages(&self) -> &[Value] {
        &self.messages
    }

    pub(super) fn push(&mut self, message: Value) {
        self.messages.push(message);
    }

    /// Says something more in the system prompt.
    pub(super) fn add_to_system(&mut self, text: &str) {
        let system = self.messages.first_mut().and_then(|system| system.get_mut("content"));
        if let Some(Value::String(system)) = system {
            system.push_str(text);
        }
    }

    /// Makes room where there is too little, and somewhat more: what a server read before, it need
    /// not read again as long as it stays the same.
    pub(super) fn fit(&mut self) {
        if size(&self.messages) > self.room {
            self.shrink(self.room / 4 * 3);
            if size(&self.messages) > self.room {
                self.forget_past();
            }
        }
    }

    /// Makes room although all seemed to fit: a server counted more. Says whether it could.
    pub(super) fn give_way(&mut self) -> bool {
        self.shrink(size(&self.messages) / 4 * 3) || self.forget_past()
    }

    /// Shortens old results until the messages take no more than `most` bytes. Says whether there
    /// was any.
    fn shrink(&mut self, most: usize) -> bool {
        let is_result = |message: &Value| message["role"] == "tool";
        let begin = (1 + self.past).min(self.messages.len());
        let newest = self.messages.iter().rposition(is_result).unwrap_or(begin);
        let mut size = size(&self.messages);
        let mut any = false;
        for result in self.messages[begin..newest.max(begin)].iter_mut().filter(|m| is_result(m)) {
            if size <= most {
                break;
            }
            if let Some(Value::String(text)) = result.get_mut("content")
                && text.len() > WORTH
            {
                let left_out = text.len();
                *text = shortened(text);
                size = size.saturating_sub(left_out - text.len());
                any = true;
            }
        }
        any
    }

    fn forget_past(&mut self) -> bool {
        let any = self.past > 0;
        self.messages.drain(1..=self.past);
        self.past = 0;
        any
    }
}

fn shortened(text: &str) -> String {
    let head = &text[..text.floor_char_boundary(SHORT)];
    let left_out = text.len() - head.len();
    format!(
        "{head}\n[{left_out} bytes of this earlier result were left out to make room. Call the tool \
         again if you need them.]"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(text: &str) -> Value {
        json!({"role": "tool", "content": text})
    }

    fn window(context: u32, results: &[usize]) -> Window {
        let past = vec![json!({"role": "user", "content": "before"}), result(&"p".repeat(900))];
        let question = json!({"role": "user", "content": "q".repeat(2_000)});
        let system = json!({"role": "system", "content": "You are Baby."});
        let mut window = Window::new(system, past, question, context, 0);
        for (number, length) in results.iter().enumerate() {
            window.push(json!({"role": "assistant", "content": number.to_string()}));
            window.push(result(&"é".repeat(length / 2)));
        }
        window
    }

    fn is_short(message: &Value) -> bool {
        message["content"].as_str().unwrap().contains("left out to make room")
    }

    #[test]
    fn old_results_become_short_until_the_rest_fits_and_the_newest_stays() {
        let mut window = window(8_192, &[5_000; 6]);
        window.fit();
        let short: Vec<bool> =
            window.messages.iter().skip(4).filter(|m| m["role"] == "tool").map(is_short).collect();
        assert_eq!(short, [true, true, true, true, true, false]);
        assert!(size(&window.messages) <= window.room);
        assert_eq!(window.messages[3]["content"], "q".repeat(2_000));
        assert!(!is_short(&window.messages[2]), "the past fits");
        let told = window.messages[5]["content"].as_str().unwrap().to_owned();
        assert!(told.starts_with("éé") && told.contains("[4600 bytes of this earlier"), "{told}");
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let mut window = window(32_768, &[5_000; 6]);
        let before = window.messages.clone();
        window.fit();
        assert_eq!(window.messages, before);
    }

    #[test]
    fn where_nothing_is_left_to_shorten_the_past_goes_and_the_question_stays() {
        let mut window = window(1_024, &[700, 6_000]);
        window.fit();
        assert_eq!(window.past, 0);
        assert_eq!(window.messages[1]["content"], "q".repeat(2_000));
        assert!(!window.messages.iter().any(is_short));
        assert!(!window.give_way(), "there is nothing more to leave out");
    }

    #[test]
    fn a_server_that_counts_more_is_given_way() {
        let mut window = window(1 << 20, &[5_000, 5_000]);
        assert!(window.give_way());
        assert!(is_short(&window.messages[5]) && !is_short(&window.messages[7]));
        assert!(window.past > 0);
        assert!(window.give_way());
        assert!(window.past == 0 && !window.give_way());
    }
}
