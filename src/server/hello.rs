//! What a TLS client asks for, read without answering it.

use std::{io, sync::Arc};

use thiserror::Error;
use tokio::io::AsyncRead;

use super::io::{Rewind, read_ahead};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// The longest payload of a record (RFC 8446, section 5.1).
const RECORD: usize = 1 << 14;

/// What the first message of a TLS connection says: read before anything is answered, so that a connection can be passed
/// on as it is, or closed without a word.
///
/// # Example
/// ```
/// use portcullis::server::ClientHello;
///
/// let hello = ClientHello::new(Some("Shop.Example.com"), ["h2", "http/1.1"]);
/// assert_eq!(hello.server_name(), Some("shop.example.com"));
/// assert_eq!(hello.alpn().next(), Some(b"h2".as_slice()));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    server_name: Option<Arc<str>>,
    alpn: Vec<Box<[u8]>>,
}

/// Why there is no ClientHello.
#[derive(Debug, Error)]
pub(super) enum HelloError {
    #[error("the ClientHello could not be read")]
    Io(#[from] io::Error),
    #[error("the connection ended before its ClientHello was complete, or that is larger than allowed")]
    Incomplete,
    #[error("what came is no ClientHello")]
    Malformed,
}

/// What a beginning of a connection comes to.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Complete(ClientHello),
    /// There must be this many bytes at the least before it is worth to look again.
    Incomplete(usize),
    Malformed,
}

impl ClientHello {
    /// One that asks for this name (SNI) and offers these protocols.
    #[must_use]
    pub fn new(server_name: Option<&str>, alpn: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let server_name = server_name.map(|name| name.to_ascii_lowercase().into());
        Self { server_name, alpn: alpn.into_iter().map(|protocol| protocol.as_ref().into()).collect() }
    }

    /// The name that is asked for (SNI), in lower case and without a dot at the end.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The protocols that are offered (ALPN), the preferred one first.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        self.alpn.iter().map(|protocol| &**protocol)
    }

    /// Reads one, and puts what was read back. It may be cut into records and into reads as the client likes.
    pub(super) async fn read<T>(io: &mut Rewind<T>, limit: usize) -> Result<Self, HelloError>
    where
        T: AsyncRead + Unpin,
    {
        let mut parsed = Parsed::Incomplete(0);
        let enough = |ahead: &[u8]| {
            if let Parsed::Incomplete(least) = parsed
                && ahead.len() >= least
            {
                parsed = parse(ahead);
            }
            !matches!(parsed, Parsed::Incomplete(_))
        };
        let ahead = read_ahead(io, limit, enough).await?;
        io.unread(ahead.freeze());
        match parsed {
            Parsed::Complete(hello) => Ok(hello),
            Parsed::Incomplete(_) => Err(HelloError::Incomplete),
            Parsed::Malformed => Err(HelloError::Malformed),
        }
    }
}

/// Puts the handshake message together from its records.
fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((header, after)) = rest.split_at_checked(5) else {
            let fits =
                rest.first().is_none_or(|&kind| kind == HANDSHAKE) && rest.get(1).is_none_or(|&major| major == 3);
            return if fits { Parsed::Incomplete(bytes.len() + 5 - rest.len()) } else { Parsed::Malformed };
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE || header[1] != 3 || length == 0 || length > RECORD {
            return Parsed::Malformed;
        }
        message.extend_from_slice(after.get(..length).unwrap_or(after));
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Parsed::Malformed;
        }
        if let Some(&[_, a, b, c]) = message.first_chunk() {
            let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if let Some(body) = message.get(4..whole) {
                return client_hello(&mut Reader(body)).map_or(Parsed::Malformed, Parsed::Complete);
            }
        }
        let Some(after) = after.get(length..) else {
            return Parsed::Incomplete(bytes.len() + length - after.len());
        };
        rest = after;
    }
}

