//! What a tool in a real agent's container can reach: its own folders, its model, nothing else.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::process::Command;

use super::house::{House, RUN};
use crate::support::docker::needs_engine;
use crate::support::home::{HOME, YES};
use crate::support::installation::{wait_for_end, wait_until};

#[test]
fn a_real_agent_has_no_power_and_may_write_only_to_its_own_folders() {
    let engine = needs_engine!();
    let house = House::new(&engine, HOME, RUN);
    house.apply();
    let said = house.says(
        "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs|Seccomp):' \
         /proc/self/status\n\
         for place in / /etc /bin /usr/local/bin /proc/sys/kernel /sys /workspace \
             /workspace/global; do\n\
           (echo x > $place/written) 2>&1 | grep -q 'Read-only file system' && echo closed $place\n\
         done\n\
         for place in /workspace/group /workspace/ipc /home/agent /tmp; do\n\
           echo x > $place/written && rm $place/written && echo open $place\n\
         done\n\
         (echo x >> /usr/local/bin/babybot) 2>/dev/null && echo itself written\n\
         (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo pattern written\n\
         (echo b > /proc/sysrq-trigger) 2>/dev/null && echo sysrq written\n\
         mount -t tmpfs none /tmp 2>/dev/null && echo mounted\n\
         umount /workspace/global 2>/dev/null && echo unmounted\n\
         mount -o remount,rw / 2>/dev/null && echo remounted\n\
         mknod /tmp/disk b 8 0 2>/dev/null && echo made a device\n\
         chroot / true 2>/dev/null && echo changed the root\n\
         unshare -r true 2>/dev/null && echo unshared\n\
         /bin/setuid/busybox su -c true 2>&1 | grep -q 'must be suid' && echo stays nobody\n\
         cat /dev/mem 2>/dev/null | head -c 1 | grep -q . && echo memory read\n\
         echo devices $(ls /dev)\n",
    );
    let status: BTreeMap<&str, Vec<&str>> = said
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .map(|(name, value)| (name, value.split_whitespace().collect()))
        .collect();
    let is = |name: &str, value: &str| {
        assert!(status[name].iter().all(|found| *found == value), "{name}: {said}");
    };
    let uid = if rustix::process::geteuid().is_root() {
        10_001
    } else {
        rustix::process::geteuid().as_raw()
    };
    assert_ne!(uid, 0);
    is("Uid", &uid.to_string());
    for set in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        is(set, "0000000000000000");
    }
    is("NoNewPrivs", "1");
    is("Seccomp", "2");
    for place in ["/", "/etc", "/bin", "/usr/local/bin", "/workspace", "/workspace/global"] {
        assert!(said.contains(&format!("closed {place}\n")), "{place}: {said}");
    }
    for place in ["/workspace/group", "/workspace/ipc", "/home/agent", "/tmp"] {
        assert!(said.contains(&format!("open {place}\n")), "{place}: {said}");
    }
    assert!(said.contains("stays nobody\n"), "{said}");
    let done = ["written", "mounted", "made a", "changed the", "unshared", "memory read"];
    for word in done {
        assert!(!said.lines().any(|line| line.contains(word)), "{word}: {said}");
    }
    let devices = said.lines().find(|line| line.starts_with("devices ")).unwrap();
    for device in ["sda", "vda", "kmsg", "mem", "kvm"] {
        assert!(!devices.split(' ').any(|found| found == device), "{devices}");
    }
}

