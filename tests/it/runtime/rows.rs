//! The rows of the contract, each once.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use babybot::name::InstanceId;
use babybot::process::Process;
use babybot::runtime::docker::Docker;
use babybot::runtime::{Access, Exit, Runtime, RuntimeError, Sandbox};
use babybot::unit::ByteSize;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::place::{PATIENCE, Place, Running, mount, name, processes, scripted};
use crate::support::docker::{AGENT, Front};
use crate::support::workshop::until;

/// A stop that asks and gives this long.
const GRACE: Duration = Duration::from_secs(20);

/// 2: what goes in comes out, byte by byte and in order, and the log is something else.
pub(super) async fn row_02(place: Place) {
    let mut running = place.start("family", "echo a word >&2; exec cat").await;
    assert_eq!(running.log_line().await, "a word");
    for line in ["one\n", "zwei ü\n", "3\n"] {
        running.say(line).await;
    }
    assert_eq!(running.line().await, "one");
    assert_eq!(running.line().await, "zwei ü");
    assert_eq!(running.line().await, "3");
    for size in [1 << 20, 8 << 20] {
        let sent: Vec<u8> =
            (0..size).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut from, mut to) = tokio::io::split(&mut running.sandbox.link);
        let send = async {
            to.write_all(&sent).await.unwrap();
            to.flush().await.unwrap();
        };
        let mut came = vec![0; sent.len()];
        let come = async { from.read_exact(&mut came).await.unwrap() };
        tokio::time::timeout(PATIENCE, async { tokio::join!(send, come) }).await.unwrap();
        assert!(came == sent, "{size} bytes came back as others");
    }
    running.close().await;
    assert_eq!(running.exit().await, Exit::Code(0));
}

/// 3: the very first output is not lost, even of an agent that is gone at once.
pub(super) async fn row_03(place: Place) {
    for attempt in 0..3 {
        let mut running = place.start("family", "printf first; printf word >&2").await;
        assert_eq!(running.rest().await, "first", "attempt {attempt}");
        assert_eq!(running.log_line().await, "word", "attempt {attempt}");
        assert_eq!(running.exit().await, Exit::Code(0));
    }
}

/// 4: how it ended. On `none`, memory has no limit that could be the reason.
pub(super) async fn row_04(place: Place) {
    let ends = [("exit 0", 0), ("exit 7", 7), ("exec /bin", 126), ("exec /no/such", 127)];
    for (script, code) in ends {
        let running = place.start("family", script).await;
        assert_eq!(running.exit().await, Exit::Code(code), "{script}");
    }
    let mut running = place.start("family", "echo ready; exec cat").await;
    running.line().await;
    if let Some(engine) = &place.engine {
        let kill = bollard::query_parameters::KillContainerOptionsBuilder::default();
        let id = running.sandbox.id.as_str().to_owned();
        engine.client().kill_container(&id, Some(kill.signal("KILL").build())).await.unwrap();
    } else {
        running.sandbox.process.unwrap().signal(Signal::KILL).unwrap();
    }
    assert_eq!(running.exit().await, Exit::Signal(9));
    if place.is_docker() {
        let running = place.start("family", "exec dd if=/dev/zero of=/dev/null bs=512M").await;
        assert_eq!(running.exit().await, Exit::OutOfMemory);
    }
}

/// 5: the link's end is the agent's, and nothing is left. On `none`, an agent that does not heed
/// it goes on until its controller stops it: only a container can be taken away from around it.
pub(super) async fn row_05(place: Place) {
    let script = match place.is_docker() {
        true => "trap '' TERM; echo ready; while :; do sleep 1; done",
        false => "echo ready; exec cat",
    };
    for script in ["echo ready; exec cat", script] {
        let mut running = place.start("family", script).await;
        running.line().await;
        assert_eq!(place.count().await, 1);
        let Sandbox { link, log, exit, .. } = running.sandbox;
        drop((link, log));
        tokio::time::timeout(Duration::from_secs(10), exit).await.expect("it is left");
        assert_eq!(place.count().await, 0);
    }
}

