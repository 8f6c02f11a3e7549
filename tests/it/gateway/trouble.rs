//! Servers that do not answer as Ollama does: what a client is told, and of what kind it is.

use babybot::protocol::Failure;
use tokio::io::AsyncWriteExt as _;

use super::*;

const NGINX: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
                     <center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";
const MEMORY: &str = "model requires more system memory (5.5 GiB) than is available (3.2 GiB)";

/// What an agent is answered after the server answered its first question like this.
async fn told(reply: Reply) -> (Answered, String) {
    let (house, mut fake) = house().await;
    fake.answer("/api/chat", reply);
    let answered = house.chat().await;
    fake.received().await;
    assert!(!fake.was_asked(), "nothing is asked again or elsewhere");
    (answered, fake.url)
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_told_with_the_address_to_write() {
    for status in [301, 302, 307, 308] {
        let to = "https://user:secret@ollama.lan/deep/api/chat?x=1";
        let (answered, url) = told(Reply::redirect(status, to)).await;
        assert_eq!((answered.status, &*answered.failure), (StatusCode::BAD_GATEWAY, "model"));
        let target = "https://ollama.lan/deep/api/chat?x=1";
        let advice = "change `url` to \"https://ollama.lan/deep\"";
        assert_eq!(answered.error(), format!("{url} answers {status} to {target}; {advice}"));
    }
    let (answered, url) = told(Reply::redirect(302, "/login")).await;
    assert_eq!(answered.error(), format!("{url} answers 302 to {url}/login; change `url`"));
    let (answered, url) = told(Reply { status: 304, ..Reply::stream([""; 0]) }).await;
    assert_eq!(answered.error(), format!("{url} answers 304 instead of an answer; check `url`"));
    assert_eq!(answered.failure, "model");
}

#[tokio::test]
async fn every_failure_has_its_kind_and_words_without_markup() {
    let text = |status, words: &str| Reply {
        status,
        content_type: "text/plain".into(),
        ..Reply::stream([words])
    };
    let error = |status, words: &str| Reply::json(status, &json!({ "error": words }));
    for (reply, status, failure, words) in [
        (
            Reply::page(502, NGINX),
            503,
            "absent",
            "Ollama behind the proxy at URL is not running (502 Bad Gateway); start it with `ollama serve`, or correct `url`",
        ),
        (
            Reply::page(503, "<h1>x"),
            503,
            "absent",
            "is not running (503 Service Unavailable); start it",
        ),
        (
            text(503, "no available server\n"),
            503,
            "absent",
            "is not running (503 Service Unavailable: no available server); start it",
        ),
        (
            Reply::page(504, NGINX),
            504,
            "busy",
            "the proxy at URL did not wait for Ollama's answer (504 Gateway Timeout); raise its time limit",
        ),
        (
            Reply::page(500, "<title>Oops</title>"),
            500,
            "busy",
            "URL answers 500 Internal Server Error: Oops",
        ),
        (
            Reply::page(200, "<title>Sign in</title>"),
            502,
            "model",
            "URL answers with a web page (\"Sign in\"), not as Ollama does; check `url`",
        ),
        (
            Reply::page(401, "<title>Sign in</title>"),
            401,
            "model",
            "URL asks for a login (401 Unauthorized), and babybot has none for it",
        ),
        (Reply::page(403, "<p>no"), 403, "model", "URL refuses babybot (403 Forbidden)"),
        (
            text(404, "404 page not found"),
            404,
            "model",
            "URL is not an Ollama: it has no /api/chat (404: 404 page not found); check `url`",
        ),
        (Reply::json(404, &json!({ "detail": "Not Found" })), 404, "model", "URL is not an Ollama"),
        (
            error(404, "model 'automaton' not found"),
            404,
            "absent",
            "the model automaton is not on your Ollama; run `ollama pull automaton`",
        ),
        (
            error(404, "model \"x\" not found, try pulling it first"),
            404,
            "absent",
            "run `ollama pull automaton`",
        ),
        (error(500, MEMORY), 500, "model", MEMORY),
        (error(500, "something crashed"), 500, "busy", "something crashed"),
        (
            error(503, "server busy, please try again.  maximum pending requests exceeded"),
            503,
            "busy",
            "server busy",
        ),
        (
            Reply::json(
                503,
                &json!({ "error": { "code": 503, "message": "Loading model", "type": "unavailable_error" } }),
            ),
            503,
            "loading",
            "",
        ),
        (error(503, "llm server loading model"), 503, "loading", "llm server loading model"),
        (error(429, "slow down"), 429, "busy", "slow down"),
        (error(400, "automaton does not support tools"), 400, "model", "does not support tools"),
        (error(400, "bad request"), 400, "model", "bad request"),
    ] {
        let shown = format!("{reply:?}");
        let (answered, url) = told(reply).await;
        assert_eq!((answered.status.as_u16(), &*answered.failure), (status, failure), "{shown}");
        let error = answered.text();
        assert!(!error.contains(['<', '>']), "{error}");
        if let Some(error) = answered.json()["error"].as_str() {
            let words = words.replace("URL", &url);
            assert!(error.contains(&words), "{error:?} does not say {words:?}");
        }
    }
}

#[tokio::test]
async fn a_page_in_the_middle_of_an_answer_is_not_shown() {
    let (house, fake) = house().await;
    fake.answer(
        "/api/chat",
        Reply::stream([said("one"), format!("{}\n", NGINX.replace("\r\n", ""))]),
    );
    let lines = house.chat().await.lines();
    assert_eq!(lines[1]["error"], "the model's answer broke off: the server sent a web page");
}

#[tokio::test]
async fn a_server_under_a_path_is_asked_there_with_or_without_a_final_slash() {
    for (base, path) in [("", ""), ("/", ""), ("/ollama", "/ollama"), ("/a/b/", "/a/b")] {
        let mut fake = FakeOllama::start().await;
        let house = House::new(ollama(&format!("{}{base}", fake.url), "automaton"));
        let show = format!("{path}/api/show");
        fake.answer(&show, Reply::json(200, &json!({})));
        fake.answer(&format!("{path}/api/chat"), Reply::stream([done()]));
        assert_eq!(house.chat().await.status, StatusCode::OK, "{base}");
        let mut asked = vec![fake.received().await.path];
        if asked[0] == show {
            asked = vec![fake.received().await.path];
        }
        assert_eq!(asked, [format!("{path}/api/chat")]);
    }
}

#[tokio::test]
async fn the_address_of_the_api_instead_of_the_servers_is_named() {
    for path in ["/api", "/v1"] {
        let fake = FakeOllama::start().await;
        let house = House::new(ollama(&format!("{}{path}", fake.url), "automaton"));
        let missing = Reply {
            content_type: "text/plain".into(),
            status: 404,
            ..Reply::stream(["404 page not found"])
        };
        fake.answer(&format!("{path}/api/show"), missing);
        let answered = house.chat().await;
        assert_eq!(answered.failure, "model");
        let advice = format!("check `url`, and leave out {path}");
        assert!(answered.error().ends_with(&advice), "{}", answered.error());
    }
}

#[tokio::test]
async fn whatever_listens_there_is_told_from_a_server_that_is_not_there() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Answers that are no HTTP.
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.ok();
            open.push(stream);
        }
    });
    let plain = House::new(ollama(&format!("http://{address}"), "automaton")).chat().await;
    assert_eq!(plain.failure, "model", "{}", plain.error());
    assert_eq!(plain.error(), format!("http://{address} does not speak HTTP; check `url`"));
    let secure = House::new(ollama(&format!("https://{address}"), "automaton")).chat().await;
    assert_eq!(secure.failure, "model");
    assert_eq!(
        secure.error(),
        format!("https://{address} does not speak TLS; write http:// in `url`")
    );
    let nowhere = House::new(ollama("http://no-such-host.invalid:1", "automaton")).chat().await;
    assert_eq!(nowhere.failure, "absent");
    let words = "Ollama at http://no-such-host.invalid:1 is not reachable: its name is unknown";
    assert!(nowhere.error().starts_with(words), "{}", nowhere.error());
}