#[test]
fn nothing_of_any_network_is_reached_from_a_real_agent() {
    let engine = needs_engine!();
    let port = greet(TcpListener::bind("0.0.0.0:0").unwrap());
    let alone = greet(TcpListener::bind("127.0.0.1:0").unwrap());
    let sixth = TcpListener::bind("[::1]:0").ok().map(greet);
    let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port_udp = datagrams.local_addr().unwrap().port();
    let mut reachable = vec![("127.0.0.1".to_owned(), port), ("127.0.0.1".to_owned(), alone)];
    reachable.extend(own_addresses().into_iter().map(|address| (address, port)));
    reachable.extend(sixth.map(|port| ("::1".to_owned(), port)));
    // Of what lies beyond the machine, the host can be asked only where it has such addresses itself.
    let beyond = Borrowed::all();
    let beyond_four = || beyond.iter().filter(|Borrowed(address)| !address.contains(':'));
    reachable.extend(beyond_four().map(|Borrowed(address)| (address.clone(), port)));
    let all = TcpListener::bind("[::]:0").ok().map(greet);
    for Borrowed(address) in beyond.iter().filter(|Borrowed(address)| address.contains(':')) {
        reachable.extend(all.map(|port| (address.clone(), port)));
    }

    let mut script = String::new();
    for (address, port) in &reachable {
        script += &format!(
            "echo tried {address} {port} $(busybox nc -w 2 {address} {port} </dev/null 2>&1)\n"
        );
    }
    let asked: Vec<&str> =
        beyond_four().map(|Borrowed(address)| &**address).chain(["127.0.0.1"]).collect();
    for address in &asked {
        script += &format!(
            "busybox nslookup -timeout=1 -retry=1 localhost {address}:{port_udp} >/dev/null 2>&1\n"
        );
    }
    script += "echo interfaces $(ls /sys/class/net)\n\
               echo raw $(busybox arping -c 1 -I lo 127.0.0.1 2>&1)\n\
               echo ping $(busybox ping -c 1 -W 1 127.0.0.1 2>&1)\n";

    // The control: the same script with the same tools, on the host.
    let control = Command::new("sh").arg("-c").arg(&script).output().unwrap();
    let control = String::from_utf8_lossy(&control.stdout).into_owned();
    for (address, port) in &reachable {
        assert!(control.contains(&format!("tried {address} {port} greetings")), "{control}");
    }
    datagrams.set_read_timeout(Some(super::house::VERB_MAX)).unwrap();
    let mut received = [0; 16];
    for address in &asked {
        datagrams.recv(&mut received).unwrap_or_else(|_| panic!("no datagram to {address}"));
    }
    datagrams.set_nonblocking(true).unwrap();
    while datagrams.recv(&mut received).is_ok() {}
    assert!(!control.contains("raw arping: socket"), "{control}");

    // What lies beyond the machine: there is not even a way to it.
    script += "for place in 1.1.1.1:53 169.254.169.254:80 172.17.0.1:80 10.0.0.1:22; do\n\
                 echo beyond $(busybox nc -w 2 ${place%:*} ${place#*:} </dev/null 2>&1)\ndone\n\
               echo beyond $(busybox nc -w 2 2606:4700:4700::1111 53 </dev/null 2>&1)\n\
               echo beyond $(busybox nslookup -timeout=1 -retry=1 localhost 1.1.1.1 2>&1)\n\
               echo routes $(cat /proc/net/route | wc -l)\n";
    let house = House::new(&engine, HOME, RUN);
    house.apply();
    let said = house.says(&script);
    assert!(!said.contains("greetings"), "{said}");
    for (address, port) in &reachable {
        assert!(said.contains(&format!("tried {address} {port} nc: ")), "{address}: {said}");
    }
    assert!(said.contains("interfaces lo\n"), "{said}");
    assert!(said.contains("raw arping: socket: Address family not supported"), "{said}");
    assert!(said.contains("routes 1\n"), "{said}");
    for line in said.lines().filter(|line| line.starts_with("beyond")) {
        let shut = ["unreachable", "Cannot assign requested address"];
        assert!(shut.iter().any(|why| line.contains(why)), "{line}");
    }
    assert!(datagrams.recv(&mut received).is_err(), "a datagram came through");
}

