//! A container engine for tests, where there is one, and an image out of nothing but busybox.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use babybot::name::InstanceId;
use babybot::process::Process;
use babybot::resource::digest;
use babybot::runtime::docker::INSTANCE;
use babybot::runtime::docker::endpoint::Endpoint;
use babybot::runtime::docker::find::{self, Found};
use babybot::runtime::docker::places::{self, HostEnvironment};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::StreamExt as _;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::installation::{PATIENCE, comes_true};
use super::skipped;

/// Whom agents of containers run as in tests.
pub(crate) const AGENT: (u32, u32) = (10_001, 10_001);

/// Gives what a test needs, or ends the test and says so.
macro_rules! needs {
    (docker) => {
        match $crate::support::docker::engine().await {
            Some(engine) => engine,
            None => return,
        }
    };
}
pub(crate) use needs;

/// The same for a test that is no task.
macro_rules! needs_engine {
    () => {
        match $crate::support::docker::engine_here() {
            Some(engine) => engine,
            None => return,
        }
    };
}
pub(crate) use needs_engine;

/// The engine of this machine, for tests that are no tasks.
pub(crate) fn engine_here() -> Option<Engine> {
    block_on(engine())
}

/// Where tests that are no tasks have theirs.
pub(crate) fn outside() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// Waits for something that is asked of an engine, in a test that is no task.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    outside().block_on(future)
}

/// An engine that answers, and an image in it that has a shell.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) endpoint: Endpoint,
    pub(crate) image: String,
}

/// The engine of this machine. Where there is none, says that the test is skipped; where one is
/// required, fails.
pub(crate) async fn engine() -> Option<Engine> {
    static ENGINE: OnceCell<Result<Engine, String>> = OnceCell::const_new();
    match ENGINE.get_or_init(look).await {
        Ok(engine) => Some(engine.clone()),
        Err(why) => {
            let required = std::env::var_os("BABYBOT_REQUIRE_DOCKER").is_some_and(|v| v == "1");
            assert!(!required, "no engine: {why}");
            skipped(why);
            None
        }
    }
}

async fn look() -> Result<Engine, String> {
    let found = find::find_among(places::places(None, None, &HostEnvironment), None).await;
    let (Found::Is(_, info), Some(busybox)) = (&found, busybox()) else {
        return Err(match found {
            Found::Is(..) => "no static busybox is installed (busybox-static)".to_owned(),
            Found::Absent => "no container engine is installed".to_owned(),
            Found::Unknown(why) => why,
        });
    };
    let (url, reason) = info.endpoint.split_once(' ').unwrap();
    let endpoint = Endpoint { url: url.to_owned(), reason: reason.to_owned() };
    let image = base(&client(&endpoint), &busybox).await;
    Ok(Engine { endpoint, image })
}

/// A client of the tests' own, which shares nothing with what is tested.
pub(crate) fn client(endpoint: &Endpoint) -> bollard::Docker {
    bollard::Docker::connect_with_unix(&endpoint.url, 120, bollard::API_DEFAULT_VERSION).unwrap()
}

impl Engine {
    pub(crate) fn client(&self) -> bollard::Docker {
        client(&self.endpoint)
    }

    /// An image with a shell and this babybot, the same for all tests.
    pub(crate) fn agent_image(&self) -> String {
        static IMAGES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let mut images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let file = format!("FROM {}\nCOPY babybot /usr/local/bin/babybot\n", self.image);
            let mut context = Context::new(&file);
            let program = std::fs::read(env!("CARGO_BIN_EXE_babybot")).unwrap();
            context.file("babybot", 0o755, &program);
            block_on(context.build(&self.client(), "localhost/babybot-test-agent"))
        };
        images.entry(self.endpoint.url.clone()).or_insert_with(build).clone()
    }

    /// An image to build on, in which installing a package takes long enough to be noticed.
    pub(crate) fn slow_base(&self) -> String {
        let file = format!("FROM {}\nCOPY apt-get /bin/apt-get\n", self.image);
        let mut context = Context::new(&file);
        let script = b"#!/bin/sh\n[ $1 = update ] && exit\necho installing slowly\nsleep 6\n";
        context.file("apt-get", 0o755, script);
        block_on(context.build(&self.client(), "localhost/babybot-test-slow"))
    }

    /// Removes what a failed test left: the containers and images of an installation.
    pub(crate) async fn sweep(&self, instance: &InstanceId) {
        let client = self.client();
        let filters = HashMap::from([("label", vec![format!("{INSTANCE}={instance}")])]);
        let all = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        for container in client.list_containers(Some(all)).await.unwrap_or_default() {
            let force = RemoveContainerOptionsBuilder::default().force(true).build();
            let _ = client.remove_container(&container.id.unwrap_or_default(), Some(force)).await;
        }
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        for image in client.list_images(Some(options)).await.unwrap_or_default() {
            self.remove_image(&image.id).await;
        }
    }

    /// Removes an image, if it is there.
    pub(crate) async fn remove_image(&self, image: &str) {
        let force = RemoveImageOptionsBuilder::default().force(true).build();
        let _ = self.client().remove_image(image, Some(force), None).await;
    }
}

