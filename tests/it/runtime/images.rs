//! Images: what is built, when nothing is, and what is said when it cannot be.

use std::sync::{Arc, Mutex};

use babybot::clock::{Clock as _, SystemClock};
use babybot::resource::{ImageSpec, UserId, digest};
use babybot::runtime::docker::{
    CONTENT, Docker, INSTANCE, binary, build_binary_from_source, image_name,
};
use babybot::runtime::{Binary, Exit, Runtime as _, RuntimeError};
use bollard::query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder};

use super::place::{Place, Running};
use crate::support::docker::{AGENT, Context, needs};

const USER: UserId = UserId { uid: AGENT.0, gid: AGENT.1 };

/// An image that nobody else builds, around this script.
fn image(base: &str, packages: &[&str]) -> ImageSpec {
    ImageSpec::Built {
        base: base.to_owned(),
        packages: packages.iter().map(|name| (*name).to_owned()).collect(),
        content: digest(SystemClock.random_bits().as_bytes()),
        user: USER,
        binary: None,
    }
}

fn script(text: &str) -> Binary {
    Binary { bytes: Arc::new(format!("#!/bin/sh\n{text}\n").into_bytes()) }
}

/// What a builder said.
#[derive(Default)]
struct Progress(Mutex<Vec<String>>);