/// 6: a controller that is killed leaves nothing that the next one does not find and end, not
/// even a tool that went into a session of its own.
pub(super) async fn row_06(place: Place) {
    let mark = format!("97531.{:09}", std::process::id());
    let kind = place.reference().kind.word();
    let script = format!("setsid sleep {mark} & echo ready; exec cat");
    let mut controller = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runtime::rows::a_controller_of_its_own", "--nocapture"])
        .env(CONTROLLER, format!("{kind} {}", place.instance))
        .env("SCRIPT", script)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = tokio::io::BufReader::new(controller.stdout.take().unwrap());
    let ready = async {
        use tokio::io::AsyncBufReadExt as _;
        let mut line = String::new();
        while !line.contains("it is at work") {
            line.clear();
            assert!(said.read_line(&mut line).await.unwrap() > 0, "the controller ended");
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    until(|| !sleepers(&mark).is_empty()).await;
    controller.kill().await.unwrap();

    place.runtime.reap(place.instance.clone()).await.unwrap();
    assert_eq!(place.count().await, 0);
    assert_eq!(sleepers(&mark), []);
}

/// The variable by which a test program is a controller: its runtime and its instance.
const CONTROLLER: &str = "BABYBOT_IT_CONTROLLER";

/// The other process of row 6; by itself nothing.
#[tokio::test]
async fn a_controller_of_its_own() {
    let Ok(told) = std::env::var(CONTROLLER) else { return };
    let (kind, instance) = told.split_once(' ').unwrap();
    let place = match kind {
        "docker" => Place::docker(crate::support::docker::engine().await.unwrap()),
        _ => Place::none(),
    };
    let place = place.of(InstanceId::new(instance).unwrap());
    let mut running = place.start("family", &std::env::var("SCRIPT").unwrap()).await;
    running.line().await;
    println!("it is at work");
    std::future::pending::<()>().await;
}

/// The processes of this machine that sleep for so long.
fn sleepers(mark: &str) -> Vec<Process> {
    let start = format!("sleep\0{mark}\0");
    processes_whose(|line| line.starts_with(&start))
}

/// The processes of this machine with such a command line.
fn processes_whose(fits: impl Fn(&str) -> bool) -> Vec<Process> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        fits(&String::from_utf8_lossy(&line))
    };
    pids.filter(is).filter_map(Process::find).filter(|process| process.is_alive()).collect()
}

/// 7: what is reaped is this instance's and nobody else's. That a list which fails reaps nothing
/// is said where engines are played (`answers`).
pub(super) async fn row_07(place: Place) {
    row_07_of(&place).await;
}

/// The same, in a place with more in it.
pub(super) async fn row_07_of(place: &Place) {
    let neighbour = place.neighbour();
    let ours = place.start("family", "exec cat").await;
    let mut theirs = neighbour.start("family", "exec cat").await;
    place.records.remember(&ours);
    place.runtime.reap(place.instance.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, ours.sandbox.exit).await.unwrap();
    let all = place.runtime.list(&place.instance).await.unwrap();
    assert!(!all.contains_key(&name("family")), "{all:?}");
    theirs.say("still there\n").await;
    assert_eq!(theirs.line().await, "still there");
    // Nothing to reap is no error.
    place.runtime.reap(place.instance.clone()).await.unwrap();
    theirs.close().await;
    assert_eq!(theirs.exit().await, Exit::Code(0));
}

/// 8: a stop asks first and forces then; stopping what is gone is no error.
pub(super) async fn row_08(place: Place) {
    let polite = "trap 'exit 5' TERM; echo ready; while :; do sleep 1 & wait; done";
    let mut running = place.start("family", polite).await;
    running.line().await;
    let (id, asked) = (running.sandbox.id.clone(), Instant::now());
    place.runtime.stop(&id, GRACE).await.unwrap();
    assert!(asked.elapsed() < GRACE, "it was not asked");
    assert_eq!(running.exit().await, Exit::Code(5));
    assert_eq!(place.count().await, 0);
    place.runtime.stop(&id, GRACE).await.unwrap();

    let stubborn = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let mut running = place.start("family", stubborn).await;
    running.line().await;
    let id = running.sandbox.id.clone();
    place.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(running.exit().await, Exit::Signal(9));
    assert_eq!(place.count().await, 0);
    place.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
}