/// A busybox that needs no libraries.
fn busybox() -> Option<PathBuf> {
    let static_one = |path: &PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| {
            babybot::runtime::docker::binary::check(&bytes, std::env::consts::ARCH).is_ok()
        })
    };
    ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(static_one)
}

/// Where agents' folders are mounted: what every image of agents has.
const FOLDERS: &[&str] =
    &["bin", "bin/setuid", "etc", "home/agent", "workspace/group", "usr/local/bin"];

/// A builder takes from files what makes them run as their owner.
const DOCKERFILE: &str =
    "FROM scratch\nCOPY root/ /\nRUN [\"/bin/chmod\", \"4755\", \"/bin/setuid/busybox\"]\n";

/// Builds the image with a shell, unless it is there.
async fn base(client: &bollard::Docker, busybox: &Path) -> String {
    let bytes = std::fs::read(busybox).unwrap();
    let list = Command::new(busybox).arg("--list").output().unwrap();
    let applets = String::from_utf8(list.stdout).unwrap();
    let mut context = Context::new(DOCKERFILE);
    for folder in FOLDERS {
        context.folder(&format!("root/{folder}"), 0o755);
    }
    // A tmpfs over it takes its mode, whatever the engine was told.
    context.folder("root/tmp", 0o1777);
    context.file("root/etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n");
    context.file("root/bin/busybox", 0o755, &bytes);
    context.file("root/bin/setuid/busybox", 0o755, &bytes);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        context.link(&format!("root/bin/{applet}"), "busybox");
    }
    context.build(client, "localhost/babybot-test-base").await
}

/// The context of a build, and what it is called: by its content, so that it is built once.
pub(crate) struct Context {
    archive: tar::Builder<Vec<u8>>,
}

impl Context {
    pub(crate) fn new(dockerfile: &str) -> Self {
        let mut context = Self { archive: tar::Builder::new(Vec::new()) };
        context.file("Dockerfile", 0o644, dockerfile.as_bytes());
        context
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.add(path, tar::EntryType::Regular, mode, bytes);
    }

    pub(crate) fn folder(&mut self, path: &str, mode: u32) {
        self.add(&format!("{path}/"), tar::EntryType::Directory, mode, b"");
    }

    fn link(&mut self, path: &str, to: &str) {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.archive.append_link(&mut header, path, to).unwrap();
    }

    fn add(&mut self, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) {
        let mut header = header(kind, mode, bytes.len());
        self.archive.append_data(&mut header, path, bytes).unwrap();
    }

