use http::{HeaderValue, Uri, uri::Authority};

use crate::{
    config,
    filter::{
        InvalidFilter, host,
        path::{Replacement, join},
    },
};

/// What requests are rewritten to.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) host: Option<Host>,
    path: Option<Replacement>,
}

/// A host as the field and as a URI's part.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) field: HeaderValue,
    authority: Authority,
}

impl Policy {
    pub(super) fn new(rewrite: config::Rewrite) -> Result<Self, InvalidFilter> {
        let config::Rewrite { host, path } = rewrite;
        Ok(Self { host: host.map(Host::new).transpose()?, path: path.map(Replacement::new).transpose()? })
    }

    /// The URI in the place of `uri`, and how many bytes of its path stand for the prefix that was matched. `None` if it
    /// would be too long.
    pub(super) fn rewrite(&self, uri: Uri, prefix_len: usize) -> Option<(Uri, usize)> {
        let mut parts = uri.into_parts();
        let mut prefix_len = prefix_len;
        if let (Some(replacement), Some(asked)) = (&self.path, &parts.path_and_query) {
            let (path, len) = replacement.apply(asked.path(), prefix_len);
            (parts.path_and_query, prefix_len) = (Some(join(&path, asked.query())?), len);
        }
        if let (Some(host), Some(authority)) = (&self.host, &mut parts.authority) {
            *authority = host.authority.clone();
        }
        Some((Uri::from_parts(parts).ok()?, prefix_len))
    }
}

impl Host {
    fn new(host: String) -> Result<Self, InvalidFilter> {
        let authority = host::parse(host)?;
        match HeaderValue::from_str(authority.as_str()) {
            Ok(field) => Ok(Self { field, authority }),
            Err(_) => Err(InvalidFilter::Host { host: authority.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{PathChange, Rewrite};

    fn prefix(path: &str) -> Option<PathChange> {
        Some(PathChange::Prefix(path.to_owned()))
    }

    #[test]
    fn each_form_of_target_keeps_its_form() {
        for (target, result) in [
            ("/foo/bar?a=/foo&%41", "/x/bar?a=/foo&%41"),
            ("/foo", "/x"),
            ("/foo?", "/x?"),
            ("http://a.test:80/foo/bar", "http://b.test/x/bar"),
            ("https://a.test/foo/?q", "https://b.test/x/?q"),
            ("*", "*"),
            ("a.test:443", "b.test"),
        ] {
            let policy = Policy::new(Rewrite { host: Some("b.test".to_owned()), path: prefix("/x") }).unwrap();
            assert_eq!(policy.rewrite(target.parse().unwrap(), 4).unwrap().0, *result, "{target}");
        }
    }

    #[test]
    fn a_second_rewrite_finds_what_the_first_put_there() {
        let policy = |path| Policy::new(Rewrite { path, ..Rewrite::default() }).unwrap();
        let target = || "/foo/bar?q".parse().unwrap();
        let (once, len) = policy(prefix("/longer/x")).rewrite(target(), 4).unwrap();
        assert_eq!(policy(prefix("/y")).rewrite(once, len).unwrap().0, "/y/bar?q");
        let full = Some(PathChange::Full("/all/of/it/".to_owned()));
        let (once, len) = policy(full).rewrite(target(), 4).unwrap();
        assert_eq!(policy(prefix("/y")).rewrite(once, len).unwrap().0, "/y/?q");
        assert_eq!(policy(None).rewrite(target(), 4).unwrap(), (target(), 4));
    }

    #[test]
    fn a_target_that_gets_too_long_is_none() {
        let policy = Policy::new(Rewrite { path: prefix(&"/x".repeat(500)), ..Rewrite::default() }).unwrap();
        let long = format!("/{}", "a".repeat(65_000));
        assert!(policy.rewrite(long.parse().unwrap(), 0).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_result_is_a_target_with_the_query_as_it_was(
            target in "(http://a\\.test)?/[ -~\u{e9}]{0,10}",
            prefix_len in 0_usize..12,
            by in "/?[a/]{0,4}",
            host in prop::option::of("[ab]\\.test"),
        ) {
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            for change in [PathChange::Full(by.clone()), PathChange::Prefix(by)] {
                let Ok(policy) = Policy::new(Rewrite { host: host.clone(), path: Some(change) }) else { continue };
                let (result, len) = policy.rewrite(uri.clone(), prefix_len).unwrap();
                prop_assert!(result.path().starts_with('/') && !result.path().starts_with("//"));
                prop_assert!(len <= result.path().len());
                prop_assert_eq!(result.query(), uri.query());
                let expected = uri.host().map(|asked| host.as_deref().unwrap_or(asked));
                prop_assert_eq!(result.host(), expected);
                prop_assert_eq!(result.to_string().parse::<Uri>().unwrap(), result);
            }
        }
    }
}
