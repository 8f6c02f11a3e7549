//! `[runtime]`: what agents run in, and the image they run from.

use std::net::IpAddr;

use super::codes::Code;
use super::decode::{Decoder, Section};
use super::diagnostic::{Diagnostic, quote};
use super::fields::{IMAGE_BASE, IMAGE_SCRATCH, PACKAGES_MAX};
use super::limits::LimitParts;
use super::models::{is_port, path_fault};
use super::{Fallback, ImageSource, ImageWish, KindWish, RuntimeWish, Span, Written};
use crate::resource::RuntimeKind;

/// A runtime that exists by name and comes with a later release.
const APPLE_CONTAINER: &str = "apple-container";
/// Longest name of an image or a package.
const REFERENCE_LENGTH_MAX: usize = 255;

/// The runtime, its kind where that can be believed, and the limits beside it.
pub(super) fn runtime(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
) -> (RuntimeWish, Option<KindWish>, LimitParts) {
    let mut wish = RuntimeWish::default();
    let Some(section) = decoder.section(root, "runtime") else {
        return (wish, Some(KindWish::Auto), LimitParts::default());
    };
    decoder.check_keys(&section, None);
    let kind = kind(decoder, &section);
    wish.kind = kind.clone().unwrap_or(wish.kind);
    if decoder.text(&section, "fallback").is_some_and(|fallback| fallback.value == "error") {
        wish.fallback = Fallback::Error;
    }
    if let Some(parallel) = decoder.integer(&section, "parallel") {
        wish.parallel = parallel;
    }
    if let Some(image) = image(decoder, &section) {
        wish.image = image;
    }
    wish.docker_host = docker_host(decoder, &section);
    let kind = kind.map(|kind| kind.value);
    let limits = LimitParts::read(decoder, &section, kind);
    (wish, kind, limits)
}

fn kind(decoder: &mut Decoder<'_>, section: &Section<'_, '_>) -> Option<Written<KindWish>> {
    let Some(value) = section.table.get("kind") else {
        return Some(Written { value: KindWish::Auto, at: None });
    };
    if value.get_ref().as_str() == Some(APPLE_CONTAINER) {
        let at = decoder.span(&value.span());
        decoder.note(
            Diagnostic::new(
                Code::RuntimeUnavailable,
                format!("runtime `{APPLE_CONTAINER}` is not available in this release"),
            )
            .at(at, "not available yet")
            .helped("`kind = \"auto\"` takes docker where an engine answers, else a process that is not isolated"),
        );
        return None;
    }
    let Written { value, at } = decoder.text(section, "kind")?;
    Some(Written { value: KindWish::named(&value)?, at })
}

impl KindWish {
    /// The kind that is named; `None`: whichever there is.
    pub(super) fn kind(self) -> Option<RuntimeKind> {
        match self {
            Self::Auto => None,
            Self::Docker => Some(RuntimeKind::Docker),
            Self::None => Some(RuntimeKind::None),
        }
    }

