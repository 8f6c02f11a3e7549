//! What a model said, made into what a person reads. Pure.

/// Marks that templates leave behind and no person should see.
const TEMPLATE_MARKS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<eom>",
    "<end_of_turn>",
    "<|start|>assistant",
    "<|channel|>final<|message|>",
];

/// Thoughts that are not for the reader, closed or not.
const HIDDEN: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("<internal>", "</internal>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
];

/// The part of a model's text that is meant for the reader; empty if there is none.
pub(super) fn visible(text: &str) -> String {
    let mut text = text.to_owned();
    for (open, close) in HIDDEN {
        text = without(&text, open, close);
    }
    for mark in TEMPLATE_MARKS {
        text = text.replace(mark, "");
    }
    text.trim().to_owned()
}

fn without(text: &str, open: &str, close: &str) -> String {
    let mut rest = text;
    // A template may have opened the thought itself, so that only its end is in the text. Other
    // marks end more than thoughts.
    if close.starts_with("</")
        && let Some(end) = rest.find(close)
        && rest.find(open).is_none_or(|start| end < start)
    {
        rest = &rest[end + close.len()..];
    }
    let mut kept = String::new();
    while let Some(start) = rest.find(open) {
        kept.push_str(&rest[..start]);
        match rest[start..].find(close) {
            Some(end) => rest = &rest[start + end + close.len()..],
            // Never closed: all of it is thought.
            None => rest = "",
        }
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_not_for_the_reader_closed_or_not() {
        assert_eq!(visible("<think>hm</think>Hello"), "Hello");
        assert_eq!(visible("hm</think>Hello"), "Hello");
        assert_eq!(visible("Hello <internal>never closed"), "Hello");
        assert_eq!(visible("<think>a</think>x<think>b</think>y<|im_end|>"), "xy");
        assert_eq!(visible("<think>all of it"), "");
    }
}