/// 9: what does not start leaves nothing. On `none` there are neither names nor images; that
/// there is one agent a group is the lock's part, which the agent itself takes.
pub(super) async fn row_09(place: Place) {
    let Some(engine) = &place.engine else {
        let nothing = place.by(Arc::new(processes("no-such-agent", &place.records)));
        let failed = nothing.runtime.launch(nothing.spec("family", "true")).await;
        assert!(matches!(failed, Err(RuntimeError::Launch(_))), "{failed:?}");
        let mut spec = place.spec("family", "true");
        spec.mounts[0].source.push("no/such/folder");
        let failed = place.runtime.launch(spec).await;
        assert!(matches!(failed, Err(RuntimeError::Launch(_))), "{failed:?}");
        assert_eq!(place.count().await, 0);
        return;
    };
    let mut first = place.start("family", "exec cat").await;
    let second = place.runtime.launch(place.spec("family", "exec cat")).await;
    let taken = format!("bb-{}-family", place.instance.short());
    assert_eq!(second.err(), Some(RuntimeError::NameTaken { name: taken }));
    first.say("still there\n").await;
    assert_eq!(first.line().await, "still there");
    first.close().await;
    assert_eq!(first.exit().await, Exit::Code(0));

    let mut spec = place.spec("family", "true");
    spec.container.image = Some("localhost/no-such-image:1".into());
    let failed = place.runtime.launch(spec).await.err();
    assert_eq!(failed, Some(RuntimeError::ImageMissing("localhost/no-such-image:1".into())));

    let gone = place.folder("family").join("gone");
    let link = place.folder("family").join("link");
    std::os::unix::fs::symlink("/", &link).unwrap();
    for (source, why) in [(&gone, "No such file"), (&link, "contains a link")] {
        let mut spec = place.spec("family", "true");
        spec.mounts.push(mount(source, "/workspace/extra/it", Access::Read));
        let failed = place.runtime.launch(spec).await.unwrap_err();
        assert!(failed.to_string().contains(why), "{failed}");
    }
    let no_program = Docker::new(engine.endpoint.clone()).unwrap();
    let no_program = no_program.with_agent(vec!["/no/such/program".into()]);
    let failed = no_program.launch(place.spec("family", "true")).await.unwrap_err();
    assert!(
        matches!(&failed, RuntimeError::Launch(why) if why.contains("/no/such/program")),
        "{failed:?}"
    );
    assert_eq!(place.count().await, 0);
}

/// 10: no network. Each probe is made on the host as well, where it comes through. On `none`
/// there is no wall yet: what its user reaches, the agent reaches.
pub(super) async fn row_10(place: Place) {
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = everywhere.local_addr().unwrap().port();
    tokio::spawn(greet(everywhere));
    let sixth = TcpListener::bind("[::1]:0").await.ok();
    let port_six = sixth.as_ref().map(|listener| listener.local_addr().unwrap().port());
    if let Some(listener) = sixth {
        tokio::spawn(greet(listener));
    }
    let datagrams = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port_udp = datagrams.local_addr().unwrap().port();

    let mut reachable = vec![("127.0.0.1".to_owned(), port)];
    reachable.extend(own_addresses().into_iter().map(|address| (address, port)));
    reachable.extend(port_six.map(|port| ("::1".to_owned(), port)));
    let mut script = String::new();
    for (address, port) in &reachable {
        script += &format!("echo {address} $(busybox nc -w 2 {address} {port} </dev/null 2>&1)\n");
    }
    script += &format!(
        "busybox nslookup -timeout=1 -retry=1 localhost 127.0.0.1:{port_udp} >/dev/null 2>&1\n"
    );
    script += "echo interfaces $(ls /sys/class/net)\n";
    // One that is not there leads the way to the socket: on the host the address is what fails.
    script += "echo raw $(busybox arping -c 1 -I lo 127.0.0.1 2>&1)\n";

    // The control: the same script, on the host.
    let control = tokio::process::Command::new("sh").arg("-c").arg(&script).output().await.unwrap();
    let control = String::from_utf8_lossy(&control.stdout).into_owned();
    for (address, _) in &reachable {
        assert!(control.contains(&format!("{address} greetings")), "{address}: {control}");
    }
    let mut received = [0; 16];
    let datagram = datagrams.recv(&mut received);
    tokio::time::timeout(PATIENCE, datagram).await.expect("no datagram on the host").unwrap();
    // It asks more than once; nothing of that is to be taken for the agent's.
    while datagrams.try_recv(&mut received).is_ok() {}
    assert!(!control.contains("raw arping: socket"), "{control}");

    let said = place.says("family", &script).await;
    if !place.is_docker() {
        assert!(said.contains("127.0.0.1 greetings"), "there is a wall: {said}");
        return;
    }
    assert!(!said.contains("greetings"), "{said}");
    for (address, _) in &reachable {
        assert!(said.contains(&format!("{address} nc: ")), "{address} was not tried: {said}");
    }
    assert!(said.contains("interfaces lo\n"), "{said}");
    assert!(said.contains("raw arping: socket: Operation not permitted"), "{said}");
    assert!(datagrams.try_recv(&mut received).is_err(), "a datagram came through");

    // What lies beyond the machine: there is not even a way to it.
    let beyond = "for place in 1.1.1.1:53 169.254.169.254:80 172.17.0.1:80; do \
                  echo $place $(busybox nc -w 2 ${place%:*} ${place#*:} </dev/null 2>&1); done; \
                  busybox nslookup -timeout=1 localhost 1.1.1.1 2>&1; true";
    let said = place.says("family", beyond).await;
    assert_eq!(said.matches("Network is unreachable").count(), 4, "{said}");
}

