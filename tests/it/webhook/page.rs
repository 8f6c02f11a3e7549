//! What docs/WEBHOOK.md says to type, typed.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::docker::needs_engine;
use crate::support::home::Home;

use super::site::free_port;

#[test]
fn the_page_works_word_by_word() {
    let engine = needs_engine!();
    let page = Page::new(Home::docker_with(engine, "", "", "", ""));
    let toml = blocks("toml");
    let example = read("examples/webhook/babybot.toml");
    assert_eq!(babybot::manifest::parse(&example).unwrap().groups.len(), 1);
    page.home.place.write("babybot.toml", &page.with_port(&toml[0]));
    for (number, snippet) in blocks("sh").iter().enumerate() {
        let output = page.run(snippet);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{snippet}\n{output:?}\n{}", page.home.log());
        match number {
            // It builds an image, applies and starts.
            1 => assert!(page.home.status()["controller"]["pid"].is_i64(), "{output:?}"),
            3 => {
                let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["reply"]["answers"][0], "first", "{text}");
            }
            4 => {
                let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["replies"][0]["answers"][0], "first", "{text}");
            }
            _ => {}
        }
    }
    assert_eq!(blocks("sh").len(), 5);
}

struct Page {
    home: Home,
    port: u16,
}

impl Page {
    fn new(home: Home) -> Self {
        let bin = home.place.beside("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_babybot"), bin.join("babybot")).unwrap();
        Self { home, port: free_port() }
    }

    fn with_port(&self, text: &str) -> String {
        assert!(!text.contains("listen") || text.contains(":8787"), "{text}");
        text.replace(":8787", &format!(":{}", self.port))
    }

    fn run(&self, snippet: &str) -> Output {
        let path = std::env::var("PATH").unwrap();
        let bin = self.home.place.beside("bin");
        let mut command = Command::new("sh");
        command.args(["-e", "-c", &self.with_port(snippet)]);
        command.env_clear().env("PATH", format!("{}:{path}", bin.display()));
        command.env("HOME", self.home.place.root()).current_dir(self.home.place.root());
        if let Some(folder) = std::env::var_os("TMPDIR") {
            command.env("TMPDIR", folder);
        }
        command.output().unwrap()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.home.place.run(&["down"]);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The blocks of a language on the page.
fn blocks(language: &str) -> Vec<String> {
    let page = read("docs/WEBHOOK.md");
    let fence = format!("```{language}\n");
    let starts = page.split(&fence).skip(1);
    starts.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}
