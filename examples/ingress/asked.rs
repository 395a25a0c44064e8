//! One request, read from a line as people write it for curl.

use std::fmt;

use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

/// A request as it is written for curl.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) tls: bool,
    /// Of the URL: what the connection is made to, whatever the `Host` field says.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) request: Request<()>,
}

/// Why a text is no request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRequest {
    Quote(char),
    Escape,
    NoUrl,
    Url { url: String, why: &'static str },
    Method(String),
    Value(String),
    Option(String),
    Extra(String),
    Header(String),
}

impl Asked {
    /// Reads `[METHOD] URL [-X METHOD] [-H 'NAME: VALUE']... [-b COOKIES]...`, also with `curl` in front.
    pub(crate) fn parse(text: &str) -> Result<Self, NoRequest> {
        let mut words = words(text)?.into_iter().peekable();
        words.next_if(|word| word == "curl");
        let (mut method, mut url) = (None, None);
        let (mut headers, mut cookies) = (Vec::new(), Vec::new());
        while let Some(word) = words.next() {
            let (option, mut given) = match (word.strip_prefix("--"), word.get(..2)) {
                (Some(long), _) => match long.split_once('=') {
                    Some((option, value)) => (format!("--{option}"), Some(value.to_owned())),
                    None => (word.clone(), None),
                },
                (None, Some(short @ ("-H" | "-X" | "-b"))) if word.len() > 2 => {
                    (short.to_owned(), Some(word[2..].to_owned()))
                }
                _ => (word.clone(), None),
            };
            let mut value = || given.take().or_else(|| words.next()).ok_or_else(|| NoRequest::Value(option.clone()));
            match option.as_str() {
                "-H" | "--header" => headers.push(field(&value()?)?),
                "-X" | "--request" => method = Some(value()?),
                "-b" | "--cookie" => cookies.push(value()?),
                "-I" | "--head" => method = Some("HEAD".to_owned()),
                _ if option.starts_with('-') => return Err(NoRequest::Option(word)),
                _ if url.is_none() && !word.contains(['/', '.', ':']) && words.peek().is_some() && method.is_none() => {
                    method = Some(word);
                }
                _ if url.is_none() => url = Some(word),
                _ => return Err(NoRequest::Extra(word)),
            }
        }
        Self::new(method, &url.ok_or(NoRequest::NoUrl)?, headers, &cookies)
    }

    fn new(
        method: Option<String>,
        url: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        cookies: &[String],
    ) -> Result<Self, NoRequest> {
        let wrong = |why| NoRequest::Url { url: url.to_owned(), why };
        let method = method.unwrap_or_else(|| "GET".to_owned());
        let method = Method::try_from(method.as_str()).map_err(|_| NoRequest::Method(method.clone()))?;
        // As curl has it: a fragment is not sent, and without a scheme it is HTTP.
        let whole = url.split('#').next().unwrap_or_default();
        let whole = if whole.contains("://") { whole.to_owned() } else { format!("http://{whole}") };
        let uri: Uri = whole.parse().map_err(|_| wrong("it cannot be read"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("its scheme is neither http nor https")),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user is not part of a request: write `-H 'authorization: …'`"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':')) {
            Some(port) => Some(port.parse().map_err(|_| wrong("its port is none"))?),
            None => None,
        };
        let mut request = Request::new(());
        *request.method_mut() = method;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        *request.uri_mut() = path.parse().map_err(|_| wrong("its path cannot be read"))?;
        for (name, value) in headers {
            request.headers_mut().append(name, value);
        }
        if !cookies.is_empty() {
            let line = cookies.join("; ");
            let value = HeaderValue::try_from(&line).map_err(|_| NoRequest::Header(line))?;
            request.headers_mut().append(header::COOKIE, value);
        }
        if !request.headers().contains_key(header::HOST) {
            let host = HeaderValue::try_from(authority.as_str()).map_err(|_| wrong("its host cannot be read"))?;
            request.headers_mut().insert(header::HOST, host);
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        Ok(Self { tls, host, port, request })
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), NoRequest> {
    let wrong = || NoRequest::Header(text.to_owned());
    // `NAME;` is curl's way to send a field without a value.
    let (name, value) = text.split_once(':').or_else(|| Some((text.strip_suffix(';')?, ""))).ok_or_else(wrong)?;
    Ok((name.trim().parse().map_err(|_| wrong())?, value.trim().parse().map_err(|_| wrong())?))
}

/// The words of a line, as a shell has them: in single quotes everything stands for itself, in double quotes and outside
/// a backslash takes the next character.
fn words(text: &str) -> Result<Vec<String>, NoRequest> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some('"'), '\\') if characters.peek().is_some_and(|next| !matches!(next, '"' | '\\' | '$' | '`')) => {
                word.get_or_insert_default().push('\\');
            }
            (None | Some('"'), '\\') => match characters.next() {
                // A line that goes on.
                Some('\n') => {}
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err(NoRequest::Escape),
            },
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    if let Some(quote) = quote {
        return Err(NoRequest::Quote(quote));
    }
    words.extend(word);
    Ok(words)
}