/// Greets whoever connects.
async fn greet(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _: std::io::Result<()> = async {
            stream.write_all(b"greetings\n").await?;
            stream.shutdown().await
        }
        .await;
    }
}

/// The addresses of this machine that its listener answers on: its own, and the engine's gateway.
fn own_addresses() -> Vec<String> {
    // A socket that is aimed somewhere tells from where; nothing is sent.
    let ways = ["1.1.1.1:53", "172.17.0.2:53"].into_iter().filter_map(|aim| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(aim).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    });
    ways.collect()
}

/// 11: nobody in particular, without any power. On `none`, whoever the controller runs it as.
pub(super) async fn row_11(place: Place) {
    let script = "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' \
                  /proc/self/status";
    let said = place.says("family", script).await;
    let status: BTreeMap<&str, Vec<&str>> = said
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name, value.split_whitespace().collect())
        })
        .collect();
    let is = |name: &str, value: &str| {
        assert!(status[name].iter().all(|found| *found == value), "{name} {:?}", status[name]);
    };
    let Some(engine) = &place.engine else {
        return is("Uid", &rustix::process::geteuid().as_raw().to_string());
    };
    let user = place.spec("family", "").container.user.unwrap();
    is("Uid", &user.uid.to_string());
    is("Gid", &user.gid.to_string());
    is("CapEff", "0000000000000000");
    is("CapBnd", "0000000000000000");
    is("CapAmb", "0000000000000000");
    is("NoNewPrivs", "1");
    is("Seccomp", "2");

    // A program that belongs to root and says so gains nothing; without that one wall it does.
    let ask = "/bin/setuid/busybox su -c true 2>&1; true";
    let said = place.says("family", ask).await;
    assert!(said.contains("must be suid"), "{said}");
    let client = engine.client();
    let control = bollard::models::ContainerCreateBody {
        image: Some(engine.image.clone()),
        entrypoint: Some(["/bin/sh", "-c", ask].map(ToOwned::to_owned).into()),
        user: Some(format!("{}:{}", AGENT.0, AGENT.1)),
        ..Default::default()
    };
    let id = client.create_container(None, control).await.unwrap().id;
    client.start_container(&id, None).await.unwrap();
    use futures_util::StreamExt as _;
    let wait = bollard::query_parameters::WaitContainerOptionsBuilder::default();
    let _ = client.wait_container(&id, Some(wait.condition("not-running").build())).next().await;
    let logs = bollard::query_parameters::LogsOptionsBuilder::default().stdout(true).stderr(true);
    let logs: Vec<_> = client.logs(&id, Some(logs.build())).collect().await;
    client.remove_container(&id, None).await.unwrap();
    let said: String = logs.into_iter().map(|line| line.unwrap().to_string()).collect();
    assert!(!said.contains("must be suid"), "the control gained nothing either: {said}");
}