#[tokio::test]
async fn a_model_is_ready_when_its_server_has_it_and_serves_it_itself() {
    let fake = FakeOllama::start().await;
    let gateway = Gateway::new(std::env::temp_dir()).unwrap();
    let spec = ollama(&fake.url, "automaton");
    assert_eq!(gateway.ready(&spec).await, Ok(()));
    let missing = json!({ "error": "model 'automaton' not found" });
    let remote = json!({ "remote_host": "https://ollama.com:443" });
    for (reply, failure) in [
        (Reply::json(404, &missing), Failure::Absent),
        (Reply::page(502, NGINX), Failure::Absent),
        (Reply::json(200, &remote), Failure::Model),
        (Reply::redirect(301, "https://a/api/show"), Failure::Model),
    ] {
        fake.answer("/api/show", reply);
        assert_eq!(gateway.ready(&spec).await.unwrap_err().failure, failure);
    }
    let rehearsal = ModelSpec::Rehearsal { context: 8192, script: None };
    assert_eq!(gateway.ready(&rehearsal).await, Ok(()));
}

#[tokio::test]
async fn a_model_that_cannot_use_tools_is_not_sent_any() {
    let (house, mut fake) = house().await;
    let cannot = Reply::json(200, &json!({ "capabilities": ["completion"] }));
    for _ in 0..2 {
        fake.answer("/api/show", cannot.clone());
    }
    let mut request = hello();
    request["tools"] = json!([{ "type": "function", "function": { "name": "bb_shell" } }]);
    let answered = house.post("/api/chat", &request).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST);
    assert_eq!(answered.error(), "automaton does not support tools");
    // Without tools it is asked, and with them once it is another that can use them.
    for request in [hello(), request] {
        fake.answer("/api/chat", Reply::stream([done()]));
        assert_eq!(house.post("/api/chat", &request).await.status, StatusCode::OK);
        assert_eq!(fake.received().await.path, "/api/chat");
    }
}
