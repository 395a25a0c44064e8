use proptest::prelude::*;

use super::*;

#[test]
fn every_rule_of_the_normal_form() {
    for (path, normal) in [
        ("/%41%7a%30%2D%2e%5F%7E", "/Az0-._~"),
        ("/a%2Fb%2fc%5Cd%5c", "/a%2Fb%2fc%5Cd%5c"),
        ("/%c3%A9%20%25%3b", "/%c3%A9%20%25%3b"),
        ("/%252e%252e/", "/%252e%252e/"),
        ("//a///b//", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../c", "/a/c"),
        ("/a//../b", "/b"),
        ("/%2e", "/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/.", "/"),
        ("/a%2fb/../c", "/c"),
    ] {
        assert_eq!(normalize(path).unwrap(), normal, "{path}");
    }
}

#[test]
fn a_normal_path_is_not_copied() {
    for path in [
        "/",
        "*",
        "/a/b",
        "/a/b/",
        "/.well-known/x",
        "/...",
        "/a;v=1/b",
        "/a%20b",
        "/é",
        "/..a/b..",
        "/a%2f.b",
        "/a;..",
    ] {
        assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
    }
}

#[test]
fn what_readers_disagree_on_is_refused_with_its_place() {
    use Refusal::*;
    for (path, offset, reason) in [
        ("", 0, NotAbsolute),
        ("a/b", 0, NotAbsolute),
        ("*a", 0, NotAbsolute),
        ("/..", 1, AboveRoot),
        ("/a/../../b", 6, AboveRoot),
        ("/%2e./b", 1, AboveRoot),
        ("/a%2f..%2fb", 1, HiddenDotSegment),
        ("/a/..%2f", 3, HiddenDotSegment),
        ("/..%5Cb", 1, HiddenDotSegment),
        ("/x/a%5c%2e%2e", 3, HiddenDotSegment),
        ("/x/.%2fa", 3, HiddenDotSegment),
        ("/..;/x", 1, HiddenDotSegment),
        ("/a/.;v=1", 3, HiddenDotSegment),
        ("/..%3Bv/x", 1, HiddenDotSegment),
        ("/a;%2f..", 1, HiddenDotSegment),
        ("/a%2f..;b/../c", 1, HiddenDotSegment),
        ("/a%00", 2, ControlCharacter),
        ("/%1f", 1, ControlCharacter),
        ("/%7F", 1, ControlCharacter),
        ("/a\u{1}", 2, ControlCharacter),
        ("/a\u{7f}", 2, ControlCharacter),
        ("/a\\b", 2, Unencoded),
        ("/a b", 2, Unencoded),
        ("/a?b", 2, Unencoded),
        ("/%", 1, MalformedEscape),
        ("/a%2", 2, MalformedEscape),
        ("/%zz", 1, MalformedEscape),
        ("/%+1", 1, MalformedEscape),
        ("/%é", 1, MalformedEscape),
    ] {
        assert_eq!(normalize(path), Err(refuse(offset, reason)), "{path}");
    }
}

#[test]
fn a_uri_keeps_everything_but_its_path() {
    for (uri, normal) in [
        ("/a/../b?x=/../%41", "/b?x=/../%41"),
        ("/%61?", "/a?"),
        ("http://u@Shop.example:81//a?q", "http://u@Shop.example:81/a?q"),
        ("/%61", "/a"),
    ] {
        let mut changed: Uri = uri.parse().unwrap();
        assert_eq!(normalize_uri(&mut changed), Ok(true));
        assert_eq!(changed.to_string(), normal);
    }
    for uri in ["/a?//", "*", "example.com:443", "http://example.com", "http://example.com?q"] {
        let mut same: Uri = uri.parse().unwrap();
        let before = same.to_string();
        assert_eq!(normalize_uri(&mut same), Ok(false), "{uri}");
        assert_eq!(same.to_string(), before);
    }
    let mut refused: Uri = "/%2e%2e?q".parse().unwrap();
    normalize_uri(&mut refused).unwrap_err();
    assert_eq!(refused, "/%2e%2e?q");
}

/// Paths of the pieces that make trouble.
fn troublesome() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", ";", "%3b", "%25", "%20", "a", "b", "%61",
        "é", "%", "%0", "%00", "\\", "~", "%7e", "2f", "2e",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn normal_forms_are_normal(path in troublesome()) {
        if let Ok(normal) = normalize(&path) {
            prop_assert!(matches!(normalize(&normal), Ok(Cow::Borrowed(same)) if same == normal), "{path}: {normal}");
            prop_assert_eq!(matches!(normal, Cow::Borrowed(_)), normal == path, "{}", path);
            prop_assert!(normal.parse::<Uri>().is_ok());
            for reading in readings(&normal) {
                let dots = reading.split('/').any(|segment| segment == "." || segment == "..");
                prop_assert!(!dots, "{path}: {normal}: {reading}");
                prop_assert!(reading.starts_with('/'));
            }
            prop_assert!(!normal.contains("//"));
        }
    }

    #[test]
    fn anything_at_all_is_answered(path in ".{0,40}") {
        let _ = normalize(&path);
    }
}

/// What readers of several kinds would make of a path.
fn readings(path: &str) -> [String; 4] {
    let separated = |text: &str| {
        text.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/").replace('\\', "/")
    };
    let cut = |text: &str| {
        let semicolons = text.replace("%3b", ";").replace("%3B", ";");
        let cut: Vec<_> = semicolons.split('/').map(|s| s.split(';').next().unwrap_or("")).collect();
        cut.join("/")
    };
    [path.to_owned(), separated(path), cut(path), cut(&separated(path))]
}
