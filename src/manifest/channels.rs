//! `[channels]`: through which services people and programs reach groups.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::de::DeTable;

use super::codes::Code;
use super::decode::{Decoder, Section};
use super::diagnostic::{Diagnostic, closest, listed, quote};
use super::models::url_fault;
use super::names::check_name;
use super::{Declared, Span, Written, habits};
use crate::name::{ChannelName, ChatId, SecretName};
use crate::resource::{CallbackSpec, ChannelSpec, SecretRef, SecretSource, WebhookSpec};

/// The address of a webhook where none is written.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787);
/// Longest name of a chat of a webhook.
const CHAT_LENGTH_MAX: usize = 64;

/// Secrets by name.
type Secrets = BTreeMap<SecretName, Written<SecretSource>>;

/// Which chats a channel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chats {
    /// None: it is one conversation.
    None,
    /// Those that groups bind.
    Bound,
    /// Nobody knows: its kind cannot be read.
    Unknown,
}

/// The channels, and which chats each name that was written has.
pub(super) fn channels(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
    secrets: &Secrets,
) -> (BTreeMap<ChannelName, Declared<ChannelSpec>>, BTreeMap<String, Chats>) {
    let mut found = BTreeMap::new();
    let mut names = BTreeMap::from([(ChannelName::terminal().to_string(), Chats::None)]);
    let Some(section) = decoder.section(root, "channels") else { return (found, names) };
    for name in section.table.keys() {
        names.insert(name.get_ref().to_string(), Chats::Unknown);
        check_name(decoder, "channel", name.get_ref(), &name.span(), ChannelName::new);
    }
    let mut listening = BTreeMap::new();
    for (name, section) in decoder.named(&section) {
        let kind = decoder.text(&section, "kind").map(|kind| kind.value);
        decoder.check_keys(&section, kind.as_deref());
        decoder.require(&section, "kind", "write `kind = \"terminal\"` or `kind = \"webhook\"`");
        let mut fields = decoder.places(&section);
        let (chats, spec) = match kind.as_deref() {
            None => (Chats::Unknown, None),
            Some("webhook") => {
                let secrets = References { root: root.table, secrets };
                let spec = webhook(decoder, &section, &secrets, &mut fields);
                if let Some(spec) = &spec {
                    check_listens_once(decoder, &mut listening, spec, section.at, &fields);
                }
                (Chats::Bound, spec.map(|spec| ChannelSpec::Webhook(Box::new(spec))))
            }
            Some(_) => (Chats::None, Some(ChannelSpec::Terminal)),
        };
        names.insert(name.to_owned(), chats);
        if let (Some(spec), Ok(name)) = (spec, ChannelName::new(name)) {
            found.insert(name, Declared { at: section.at, spec, fields });
        }
    }
    (found, names)
}

/// Notes a channel that is not declared.
pub(super) fn note_unknown(
    decoder: &mut Decoder<'_>,
    channel: &str,
    declared: &BTreeMap<String, Chats>,
    at: Span,
) {
    if decoder.loses_names("channels") {
        return;
    }
    let names = || declared.keys().map(String::as_str);
    let label = closest(channel, names())
        .map_or_else(|| "not declared".to_owned(), |meant| format!("did you mean \"{meant}\"?"));
    let help = habits::channel(channel).unwrap_or_else(|| format!("channels: {}", listed(names())));
    decoder.note(
        Diagnostic::new(Code::UnknownChannel, format!("there is no channel {}", quote(channel)))
            .at(at, label)
            .helped(help),
    );
}

/// Checks the chat of a binding, where the channel's kind is known; `None` where it does not fit.
pub(super) fn chat(
    decoder: &mut Decoder<'_>,
    channel: &str,
    chats: Chats,
    written: Option<&str>,
    at: Span,
) -> Option<Option<ChatId>> {
    let (reason, label, help) = match (chats, written) {
        (Chats::None, None) => return Some(None),
        (Chats::None, Some(_)) => {
            ("is a terminal, which has no chats", "names a chat", "write the channel's name alone")
        }
        (Chats::Bound, Some(chat)) if is_chat(chat) => return ChatId::new(chat).ok().map(Some),
        (Chats::Bound, Some(_)) => (
            "has no chat of this name",
            "not a chat's name",
            "a chat of a webhook is named with letters, digits, `.`, `_` and `-`, at most 64",
        ),
        (Chats::Bound, None) => (
            "is a webhook, and this names none of its chats",
            "names no chat",
            "write a chat's name behind the channel's, such as `api:kitchen`: programs write to it at `/v1/chats/kitchen/messages`",
        ),
        (Chats::Unknown, _) => return None,
    };
    decoder.note(
        Diagnostic::new(Code::BadBinding, format!("channel {} {reason}", quote(channel)))
            .at(at, label)
            .helped(help),
    );
    None
}

/// Whether a chat of a webhook may be called this: it is a part of a URL's path.
fn is_chat(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=CHAT_LENGTH_MAX).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().any(|c| c != b'.')
}

/// The table `[secrets]` as it was written, and the secrets that could be read.
struct References<'a, 'i> {
    root: &'a DeTable<'i>,
    secrets: &'a Secrets,
}

