//! Many messages from many clients, and a controller that is killed meanwhile.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use babybot::clock::{Clock as _, SystemClock};
use serde_json::json;

use super::site::{Site, client};
use crate::simulation::chance::Chance;
use crate::support::docker::{block_on, needs_engine};
use crate::support::home::report;

/// How many clients write how many messages each, and how many under `BABYBOT_SOAK=1`.
const SHORT: (usize, usize) = (4, 25);
const SOAK: (usize, usize) = (16, 625);
/// The shortest time that a controller is let live, and how much more, in milliseconds.
const LIFE_SHORT: (u64, u64) = (500, 2_000);
const LIFE_SOAK: (u64, u64) = (5_000, 15_000);
/// How far the controller may grow while it answers an eighth of all messages, once it has answered
/// another, in KiB.
const GROWTH_MAX: u64 = 4 << 10;

#[test]
fn each_message_is_stored_once_and_answered_once_whoever_is_killed() {
    let engine = needs_engine!();
    let soak = std::env::var_os("BABYBOT_SOAK").is_some_and(|value| value == "1");
    let (clients, messages) = if soak { SOAK } else { SHORT };
    let (least, more) = if soak { LIFE_SOAK } else { LIFE_SHORT };
    let seed = u64::from_str_radix(&SystemClock.random_bits()[..16], 16).unwrap();
    println!("seed {seed}");
    let began = Instant::now();
    let chats = ["a", "b", "c", "d"];
    let site =
        Site::new(engine, "abcd", None, "[[rule]]\nsteps = [{ reply = \"to {message}\" }]\n");
    let mut up = Some(site.up());
    let write = |part: std::ops::Range<usize>| {
        let site = &site;
        let writing = (0..clients).map(|number| {
            let part = part.clone();
            async move {
                let (client, chat) = (client(), chats[number % chats.len()]);
                for message in part {
                    let id = format!("{number}-{message}");
                    let body = json!({ "text": id, "sender": format!("c{number}"), "id": id });
                    // Whatever goes wrong, the same message is sent again.
                    loop {
                        match site.write(&client, chat, "20s", &body).await {
                            Some((200, answer)) => {
                                let answers = answer["reply"]["answers"].as_array().unwrap();
                                assert!(answers.contains(&json!(id)), "{id}: {answer}");
                                break;
                            }
                            Some((202 | 429 | 503, _)) | None => {
                                tokio::time::sleep(Duration::from_millis(50)).await;
                            }
                            Some(other) => panic!("{id}: {other:?}"),
                        }
                    }
                }
            }
        });
        block_on(futures_util::future::join_all(writing.collect::<Vec<_>>()));
    };
    let (killed, over) = (Mutex::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (site, up, killed, over) = (&site, &mut up, &killed, &over);
        scope.spawn(move || {
            let mut chance = Chance::new(seed);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(least + chance.below(more)));
                up.take().unwrap().kill();
                *up = Some(site.up_again());
                *killed.lock().unwrap() += 1;
            }
        });
        write(0..messages * 3 / 4);
        over.store(true, Ordering::Relaxed);
    });
    let killed = killed.into_inner().unwrap();
    assert!(killed >= 1);
    let up = up.unwrap();
    up.wait_until_it_serves();
    let mut sizes = vec![memory(up.pid())];
    for part in [messages * 3 / 4, messages * 7 / 8, messages].windows(2) {
        write(part[0]..part[1]);
        sizes.push(memory(up.pid()));
    }
    assert!(sizes[2].saturating_sub(sizes[1]) < GROWTH_MAX, "the controller grew: {sizes:?} KiB");
    let all: BTreeSet<String> = (0..clients)
        .flat_map(|client| (0..messages).map(move |message| format!("{client}-{message}")))
        .collect();
    // Read from the first to the last, as somebody does who was not there.
    let mut answered = BTreeSet::new();
    for chat in chats {
        let mut cursor = 0;
        loop {
            let (status, page) = block_on(site.read(&client(), chat, cursor)).unwrap();
            assert_eq!(status, 200, "{page}");
            let replies = page["replies"].as_array().unwrap();
            let named = replies.iter().flat_map(|reply| reply["answers"].as_array().unwrap());
            answered.extend(named.map(|id| id.as_str().unwrap().to_owned()));
            if replies.is_empty() {
                break;
            }
            cursor = page["cursor"].as_i64().unwrap();
        }
    }
    assert_eq!(answered, all);
    up.end();
    site.home.assert_each_message_has_one_reply(clients * messages);
    report(&format!(
        "{} messages of {clients} clients and {killed} kills within {:?}; {sizes:?} KiB",
        clients * messages,
        began.elapsed()
    ));
}

/// The memory that a process has of its own, in KiB.
fn memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
