//! A command's terminal within a container, byte for byte.
//!
//! The client of the engine's API takes what comes for frames wherever a piece of
//! it begins with a byte that could begin one. A terminal has no frames, so here
//! the connection is asked for and used as it is.

use bollard::container::LogOutput;
use bollard::errors::Error;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::ReaderStream;

use super::endpoint::Endpoint;
use super::failure::{Failure, Reach};
use super::streams::{Input, Output};
use crate::runtime::Duplex;

/// Starts a command that was made with a terminal, and gives what its screen shows and the way to
/// type.
pub(super) async fn start(endpoint: &Endpoint, exec: &str) -> Result<(Output, Input), Failure> {
    let unreachable = |error: &dyn std::error::Error| Failure::Unreachable {
        why: error.to_string(),
        reach: Reach::Answers,
    };
    let stream = connect(endpoint).await.map_err(|error| unreachable(&error))?;
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut requests, connection) = shaken.map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection of a terminal broke");
        }
    });
    let request = Request::post(format!("/exec/{exec}/start"))
        .header(HOST, "docker")
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .body(Full::new(Bytes::from_static(br#"{"Detach":false,"Tty":true}"#)))
        .map_err(|error| Failure::Nonsense(error.to_string()))?;
    let answer = requests.send_request(request).await.map_err(|error| unreachable(&error))?;
    if answer.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
        let words = format!("the engine does not hand the terminal over: {}", answer.status());
        return Err(Failure::Refused(words));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| unreachable(&error))?;
    let (shown, keys) = tokio::io::split(TokioIo::new(upgraded));
    let shown = ReaderStream::new(shown).map(|piece| match piece {
        Ok(message) => Ok(LogOutput::Console { message }),
        Err(err) => Err(Error::IOError { err }),
    });
    Ok((Box::pin(shown), Box::pin(keys)))
}

async fn connect(endpoint: &Endpoint) -> std::io::Result<Box<dyn Duplex>> {
    if let Some(socket) = endpoint.socket() {
        return Ok(Box::new(UnixStream::connect(socket).await?));
    }
    let address = endpoint.url.strip_prefix("tcp://").unwrap_or(&endpoint.url);
    Ok(Box::new(TcpStream::connect(address).await?))
}
