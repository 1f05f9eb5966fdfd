//! Words of the POSIX shell, for commands that are shown to be copied.

/// The text in quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The text as it is where the shell leaves it so, otherwise in quotes.
pub(crate) fn plain_or_quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:@%".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_shell() {
        assert_eq!(quoted("tcp://[fd00::1]:2376"), "'tcp://[fd00::1]:2376'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn only_what_the_shell_would_change_is_quoted() {
        assert_eq!(plain_or_quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(
            plain_or_quoted("https://[fd00::1]:7443"),
            "'https://[fd00::1]:7443'"
        );
        assert_eq!(plain_or_quoted("a b"), "'a b'");
        assert_eq!(plain_or_quoted(""), "''");
    }
}
