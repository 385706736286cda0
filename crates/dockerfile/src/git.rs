//! Git repositories as `ADD` and build contexts name them: `https://host/repo.git#ref:folder`.

use crate::operation::GitSource;

impl GitSource {
    /// `None` for what names no repository. A name such as `github.com/owner/repo`, which may as well be a path, names one
    /// only for [`GitSource::parse_context`].
    ///
    /// # Errors
    /// When it names one, but what follows `?` is not understood.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let (before, fragment) = split_fragment(text);
        let (remote, query) = split_query(before);
        is_remote(remote).then(|| build(remote, query, fragment))
    }

    /// The same for the context of a build.
    ///
    /// # Errors
    /// As [`GitSource::parse`].
    pub fn parse_context(text: &str) -> Option<Result<Self, String>> {
        if let Some(rest) = text.strip_prefix("github.com/") {
            let (before, fragment) = split_fragment(rest);
            let (path, query) = split_query(before);
            return Some(build(&format!("https://github.com/{path}"), query, fragment));
        }
        Self::parse(text)
    }
}

fn split_fragment(text: &str) -> (&str, Option<&str>) {
    text.split_once('#')
        .map_or((text, None), |(before, fragment)| (before, Some(fragment)))
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    if !text.contains("://") {
        return (text, None);
    }
    text.split_once('?')
        .map_or((text, None), |(before, query)| (before, Some(query)))
}

fn is_remote(remote: &str) -> bool {
    if let Some((scheme, rest)) = remote.split_once("://") {
        return match scheme {
            "git" | "ssh" => !rest.is_empty(),
            "http" | "https" => rest.trim_end_matches('/').ends_with(".git"),
            _ => false,
        };
    }
    // user@host:path
    let Some((user, rest)) = remote.split_once('@') else {
        return false;
    };
    let is_word = |text: &str| !text.is_empty() && !text.contains(['/', ' ']);
    is_word(user)
        && rest
            .split_once(':')
            .is_some_and(|(host, path)| is_word(host) && !path.is_empty())
}

fn build(remote: &str, query: Option<&str>, fragment: Option<&str>) -> Result<GitSource, String> {
    let mut source = GitSource {
        remote: remote.to_string(),
        reference: None,
        folder: None,
        keep_git_dir: false,
        checksum: None,
        submodules: true,
    };
    if let Some(fragment) = fragment {
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        source.reference = some(reference);
        source.folder = some(folder);
    }
    for pair in query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let truth = || match value {
            "" | "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(format!("{key}={value}: write true or false")),
        };
        match key {
            "ref" | "tag" | "branch" => source.reference = some(value),
            "subdir" => source.folder = some(value),
            "checksum" | "commit" => source.checksum = some(value),
            "keep-git-dir" => source.keep_git_dir = truth()?,
            "submodules" => source.submodules = truth()?,
            _ => {
                return Err(format!(
                    "'{key}' says nothing about a repository: use ref, tag, branch, subdir or checksum"
                ));
            }
        }
    }
    Ok(source)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<String>, Option<String>)> {
        let source = GitSource::parse(text)?.expect("valid");
        Some((source.remote, source.reference, source.folder))
    }

    #[test]
    fn repositories_are_told_from_downloads() {
        let some = |text: &str| Some(text.to_string());
        assert_eq!(
            parsed("https://example.com/a.git#v1:sub"),
            Some(("https://example.com/a.git".into(), some("v1"), some("sub")))
        );
        assert_eq!(
            parsed("git@host:a/b#main"),
            Some(("git@host:a/b".into(), some("main"), None))
        );
        assert_eq!(
            parsed("ssh://git@host/a?tag=v2&subdir=x"),
            Some(("ssh://git@host/a".into(), some("v2"), some("x")))
        );
        for text in [
            "https://example.com/a.tar.gz",
            "github.com/a/b",
            "a/b",
            "a@b",
            "file.git",
            "a b@c:d",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        let context = GitSource::parse_context("github.com/a/b#x")
            .expect("a repository")
            .expect("valid");
        assert_eq!(context.remote, "https://github.com/a/b");
        assert!(
            GitSource::parse("https://h/a.git?color=red")
                .expect("a repository")
                .is_err()
        );
    }
}
