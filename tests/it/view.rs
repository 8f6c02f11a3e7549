//! The main group's copy of the project: what is in it, what never is, and who has it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use babybot::project::Project;
use babybot::project::view::{LEFT_OUT, VIEW_FILES_MAX, VIEW_MEMORY_MAX, VIEW_SIZE_MAX};

use crate::support::docker::needs;
use crate::support::folder::Folder;

/// A project with something of everything.
fn project() -> (Folder, Project) {
    let folder = Folder::with("name = \"home\"\n");
    for path in [
        "babybot.work.toml",
        "README.md",
        "docs/SETUP.md",
        "skills/gmail/SKILL.md",
        "container/Dockerfile",
        "examples/family/babybot.toml",
        "groups/family/MEMORY.md",
        "groups/family/diary.txt",
        "groups/global/MEMORY.md",
        "src/main.rs",
        ".env",
        "secrets.toml",
        "data/secret",
    ] {
        folder.write(path, path);
    }
    let project = Project::open(&folder.path("")).unwrap();
    (folder, project)
}

/// Makes the copy, and gives the files in it.
fn refreshed(project: &Project) -> Vec<String> {
    project.refresh_view(&project.view_source().unwrap()).unwrap();
    let mut files = Vec::new();
    walk(&project.view(), "", &mut files);
    files.sort();
    files
}

fn walk(folder: &Path, below: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{below}{}", entry.file_name().to_str().unwrap());
        let about = entry.path().symlink_metadata().unwrap();
        match about.is_dir() {
            true => {
                assert_eq!(about.mode() & 0o7777, 0o755, "{path}");
                walk(&entry.path(), &format!("{path}/"), files);
            }
            false => {
                assert!(about.is_file() && about.nlink() == 1, "{path}");
                assert_eq!(about.mode() & 0o7777, 0o644, "{path}");
                files.push(path);
            }
        }
    }
}

const ALL: [&str; 8] = [
    "README.md",
    "babybot.toml",
    "babybot.work.toml",
    "container/Dockerfile",
    "docs/SETUP.md",
    "examples/family/babybot.toml",
    "groups/family/MEMORY.md",
    "skills/gmail/SKILL.md",
];

#[test]
fn the_copy_has_what_is_listed_and_follows_the_project() {
    let (folder, project) = project();
    assert_eq!(refreshed(&project), ALL);
    assert_eq!(folder.read("data/view/project/docs/SETUP.md"), "docs/SETUP.md");
    let identity = |path: &str| {
        let about = fs::metadata(folder.path(path)).unwrap();
        (about.dev(), about.ino())
    };
    let (view, readme) = (identity("data/view/project"), identity("data/view/project/README.md"));
    folder.edit("home", "work");
    fs::remove_dir_all(folder.path("docs")).unwrap();
    folder.write("skills/new/SKILL.md", "new");
    let files = refreshed(&project);
    assert!(!files.iter().any(|file| file.starts_with("docs")), "{files:?}");
    assert!(files.iter().any(|file| file == "skills/new/SKILL.md"), "{files:?}");
    assert_eq!(folder.read("data/view/project/babybot.toml"), "name = \"work\"\n");
    assert_eq!(identity("data/view/project"), view, "a mount would keep the old folder");
    assert_eq!(identity("data/view/project/README.md"), readme, "it was not edited");
    // What another process puts into the copy does not stay there.
    folder.write("data/view/project/README.md", "readme.md");
    folder.write("data/view/project/planted/deep/file", "");
    fs::set_permissions(folder.path("data/view/project"), fs::Permissions::from_mode(0o700))
        .unwrap();
    assert_eq!(refreshed(&project), files);
    assert_eq!(folder.read("data/view/project/README.md"), "README.md");
}

#[test]
fn a_folder_that_became_a_file_and_a_file_that_became_a_folder_take_each_others_place() {
    let (folder, project) = project();
    refreshed(&project);
    fs::remove_dir_all(folder.path("skills/gmail")).unwrap();
    folder.write("skills/gmail", "a file");
    fs::remove_file(folder.path("docs/SETUP.md")).unwrap();
    folder.write("docs/SETUP.md/inner", "in a folder");
    refreshed(&project);
    assert_eq!(folder.read("data/view/project/skills/gmail"), "a file");
    assert_eq!(folder.read("data/view/project/docs/SETUP.md/inner"), "in a folder");
}

