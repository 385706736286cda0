//! What an image runs on: `linux/amd64`, `linux/arm/v7`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no platform: write linux/amd64, linux/arm64 or linux/arm/v7")]
pub struct PlatformError {
    text: String,
}

/// An operating system and a processor, normalised as containerd does it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// `v7`; empty where there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// Normalises what people call processors.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (os, architecture, variant) = (
            os.to_ascii_lowercase(),
            architecture.to_ascii_lowercase(),
            variant.to_ascii_lowercase(),
        );
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os: if os == "macos" { "darwin".to_string() } else { os },
            architecture: architecture.to_string(),
            variant: variant.to_string(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            return Ok(());
        }
        write!(formatter, "/{}", self.variant)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// One word is an operating system or a processor of Linux.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let wrong = || PlatformError { text: text.to_string() };
        let is_word = |part: &&str| {
            let ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            !part.is_empty() && part.chars().all(ok)
        };
        let parts: Vec<&str> = text.trim().split('/').collect();
        if !parts.iter().all(is_word) {
            return Err(wrong());
        }
        match parts.as_slice() {
            ["linux" | "windows" | "darwin" | "freebsd"] => Ok(Self::new(parts[0], std::env::consts::ARCH, "")),
            [architecture] => {
                let platform = Self::new("linux", architecture, "");
                let known = [
                    "amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "mips64le", "loong64",
                ];
                known
                    .contains(&platform.architecture.as_str())
                    .then_some(platform)
                    .ok_or_else(wrong)
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processors_are_normalised() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("armhf", "linux/arm/v7"),
            ("amd64", "linux/amd64"),
        ] {
            let platform: Platform = text.parse().expect("a platform");
            assert_eq!(platform.to_string(), expected, "{text}");
        }
        for text in ["", "linux/", "/amd64", "a/b/c/d", "toaster", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
