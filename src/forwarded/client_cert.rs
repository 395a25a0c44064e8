//! `X-Forwarded-Client-Cert`, as Envoy writes it.

use std::fmt::Write;

use http::{HeaderName, HeaderValue, Request};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::chain;
use crate::{
    config::ClientCert,
    connection::ConnectionInfo,
    identity::{PeerIdentity, SpiffeId},
};

const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A request extension: the element that was written already, by another layer or filter of this process.
#[derive(Clone)]
struct Written(HeaderValue);

/// Writes what there is to tell of the certificate of the connection's peer. What is there already is a trusted peer's, or
/// nobody's, or was written by this process: that is written anew, so that nobody stands there twice.
pub(crate) fn tell<B>(request: &mut Request<B>, told: ClientCert, by: Option<&SpiffeId>) {
    let certificate = match told {
        ClientCert::Keep => return,
        ClientCert::Set | ClientCert::Append => {
            let connection = request.extensions().get::<ConnectionInfo>();
            connection.and_then(ConnectionInfo::peer_identity).and_then(|peer| element(peer, by))
        }
    };
    let before = request.extensions_mut().remove::<Written>();
    let headers = request.headers_mut();
    match (told, before) {
        (ClientCert::Append, Some(Written(before))) => chain::remove_last(headers, &X_FORWARDED_CLIENT_CERT, &before),
        (ClientCert::Append, None) => {}
        _ => drop(headers.remove(X_FORWARDED_CLIENT_CERT)),
    }
    if let Some(certificate) = certificate {
        chain::append(headers, X_FORWARDED_CLIENT_CERT, &certificate);
        request.extensions_mut().insert(Written(certificate));
    }
}

/// The element for one peer: `By=…;Hash=…;URI=…;DNS=…`, of which those are left out that there is nothing to say for.
fn element(peer: &PeerIdentity, by: Option<&SpiffeId>) -> Option<HeaderValue> {
    let mut text = String::with_capacity(192);
    if let Some(by) = by {
        pair(&mut text, "By", by.as_str());
    }
    if let Some(hash) = peer.certificate_sha256() {
        separate(&mut text);
        text.push_str("Hash=");
        for byte in hash {
            // A string takes whatever is written to it.
            let _ = write!(text, "{byte:02x}");
        }
    }
    for uri in peer.uris() {
        pair(&mut text, "URI", uri);
    }
    for name in peer.dns_names() {
        pair(&mut text, "DNS", name);
    }
    if text.is_empty() {
        return None;
    }
    HeaderValue::try_from(text).ok()
}

fn pair(text: &mut String, key: &str, value: &str) {
    /// What cannot be in a URI, though a certificate may say so, and what would end a quoted value.
    const FORBIDDEN: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'\\').add(b'<').add(b'>');
    separate(text);
    text.push_str(key);
    text.push('=');
    let value = utf8_percent_encode(value, FORBIDDEN);
    let quote = value.clone().any(|part| part.contains([',', ';', '=']));
    if quote {
        text.push('"');
    }
    text.extend(value);
    if quote {
        text.push('"');
    }
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push(';');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(uris: &[&str], names: &[&str], by: Option<&str>) -> String {
        let peer = PeerIdentity::new(uris.iter().copied(), names.iter().copied());
        let by = by.map(|id| id.parse().unwrap());
        element(&peer, by.as_ref()).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn pairs_stand_in_envoys_order() {
        assert_eq!(
            told(&["spiffe://a.example/cart"], &["cart.example", "c.example"], Some("spiffe://a.example/pay")),
            "By=spiffe://a.example/pay;URI=spiffe://a.example/cart;DNS=cart.example;DNS=c.example"
        );
        assert_eq!(element(&PeerIdentity::new([], []), None), None);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn the_hash_is_hexadecimal() {
        let mut hash = [0; 32];
        (hash[0], hash[31]) = (0x0a, 0xff);
        let peer = PeerIdentity::new([], []).with_certificate(bytes::Bytes::new(), Some(hash));
        assert_eq!(element(&peer, None).unwrap(), format!("Hash=0a{}ff", "00".repeat(30)));
    }

    #[test]
    fn a_peers_name_cannot_add_elements_or_end_its_quotes() {
        for (uri, expected) in [
            ("spiffe://a/b,URI=spiffe://a/admin", r#"URI="spiffe://a/b,URI=spiffe://a/admin""#),
            ("x;y", r#"URI="x;y""#),
            (r#"x",Hash=1,"y"#, r#"URI="x%22,Hash=1,%22y""#),
            (r"x=\", r#"URI="x=%5C""#),
            ("x\r\ny: z", "URI=x%0D%0Ay:%20z"),
            ("é", "URI=%C3%A9"),
        ] {
            assert_eq!(told(&[uri], &[], None), expected, "{uri}");
        }
    }
}
