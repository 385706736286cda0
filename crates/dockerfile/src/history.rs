//! Values as the image's history shows them: BuildKit prints Go values.

use crate::config::HealthCheck;
use crate::duration::show;

/// `["nginx" "-g" "daemon off;"]`.
pub(crate) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// `[/bin/bash -c]`.
pub(crate) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `{Test:[CMD-SHELL true] Interval:30s …}`.
pub(crate) fn health(check: &HealthCheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&check.test),
        show(check.interval),
        show(check.timeout),
        show(check.start_period),
        show(check.start_interval),
        check.retries
    )
}

/// A string literal of Go.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\0'..='\u{1f}' | '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(character))),
            '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_look_as_go_prints_them() {
        for (text, expected) in [
            ("daemon off;", r#""daemon off;""#),
            ("a\"b\\c\n\t", r#""a\"b\\c\n\t""#),
            ("é\u{1b}", r#""é\x1b""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(quoted_list(&[]), "[]");
        assert_eq!(quoted_list(&["a".into(), "b c".into()]), r#"["a" "b c"]"#);
    }
}
