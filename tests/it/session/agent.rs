//! What an agent makes of a model that is not at its best.

use super::*;
use crate::support::workshop::lines;

/// Asks once, with these answers of the model in turn, and gives what came of it and all that
/// the model was told.
async fn play(answers: Vec<Reply>) -> (Workshop, Worked, Vec<Vec<String>>) {
    let (shop, mut fake) = with_fake(Limits::default()).await;
    let count = answers.len();
    for answer in answers {
        fake.answer("/api/chat", answer);
    }
    shop.say("the question").await;
    let mut worker = shop.worker();
    let worked = shop.work(&mut worker).await;
    worker.rest().await;
    let mut requests = Vec::new();
    for _ in 0..count {
        requests.push(told(&fake.received().await));
    }
    assert!(!fake.was_asked(), "the model was asked more often than it has answers");
    (shop, worked, requests)
}

async fn reply(answers: Vec<Reply>) -> (String, Vec<Vec<String>>) {
    let (shop, worked, requests) = play(answers).await;
    assert_eq!(worked, Worked::Answered);
    let posts = shop.posts().await;
    let [(PostKind::Reply, reply)] = &posts[..] else { panic!("{posts:?}") };
    (reply.clone(), requests)
}

fn empty() -> Reply {
    lines(&[json!({"message": {"role": "assistant", "content": ""}, "done": true,
                   "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 9})])
}

fn chunk(text: &str) -> Value {
    json!({"message": {"role": "assistant", "content": text}, "done": false})
}

#[tokio::test]
async fn an_empty_answer_is_asked_for_again_and_at_last_admitted() {
    let (text, requests) = reply(vec![empty(), empty(), says("At last.")]).await;
    assert_eq!(text, "At last.");
    assert!(requests[2].last().unwrap().contains("the message was empty"), "{requests:?}");

    let (shop, worked, _) = play(vec![empty(), empty(), empty()]).await;
    let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
    assert!(why.starts_with("the model gave nothing usable 3 times"), "{why}");
    assert_eq!(shop.posts().await[0].0, PostKind::Notice);
}

#[tokio::test]
async fn a_server_that_fails_or_is_busy_is_asked_again() {
    let busy =
        json!({"error": "server busy, please try again.  maximum pending requests exceeded"});
    let broken =
        json!({"error": "an error was encountered while running the model: unexpected EOF"});
    for failure in [
        Reply::json(503, &busy),
        lines(&[chunk("half an "), broken]),
        lines(&[chunk("half an ")]),
        Reply::steps([Step::Chunk(format!("{}\n", chunk("half an ")).into_bytes()), Step::Break]),
    ] {
        let (text, requests) = reply(vec![failure, says("Whole.")]).await;
        assert_eq!(text, "Whole.");
        assert_eq!(requests[0], requests[1], "nothing of the half answer is left");
    }
}

#[tokio::test]
async fn wrong_calls_are_explained_to_the_model() {
    let wrong = calls(&[
        ("launch_rocket", json!({"target": "moon"})),
        ("bb_write_file", json!({"path": "a", "text": "b"})),
        ("BB-Read-File", json!({"path": "missing", "limit": "5"})),
    ]);
    let (text, requests) = reply(vec![wrong, says("Sorry.")]).await;
    assert_eq!(text, "Sorry.");
    let [.., rocket, write, read] = &requests[1][..] else { panic!("{requests:?}") };
    assert!(rocket.contains("there is no tool `launch_rocket`; there are: bb_"), "{rocket}");
    assert!(write.contains("unknown field `text`"), "{write}");
    assert!(read.contains("missing") && !read.contains("limit"), "{read}");
}

#[tokio::test]
async fn at_most_four_calls_run_at_once() {
    let many: Vec<(&str, Value)> =
        (0..6).map(|n| ("bb_shell", json!({"command": format!("echo {n} >> ran")}))).collect();
    let (shop, _, requests) = play(vec![calls(&many), says("Done.")]).await;
    assert_eq!(std::fs::read_to_string(shop.file("ran")).unwrap(), "0\n1\n2\n3\n");
    let skipped = "tool: skipped: at most 4 calls at once";
    assert_eq!(requests[1].iter().filter(|told| *told == skipped).count(), 2);
}

#[tokio::test]
async fn a_model_that_turns_in_circles_is_told_and_then_stopped() {
    let (shop, worked, requests) = play((0..5).map(|_| shell("echo same")).collect()).await;
    let why = "the model made the same call 5 times in a row";
    assert_eq!(worked, Worked::GivenUp(why.to_owned()));
    assert_eq!(shop.posts().await, [(PostKind::Notice, format!("I could not answer: {why}."))]);
    let hint = "You made the same call 3 times with the same result";
    assert!(requests[3].last().unwrap().contains(hint), "{:?}", requests[3]);
}

#[tokio::test]
async fn after_25_rounds_the_model_answers_without_tools() {
    let (shop, mut fake) = with_fake(Limits::default()).await;
    for round in 0..25 {
        fake.answer("/api/chat", shell(&format!("echo {round}")));
    }
    fake.answer("/api/chat", says("<tool_call>{\"name\": \"bb_shell\", \"arguments\": {}}"));
    fake.answer("/api/chat", says("This is how far I got."));
    let mut worker = shop.worker();
    assert_eq!(shop.ask(&mut worker, "never stop").await, "This is how far I got.");
    worker.rest().await;
    for _ in 0..25 {
        assert!(fake.received().await.body["tools"].is_array());
    }
    let last = fake.received().await;
    assert!(last.body.get("tools").is_none_or(Value::is_null), "{}", last.body["tools"]);
    assert!(told(&last).last().unwrap().contains("You have used all your tool calls"));
}

#[tokio::test]
async fn a_cut_answer_says_so() {
    let last = json!({"message": {"role": "assistant", "content": ""}, "done": true,
                      "done_reason": "length", "prompt_eval_count": 5, "eval_count": 9});
    let (text, _) = reply(vec![lines(&[chunk("It is a long"), last])]).await;
    assert_eq!(text, "It is a long […]");
    let (text, _) = reply(vec![lines(&vec![chunk("spam "); 60])]).await;
    let why = "[…]\n\n(The model kept repeating itself, so its answer was cut here.)";
    assert!(text.starts_with("spam spam") && text.ends_with(why), "{text}");
}

#[tokio::test]
async fn thoughts_are_not_part_of_the_answer() {
    let thinking = json!({"message": {"role": "assistant", "content": "", "thinking": "hm"},
                          "done": false});
    let last = json!({"message": {"role": "assistant", "content": ""}, "done": true,
                      "done_reason": "stop"});
    let answer = lines(&[thinking, chunk("<think>\nsecret"), chunk("</think>\n\nHi."), last]);
    assert_eq!(reply(vec![answer]).await.0, "Hi.");
}

/// Plays a fault of the rehearsal, followed by an answer that repeats the tool's result.
async fn rehearse(fault: &str) -> String {
    let script =
        format!("[[rule]]\nsteps = [{{ fault = \"{fault}\" }}, {{ reply = \"got {{result}}\" }}]");
    let shop = Plan::scripted(&script).build().await;
    let mut worker = shop.worker();
    let text = shop.ask(&mut worker, "run echo wonderful").await;
    worker.rest().await;
    text
}

#[tokio::test]
async fn a_call_in_the_last_line_or_written_out_as_text_is_made() {
    assert_eq!(rehearse("call-in-done").await, "got rehearsal");
    assert_eq!(rehearse("text-call").await, "got rehearsal");
}

#[tokio::test]
async fn the_syntax_of_a_call_is_never_an_answer() {
    let broken = || says("<tool_call>\n{\"name\": \"bb_shell\", \"argu");
    let (text, requests) = reply(vec![broken(), says("In words.")]).await;
    assert_eq!(text, "In words.");
    assert!(requests[1].last().unwrap().contains("the tool call could not be read"));

    let (shop, worked, _) = play(vec![broken(), broken(), broken()]).await;
    assert!(matches!(worked, Worked::GivenUp(_)));
    assert!(!shop.posts().await[0].1.contains("<tool_call>"));
}

#[tokio::test]
async fn a_conversation_that_is_too_long_loses_its_past_once() {
    let (shop, mut fake) = with_fake(Limits::default()).await;
    let mut worker = shop.worker();
    fake.answer("/api/chat", says("Hello."));
    shop.ask(&mut worker, "the past").await;
    let inner = json!({"error": {
        "code": 400, "type": "exceed_context_size_error",
        "message": "request (9000 tokens) exceeds the available context size (8192 tokens)",
    }});
    let overflow = || Reply::json(400, &json!({"error": inner.to_string()}));
    fake.answer("/api/chat", overflow());
    fake.answer("/api/chat", says("It fits."));
    assert_eq!(shop.ask(&mut worker, "the present").await, "It fits.");
    fake.received().await;
    assert_eq!(told(&fake.received().await).len(), 4);
    let short = told(&fake.received().await);
    assert!(short.len() == 2 && short[1].contains("the present"), "{short:?}");

    fake.answer("/api/chat", overflow());
    fake.answer("/api/chat", overflow());
    shop.say("still too long").await;
    let worked = shop.work(&mut worker).await;
    let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
    assert!(why.contains("exceeds the available context size"), "{why}");
    worker.rest().await;
}

#[tokio::test]
async fn results_that_outgrow_the_window_become_short_and_the_turn_goes_on() {
    let (shop, mut fake) = with_fake(Limits::default()).await;
    let mut worker = shop.worker();
    let print = |letter: char| format!("head -c 2000 /dev/zero | tr '\\0' {letter}");
    let letters = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'];
    for letter in letters {
        fake.answer("/api/chat", calls(&[("bb_shell", json!({"command": print(letter)}))]));
    }
    fake.answer("/api/chat", says("All printed."));
    assert_eq!(shop.ask(&mut worker, "print").await, "All printed.");
    worker.rest().await;
    let mut last = Vec::new();
    for _ in 0..=letters.len() {
        last = told(&fake.received().await);
    }
    let bytes: usize = last.iter().map(String::len).sum();
    assert!(last.iter().any(|said| said.contains("left out to make room")), "{bytes}");
    let newest = last.last().unwrap();
    assert!(newest.contains(&"j".repeat(2000)) && !newest.contains("left out"), "{newest}");
    assert!(last[1].contains("print"), "the question stays: {}", last[1]);
}

#[tokio::test]
async fn what_an_agent_says_while_it_works_goes_out_before_its_one_reply() {
    let script = "[[rule]]\nsteps = [\
        { call = { tool = \"bb_send_message\", arguments = { text = \"Halfway.\" } } }, \
        { reply = \"Done.\" }]";
    let shop = Plan::scripted(script).build().await;
    shop.say("work").await;
    let mut worker = shop.worker();
    assert_eq!(shop.work(&mut worker).await, Worked::Answered);
    worker.rest().await;
    let posts = shop.posts().await;
    let posts: Vec<_> = posts.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
    assert_eq!(posts, [(PostKind::Message, "Halfway."), (PostKind::Reply, "Done.")]);
}
