//! Paths as text, in the way of a container: `/` separates, nothing is above the root.

/// Absolute and without `.`, `..` and doubled slashes.
pub(crate) fn absolute(folder: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_string()
    } else {
        format!("{folder}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The same; a `/` or `/.` at the end, an empty path and `.` say that it is a folder, which stays visible.
pub(crate) fn absolute_keeping_slash(folder: &str, path: &str) -> String {
    let is_folder = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let mut result = absolute(folder, path);
    if is_folder && !result.ends_with('/') {
        result.push('/');
    }
    result
}

/// Below the root, without the leading `/`; `.` is the root itself.
pub(crate) fn below_root(path: &str) -> String {
    let path = absolute("/", path);
    match path.trim_start_matches('/') {
        "" => ".".to_string(),
        path => path.to_string(),
    }
}

/// The part after the last `/`.
pub(crate) fn file_name(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (folder, path, expected) in [
            ("/app", "src", "/app/src"),
            ("/app", "/src/", "/src"),
            ("/app", "../../../x", "/x"),
            ("", "a//b/./c", "/a/b/c"),
            ("/app", "", "/app"),
        ] {
            assert_eq!(absolute(folder, path), expected);
        }
        assert_eq!(absolute_keeping_slash("/app", "."), "/app/");
        assert_eq!(absolute_keeping_slash("/app", "x/"), "/app/x/");
        assert_eq!(absolute_keeping_slash("/", "/"), "/");
        assert_eq!(below_root("/a/../.."), ".");
        assert_eq!(below_root("./src/"), "src");
    }
}