impl std::error::Error for NoRequest {}

impl fmt::Display for NoRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("--explain: ")?;
        match self {
            Self::Quote(quote) => write!(f, "a quotation that begins with {quote} has no end"),
            Self::Escape => f.write_str("there is nothing after the last backslash"),
            Self::NoUrl => f.write_str("there is no URL: write, say, 'GET https://shop.example.com/cart'"),
            Self::Url { url, why } => write!(f, "`{url}` is no URL to ask: {why}"),
            Self::Method(method) => write!(f, "`{method}` is not a method"),
            Self::Value(option) => write!(f, "{option} needs a value"),
            Self::Option(option) => write!(f, "`{option}` is not known here: there are -X, -H, -b and -I"),
            Self::Extra(word) => write!(f, "`{word}` is one word too many: quote what has spaces"),
            Self::Header(text) => write!(f, "`{text}` is not a header field: write `NAME: VALUE`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(asked: &Asked) -> Vec<String> {
        let fields = asked.request.headers().iter();
        fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_line_for_curl_is_a_request() {
        let asked = Asked::parse(r#"GET https://Shop.Example.com:8443/cart?a=%2e -H "x-user: 1""#).unwrap();
        assert_eq!((asked.scheme(), &*asked.host, asked.port), ("https", "shop.example.com", Some(8443)));
        assert_eq!(asked.request.method(), "GET");
        assert_eq!(asked.request.uri(), "/cart?a=%2e");
        assert_eq!(fields(&asked), ["x-user: 1", "host: Shop.Example.com:8443"]);

        let line = r"curl -XPOST --header='host: b.example' http://a.example -b 'a=1' --cookie b=2 -H 'x-a: it'\''s' -H 'x-b;'";
        let asked = Asked::parse(line).unwrap();
        assert_eq!((asked.scheme(), &*asked.host, asked.port), ("http", "a.example", None));
        assert_eq!((asked.request.method(), asked.request.uri().path()), (&Method::POST, "/"));
        assert_eq!(fields(&asked), ["host: b.example", "x-a: it's", "x-b: ", "cookie: a=1; b=2"]);
    }

    #[test]
    fn method_and_scheme_may_be_left_out() {
        let asked = Asked::parse("a.example/x").unwrap();
        assert_eq!((asked.request.method(), asked.scheme(), &*asked.host), (&Method::GET, "http", "a.example"));
        assert_eq!(Asked::parse("localhost").unwrap().host, "localhost");
        assert_eq!(Asked::parse("DELETE localhost").unwrap().request.method(), Method::DELETE);
        assert_eq!(Asked::parse("-I http://[::1]:80/?q").unwrap().request.uri(), "/?q");
    }

    #[test]
    fn what_is_no_request_is_told_why() {
        for (line, words) in [
            ("", "no URL"),
            ("GET 'http://a", "begins with '"),
            ("GET http://a \\", "last backslash"),
            ("GET ftp://a", "neither http nor https"),
            ("GET http:///x", "it cannot be read"),
            ("GET http://u:p@a/", "a user is not part"),
            ("GET http://a:70000/", "its port is none"),
            ("-X 'G T' http://a/", "`G T` is not a method"),
            ("http://a/ -H", "-H needs a value"),
            ("http://a/ -H nothing", "`nothing` is not a header field"),
            ("http://a/ --data x", "`--data` is not known"),
            ("http://a/ http://b/", "`http://b/` is one word too many"),
        ] {
            let error = Asked::parse(line).unwrap_err().to_string();
            assert!(error.starts_with("--explain: ") && error.contains(words), "{line}: {error}");
        }
    }
}