#[test]
fn a_real_agent_finds_nothing_of_anybody_else() {
    let engine = needs_engine!();
    let groups = format!("{HOME}[groups.other]\n");
    let script = format!(
        "[[rule]]\nwhen = \"wait\"\nsteps = [\n  {{ call = {{ tool = \"bb_shell\", arguments = {{ \
         command = \"echo treasure-of-others > diary; sleep MARK & while ! [ -e go ]; do sleep \
         0.02; done\" }} }} }},\n  {{ reply = \"waited\" }},\n]\n{RUN}"
    );
    let house = House::new(&engine, &groups, &script);
    house.apply();
    // Everything else that there is to find, on the host.
    let config = house.root().join(".config/babybot");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("mount-allowlist.json"), "treasure-of-others").unwrap();
    house.installation.write("treasure.txt", "treasure-of-others");
    house.installation.write("data/treasure.txt", "treasure-of-others");
    let up = house.up();
    let waiting = house.begin_chat("other", "wait");
    let diary = house.root().join("groups/other/diary");
    wait_until("the other is at work", || {
        diary.exists() && house.installation.sleepers().len() == 1
    });
    let other = house.containers().into_iter().find(|found| found.group == "other").unwrap();

    let look = format!(
        "echo treasure-of-others > mine\n\
         for place in /workspace /home /tmp /etc /dev/shm /run /var; do\n\
           grep -rl treasure-of-others $place 2>/dev/null\ndone\n\
         find / -xdev -name 'docker.sock' -o -xdev -name 'mount-allowlist.json' -o -xdev \
             -name diary -o -xdev -name babybot.db 2>/dev/null\n\
         for path in {diary} {root}/data/babybot.db {root}/treasure.txt /var/run/docker.sock \
             /proc/1/root{root}/treasure.txt /workspace/group/../../{root}/treasure.txt; do\n\
           cat $path 2>/dev/null && echo read $path\ndone\n\
         echo processes $(cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'slee[p] {mark}')\n\
         kill -9 -1\n\
         kill -9 $(seq 2 400) 2>/dev/null\n",
        diary = diary.display(),
        root = house.root().display(),
        mark = house.installation.mark(),
    );
    house.installation.write("groups/home/script.sh", &look);
    // It ends all that it sees but the first process, itself too.
    house.installation.write("groups/home/run.sh", "setsid sh script.sh > said 2>&1; true\n");
    let ended = house.chat("home", "run");
    assert_eq!(ended.code, 0, "{ended:?}");
    wait_until("it looked for processes", || house.read("groups/home/said").contains("processes"));
    let said = house.read("groups/home/said");
    let found: Vec<&str> = said.lines().filter(|line| !line.starts_with("processes")).collect();
    let own = ["/workspace/group/mine", "/workspace/group/script.sh"];
    let others: Vec<&&str> = found.iter().filter(|line| !own.contains(line)).collect();
    assert!(others.is_empty(), "{said}");
    assert!(found.contains(&own[0]), "it does not look at all: {said}");
    assert!(said.contains("processes 0\n"), "{said}");

    // Nor did it do anything to the other.
    assert_eq!(house.containers().into_iter().find(|found| found.group == "other"), Some(other));
    assert_eq!(house.installation.sleepers().len(), 1);
    house.installation.write("groups/other/go", "");
    let ended = wait_for_end(waiting, super::house::VERB_MAX);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "waited\n"), "{ended:?}");
    up.down();
}

/// Whoever may read a folder can write to a pipe in it: only the main group may write there, and it
/// makes none.
#[test]
fn a_pipe_in_the_folder_that_all_share_carries_nothing_of_a_group_that_may_only_read() {
    let engine = needs_engine!();
    let house = House::new(&engine, &format!("{HOME}[groups.main]\nmain = true\n"), RUN);
    house.apply();
    let make = "for place in /workspace/global /workspace/group; do\n\
                  mkfifo $place/pipe; mknod $place/node p\n\
                  echo said > $place/file && echo wrote $place\ndone\n";
    house.installation.write("groups/main/script.sh", make);
    house.installation.write("groups/main/run.sh", "sh script.sh > said 2>&1; true\n");
    let ended = house.chat("main", "run");
    assert_eq!(ended.code, 0, "{ended:?}");
    let said = house.read("groups/main/said");
    assert_eq!(said.matches("Operation not permitted").count(), 4, "{said}");
    assert!(said.contains("wrote /workspace/global\n"), "{said}");
    let command = house.run(&["exec", "-q", "main", "--", "mkfifo", "/workspace/global/pipe"]);
    assert_ne!(command.code, 0, "{command:?}");
    for name in ["pipe", "node"] {
        assert!(!house.root().join("groups/global").join(name).exists(), "{name}: {said}");
    }
    // The others write nothing there, and may have pipes of their own.
    let said = house.says("mkfifo /workspace/global/pipe; mkfifo pipe && echo made\n");
    assert!(said.contains("Read-only file system") && said.ends_with("made\n"), "{said}");
}

