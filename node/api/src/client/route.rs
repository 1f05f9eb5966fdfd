//! The target of a request.
//!
//! Decides: how names become parts of a path. Invariant: whatever a name contains, it stays one
//! segment or one value (RFC 3986, section 2.1).

use crate::API_PREFIX;

/// A path below [`API_PREFIX`], with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    text: String,
    has_query: bool,
}

impl Route {
    /// The path of these segments, each percent-encoded.
    pub fn to(segments: &[&str]) -> Self {
        let mut text = API_PREFIX.to_owned();
        for segment in segments {
            text.push('/');
            // A segment of dots alone would be taken for a step up.
            let dots = segment.bytes().all(|byte| byte == b'.');
            encode(&mut text, segment, dots);
        }
        Self {
            text,
            has_query: false,
        }
    }

    /// Adds `key=value` to the query.
    #[must_use]
    pub fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode(&mut self.text, key, false);
        self.text.push('=');
        encode(&mut self.text, value, false);
        self
    }

    /// Adds `key=true` to the query if `set`.
    #[must_use]
    pub fn flag(self, key: &str, set: bool) -> Self {
        if set { self.query(key, "true") } else { self }
    }

    /// The finished target.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn encode(into: &mut String, text: &str, dots_too: bool) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && !dots_too);
        if plain {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_its_segment() {
        assert_eq!(
            Route::to(&["nodes", "a/../b?c#d e"]).as_str(),
            "/v1/nodes/a%2F..%2Fb%3Fc%23d%20e"
        );
        assert_eq!(Route::to(&["nodes", ".."]).as_str(), "/v1/nodes/%2E%2E");
    }

    #[test]
    fn an_image_is_one_segment() {
        assert_eq!(
            Route::to(&["images", "reg.example:5000/a/b:1.2"]).as_str(),
            "/v1/images/reg.example%3A5000%2Fa%2Fb%3A1.2"
        );
    }

    #[test]
    fn query_values_are_encoded_and_unset_flags_left_out() {
        let route = Route::to(&["events"])
            .query("kind_prefix", "node.&x=y")
            .flag("follow", true)
            .flag("force", false);
        assert_eq!(
            route.as_str(),
            "/v1/events?kind_prefix=node.%26x%3Dy&follow=true"
        );
    }
}
