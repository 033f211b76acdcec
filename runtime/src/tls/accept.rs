//! The beginning of a connection in TLS at a listener, as kind to those who speak something else, or are refused, as it can be.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{PeerCertificate, Tls};
use crate::accept::begins_with;

/// How long a client that was refused may take to read so.
const LINGER: Duration = Duration::from_secs(1);
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 45\r\n\r\n\
    This port speaks TLS: ask it with https://.\r\n";

/// Sets TLS up, and waits for the first byte in it. Has no time limit of its own. Cancel safe: then the connection is closed.
///
/// # Errors
/// What went wrong; the client was told as far as it can be.
pub async fn accept(mut stream: TcpStream, tls: &Tls) -> io::Result<TlsStream<TcpStream>> {
    // A record of the handshake begins so (RFC 8446, section 5.1).
    if !begins_with(&stream, &[0x16]).await? {
        // Who speaks HTTP here by mistake is told so by a word that he understands.
        stream.write_all(NOT_TLS).await?;
        stream.shutdown().await?;
        return Err(ErrorKind::InvalidData.into());
    }
    let accepted = TlsAcceptor::from(tls.config()).accept(stream).into_fallible().await;
    let mut stream = match accepted {
        Ok(stream) => stream,
        Err((error, stream)) => {
            linger(stream).await;
            return Err(error);
        }
    };
    match stream.fill_buf().await?.is_empty() {
        true => Err(ErrorKind::UnexpectedEof.into()),
        false => Ok(stream),
    }
}

/// The certificate that the client has shown, if it has.
///
/// # Errors
/// When it cannot be read. One that was verified can.
pub fn certificate_of(stream: &TlsStream<TcpStream>) -> Result<Option<PeerCertificate>, String> {
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    shown.map(PeerCertificate::parse).transpose()
}

/// Lets a client read why it was refused: closing at once on what it has sent already would reset the connection, and take
/// the alert along.
async fn linger(mut stream: TcpStream) {
    let ended = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, ended).await;
}