/// 12: what may be written. On `none`, whatever its user may.
pub(super) async fn row_12(place: Place) {
    let script = "echo mine > owned; \
        (echo x > /etc/x) 2>/dev/null && echo root written; \
        (echo x > /workspace/extra/it/x) 2>/dev/null && echo mount written; \
        cat /workspace/extra/it/word; \
        printf '#!/bin/sh\\necho runs' > /tmp/it; chmod +x /tmp/it; /tmp/it; \
        grep ' /tmp ' /proc/mounts; \
        dd if=/dev/zero of=/tmp/large bs=1M count=100 2>&1; rm -f /tmp/large; true";
    if !place.is_docker() {
        place.says("family", "echo mine > owned").await;
        let found = std::fs::metadata(place.folder("family").join("owned")).unwrap();
        assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
        return;
    }
    let read = place.folder("read");
    std::fs::write(read.join("word"), "read\n").unwrap();
    let mut spec = place.spec("family", script);
    // Memory holds what is in /tmp: that is not what is to stop it here.
    spec.container.memory = Some(ByteSize::bytes(256 << 20));
    let user = spec.container.user.unwrap();
    spec.mounts.push(mount(&read, "/workspace/extra/it", Access::Read));
    let mut running = Running::from(place.runtime.launch(spec).await.unwrap());
    let said = running.rest().await;
    assert_eq!(running.exit().await, Exit::Code(0));
    assert!(!said.contains("written"), "{said}");
    assert!(said.contains("read\n") && said.contains("runs\n"), "{said}");
    let options = said.lines().find(|line| line.contains(" /tmp tmpfs ")).unwrap();
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
    assert!(!options.contains("noexec"), "{options}");
    assert!(said.contains("No space left on device"), "{said}");
    let found = std::fs::metadata(place.folder("family").join("owned")).unwrap();
    assert_eq!((found.uid(), found.gid()), (user.uid, user.gid));

    // A file system within a read-only mount would stay writable: it is refused.
    let mut spec = place.spec("family", "true");
    spec.mounts.push(mount("/sys".as_ref(), "/workspace/extra/sys", Access::Read));
    let refused = place.runtime.launch(spec).await.unwrap_err();
    assert!(refused.to_string().contains("is mounted within /sys"), "{refused}");
}

/// 13: two groups know nothing of each other. On `none`, nothing separates one user's agents.
pub(super) async fn row_13(place: Place) {
    let mark = format!("86420.{:09}", std::process::id());
    let script = format!("echo secret > diary; sleep {mark} & echo ready; exec cat");
    let mut first = place.start("first", &script).await;
    first.line().await;
    until(|| !sleepers(&mark).is_empty()).await;
    let diary = place.folder("first").join("diary");
    let look = format!(
        "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'slee[p] {mark}'; \
         cat {} 2>/dev/null; find /workspace /home -name diary 2>/dev/null; true",
        diary.display()
    );
    let said = place.says("second", &look).await;
    match place.is_docker() {
        true => assert_eq!(said, "0\n"),
        false => assert_eq!(said, "1\nsecret\n", "there is a wall"),
    }
    // Nor can it end what it does not see.
    let kill = "kill -9 -1 2>/dev/null; true";
    if place.is_docker() {
        place.says("second", kill).await;
        first.say("still there\n").await;
        assert_eq!(first.line().await, "still there");
        assert_eq!(sleepers(&mark).len(), 1);
    }
    first.close().await;
    first.exit().await;
    until(|| sleepers(&mark).is_empty()).await;
}

/// 15: limits hold, and what strikes one is the tool, not the agent. On `none` none is enforced;
/// but whatever a tool starts ends with the agent.
pub(super) async fn row_15(place: Place) {
    if !place.is_docker() {
        let mark = format!("75319.{:09}", std::process::id());
        let crowd = format!("for i in $(seq 50); do sleep {mark} & done; echo ready; exec cat");
        let mut running = place.start("family", &crowd).await;
        running.line().await;
        until(|| sleepers(&mark).len() == 50).await;
        running.close().await;
        assert_eq!(running.exit().await, Exit::Code(0));
        assert_eq!(sleepers(&mark), []);
        return;
    }
    let script = "dd if=/dev/zero of=/dev/null bs=512M count=1 2>/dev/null; echo memory $?; \
        (n=0; while [ $n -lt 100 ]; do sleep 5 & n=$((n+1)); done) 2>&1 | grep -q fork && echo pids; \
        killall sleep 2>/dev/null; \
        echo files $(ulimit -n); echo core $(ulimit -c); \
        awk '{ print \"before\", $14 + $15 + $16 + $17 }' /proc/self/stat >/dev/null; \
        (time timeout 1 sh -c 'while :; do :; done') 2>&1 | grep user; echo end";
    let mut spec = place.spec("family", script);
    spec.container.cpus = Some(babybot::resource::MilliCpus(300));
    spec.container.pids = Some(32);
    let mut running = Running::from(place.runtime.launch(spec).await.unwrap());
    let said = running.rest().await;
    assert_eq!(running.exit().await, Exit::Code(0), "{said}");
    assert!(said.contains("memory 137\n") && said.contains("pids\n"), "{said}");
    assert!(said.contains("files 4096\n") && said.contains("core 0\n"), "{said}");
    let user = said.lines().find(|line| line.starts_with("user")).unwrap();
    let seconds: f64 =
        user.split_whitespace().last().unwrap().trim_end_matches('s').parse().unwrap();
    assert!(seconds < 0.7, "{user}: more than its part of one second");
}

