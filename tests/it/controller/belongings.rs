//! A controller looks after its own things: what others need to find it comes back, and where the
//! ground it stands on is taken away it stops, and says so.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use babybot::runtime::docker::INSTANCE;
use bollard::query_parameters::ListContainersOptionsBuilder;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::docker::engine_here;
use crate::support::home::{ALWAYS, HOME, Home, LONG, Up, YES, report};
use crate::support::installation::{PATIENCE, wait_until};

fn everywhere(groups: &str) -> Vec<Home> {
    let docker = engine_here().map(|engine| Home::docker(engine, "", groups, LONG));
    [Some(Home::none("", groups, LONG)), docker].into_iter().flatten().collect()
}

/// A controller whose socket lies in a folder of its own, and that folder.
fn up_apart(home: &Home) -> (Up, PathBuf) {
    let runtime = home.place.beside("run");
    fs::DirBuilder::new().mode(0o700).create(&runtime).unwrap();
    let mut command = home.place.command(["up", YES]);
    command.env("XDG_RUNTIME_DIR", &runtime);
    let up = home.start(&mut command);
    up.wait_until_it_serves();
    (up, runtime.join("babybot"))
}

fn notice(home: &Home) -> Option<Value> {
    let text = fs::read(home.place.root().join("data/controller.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

fn serves(home: &Home, up: &Up) -> bool {
    let ended = home.place.run(&["status", "--format", "json"]);
    let status: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
    status["controller"]["pid"] == up.pid()
}

#[test]
fn a_socket_that_is_removed_in_any_way_is_made_again_and_nobody_is_cut_off() {
    let home = Home::none("", HOME, LONG);
    let (up, folder) = up_apart(&home);
    let mut watch = home.watch();
    watch.wait_for("it serves", |status| status["controller"]["pid"] == up.pid());
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    let socket = || PathBuf::from(notice(&home).unwrap()["socket"].as_str().unwrap());
    let harms: [(&str, &dyn Fn()); 4] = [
        ("its folder is removed", &|| fs::remove_dir_all(&folder).unwrap()),
        ("its folder is moved", &|| fs::rename(&folder, folder.with_extension("away")).unwrap()),
        ("it is removed", &|| fs::remove_file(socket()).unwrap()),
        ("the folder above is removed", &|| {
            fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        }),
    ];
    for (what, harm) in harms {
        harm();
        let since = Instant::now();
        wait_until(&format!("the socket is there again after {what}"), || {
            notice(&home).is_some() && socket().exists()
        });
        report(&format!("{what}: there again after {:?}", since.elapsed()));
        assert!(serves(&home, &up), "{what}: {}", up.said());
    }
    home.let_go();
    home.assert_answers(said, "long 1");
    watch.wait_for("whoever watched still does", |status| {
        status["groups"]["home"]["stage"] == "idle"
    });
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    let gone = socket();
    up.end();
    assert!(!gone.exists());
}

#[test]
fn a_notice_a_lock_or_an_instance_file_that_is_damaged_is_written_again() {
    let home = Home::none("", HOME, LONG);
    let up = home.up();
    let data = home.place.root().join("data");
    let instance = fs::read_to_string(data.join("instance")).unwrap();
    for file in ["controller.json", "lock", "instance"] {
        let path = data.join(file);
        let whole = fs::read_to_string(&path).unwrap();
        let pipe = || {
            fs::remove_file(&path).unwrap();
            mkfifo(&path);
        };
        let harms: [(&str, &dyn Fn()); 4] = [
            ("emptied", &|| fs::write(&path, "").unwrap()),
            ("torn", &|| fs::write(&path, &whole[..whole.len() / 2]).unwrap()),
            ("removed", &|| fs::remove_file(&path).unwrap()),
            ("replaced by a pipe", &pipe),
        ];
        for (what, harm) in harms {
            harm();
            wait_until(&format!("{file} is whole after it was {what}"), || {
                path.is_file() && fs::read_to_string(&path).is_ok_and(|text| text == whole)
            });
            assert!(serves(&home, &up), "{file} {what}");
            let second = home.place.run(&["up", YES]);
            let pid = up.pid().to_string();
            assert!(second.code == 6 && second.stderr.contains(&pid), "{file} {what}: {second:?}");
        }
    }
    home.ask("quick 1");
    up.end();
    assert_eq!(fs::read_to_string(data.join("instance")).unwrap(), instance);
}

/// What a dead controller left half written keeps nobody from starting the next one.
#[test]
fn a_torn_notice_of_a_dead_controller_is_no_controller() {
    let home = Home::none("", HOME, LONG);
    home.up().kill();
    for text in ["", "{\"socket\": \"/tmp", "7"] {
        home.place.write("data/controller.json", text);
        assert!(home.status()["controller"].is_null(), "{text}");
    }
    home.place.write("data/controller.json", "{");
    let up = home.up();
    home.ask("quick 1");
    up.end();
}

#[test]
fn a_controller_whose_ground_is_taken_away_stops_at_once_and_ends_its_agents() {
    type Harm = fn(&Path);
    let harms: [(&str, &str, Harm); 5] = [
        ("data/ is removed", "data was removed", |root| {
            // Somebody who removes a folder goes on until it is gone.
            while fs::remove_dir_all(root.join("data")).is_err() {}
        }),
        ("data/ is moved", "data was removed", |root| {
            fs::rename(root.join("data"), root.join("data.away")).unwrap();
        }),
        ("data/ is replaced", "data was removed", |root| {
            fs::rename(root.join("data"), root.join("data.away")).unwrap();
            fs::create_dir(root.join("data")).unwrap();
        }),
        ("the store is replaced", "babybot.db was removed", |root| {
            let store = root.join("data/babybot.db");
            fs::copy(&store, root.join("copy.db")).unwrap();
            fs::rename(root.join("copy.db"), store).unwrap();
        }),
        ("the project is moved", "was moved", |root| {
            fs::rename(root, root.with_extension("away")).unwrap();
        }),
    ];
    for (what, told, harm) in harms {
        for (number, home) in everywhere(ALWAYS).into_iter().enumerate() {
            let up = home.up();
            home.wait_for_agent();
            let mut said = home.say("home", "long 1");
            home.wait_until_begun(1);
            let instance = home.instance();
            harm(&home.place.root());
            let since = Instant::now();
            let (code, text) = up.wait(PATIENCE);
            report(&format!("{what}: ended after {:?}", since.elapsed()));
            assert_eq!(code, 1, "{what}: {text}");
            assert!(text.contains("stopped") && text.contains(told), "{what}: {text}");
            // Whoever talks may become the next controller, where there is still something to serve.
            said.kill().unwrap();
            said.wait().unwrap();
            home.place.wait_until_nothing_runs(PATIENCE);
            if number == 1 {
                wait_until("no container is left", || containers(&home, &instance) == 0);
            }
        }
    }
}

#[test]
fn a_second_controller_is_refused_also_where_the_data_folder_is_another() {
    let home = Home::none("", HOME, LONG);
    let up = home.up();
    // It can look after nothing for now.
    up.signal(Signal::STOP);
    let root = home.place.root();
    fs::rename(root.join("data"), root.join("data.away")).unwrap();
    for verb in [&["up", YES][..], &["apply", YES], &["chat", YES, "home", "quick 1"]] {
        let second = home.place.run(verb);
        assert_eq!(second.code, 6, "{verb:?}: {second:?}");
    }
    assert!(!root.join("data/babybot.db").exists(), "somebody began anew beside it");
    up.signal(Signal::CONT);
    assert_eq!(up.wait(PATIENCE).0, 1);
    let _ = fs::remove_dir_all(root.join("data"));
    fs::rename(root.join("data.away"), root.join("data")).unwrap();
    let up = home.up();
    home.ask("quick 1");
    up.end();
}

/// How many containers an instance has whose folder may be lost.
fn containers(home: &Home, instance: &str) -> usize {
    let label = format!("{INSTANCE}={instance}");
    let found = home.ask_engine(|client| async move {
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters);
        client.list_containers(Some(options.build())).await
    });
    found.len()
}

fn mkfifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}
