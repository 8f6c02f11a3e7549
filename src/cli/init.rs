//! `babybot init`: a commented manifest for what is found on this machine.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cli::{Context, VerbResult, print};
use crate::error::{Error, Exit};
use crate::manifest::starter::{Findings, OLLAMA_URL, Ollama, starter};
use crate::resource::is_cloud_model;

/// How long Ollama has to answer.
const OLLAMA_DEADLINE: Duration = Duration::from_millis(1500);
/// Largest list of models that is read, in bytes.
const TAGS_BYTES_MAX: usize = 1 << 20;
/// The port of an `OLLAMA_HOST` that names none.
const OLLAMA_PORT: u16 = 11434;

/// Writes a commented babybot.toml for what it finds on this machine.
///
/// Looks for Ollama and its models, and for container runtimes. Asks nobody but an Ollama on
/// this machine, changes nothing else, and never overwrites a file.
#[derive(Debug, clap::Args)]
pub struct InitArgs {}

/// Writes the starter manifest.
///
/// # Errors
/// When there is a manifest already, or it cannot be written.
pub async fn run(_args: &InitArgs, context: &Context) -> VerbResult {
    let path = context.manifest.as_path();
    // Asked again when writing; here it only spares the wait for Ollama.
    if path.symlink_metadata().is_ok() {
        return Err(already_there(path));
    }
    if !folder_of(path).is_dir() {
        return Err(no_folder(path));
    }
    let findings = look().await;
    write_new(path, &starter(&findings))?;
    print(&told(path, &findings))?;
    Ok(Exit::Ok)
}

async fn look() -> Findings {
    let runtimes =
        ["docker", "podman", "container"].into_iter().filter(|name| which::which(name).is_ok());
    let runtimes = runtimes.collect();
    let host = std::env::var("OLLAMA_HOST").ok();
    let url = host.as_deref().and_then(loopback_url).unwrap_or_else(|| OLLAMA_URL.to_owned());
    let ollama = match installed_models(&url).await {
        Some(models) if models.is_empty() => Ollama::Empty { url },
        Some(models) => Ollama::Ready { url, models },
        None if which::which("ollama").is_ok() => Ollama::Silent,
        None => Ollama::Absent,
    };
    Findings { ollama, runtimes }
}

/// The address that `OLLAMA_HOST` names, if it is one of this machine.
fn loopback_url(host: &str) -> Option<String> {
    let host = host.trim().trim_end_matches('/');
    let host = host.strip_prefix("http://").unwrap_or(host);
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            (address, after.strip_prefix(':'))
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let port = port.map_or(Some(OLLAMA_PORT), |port| port.parse().ok())?;
    let loopback = name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    (loopback && port != 0).then(|| format!("http://{name}:{port}"))
}

/// The models of an Ollama server that run on it; `None` if none answers.
async fn installed_models(url: &str) -> Option<Vec<String>> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(OLLAMA_DEADLINE)
        .build()
        .ok()?;
    let mut answer = client.get(format!("{url}/api/tags")).send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > TAGS_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    let tags: Value = serde_json::from_slice(&body).ok()?;
    let models = tags.get("models")?.as_array()?;
    Some(models.iter().filter_map(|model| usable(model.get("name")?.as_str()?)).collect())
}

/// A model's name, if the manifest takes it and the model can converse.
fn usable(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let plain = !name.is_empty() && name.len() <= 256 && name.bytes().all(|c| c.is_ascii_graphic());
    (plain && !is_cloud_model(name) && !lower.contains("embed")).then(|| name.to_owned())
}

/// Writes a file that appears whole, and only where there is none.
fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error: &io::Error| not_written(path, error);
    let mut file = tempfile::Builder::new()
        .prefix(".babybot-init-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder_of(path))
        .map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes()).map_err(|error| failed(&error))?;
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(already_there(path))
        }
        Err(error) => Err(failed(&error.error)),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn already_there(path: &Path) -> Error {
    let shown = path.display();
    if let (Ok(target), Err(_)) = (path.read_link(), path.metadata()) {
        let words = format!("{shown} is a link to {}, which is not there", target.display());
        return Error::new(Exit::Failed, words).hinted(
            "nothing is written through it: remove the link, or name another path with --manifest",
        );
    }
    Error::new(Exit::Failed, format!("{shown} is already there"))
        .hinted("it was left as it is; `babybot validate` checks it, --manifest PATH names another")
}

fn no_folder(path: &Path) -> Error {
    let folder = folder_of(path).display().to_string();
    Error::new(Exit::Failed, format!("{folder} is not a folder"))
        .hinted("make it first, or name another path with --manifest")
}

/// Why the file was not written, without the name that it had for a moment.
fn not_written(path: &Path, error: &io::Error) -> Error {
    let cause = match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::from(error.kind()),
    };
    let failed = Error::failed(&format!("write {}", path.display()), &cause);
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let folder = folder_of(path).display();
            failed
                .hinted(format!("you may not write in {folder}: name another path with --manifest"))
        }
        _ => failed,
    }
}

fn told(path: &Path, findings: &Findings) -> String {
    let model = match &findings.ollama {
        Ollama::Ready { url, models } => {
            let model = models.first().map_or("", String::as_str);
            format!("model: {model} of the Ollama at {url}")
        }
        Ollama::Empty { url } => {
            format!("model: the built-in rehearsal, since the Ollama at {url} has none")
        }
        Ollama::Silent => "model: the built-in rehearsal, since Ollama does not answer".to_owned(),
        Ollama::Absent => "model: the built-in rehearsal, since no Ollama was found".to_owned(),
    };
    format!(
        "wrote {}\n  {model}\n  group: home, on this terminal\nnext: babybot plan, then babybot apply, then babybot chat home\n",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::{installed_models, loopback_url, usable};

    #[test]
    fn only_an_address_of_this_machine_is_asked() {
        let url = |host| loopback_url(host).unwrap_or_default();
        assert_eq!(url("127.0.0.1:11434"), "http://127.0.0.1:11434");
        assert_eq!(url("http://localhost:8080/"), "http://localhost:8080");
        assert_eq!(url("127.0.0.1"), "http://127.0.0.1:11434");
        assert_eq!(url("[::1]:9"), "http://[::1]:9");
        for elsewhere in [
            "0.0.0.0",
            "192.168.1.2:11434",
            "example.org",
            "https://localhost",
            "a@localhost",
            "localhost:0",
            "",
        ] {
            assert_eq!(loopback_url(elsewhere), None, "{elsewhere}");
        }
    }

    /// Serves one connection with these bytes, and gives the server's address.
    fn server(answer: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the address just bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn an_ollama_is_asked_for_its_models_and_may_answer_anything() {
        let answers = [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n{\"models\":[{\"name\":\"kimi:cloud\"},{\"name\":\"qwen3:8b\"},{\"x\":1}  ]}",
                Some(vec!["qwen3:8b".to_owned()]),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"models\":[]}", Some(vec![])),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"models\":", None),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
                None,
            ),
            ("SSH-2.0\r\n", None),
        ];
        for (answer, expected) in answers {
            assert_eq!(installed_models(&server(answer)).await, expected, "{answer}");
        }
    }

    #[test]
    fn models_that_leave_the_machine_or_cannot_converse_are_passed_over() {
        assert_eq!(usable("qwen3:8b").as_deref(), Some("qwen3:8b"));
        for name in [
            "gpt-oss:120b-cloud",
            "kimi:cloud",
            "x-cloud:latest",
            "nomic-embed-text:latest",
            "",
            "a b",
        ] {
            assert_eq!(usable(name), None, "{name}");
        }
    }
}