impl Progress {
    fn tell(&self) -> impl Fn(&str) + Send + Sync + '_ {
        |line| self.0.lock().unwrap().push(line.to_owned())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// 21: the real program, on nothing at all; built once, found again, removed when nothing needs it.
pub(super) async fn row_21(place: Place) {
    let engine = place.engine.clone().unwrap();
    let docker = Docker::new(engine.endpoint.clone()).unwrap();
    let (client, instance, progress) = (engine.client(), &place.instance, Progress::default());
    let image = image("scratch", &[]);
    let name = image_name(Some(instance), &image.reference());
    assert_eq!(docker.has_image(Some(instance), &image).await, Ok(false));
    assert_eq!(docker.images(instance).await, Ok(vec![]));
    let program = binary::read(env!("CARGO_BIN_EXE_babybot").as_ref()).unwrap();
    assert_eq!(binary::check(&program.bytes, std::env::consts::ARCH), Ok(()));
    docker.build_image(instance, &image, program.clone(), &progress.tell()).await.unwrap();
    assert!(progress.take().iter().any(|line| line.starts_with("Step 1/")), "no progress");
    assert_eq!(docker.has_image(Some(instance), &image).await, Ok(true));
    assert_eq!(docker.images(instance).await, Ok(vec![image.tag()]));
    let first = client.inspect_image(&name).await.unwrap();
    let labels = first.config.unwrap().labels.unwrap();
    let ImageSpec::Built { content, .. } = &image else { unreachable!() };
    assert_eq!(labels[INSTANCE], instance.as_str());
    assert_eq!(&labels[CONTENT], content);

    docker.build_image(instance, &image, program, &progress.tell()).await.unwrap();
    assert_eq!(progress.take(), [""; 0], "it was built again");
    assert_eq!(client.inspect_image(&name).await.unwrap().id, first.id);

    // A container stands on it, and it runs.
    let version = ["/usr/local/bin/babybot", "--version"].map(ToOwned::to_owned).into();
    let babybot = place.by(Arc::new(docker.clone().with_agent(version)));
    let mut spec = babybot.spec("family", "");
    spec.container.image = Some(image.reference());
    let mut running = Running::from(babybot.runtime.launch(spec).await.unwrap());
    assert!(running.rest().await.starts_with("babybot "), "it did not run");
    assert_eq!(running.exit().await, Exit::Code(0));
    let held =
        bollard::models::ContainerCreateBody { image: Some(name.clone()), ..Default::default() };
    let held = client.create_container(None, held).await.unwrap().id;
    let refused = docker.remove_image(instance, &image.tag()).await;
    assert!(
        matches!(&refused, Err(RuntimeError::Failed(why)) if why.contains("uses the image")),
        "{refused:?}"
    );
    // Its own label is on the image, and on what a stranger made from it: that is not ours.
    assert_eq!(place.count().await, 0);
    client.remove_container(&held, None).await.unwrap();

    // Another instance's has another name, and whatever is called so has to be its own.
    let stranger = SystemClock.instance_id();
    docker.remove_image(&stranger, &image.tag()).await.unwrap();
    assert_eq!(docker.has_image(Some(instance), &image).await, Ok(true));
    let theirs = image_name(Some(&stranger), &image.reference());
    let (repository, tag) = theirs.rsplit_once(':').unwrap();
    let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
    client.tag_image(&name, Some(options)).await.unwrap();
    let refused = docker.remove_image(&stranger, &image.tag()).await;
    assert!(
        matches!(&refused, Err(RuntimeError::Failed(why)) if why.contains("not this instance's")),
        "{refused:?}"
    );
    engine.remove_image(&theirs).await;
    docker.remove_image(instance, &image.tag()).await.unwrap();
    docker.remove_image(instance, &image.tag()).await.unwrap();
    assert_eq!(docker.has_image(Some(instance), &image).await, Ok(false));
    assert_eq!(docker.images(instance).await, Ok(vec![]));
}

/// An image that is missing is noticed at once: nothing is pulled behind anybody's back.
#[tokio::test]
async fn an_image_that_exists_is_never_built_or_pulled() {
    let place = Place::docker(needs!(docker));
    let docker = Docker::new(place.engine.clone().unwrap().endpoint).unwrap();
    let missing = ImageSpec::Named { reference: "localhost/no-such-image:1".into() };
    assert_eq!(docker.has_image(None, &missing).await, Ok(false));
    let built = docker.build_image(&place.instance, &missing, script(""), &|_| {}).await;
    assert_eq!(built, Err(RuntimeError::ImageMissing("localhost/no-such-image:1".into())));
}

/// On another image the agent's user has a name, and what was there stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_stands_on_another() {
    let place = Place::docker(needs!(docker));
    let engine = place.engine.clone().unwrap();
    let docker = Docker::new(engine.endpoint.clone()).unwrap();
    // Its package manager writes down what it is told.
    let mut base = Context::new(&format!("FROM {}\nCOPY root/ /\n", engine.image));
    base.folder("root/bin", 0o755);
    base.file("root/bin/apt-get", 0o755, b"#!/bin/sh\necho \"$@\" >>/told\n");
    let base = base.build(&engine.client(), "localhost/babybot-test-apt").await;
    let image = image(&base, &["git", "g++"]);
    let program = script("id -un; cat /etc/passwd; ls /workspace; cat /told");
    docker.build_image(&place.instance, &image, program, &|_| {}).await.unwrap();
    let agent = place.by(Arc::new(docker.clone()));
    let mut spec = agent.spec("family", "");
    spec.container.image = Some(image.reference());
    spec.container.user = Some(USER);
    let mut running = Running::from(agent.runtime.launch(spec).await.unwrap());
    let said = running.rest().await;
    assert!(said.starts_with("agent\nagent:x:10001:10001:agent:/home/agent:"), "{said}");
    // Each group may have a user of its own.
    assert!(said.contains("agent:x:11000:11000:agent:/home/agent:"), "{said}");
    assert!(said.contains("root:x:0:0:"), "{said}");
    for folder in ["extra", "global", "group", "ipc", "memory", "project", "skills"] {
        assert!(said.contains(&format!("{folder}\n")), "{folder}: {said}");
    }
    let told = "update\ninstall -y --no-install-recommends git g++\n";
    assert!(said.ends_with(told), "{said}");
    running.exit().await;
    docker.remove_image(&place.instance, &image.tag()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_built_says_why_and_what_helps() {
    let place = Place::docker(needs!(docker));
    let engine = place.engine.clone().unwrap();
    let docker = Docker::new(engine.endpoint.clone()).unwrap();
    let build = async |image: &ImageSpec| {
        let built = docker.build_image(&place.instance, image, script(""), &|_| {}).await;
        built.unwrap_err().to_string()
    };
    let why = build(&image(&engine.image, &["git"])).await;
    assert!(why.ends_with("this base has neither apt-get nor apk"), "{why}");
    let why = build(&image("localhost:1/no/such/base:1", &[])).await;
    for way in ["docker pull localhost:1/no/such/base:1", "\"scratch\"", "runtime.image.ref"] {
        assert!(why.contains(way), "{way}: {why}");
    }
    let why = build(&image("scratch", &["git"])).await;
    assert!(why.contains("needs a base"), "{why}");
    assert_eq!(docker.images(&place.instance).await, Ok(vec![]));
}

/// babybot from its source, pretended: a checkout, and a `cargo` that puts a ready binary there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn babybot_is_built_from_a_checkout() {
    let engine = needs!(docker);
    let docker = Docker::new(engine.endpoint.clone()).unwrap();
    let cargo = "#!/bin/sh\nset -e\necho building \"$@\"\n[ -f src/main.rs ] && [ -f Cargo.lock ]\n\
                 [ ! -e data ] && [ ! -e target ]\nmkdir -p target/it/dist\n\
                 cp /ready target/it/dist/babybot\n";
    let ready = std::fs::read("/bin/busybox").unwrap();
    let mut rust = Context::new(&format!("FROM {}\nCOPY root/ /\n", engine.image));
    rust.folder("root/bin", 0o755);
    rust.file("root/bin/cargo", 0o755, cargo.as_bytes());
    rust.file("root/ready", 0o755, &ready);
    let rust = rust.build(&engine.client(), "localhost/babybot-test-rust").await;

    let checkout = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("src/main.rs", "fn main() {}"),
        ("Cargo.toml", "[package]"),
        ("Cargo.lock", ""),
        ("data/secret", "not for a build"),
        ("target/it/dist/babybot", "an older one"),
    ] {
        let path = checkout.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let progress = Progress::default();
    let built =
        build_binary_from_source(&docker, checkout.path(), &rust, &progress.tell()).await.unwrap();
    assert!(*built.bytes == ready, "another binary came out");
    assert!(progress.take().iter().any(|line| line.starts_with("building build --locked")));

    let empty = tempfile::tempdir().unwrap();
    let why = build_binary_from_source(&docker, empty.path(), &rust, &|_| {}).await.unwrap_err();
    assert!(why.to_string().contains("no checkout"), "{why}");
    let force = RemoveImageOptionsBuilder::default().force(true).build();
    let _ = engine.client().remove_image(&rust, Some(force), None).await;
}