    /// Builds it, unless it is there; gives its name.
    pub(crate) async fn build(self, client: &bollard::Docker, repository: &str) -> String {
        let archive = self.archive.into_inner().unwrap();
        let reference = format!("{repository}:{}", &digest(&archive)["sha256:".len()..][..12]);
        if client.inspect_image(&reference).await.is_ok() {
            return reference;
        }
        let options = BuildImageOptionsBuilder::default()
            .dockerfile("Dockerfile")
            .t(&reference)
            .rm(true)
            .forcerm(true)
            .labels(&HashMap::from([("io.babybot.test", "1")]))
            .build();
        let body = bollard::body_full(archive.into());
        let mut build = client.build_image(options, None, Some(body));
        while let Some(step) = build.next().await {
            step.unwrap();
        }
        reference
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

/// An engine of a test's own, which may be ended and started again. Nothing of it is shared with
/// the engine of this machine.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// Starts one, or says that the test is skipped: it takes a root, and Docker's own daemon.
    pub(crate) fn start() -> Option<(Self, Engine)> {
        let busybox = engine_here().and_then(|_| busybox())?;
        if !rustix::process::geteuid().is_root()
            || ["dockerd", "unshare"].iter().any(|program| which::which(program).is_err())
        {
            skipped("no dockerd can be started");
            return None;
        }
        let mut daemon = Self { folder: tempfile::tempdir().unwrap(), child: None };
        daemon.start_again();
        let (url, reason) = (daemon.url(), "the engine of a test".to_owned());
        let endpoint = Endpoint { url, reason };
        let image = block_on(base(&client(&endpoint), &busybox));
        Some((daemon, Engine { endpoint, image }))
    }

    fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    pub(crate) fn start_again(&mut self) {
        let below = |name: &str| self.folder.path().join(name);
        let log = std::fs::File::create(below("log")).unwrap();
        // In a network of its own: it makes and removes the bridge that all of them call the same.
        let child = Command::new("unshare")
            .args(["--net", "--", "dockerd", "--iptables=false", "--ip6tables=false"])
            .args(["--host", &self.url()])
            .arg("--data-root")
            .arg(below("data"))
            .arg("--exec-root")
            .arg(below("exec"))
            .arg("--pidfile")
            .arg(below("pid"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        let endpoint = Endpoint { url: self.url(), reason: String::new() };
        let answers =
            || below("docker.sock").exists() && block_on(client(&endpoint).ping()).is_ok();
        let said = || std::fs::read_to_string(below("log")).unwrap_or_default();
        assert!(comes_true(PATIENCE, answers), "it does not start: {}", said());
    }

    /// Ends it, and with it all its containers.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(process) = Process::find(i32::try_from(child.id()).unwrap()) {
            let _ = process.signal(Signal::TERM);
        }
        let _ = child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket that leads to the engine until it is cut.
pub(crate) struct Front {
    folder: tempfile::TempDir,
    engine: PathBuf,
    task: JoinHandle<()>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    requests: Arc<AtomicUsize>,
}

impl Front {
    pub(crate) fn of(engine: &Engine) -> Self {
        let engine = engine.endpoint.socket().unwrap().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let mut front = Self {
            folder,
            engine,
            task: tokio::spawn(async {}),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        front.open();
        front
    }

    /// The folder of its socket, which is called `docker.sock`.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let url = format!("unix://{}", self.socket().display());
        Endpoint { url, reason: "the socket of a test".to_owned() }
    }

    /// Leads to the engine, again.
    pub(crate) fn open(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (engine, connections) = (self.engine.clone(), Arc::clone(&self.connections));
        let requests = Arc::clone(&self.requests);
        self.task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (engine, requests) = (engine.clone(), Arc::clone(&requests));
                let connection = tokio::spawn(async move {
                    let _: io::Result<_> = async {
                        let mut to = UnixStream::connect(engine).await?;
                        let ((asks, mut answered), (answers, asked)) = (from.split(), to.split());
                        let answer = async {
                            let mut answers = answers;
                            tokio::io::copy(&mut answers, &mut answered).await?;
                            answered.shutdown().await
                        };
                        tokio::try_join!(pass_on(asks, asked, &requests), answer)
                    }
                    .await;
                });
                connections.lock().unwrap().push(connection);
            }
        });
    }

    /// Waits until no request comes for that long. Says whether that was so before the patience
    /// of a test is over.
    pub(crate) fn is_quiet_for(&self, time: Duration) -> bool {
        let (mut before, mut since, deadline) =
            (self.requests(), Instant::now(), Instant::now() + PATIENCE);
        loop {
            let asked = self.requests();
            match asked == before {
                true if since.elapsed() >= time => return true,
                true if Instant::now() >= deadline => return false,
                true => {}
                false => (before, since) = (asked, Instant::now()),
            }
            std::thread::park_timeout(time / 20);
        }
    }

    /// How many requests went through so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes every connection, counts it and says nothing: as an engine that hangs.
    pub(crate) fn hang(&mut self) {
        self.cut();
        let listener = UnixListener::bind(self.socket()).unwrap();
        let requests = Arc::clone(&self.requests);
        self.task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                held.push(connection);
                requests.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Breaks every connection, and accepts none: as an engine that was stopped.
    pub(crate) fn cut(&mut self) {
        self.task.abort();
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
        std::fs::remove_file(self.socket()).unwrap();
    }
}

/// Passes on what a client asks, and counts the requests: their heads are written at once.
async fn pass_on(
    mut asks: impl AsyncRead + Unpin,
    mut asked: impl AsyncWrite + Unpin,
    requests: &AtomicUsize,
) -> io::Result<()> {
    const END_OF_LINE: &[u8] = b" HTTP/1.1\r\n";
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = asks.read(&mut buffer).await?;
        let heads = buffer[..count].windows(END_OF_LINE.len()).filter(|part| *part == END_OF_LINE);
        requests.fetch_add(heads.count(), Ordering::Relaxed);
        if count == 0 {
            return asked.shutdown().await;
        }
        asked.write_all(&buffer[..count]).await?;
    }
}
