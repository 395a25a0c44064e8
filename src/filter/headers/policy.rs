use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

use crate::{
    config::{
        HeaderChanges,
        field::{dashed, is_connections},
    },
    filter::InvalidFilter,
    forwarded::names,
};

/// Changes that have been checked, each name once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

impl Changes {
    /// Of a request's fields.
    pub(super) fn request(changes: HeaderChanges) -> Result<Self, InvalidFilter> {
        let changes = Self::response(changes)?;
        if changes.names().any(|name| dashed(name) == HOST.as_str()) {
            return Err(InvalidFilter::HostField);
        }
        Ok(changes)
    }

    /// Of a response's fields.
    pub(super) fn response(changes: HeaderChanges) -> Result<Self, InvalidFilter> {
        let HeaderChanges { set, add, remove } = changes;
        let changes = Self { set: first_of_each(set), add: first_of_each(add), remove: remove.into() };
        let forbidden = changes.names().find(|name| is_connections(name)).cloned();
        forbidden.map_or(Ok(changes), |name| Err(InvalidFilter::ConnectionField { name }))
    }

    /// Applies them to a request, from which they also take what reads like a field that they set or remove.
    pub(super) fn apply_to_request(&self, headers: &mut HeaderMap) {
        let set = self.set.iter().map(|(name, _)| name);
        names::remove_look_alikes(headers, &set.chain(&self.remove));
        self.apply(headers);
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove)
    }
}

/// Gateway API: of entries with one name the first counts.
fn first_of_each(fields: Vec<(HeaderName, HeaderValue)>) -> Box<[(HeaderName, HeaderValue)]> {
    let mut kept = Vec::<(HeaderName, HeaderValue)>::with_capacity(fields.len());
    for (name, value) in fields {
        if !kept.iter().any(|(other, _)| *other == name) {
            kept.push((name, value));
        }
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Vec<(HeaderName, HeaderValue)> {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn applied(changes: HeaderChanges, lines: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields(lines) {
            headers.append(name, value);
        }
        Changes::request(changes).unwrap().apply(&mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn set_replaces_every_line_add_appends_one_and_remove_takes_all() {
        let changes = HeaderChanges {
            set: fields(&[("X-Set", "new"), ("x-unset", "new")]),
            add: fields(&[("X-ADD", "b,c"), ("x-none", "d")]),
            remove: vec!["X-Gone".parse().unwrap(), "x-absent".parse().unwrap()],
        };
        let before = [
            ("x-set", "1"),
            ("X-Set", "2"),
            ("x-add", "a"),
            ("x-gone", "1"),
            ("x-other", "1"),
            ("X-Gone", "2"),
            ("x-other", "2"),
        ];
        assert_eq!(
            applied(changes, &before),
            ["x-add: a", "x-add: b,c", "x-none: d", "x-other: 1", "x-other: 2", "x-set: new", "x-unset: new"]
        );
    }

    #[test]
    fn what_reads_like_a_field_that_is_set_or_removed_goes_from_requests() {
        let changes = HeaderChanges {
            set: fields(&[("x-user", "ada")]),
            add: fields(&[("x-more", "1")]),
            remove: vec!["x-role".parse().unwrap()],
        };
        let changes = Changes::request(changes).unwrap();
        let before = fields(&[("x_user", "root"), ("x-role", "a"), ("x_role", "b"), ("x_more", "0"), ("x_other", "1")]);
        let mut headers = HeaderMap::from_iter(before.clone());
        changes.apply_to_request(&mut headers);
        let left = fields(&[("x-user", "ada"), ("x-more", "1"), ("x_more", "0"), ("x_other", "1")]);
        assert_eq!(headers, HeaderMap::from_iter(left));
        let mut response = HeaderMap::from_iter(before);
        changes.apply(&mut response);
        assert!(response.contains_key("x_user") && response.contains_key("x_role"));
    }

    #[test]
    fn of_entries_with_one_name_the_first_counts_and_the_kinds_go_in_their_order() {
        let changes = HeaderChanges {
            set: fields(&[("a", "1"), ("A", "2"), ("b", "1"), ("c", "1")]),
            add: fields(&[("b", "2"), ("B", "3"), ("c", "2")]),
            remove: vec!["c".parse().unwrap()],
        };
        assert_eq!(applied(changes, &[("a", "0"), ("b", "0")]), ["a: 1", "b: 1", "b: 2"]);
    }

    #[test]
    fn what_frames_a_message_or_is_for_one_hop_stays_as_it_is() {
        for name in [
            "Connection",
            "content-length",
            "Content_Length",
            "transfer-encoding",
            "Transfer_Encoding",
            "TE",
            "upgrade",
            "keep-alive",
            "proxy-connection",
            "http2-settings",
            "HTTP2_Settings",
        ] {
            let name: HeaderName = name.parse().unwrap();
            let field = vec![(name.clone(), HeaderValue::from_static("1"))];
            for changes in [
                HeaderChanges { set: field.clone(), ..Default::default() },
                HeaderChanges { add: field.clone(), ..Default::default() },
                HeaderChanges { remove: vec![name.clone()], ..Default::default() },
            ] {
                let invalid = InvalidFilter::ConnectionField { name: name.clone() };
                assert_eq!(Changes::request(changes.clone()).unwrap_err(), invalid);
                assert_eq!(Changes::response(changes).unwrap_err(), invalid);
            }
        }
        let host = HeaderChanges { remove: vec![HOST], ..Default::default() };
        assert_eq!(Changes::request(host.clone()).unwrap_err(), InvalidFilter::HostField);
        assert!(Changes::response(host).is_ok());
    }
}
