//! An Ollama client in a container that knows nothing of babybot: it finds its server on loopback.

use ollama_rs::Ollama;
use ollama_rs::generation::chat::ChatMessage;
use ollama_rs::generation::chat::request::ChatMessageRequest;

use super::house::{House, RUN};
use crate::support::docker::needs_engine;
use crate::support::home::HOME;

/// A client in a few lines: `ask METHOD PATH [BODY]`.
const CLIENT: &str = r#"
ask() {
    body=$3
    # Whoever closes its side takes nothing any more: the server ends it.
    (printf "$1 $2 HTTP/1.1\r\nHost: localhost:11434\r\nContent-Type: application/json\r\nContent-Length: ${#body}\r\nConnection: close\r\n\r\n%s" "$body"
     while ! [ -e answered ]; do sleep 0.02; done) | {
        echo "== $1 $2"; busybox nc -w 10 127.0.0.1 11434; echo; : > answered
    }
    rm -f answered
}
"#;

#[test]
fn an_ollama_client_reaches_its_own_model_and_nothing_more() {
    let engine = needs_engine!();
    let house = House::new(&engine, HOME, RUN);
    house.apply();
    let chat = r#"{"model":"MODEL","messages":[{"role":"user","content":"hi"}],"stream":STREAM}"#;
    let chat = |model: &str, stream: &str| {
        format!("ask POST /api/chat '{}'\n", chat.replace("MODEL", model).replace("STREAM", stream))
    };
    let mut script = CLIENT.to_owned();
    script += "ask GET /api/tags\nask GET /\nask GET /api/version\n";
    script += &chat("rehearsal:latest", "true");
    script += &chat("rehearsal:latest", "false");
    script += &chat("another:1b", "true");
    for (method, path) in [
        ("GET", "/hello"),
        ("POST", "/hello"),
        ("GET", "/turns"),
        ("POST", "/turns/x/events"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/create"),
        ("CONNECT", "127.0.0.1:22"),
    ] {
        script += &format!("ask {method} {path} '{{}}'\n");
    }
    let said = house.says(&script);
    let answers: Vec<&str> = said.split("== ").skip(1).collect();
    let answer = |what: &str, nth: usize| {
        *answers.iter().filter(|answer| answer.starts_with(what)).nth(nth).expect(what)
    };
    let status = |answer: &str| -> u16 {
        let line = answer.lines().find(|line| line.starts_with("HTTP/1.1 "));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default()
    };
    let tags = answer("GET /api/tags", 0);
    assert_eq!((status(tags), tags.matches("\"name\":").count()), (200, 1), "{tags}");
    assert!(answer("GET /\n", 0).contains("Ollama is running"), "{said}");
    let streamed = answer("POST /api/chat", 0);
    assert!(streamed.contains("application/x-ndjson"), "{streamed}");
    assert!(streamed.contains("\"content\":\"here\"") && streamed.contains("\"done\":true"));
    let whole = answer("POST /api/chat", 1);
    assert!(whole.contains("\"content\":\"here\"") && whole.contains("\"done\":true"), "{whole}");
    assert_eq!(status(answer("POST /api/chat", 2)), 404, "{said}");
    for refused in answers.iter().skip_while(|answer| !answer.starts_with("GET /hello")) {
        let code = status(refused);
        assert!((400..500).contains(&code) || code == 0, "{refused}");
        assert!(!refused.contains("Welcome") && !refused.contains("assistant"), "{refused}");
    }
    // None of it was a turn, or the agent's.
    assert_eq!(house.installation.column("SELECT text FROM messages"), ["run"]);
    assert_eq!(house.installation.column("SELECT state || attempts FROM turns"), ["done1"]);
}

/// The variable by which a test program is a client of Ollama.
const CLIENT_OF_ITS_OWN: &str = "BABYBOT_IT_CLIENT";

/// The client of the next test, within the container; by itself nothing.
#[tokio::test]
async fn a_client_of_its_own() {
    if std::env::var_os(CLIENT_OF_ITS_OWN).is_none() {
        return;
    }
    let ollama = Ollama::default();
    let models = ollama.list_local_models().await.unwrap();
    let names: Vec<&str> = models.iter().map(|model| &*model.name).collect();
    println!("models {names:?}");
    let ask = async |model: &str| {
        let message = ChatMessage::user("hi".to_owned());
        let request = ChatMessageRequest::new(model.to_owned(), vec![message]);
        ollama.send_chat_messages(request).await
    };
    let answer = ask(names[0]).await.unwrap();
    println!("answer {} {}", answer.message.content, answer.done);
    println!("another {}", ask("another:1b").await.is_ok());
}

/// A library that was written for Ollama, with nothing set: the tests' own program has one.
#[test]
fn a_client_library_works_in_a_container_as_it_is() {
    let engine = needs_engine!();
    let house = House::new(&engine, HOME, RUN);
    house.apply();
    let client = house.root().join("groups/home/client");
    std::fs::copy(std::env::current_exe().unwrap(), &client).unwrap();
    let (_, module) = module_path!().split_once("::").unwrap();
    let said = house.says(&format!(
        "{CLIENT_OF_ITS_OWN}=1 ./client --exact {module}::a_client_of_its_own --nocapture\n"
    ));
    for line in ["models [\"rehearsal:latest\"]", "answer here true", "another false"] {
        assert!(said.contains(&format!("{line}\n")), "{line}: {said}");
    }
}

#[test]
fn a_flood_of_requests_does_not_starve_the_agent() {
    let engine = needs_engine!();
    let script = r#"
        [[rule]]
        when = "flood"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "setsid sh flood.sh > /dev/null 2>&1 & while ! [ -e flooding ]; do sleep 0.02; done; echo begun" } } },
          { call = { tool = "bb_shell", arguments = { command = "echo one >> ran" } } },
          { call = { tool = "bb_shell", arguments = { command = "echo two >> ran; cat count.* | wc -l > counted" } } },
          { reply = "done" },
        ]
        [[rule]]
        steps = [{ reply = "here" }]
    "#;
    let house = House::new(&engine, HOME, script);
    house.apply();
    // Some ask as fast as they can, some ask and never end, some connect and say nothing.
    let flood = "request='POST /api/chat HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 70\\r\\n\\r\\n{\"model\":\"rehearsal:latest\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}'\n\
        for n in 1 2 3 4 5 6 7 8 9 10; do\n\
          (while :; do (for i in 1 2 3 4 5 6 7 8; do printf \"$request\"; done; sleep 1) | timeout 2 nc 127.0.0.1 11434 >/dev/null; echo >> count.$n; : > flooding; done) &\n\
          (while :; do (printf 'POST /api/chat HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 9999999\\r\\n\\r\\n'; cat /dev/zero) | timeout 3 nc 127.0.0.1 11434 >/dev/null; done) &\n\
          (while :; do sleep 5 | timeout 5 nc 127.0.0.1 11434 > /dev/null; done) &\n\
        done\nwait\n";
    house.installation.write("groups/home/flood.sh", flood);
    let ended = house.chat("home", "flood");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "done\n"), "{ended:?}");
    assert_eq!(house.installation.lines("ran"), ["one", "two"]);
    assert_eq!(house.installation.column("SELECT attempts || '' FROM turns"), ["1"]);
    let counted: u32 = house.read("groups/home/counted").trim().parse().unwrap();
    assert!(counted > 0, "there was no flood");
    assert_eq!(house.containers(), []);
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
}
