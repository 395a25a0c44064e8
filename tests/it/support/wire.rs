//! An HTTP/1.1 client that sends exactly the bytes it is given, and reads answers strictly by their framing.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{PATIENCE, soon};

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn<S = TcpStream> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

/// An answer.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and fields as they came, without the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The trailer section as it came.
    pub(crate) trailers: String,
    /// The interim answers (1xx) before it.
    pub(crate) interim: Vec<u16>,
}

/// GETs a path from a host, on a connection of its own.
pub(crate) async fn get(addr: SocketAddr, host: &str, path: &str) -> Response {
    send(addr, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}

/// Sends these bytes on a connection of their own, and reads one answer.
pub(crate) async fn send(addr: SocketAddr, request: &str) -> Response {
    try_send(addr, request).await.unwrap_or_else(|error| panic!("no answer: {error}\nto: {request}"))
}

/// The same, for a request that may be cut off.
pub(crate) async fn try_send(addr: SocketAddr, request: &str) -> io::Result<Response> {
    let mut conn = Conn::open(addr).await?;
    conn.send(request).await?;
    conn.response_to(request.split(' ').next().unwrap_or_default()).await
}

impl Conn {
    pub(crate) async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = soon("connect", TcpStream::connect(addr)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// Over a stream that exists.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("write", self.stream.write_all(bytes.as_ref())).await
    }

    /// Sends a GET and reads the answer; the connection stays open for another.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await?;
        self.response().await
    }

    /// The answer to a request that was not a HEAD.
    pub(crate) async fn response(&mut self) -> io::Result<Response> {
        self.response_to("GET").await
    }

    /// The answer to a request with this method.
    pub(crate) async fn response_to(&mut self, method: &str) -> io::Result<Response> {
        match tokio::time::timeout(PATIENCE, self.read_response(method)).await {
            Ok(response) => response,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("unfinished: {:?}", self.unread_text()))),
        }
    }

    /// One head, interim or not, status line and fields.
    pub(crate) async fn head(&mut self) -> io::Result<String> {
        soon("a head", self.until("\r\n\r\n")).await
    }

    /// Whether the other end closes without another byte, within `limit`.
    pub(crate) async fn closes_within(&mut self, limit: Duration) -> bool {
        if !self.unread.is_empty() {
            return false;
        }
        let mut byte = [0];
        // A reset is an end, too.
        tokio::time::timeout(limit, self.stream.read(&mut byte)).await.is_ok_and(|read| matches!(read, Ok(0) | Err(_)))
    }

    /// Everything until the other end closes, for no longer than [`PATIENCE`].
    pub(crate) async fn rest(&mut self) -> String {
        let read = async { while self.fill().await.is_ok_and(|read| read > 0) {} };
        let _ = tokio::time::timeout(PATIENCE, read).await;
        let text = self.unread_text();
        self.unread.clear();
        text
    }

    fn unread_text(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }

    async fn read_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            response.head = self.until("\r\n\r\n").await?;
            let status = response.head.split(' ').nth(1).and_then(|status| status.parse().ok());
            response.status = status.ok_or_else(|| invalid(&response.head))?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                break;
            }
            response.interim.push(response.status);
        }
        if method == "HEAD" || matches!(response.status, 101 | 204 | 304) {
            return Ok(response);
        }
        if response.values("transfer-encoding") == ["chunked"] {
            self.read_chunks(&mut response).await?;
        } else if let Some(length) = response.value("content-length") {
            let length = length.parse().map_err(|_| invalid(&response.head))?;
            response.body = self.exactly(length).await?;
        } else {
            while self.fill().await? > 0 {}
            response.body = std::mem::take(&mut self.unread);
        }
        Ok(response)
    }

    async fn read_chunks(&mut self, response: &mut Response) -> io::Result<()> {
        loop {
            let line = self.until("\r\n").await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid(&line))?;
            if size == 0 {
                break;
            }
            response.body.extend(self.exactly(size).await?);
            self.until("\r\n").await?;
        }
        loop {
            let line = self.until("\r\n").await?;
            if line.is_empty() {
                return Ok(());
            }
            response.trailers.push_str(&line);
            response.trailers.push_str("\r\n");
        }
    }

    /// The text up to `end`, without it.
    async fn until(&mut self, end: &str) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.unread, end.as_bytes()) {
                let text = self.unread.drain(..at + end.len()).collect::<Vec<_>>();
                return Ok(String::from_utf8_lossy(&text[..at]).into_owned());
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            self.more().await?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.fill().await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("ended early: {:?}", self.unread_text()))),
            _ => Ok(()),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.unread.reserve(64 * 1024);
        self.stream.read_buf(&mut self.unread).await
    }
}

impl Response {
    /// All values of a field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    /// A field's only value; `None` when it is absent, a panic when there are several.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "several {name}: {}", self.head);
        values.first().copied()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// All values of a field in a head, in order.
pub(crate) fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}