#[test]
fn links_that_an_agent_plants_lead_no_hand_of_the_host_anywhere() {
    let engine = needs_engine!();
    let groups = format!("{HOME}env = {{ WORD = \"first\" }}\nlimits = {{ disk = \"1MiB\" }}\n");
    let house = House::new(&engine, &groups, RUN);
    house.apply();
    // What the links lead to, on the host.
    let outside = house.installation.beside("outside");
    std::fs::create_dir(&outside).unwrap();
    for name in ["settings.json", "MEMORY.md", "large"] {
        std::fs::write(outside.join(name), vec![b'x'; 4 << 20]).unwrap();
    }
    let aim = outside.display();
    let plant = format!(
        "rm -f /home/agent/.ollama/settings.json\n\
         ln -s {aim}/settings.json /home/agent/.ollama/settings.json\n\
         ln -s {aim}/large large; ln -s {aim} everything; ln -s / root; ln -s {aim} /workspace/ipc/requests\n\
         rm -f MEMORY.md; ln -s {aim}/MEMORY.md MEMORY.md; mkfifo pipe; echo planted\n"
    );
    assert_eq!(house.says(&plant), "planted\n");
    let before = contents(&outside);

    // Nothing is measured, read or written through them; what is theirs is theirs again, or said.
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    let harmless = |verb: &[&str]| {
        let ended = house.run(verb);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains("xxxx"), "{verb:?}: {ended:?}");
        assert_eq!(contents(&outside), before, "{verb:?}: {ended:?}");
    };
    house.edit("first", "second");
    for verb in [&["plan"][..], &["apply", YES], &["plan"], &["chat", "home", "hello"]] {
        harmless(verb);
    }
    // A folder on the way as well. It may keep its own agent from starting, and nobody else.
    assert_eq!(
        house.says(&format!(
            "rm -rf /home/agent/.ollama /home/agent/.bb\n\
         ln -s {aim} /home/agent/.ollama; ln -s {aim} /home/agent/.bb; echo planted\n"
        )),
        "planted\n"
    );
    house.edit("second", "third");
    for verb in [&["plan"][..], &["apply", YES], &["plan"]] {
        harmless(verb);
    }
    // Its own folder in the home was repaired; the tools' is the agent's to repair.
    let session = house.root().join("data/sessions/home");
    assert!(std::fs::symlink_metadata(session.join(".ollama")).unwrap().is_dir());
    std::fs::remove_file(session.join(".bb")).unwrap();
    house.apply();
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");

    // A folder of a group that is a link is not entered: it is moved aside, and a folder is made.
    let folder = house.root().join("groups/home");
    std::fs::rename(&folder, house.root().join("groups/away")).unwrap();
    symlink(&outside, &folder).unwrap();
    let applied = house.run(&["apply", YES]);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert!(applied.stdout.contains("groups/home: a link is in its place"), "{applied:?}");
    assert!(std::fs::symlink_metadata(&folder).unwrap().is_dir());
    let aside = house.root().join("groups/home.moved-aside-1");
    assert_eq!(std::fs::read_link(aside).unwrap(), outside);
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    assert_eq!(contents(&outside), before);
    assert_eq!(house.containers(), []);
}

/// Everything in a folder, with whom it belongs to.
fn contents(folder: &std::path::Path) -> BTreeMap<String, (usize, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let entries = entries.map(|entry| {
        let size = std::fs::read(entry.path()).unwrap().len();
        (entry.file_name().into_string().unwrap(), (size, entry.metadata().unwrap().uid()))
    });
    entries.collect()
}

/// An address as they lie beyond a machine, which this one has for as long as the test runs: a
/// control shows that whoever can reach it does.
struct Borrowed(String);

impl Borrowed {
    /// One of the kind of a cloud's metadata, one of the internet, and one of the newer protocol.
    /// Nobody has these, so nobody misses them.
    fn all() -> Vec<Self> {
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        // The first and the last link-local network are reserved.
        let network = high % 254 + 1;
        let addresses = [
            format!("169.254.{network}.{low}"),
            format!("198.51.100.{low}"),
            format!("2001:db8::{network:x}:{low:x}"),
        ];
        let all: Vec<Self> = addresses.into_iter().filter_map(Self::take).collect();
        if all.is_empty() {
            crate::support::skipped("only root can borrow addresses from beyond this machine");
        }
        all
    }

    fn take(address: String) -> Option<Self> {
        change("add", &address).then_some(Self(address))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        change("del", &self.0);
    }
}

/// Gives this machine an address, or takes it back; says whether that was done.
fn change(what: &str, address: &str) -> bool {
    let length = if address.contains(':') { 128 } else { 32 };
    let address = format!("{address}/{length}");
    let ip = Command::new("busybox").args(["ip", "addr", what, &address, "dev", "lo"]).output();
    ip.is_ok_and(|ended| ended.status.success())
}

/// Greets whoever connects, for as long as the tests run; gives the port.
fn greet(listener: TcpListener) -> u16 {
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"greetings\n");
        }
    });
    port
}

/// The addresses of this machine: its own, and the engine's gateway.
fn own_addresses() -> Vec<String> {
    let ways = ["1.1.1.1:53", "172.17.0.2:53"].into_iter().filter_map(|aim| {
        // A socket that is aimed somewhere tells from where; nothing is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(aim).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    });
    ways.collect()
}