    /// The kind that a word of the manifest means.
    pub(super) fn named(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "docker" => Some(Self::Docker),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

fn image(decoder: &mut Decoder<'_>, parent: &Section<'_, '_>) -> Option<ImageWish> {
    let section = decoder.section(parent, "image")?;
    decoder.check_keys(&section, None);
    let base = decoder.text(&section, "base");
    let packages = decoder.texts(&section, "packages");
    let named = decoder.text(&section, "ref");
    let binary = decoder.text(&section, "binary");
    for (what, written) in [("base", &base), ("ref", &named)] {
        if let Some(Written { value, at: Some(at) }) = written {
            check_reference(decoder, what, value, *at);
        }
    }
    if let (Some(Written { value, .. }), Some(at)) = (&named, place(&named)) {
        if value == IMAGE_SCRATCH {
            decoder.note(
                Diagnostic::new(Code::BadImage, "`scratch` is not an image that contains babybot")
                    .at(at, "nothing in it")
                    .helped("write `base = \"scratch\"`, and babybot builds one"),
            );
        }
        for key in ["base", "packages"].into_iter().filter(|key| section.table.contains_key(*key)) {
            let beside = section.table.get(key).map(|beside| decoder.span(&beside.span()));
            let problem = Diagnostic::new(
                Code::BadImage,
                format!("the image is named by `ref`, and `{key}` is of one that is built"),
            )
            .at(at, "an image that exists");
            let problem = match beside {
                Some(beside) => problem.at(beside, "of an image to build"),
                None => problem,
            };
            decoder.note(problem.helped(format!("remove `ref`, or remove `{key}`")));
        }
    }
    check_packages(decoder, &packages, base.as_ref());
    if let Some(binary) = &binary {
        check_binary(decoder, binary);
    }
    let mut packages: Vec<String> = packages.into_iter().map(|(name, _)| name).collect();
    // Their order means nothing, so that moving one is no other image.
    packages.sort();
    packages.dedup();
    let source = match named {
        Some(named) => ImageSource::Named(named.value),
        None => ImageSource::Built {
            base: base.map_or_else(|| IMAGE_BASE.to_owned(), |base| base.value),
            packages,
            binary: binary.map(|binary| binary.value),
        },
    };
    Some(ImageWish { at: Some(section.at), source, fields: decoder.places(&section) })
}

fn place(written: &Option<Written<String>>) -> Option<Span> {
    written.as_ref().and_then(|written| written.at)
}

fn check_reference(decoder: &mut Decoder<'_>, what: &str, text: &str, at: Span) {
    if !is_reference(text) {
        decoder.note(
            Diagnostic::new(Code::BadImage, format!("{} is not an image's name", quote(text)))
                .at(at, "not an image's name")
                .helped(format!(
                    "`{what}` takes what a container engine calls it, such as \"{IMAGE_BASE}\""
                )),
        );
    }
}

/// Whether a text may be what a container engine calls an image.
pub(super) fn is_reference(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._/:@-".contains(&c);
    text.len() <= REFERENCE_LENGTH_MAX
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().last().is_some_and(|last| last.is_ascii_alphanumeric())
}

fn check_packages(
    decoder: &mut Decoder<'_>,
    packages: &[(String, Span)],
    base: Option<&Written<String>>,
) {
    for (name, at) in packages {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b".+-_".contains(&c);
        let named = name.bytes().all(plain)
            && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && name.len() <= REFERENCE_LENGTH_MAX;
        if !named {
            decoder.note(
                Diagnostic::new(Code::BadImage, format!("{} is not a package's name", quote(name)))
                    .at(*at, "not a package's name")
                    .helped("a name is letters, digits, `.`, `+`, `-` and `_`, and starts with a letter or digit"),
            );
        }
    }
    let Some((_, first)) = packages.first() else { return };
    if packages.len() > PACKAGES_MAX {
        decoder.note(
            Diagnostic::new(Code::BadImage, format!("the image has {} packages", packages.len()))
                .at(*first, "too many")
                .helped(format!("an image has at most {PACKAGES_MAX} packages")),
        );
    }
    if let Some(Written { value, at: Some(at) }) = base
        && value == IMAGE_SCRATCH
    {
        decoder.note(
            Diagnostic::new(
                Code::BadImage,
                "`packages` cannot be installed where `base` is `scratch`",
            )
            .at(*first, "nothing here can install it")
            .at(*at, "an image without anything in it")
            .helped(format!("remove `packages`, or choose a base such as \"{IMAGE_BASE}\"")),
        );
    }
}

fn check_binary(decoder: &mut Decoder<'_>, binary: &Written<String>) {
    let path = binary.value.strip_prefix("~/").unwrap_or(&binary.value);
    if let (Some(at), Some(reason)) = (binary.at, path_fault(path)) {
        decoder.note(
            Diagnostic::new(Code::BadPath, format!("the path {} {reason}", quote(&binary.value)))
                .at(at, reason)
                .helped("write a path relative to the folder of the manifest, or one that begins with `~/`, without `..`"),
        );
    }
}

fn docker_host(decoder: &mut Decoder<'_>, parent: &Section<'_, '_>) -> Option<Written<String>> {
    let section = decoder.section(parent, "docker")?;
    decoder.check_keys(&section, None);
    let host = decoder.text(&section, "host")?;
    if let (Some(at), Err(reason)) = (host.at, engine_fault(&host.value)) {
        decoder.note(
            Diagnostic::new(Code::BadEngine, format!("the address of the engine {reason}"))
                .at(at, reason)
                .helped(
                    "write it as in \"unix:///var/run/docker.sock\" or \"tcp://127.0.0.1:2375\"",
                ),
        );
    }
    Some(host)
}

/// Checks that an address is a socket of this machine, or a port that only this machine has.
fn engine_fault(host: &str) -> Result<(), &'static str> {
    if let Some(path) = host.strip_prefix("unix://") {
        let sound = path.starts_with('/') && path.len() > 1 && !path.chars().any(char::is_control);
        return if sound { Ok(()) } else { Err("has no path to a socket") };
    }
    let rest = host.strip_prefix("tcp://").ok_or("does not start with unix:// or tcp://")?;
    let (name, port) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or("has no valid port")?,
        None => rest.split_once(':').ok_or("has no valid port")?,
    };
    if !is_port(port) {
        return Err("has no valid port");
    }
    let here = name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if here { Ok(()) } else { Err("is not one of this machine") }
}