/// 17: an agent that floods a link nobody reads is held back, and still hears a word.
pub(super) async fn row_17(place: Place) {
    /// What may lie between the two ends, in bytes: pipes, sockets and pieces that wait.
    const BETWEEN_MAX: u64 = 32 << 20;
    // By its size, which no other test has, the flood is found.
    let flood = 200_000_000 + 2 * std::process::id() + u32::from(place.is_docker());
    let script = format!(
        "(head -c {flood} /dev/zero && echo > flooded) & \
         read word; echo $word > heard; kill $! 2>/dev/null; killall head 2>/dev/null; exit 0"
    );
    let mut running = place.start("family", &script).await;
    let folder = place.folder("family");
    let written = stalled(&flood.to_string()).await;
    assert!(written <= BETWEEN_MAX, "{written} bytes went somewhere");
    running.say("cancel\n").await;
    until(|| std::fs::read_to_string(folder.join("heard")).is_ok_and(|w| w == "cancel\n")).await;
    assert!(!folder.join("flooded").exists(), "all of it went somewhere");
    let id = running.sandbox.id.clone();
    let Sandbox { link, exit, .. } = running.sandbox;
    // An engine ends nothing whose output waits for somebody who is still there.
    drop(link);
    place.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
    tokio::time::timeout(PATIENCE, exit).await.expect("it does not end");
    assert_eq!(place.count().await, 0);
}

/// Waits until who writes this many bytes gets no further, and gives what was written by then. A
/// shell may do it by itself.
async fn stalled(count: &str) -> u64 {
    /// How long nothing more is written before nothing more will be.
    const STALL: Duration = Duration::from_millis(500);
    let written = || {
        let wrote = |process: Process| {
            let io = std::fs::read_to_string(format!("/proc/{}/io", process.pid)).ok()?;
            io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok())
        };
        let all = processes_whose(|line| line.contains("head") && line.contains(count));
        all.into_iter().filter_map(wrote).max()
    };
    let (mut last, mut since) = (None, Instant::now());
    until(|| {
        let now = written();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        last.is_some_and(|written| written > 0) && since.elapsed() > STALL
    })
    .await;
    last.unwrap_or_default()
}

/// 22: many at once, none of them lost or mistaken for another.
pub(super) async fn row_22(place: Place) {
    let place = Arc::new(place);
    let all = (0..20).map(|number| {
        let place = Arc::clone(&place);
        tokio::spawn(async move {
            let group = format!("group-{number}");
            let mut running = place.start(&group, &format!("echo I am {group}; exec cat")).await;
            assert_eq!(running.line().await, format!("I am {group}"));
            running.say(&format!("you are {group}\n")).await;
            assert_eq!(running.line().await, format!("you are {group}"));
            let id = running.sandbox.id.clone();
            if number % 2 == 0 {
                place.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
            }
            running.close().await;
            running.exit().await;
        })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!(place.count().await, 0);
}

/// 22, the other half: the engine goes away and comes back. `none` has no engine to lose.
pub(super) async fn row_22_lost(place: Place) {
    let mut front = Front::of(place.engine.as_ref().unwrap());
    let by_front = place.by(Arc::new(scripted(Docker::new(front.endpoint()).unwrap())));
    // Not one that ends with its input, which goes first.
    let mut running = by_front.start("family", "echo ready; exec sleep 600").await;
    running.line().await;
    front.cut();
    let exit = running.exit().await;
    assert!(matches!(exit, Exit::Lost(_)), "{exit:?}");
    let looked = by_front.runtime.list(&by_front.instance).await;
    assert!(matches!(looked, Err(RuntimeError::Unavailable { .. })), "{looked:?}");

    front.open();
    by_front.runtime.reap(by_front.instance.clone()).await.unwrap();
    assert_eq!(by_front.count().await, 0);
    assert_eq!(by_front.says("family", "echo again").await, "again\n");
}