fn webhook(
    decoder: &mut Decoder<'_>,
    section: &Section<'_, '_>,
    secrets: &References<'_, '_>,
    fields: &mut BTreeMap<String, Span>,
) -> Option<WebhookSpec> {
    let written = decoder.text(section, "listen");
    let listen = match &written {
        Some(written) => listen(decoder, written),
        None => Some(LISTEN),
    };
    decoder.require(
        section,
        "token",
        "write `token = { secret = \"api\" }`, and declare the secret",
    );
    let token = token(decoder, section, secrets);
    let callback = match section.table.contains_key("callback") {
        true => Some(callback(decoder, section, secrets, fields)?),
        false => None,
    };
    Some(WebhookSpec { listen: listen?, token: token?, callback })
}

fn listen(decoder: &mut Decoder<'_>, written: &Written<String>) -> Option<SocketAddr> {
    match written.value.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            decoder.note(
                Diagnostic::new(
                    Code::BadListen,
                    format!("a webhook cannot listen on {}", quote(&written.value)),
                )
                .at(written.at?, "not an address and a port")
                .helped(format!("write an IP address and a port, such as \"{LISTEN}\"")),
            );
            None
        }
    }
}

/// Notes a second webhook on the same address.
fn check_listens_once(
    decoder: &mut Decoder<'_>,
    listening: &mut BTreeMap<SocketAddr, Span>,
    spec: &WebhookSpec,
    at: Span,
    fields: &BTreeMap<String, Span>,
) {
    let at = fields.get("listen").copied().unwrap_or(at);
    if let Some(first) = listening.insert(spec.listen, at) {
        decoder.note(
            Diagnostic::new(Code::BadListen, format!("two webhooks listen on {}", spec.listen))
                .at(at, "listens there, too")
                .at(first, "first here")
                .helped("give each webhook a port of its own"),
        );
    }
}

fn token(
    decoder: &mut Decoder<'_>,
    parent: &Section<'_, '_>,
    secrets: &References<'_, '_>,
) -> Option<SecretRef> {
    // A literal is not merely of the wrong type, and its value is not to be repeated.
    if let Some(value) = parent.table.get("token").filter(|value| value.get_ref().is_str()) {
        let at = decoder.span(&value.span());
        decoder.note(
            Diagnostic::new(Code::SecretLiteral, "the manifest contains a token")
                .at(at, "a secret's value")
                .helped("declare it under `[secrets]`, write `token = { secret = \"…\" }` with its name; if this file was shared, replace the token"),
        );
        return None;
    }
    let section = decoder.section(parent, "token")?;
    decoder.check_keys(&section, None);
    decoder.require(&section, "secret", "write `token = { secret = \"api\" }`");
    reference(decoder, &section, secrets)
}

fn callback(
    decoder: &mut Decoder<'_>,
    parent: &Section<'_, '_>,
    secrets: &References<'_, '_>,
    fields: &mut BTreeMap<String, Span>,
) -> Option<CallbackSpec> {
    let section = decoder.section(parent, "callback")?;
    decoder.check_keys(&section, None);
    for (key, at) in decoder.places(&section) {
        fields.insert(format!("callback.{key}"), at);
    }
    decoder.require(&section, "url", "write where replies are posted to");
    decoder.require(&section, "secret", "name the secret that signs what is posted");
    let url = decoder.text(&section, "url");
    let secret = reference(decoder, &section, secrets);
    let url = url?;
    let fault = url_fault(&url.value).and_then(|()| match is_private(&url.value) {
        true => Ok(()),
        false => Err("is neither on https nor at a loopback address"),
    });
    if let (Some(at), Err(reason)) = (url.at, fault) {
        // An address with credentials in it is not repeated.
        decoder.note(
            Diagnostic::new(Code::BadCallback, format!("the callback's address {reason}"))
                .at(at, reason)
                .helped("write it as in \"https://example.org/replies\" or \"http://127.0.0.1:5678/webhook/replies\""),
        );
    }
    Some(CallbackSpec { url: url.value, secret: secret? })
}

/// Whether nobody on the way can read what is posted to this URL.
fn is_private(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return url.starts_with("https://") };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// The secret that `secret` names. It may be the secret itself, so it is not repeated.
fn reference(
    decoder: &mut Decoder<'_>,
    section: &Section<'_, '_>,
    references: &References<'_, '_>,
) -> Option<SecretRef> {
    let written = decoder.text(section, "secret")?;
    let name = SecretName::new(written.value.as_str()).ok();
    let found = name.and_then(|name| Some((references.secrets.get(&name)?, name)));
    if let Some((source, name)) = found {
        return Some(SecretRef { name, source: source.value.clone() });
    }
    let declared = references.root.get("secrets").and_then(|secrets| secrets.get_ref().as_table());
    let names: Vec<&str> = declared
        .map(|table| table.keys().map(|name| name.get_ref().as_ref()).collect())
        .unwrap_or_default();
    if decoder.loses_names("secrets") || names.contains(&written.value.as_str()) {
        return None;
    }
    let label = closest(&written.value, names.iter().copied())
        .map_or_else(|| "not declared".to_owned(), |meant| format!("did you mean \"{meant}\"?"));
    let help = match names.is_empty() {
        true => "no secret is declared: write `[secrets]`, and below it a name with where the secret is, such as `api = { env = \"BABYBOT_API_TOKEN\" }`".to_owned(),
        false => format!("declared secrets: {}", listed(names)),
    };
    decoder.note(
        Diagnostic::new(Code::UnknownSecret, "there is no such secret")
            .at(written.at?, label)
            .helped(help),
    );
    None
}