/// RFC 8446, section 4.1.2.
fn client_hello(body: &mut Reader<'_>) -> Option<ClientHello> {
    body.take(2 + 32)?;
    body.vector8()?;
    body.vector16()?;
    body.vector8()?;
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = Reader(extensions.vector16()?);
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(&mut content)?).filter(|name| !name.is_empty()),
            ALPN => {
                let mut protocols = Reader(content.vector16()?);
                while !protocols.0.is_empty() {
                    hello.alpn.push(protocols.vector8()?.into());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066, section 3; empty where there is none. Names of other kinds than hosts do not exist.
fn server_name(content: &mut Reader<'_>) -> Option<Arc<str>> {
    let mut names = Reader(content.vector16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.vector16()?;
        if kind == [0] {
            let name = std::str::from_utf8(name).ok().filter(|name| name.is_ascii())?;
            return Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into());
        }
    }
    Some("".into())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    fn sni(name: &str) -> Vec<u8> {
        extension(SERVER_NAME, &vector16(&[&[0][..], &vector16(name.as_bytes())].concat()))
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[4, 1, 2, 3, 4], &vector16(&[0x13, 1]), &[1, 0]].concat();
        body.extend(vector16(extensions));
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO][..], &length[1..], &body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat()).collect()
    }

    fn example() -> (Vec<u8>, ClientHello) {
        let alpn = extension(ALPN, &vector16(b"\x02h2\x08http/1.1"));
        let extensions = [extension(43, &[2, 3, 4]), sni("Shop.Example.com."), alpn].concat();
        (message(&extensions), ClientHello::new(Some("shop.example.com"), ["h2", "http/1.1"]))
    }

    #[tokio::test]
    async fn it_is_read_however_it_is_cut_and_everything_is_put_back() {
        let (message, hello) = example();
        for size in [1, 3, 7, 1000] {
            let bytes = [records(&message, size), b"early data".to_vec()].concat();
            let (mut client, server) = duplex(1 << 16);
            let sent = bytes.clone();
            let writing = tokio::spawn(async move {
                for byte in sent {
                    client.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let mut io = Rewind::new(server, Bytes::new());
            assert_eq!(ClientHello::read(&mut io, 1 << 16).await.unwrap(), hello);
            let mut replayed = Vec::new();
            io.read_to_end(&mut replayed).await.unwrap();
            assert_eq!(replayed, bytes);
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_none_is_an_error_and_none_is_waited_for_longer_than_allowed() {
        let (message, _) = example();
        let whole = records(&message, 1000);
        for (bytes, limit, malformed) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), 1000, true),
            (vec![HANDSHAKE, 3, 1, 0, 0], 1000, true),
            (vec![HANDSHAKE, 3, 1, 0xff, 0xff], 1000, true),
            (vec![HANDSHAKE, 3, 1, 0, 4, 2, 0, 0, 0], 1000, true),
            (records(&self::message(&extension(SERVER_NAME, &[0, 9, 0])), 1000), 1000, true),
            (records(&self::message(&sni("b\u{fc}cher.example")), 1000), 1000, true),
            (whole[..whole.len() - 1].to_vec(), 1000, false),
            (whole.clone(), whole.len() - 1, false),
            (Vec::new(), 1000, false),
        ] {
            let error = ClientHello::read(&mut Rewind::new(&bytes[..], Bytes::new()), limit).await.unwrap_err();
            assert_eq!(matches!(error, HelloError::Malformed), malformed, "{bytes:?}: {error}");
        }
    }

    #[test]
    fn one_without_a_name_or_without_extensions_is_one() {
        let nameless = ClientHello::default();
        assert_eq!(parse(&records(&message(&[]), 1000)), Parsed::Complete(nameless.clone()));
        assert_eq!(parse(&records(&message(&sni("")), 1000)), Parsed::Complete(nameless.clone()));
        let mut old = message(&[]);
        old.truncate(old.len() - 2);
        old[3] -= 2;
        assert_eq!(parse(&records(&old, 1000)), Parsed::Complete(nameless));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..40) {
            parse(&bytes);
            parse(&records(&message(&bytes), cut));
        }

        #[test]
        fn a_beginning_is_incomplete_and_asks_for_more_than_there_is(cut in 1usize..40, at in 0usize..300) {
            let bytes = records(&example().0, cut);
            let at = at.min(bytes.len() - 1);
            let Parsed::Incomplete(least) = parse(&bytes[..at]) else { panic!("{at}") };
            prop_assert!(least > at && least <= bytes.len());
        }
    }
}