#[test]
fn no_link_is_followed_to_what_is_copied() {
    let (folder, project) = project();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let secret = outside.path().join("secret");
    symlink(&secret, folder.path("docs/link.md")).unwrap();
    symlink(outside.path(), folder.path("docs/folder")).unwrap();
    fs::hard_link(folder.path(".env"), folder.path("docs/hard.md")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path("docs/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    // A group is its agent's, and so are all the names in it.
    fs::remove_file(folder.path("groups/family/MEMORY.md")).unwrap();
    symlink(&secret, folder.path("groups/family/MEMORY.md")).unwrap();
    symlink(outside.path(), folder.path("groups/work")).unwrap();
    fs::remove_dir_all(folder.path("skills")).unwrap();
    symlink(outside.path(), folder.path("skills")).unwrap();
    let files = refreshed(&project);
    let expected = ALL.iter().filter(|file| !file.starts_with("groups") && !file.starts_with("sk"));
    let mut expected: Vec<&str> = expected.copied().chain([LEFT_OUT]).collect();
    expected.sort_unstable();
    assert_eq!(files, expected);
    let said = folder.read(&format!("data/view/project/{LEFT_OUT}"));
    for line in [
        "docs/link.md: it is a link",
        "docs/folder: it is a link",
        "docs/hard.md: it has another name elsewhere",
        "docs/pipe: it is not a regular file",
        "groups/family/MEMORY.md: it is a link",
        "skills: it is not a folder that can be entered",
    ] {
        assert!(said.contains(&format!("{line}\n")), "{line}\n{said}");
    }
}

#[test]
fn no_link_is_followed_to_where_it_is_copied() {
    let (folder, project) = project();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    for planted in ["data/view", "data/view/project", "data/view/project/docs"] {
        let _ = fs::remove_dir_all(folder.path("data/view"));
        fs::create_dir_all(folder.path(planted).parent().unwrap()).unwrap();
        symlink(outside.path(), folder.path(planted)).unwrap();
        assert_eq!(refreshed(&project), ALL, "{planted}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{planted}");
    }
    fs::write(&target, "theirs").unwrap();
    let readme = folder.path("data/view/project/README.md");
    for hard in [false, true] {
        for name in ["README.md", ".babybot-new"] {
            let place = folder.path("data/view/project").join(name);
            let _ = fs::remove_file(&place);
            match hard {
                true => fs::hard_link(&target, &place).unwrap(),
                false => symlink(&target, &place).unwrap(),
            }
            // So that something is written.
            fs::write(folder.path("docs/SETUP.md"), name).unwrap();
            assert_eq!(refreshed(&project), ALL);
            assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
            assert_eq!(fs::read_to_string(&readme).unwrap(), "README.md");
        }
    }
}

#[test]
fn what_looks_like_a_secret_is_in_no_copy() {
    let (folder, project) = project();
    let secrets = ["docs/server.pem", "skills/gmail/id_rsa", "skills/gmail/credentials.json"];
    for path in secrets.iter().chain(&["skills/gmail/.env", "examples/.ssh/config"]) {
        folder.write(path, "secret");
    }
    let files = refreshed(&project);
    assert_eq!(files.len(), ALL.len() + 1, "{files:?}");
    let said = folder.read(&format!("data/view/project/{LEFT_OUT}"));
    for secret in secrets {
        assert!(said.contains(&format!("{secret}: it looks like a secret\n")), "{said}");
    }
    fs::remove_file(folder.path("docs/server.pem")).unwrap();
    fs::remove_dir_all(folder.path("skills")).unwrap();
    assert!(!refreshed(&project).iter().any(|file| file == LEFT_OUT));
}

#[test]
fn what_is_over_the_limits_is_left_out_and_said() {
    let (folder, project) = project();
    for number in 0..VIEW_FILES_MAX {
        folder.write(&format!("docs/{number:05}.md"), "x");
    }
    let files = refreshed(&project);
    assert_eq!(files.len(), VIEW_FILES_MAX + 1, "and the file that says so");
    let said = folder.read(&format!("data/view/project/{LEFT_OUT}"));
    assert!(said.contains("groups/family/MEMORY.md: there are too many files\n"), "{said}");

    fs::remove_dir_all(folder.path("docs")).unwrap();
    for name in ["a", "b"] {
        folder.write(&format!("docs/{name}"), "");
        let file = fs::File::options().write(true).open(folder.path(&format!("docs/{name}")));
        file.unwrap().set_len(VIEW_SIZE_MAX - 1_000).unwrap();
    }
    let files = refreshed(&project);
    assert_eq!(files.len(), ALL.len() + 1, "{files:?}");
    let said = folder.read(&format!("data/view/project/{LEFT_OUT}"));
    assert!(said.contains("docs/b: the files before it leave no room\n"), "{said}");
}

#[test]
fn a_group_with_a_large_memory_takes_no_room_from_another() {
    let (folder, project) = project();
    folder.write("groups/aaa/MEMORY.md", "");
    let file = fs::File::options().write(true).open(folder.path("groups/aaa/MEMORY.md")).unwrap();
    file.set_len(VIEW_MEMORY_MAX + 1).unwrap();
    let files = refreshed(&project);
    assert!(files.iter().any(|file| file == "groups/family/MEMORY.md"), "{files:?}");
    let said = folder.read(&format!("data/view/project/{LEFT_OUT}"));
    assert!(said.contains("groups/aaa/MEMORY.md: it is too large\n"), "{said}");
    // One that grows between the look and the copy is no way around it.
    file.set_len(0).unwrap();
    let source = project.view_source().unwrap();
    file.set_len(VIEW_SIZE_MAX - 1_000).unwrap();
    project.refresh_view(&source).unwrap();
    assert!(folder.path("data/view/project/groups/family/MEMORY.md").exists());
    assert!(!folder.path("data/view/project/groups/aaa/MEMORY.md").exists());
}

const TWO: &str = r#"schema = 1
name = "home"

[runtime]
KIND

[models.stand-in]
kind = "rehearsal"
script = "script.toml"
context = 4096

[groups.home]
main = true
bind = ["terminal"]
requires_trigger = false

[groups.other]
"#;

const SCRIPT: &str = r#"
[[rule]]
when = "read"
steps = [
  { call = { tool = "bb_read_file", arguments = { path = "/workspace/project/babybot.toml" } } },
  { reply = "{result}" },
]
[[rule]]
when = "write"
steps = [
  { call = { tool = "bb_write_file", arguments = { path = "/workspace/project/new", content = "x" } } },
  { reply = "{result}" },
]
"#;

/// Applies, and gives what was answered to each of these.
fn answers(folder: &Folder, kind: &str, asked: &[(&str, &str)]) -> Vec<String> {
    folder.write("babybot.toml", &TWO.replace("KIND", kind));
    folder.write("script.toml", SCRIPT);
    let applied = folder.run(&["apply", "--yes=privileged"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let answer = |(group, message): &(&str, &str)| {
        let ran = folder.run(&["chat", group, message]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.stdout
    };
    asked.iter().map(answer).collect()
}

#[test]
fn where_nothing_walls_an_agent_in_main_reads_the_copy_and_the_others_have_none() {
    let folder = Folder::empty();
    let all = answers(&folder, "kind = \"none\"", &[("home", "read"), ("other", "read")]);
    assert!(all[0].contains("[groups.other]"), "{all:?}");
    assert!(!all[1].contains("[groups.other]"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_container_main_reads_the_copy_and_cannot_write_it_and_the_others_have_none() {
    needs!(docker);
    let folder = Folder::empty();
    let kind = "kind = \"docker\"\n[runtime.image]\nbase = \"scratch\"";
    let asked = [("home", "read"), ("home", "write"), ("other", "read")];
    let work = tokio::task::spawn_blocking(move || {
        let all = answers(&folder, kind, &asked);
        let project = Project::open(&folder.path("")).unwrap();
        let instance = project.known_instance().unwrap().unwrap();
        (all, folder.path("data/view/project/new").exists(), instance)
    });
    let (all, written, instance) = work.await.unwrap();
    let filter = format!("label=io.babybot.instance={instance}");
    let _ = Command::new("docker").args(["image", "prune", "-af", "--filter", &filter]).output();
    assert!(all[0].contains("[groups.other]"), "{all:?}");
    assert!(all[1].contains("error") && !written, "{all:?}");
    assert!(!all[2].contains("[groups.other]"), "{all:?}");
}
